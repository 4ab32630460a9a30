"""How tools, calls and results get into a prompt.

A template that knows of tools gets them as it expects them. For one that does not, as that of
SmolLM2-135M-Instruct, they become messages of the kinds every template knows, in the words and
forms that the SmolLM2 models were published with; training and serving write them alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from bessemer.text.chat_template import Message

# Arguments with more brackets than this stay text: templates walk through objects by recursion.
MAX_OPEN = 64

# From the card of HuggingFaceTB/SmolLM2-1.7B-Instruct (Apache-2.0).
SYSTEM_PROMPT = """\
You are an expert in composing functions. You are given a question and a set of possible functions.
Based on the question, you will need to make one or more function/tool calls to achieve the purpose.
If none of the functions can be used, point it out and refuse to answer.
If the given question lacks the parameters required by the function, also point it out.

You have access to the following tools:
<tools>{tools}</tools>

The output MUST strictly adhere to the following format, and NO other text MUST be included.
The example format is as follows. Please make sure the parameter type is correct. If no function \
call is needed, please make the tool calls an empty list '[]'.
<tool_call>[
{{"name": "func_name1", "arguments": {{"argument1": "value1", "argument2": "value2"}}}},
... (more tool calls as required)
]</tool_call>"""


class Told(NamedTuple):
    """What a template renders: each of `messages` stands for one of the chat's.

    `before` is a system message that the chat does not have.
    """

    before: list[Message]
    messages: list[Message]
    tools: Sequence[Message] | None


def tell(
    messages: Sequence[Message], tools: Sequence[Message] | None, *, knows_tools: bool
) -> Told:
    """The chat as a template wants it that knows of tools, or does not."""
    if knows_tools:
        return Told([], [_with_objects(message) for message in messages], tools)
    plain = [_in_words(message) for message in messages]
    if not tools:
        return Told([], plain, None)
    prompt = SYSTEM_PROMPT.format(tools=json.dumps(list(tools), ensure_ascii=False))
    if plain and plain[0].get("role") == "system":
        first = {**plain[0], "content": f"{prompt}\n\n{plain[0].get('content') or ''}"}
        return Told([], [first, *plain[1:]], None)
    return Told([{"role": "system", "content": prompt}], plain, None)


def _with_objects(message: Message) -> Message:
    """Arguments as objects: OpenAI sends them as text, which templates would quote once more."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _object(function["arguments"])}}


def _in_words(message: Message) -> Message:
    kept = {key: value for key, value in message.items() if key not in ("tool_calls", "name")}
    if message.get("role") == "tool":
        text = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
        return {"role": "user", "content": text}
    calls = message.get("tool_calls")
    if not calls:
        return message
    said = [_with_object(call)["function"] for call in calls]
    listed = [{"name": one["name"], "arguments": one["arguments"]} for one in said]
    text = f"<tool_call>{json.dumps(listed, ensure_ascii=False)}</tool_call>"
    content = message.get("content")
    return {**kept, "content": f"{content}\n{text}" if content else text}


def _object(arguments: Any) -> Any:
    """The object that a text of arguments holds; the text itself where it holds none."""
    if not isinstance(arguments, str) or max(arguments.count("{"), arguments.count("[")) > MAX_OPEN:
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
