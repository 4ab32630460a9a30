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

# Tools in the manner of Qwen and Hermes: one block a call, results in the user's voice.
BLOCKS = """{% if tools -%}
<|im_start|>system
You may call functions:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
Write <tool_call> blocks.<|im_end|>
{% endif -%}
{% for message in messages -%}
{% if message.role == 'tool' -%}
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] -%}
{% if message.content or not loop.first %}{{ '\n' }}{% endif -%}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif -%}
{% endfor -%}
{% if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

# Tools in the manner of Llama 3: the whole answer is one call.
PARAMETERS = """{% if tools -%}
<|im_start|>system
Respond in the format {"name": function name, "parameters": dictionary}.
{%- for tool in tools %}
{{ tool | tojson(indent=2) }}
{%- endfor %}<|im_end|>
{% endif -%}
{% for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.tool_calls -%}
{%- set call = message.tool_calls[0].function %}
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}
{%- else %}{{ message.content }}{% endif %}<|im_end|>
{% endfor -%}
{% if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
