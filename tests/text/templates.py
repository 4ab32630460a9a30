"""Chat templates in the manners of different model families, written for these tests."""

# A BOS token, headers, trimmed contents, tools as JSON.
HEADERS = """{{- bos_token }}
{%- if tools %}
    {{- "tools: " + tools | tojson(indent=2) + eos_token }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n\n' + message.content | trim + eos_token }}
    {%- for call in message.tool_calls or [] %}
        {{- call.function | tojson }}
    {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{% endif %}
"""

# Refuses some orders, folds the system message into the first user message, ends with a space.
INST = """{% set ns = namespace(system='') %}
{% for message in messages %}
{% if message['role'] == 'system' %}{% set ns.system = message['content'] ~ ' ' %}{% continue %}
{% endif %}
{% if message['role'] not in ['user', 'assistant'] %}
{{ raise_exception('Only user and assistant roles are supported!') }}
{% endif %}
{% if message['role'] == 'user' %}[INST] {{ ns.system }}{{ message['content'] }} [/INST] {% else %}
{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{% endif %}
{% endfor %}
"""

# Shows what an answer thought only while it is the last one.
THINKING = """{% for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' and loop.last -%}
<think>
{{ message.reasoning or '' }}
</think>
{% endif -%}
{{ message.content }}<|im_end|>
{% endfor -%}
{% if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

# What opens an answer is not how a finished answer begins.
CROOKED = """{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}
{% if add_generation_prompt %}<|im_start|>model: {% endif %}
"""

# No token that ends a turn.
ENDLESS = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}
{% if add_generation_prompt %}assistant: {% endif %}
"""

# The generation prompt ends with a space, which would merge with the first word of the answer.
SPACED = """{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}assistant: {% endif %}
"""
