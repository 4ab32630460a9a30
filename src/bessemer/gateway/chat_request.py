"""The body of `POST /v1/chat/completions`, and the `Ask` it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import ChatRequest, Message, ToolChoice
from bessemer.gateway.constraints import NOTHING, ResponseFormat, constraint_of
from bessemer.gateway.decoding import convert, decode
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.functions import FunctionChoice, call_id, tool_choice_of, tools_of
from bessemer.gateway.parameters import (
    Ask,
    Count,
    Metadata,
    Parameters,
    Storing,
    refuse_unless_neutral,
)
from bessemer.gateway.tools import (
    Call,
    Called,
    CallsField,
    Choice,
    FunctionName,
    ToolChoiceField,
    ToolsField,
    check_results,
    checked_tools,
    choice_of,
)

# As in OpenAI's API.
MAX_MESSAGES = 2_048


class ContentPart(msgspec.Struct, forbid_unknown_fields=True):
    """One part of a message; only `text` is understood, and what an assistant refused with."""

    type: str
    text: str | None = None
    image_url: Raw = NOTHING
    input_audio: Raw = NOTHING
    file: Raw = NOTHING
    refusal: str | None = None
    prompt_cache_breakpoint: Raw = NOTHING  # no prompt shows it


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message as clients send it, and as they send answers back, ours and OpenAI's.

    Whether `name` means anything is known where the model's chat template is. `parsed` is how
    OpenAI's client has read `content`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    audio: Raw = NOTHING
    annotations: Raw = NOTHING
    tool_calls: CallsField | None = None
    tool_call_id: str | None = None
    function_call: Called | None = None
    parsed: Raw = NOTHING


class Prediction(msgspec.Struct, forbid_unknown_fields=True):
    content: str | list[ContentPart]
    type: Literal["content"] = "content"


class ChatBody(Parameters, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: ToolsField | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    # As tools were spelled once.
    functions: ToolsField | None = None
    function_call: FunctionChoice | None = None
    # They say who asks, and how to file it; they do not change an answer.
    store: bool | None = None
    metadata: Metadata | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Raw = NOTHING
    # It says what the answer will be, to get it sooner. Here answers are guessed at anyway.
    prediction: Prediction | None = None
    # They would change it.
    service_tier: str | None = None
    modalities: Raw = NOTHING
    audio: Raw = NOTHING
    web_search_options: Raw = NOTHING
    moderation: Raw = NOTHING
    reasoning_effort: str | None = None
    verbosity: str | None = None


_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
}
_NEUTRAL_MESSAGE: Mapping[str, Sequence[Any]] = {
    "audio": (),
    "annotations": ([],),
}


class _Messages(msgspec.Struct):
    messages: list[Any]


_decoder = msgspec.json.Decoder(ChatBody)
_messages = msgspec.json.Decoder(_Messages)


def parse_chat(raw: bytes, request_id: str) -> Ask:
    """Raises InvalidInput (and its kinds): what is wrong, and in which field."""
    body = decode(_decoder, raw)
    refuse_unless_neutral(body, _NEUTRAL)
    include_usage = body.include_usage()
    body.check_prompt_logprobs()
    n = body.n or 1
    constraint = constraint_of(body.response_format, body.structured_outputs)
    messages = [_message(message, f"messages[{i}]") for i, message in enumerate(body.messages)]
    check_results(messages)
    tools, choice = _tools(body)
    requests = [
        ChatRequest(
            request_id=f"{request_id}-{index}",
            messages=messages,
            max_tokens=_max_tokens(body),
            sampling=body.sampling(index),
            stop=body.stops(),
            top_logprobs=_top_logprobs(body),
            constraint=constraint,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=_may_be_parallel(body),
            # The prompt is the same for all of them.
            prompt_logprobs=None if index else body.prompt_logprobs,
            deadline_s=body.timeout,
        )
        for index in range(n)
    ]
    return Ask(
        body.model,
        requests,
        n,
        bool(body.stream),
        include_usage,
        candidates=n,
        storing=_storing(body, raw) if body.store else None,
        functions=bool(body.functions),
    )


def _tools(body: ChatBody) -> tuple[list[Message], ToolChoice]:
    if body.functions and body.tools:
        raise InvalidInput(
            "'functions' and 'tools' cannot be used together.",
            next_step="send them all as 'tools'",
            param="functions",
        )
    if body.functions:
        tools = tools_of(body.functions)
        return tools, tool_choice_of(body.function_call, tools)
    if body.function_call not in (None, "none"):
        raise InvalidInput(
            "'function_call' is only allowed when 'functions' are specified.",
            param="function_call",
        )
    tools = checked_tools(body.tools)
    return tools, choice_of(body.tool_choice, tools)


def _storing(body: ChatBody, raw: bytes) -> Storing:
    """The messages just as they came, since what is read here is not all they had."""
    messages = decode(_messages, raw).messages
    return Storing(body.metadata or {}, msgspec.json.encode(messages))


def _message(message: ChatMessage, place: str) -> Message:
    if message.role == "function":
        message = _tool_message(message, place)
    if message.function_call is not None:
        message = _with_call(message, place)
    try:
        refuse_unless_neutral(message, _NEUTRAL_MESSAGE)
    except UnsupportedParameter as fault:
        raise UnsupportedParameter(f"{place}.{fault.param}") from None
    # Models that are not OpenAI's know the developer's voice by its older name.
    role = "system" if message.role == "developer" else message.role
    return {
        "role": role,
        **({"name": message.name} if message.name else {}),
        **_calls(message, place),
        "content": _content(message, f"{place}.content"),
    }


def _tool_message(message: ChatMessage, place: str) -> ChatMessage:
    """The result of a function, which it names, as that of a call."""
    if not message.name:
        raise InvalidInput(f"Missing required parameter: '{place}.name'.", param=f"{place}.name")
    name = convert(message.name, FunctionName, f"{place}.name")
    replace = msgspec.structs.replace
    return replace(message, role="tool", tool_call_id=call_id(name), name=None)


def _with_call(message: ChatMessage, place: str) -> ChatMessage:
    if message.role != "assistant" or message.tool_calls:
        param = f"{place}.function_call"
        raise InvalidInput(
            f"'{param}' has its place in a message of the assistant without 'tool_calls'.",
            param=param,
        )
    assert message.function_call is not None
    called = message.function_call
    call = Call(call_id(called.name), called)
    return msgspec.structs.replace(message, tool_calls=[call], function_call=None)


def _calls(message: ChatMessage, place: str) -> Message:
    """What ties calls and results together."""
    wanted = {"assistant": "tool_calls", "tool": "tool_call_id"}.get(message.role)
    for field in ("tool_calls", "tool_call_id"):
        if getattr(message, field) and field != wanted:
            raise InvalidInput(
                f"'{place}.{field}' has no place in a message of the role '{message.role}'.",
                param=f"{place}.{field}",
            )
    if message.role == "tool":
        if message.tool_call_id is None:
            param = f"{place}.tool_call_id"
            raise InvalidInput(f"Missing required parameter: '{param}'.", param=param)
        return {"tool_call_id": message.tool_call_id}
    calls = [call.message() for call in message.tool_calls or ()]
    return {"tool_calls": calls} if calls else {}


def _content(message: ChatMessage, place: str) -> str:
    """What was said. A refusal is what an assistant said instead, as it is in training."""
    content, refusal = message.content, message.refusal or ""
    if refusal and message.role != "assistant":
        param = f"{place.removesuffix('.content')}.refusal"
        raise InvalidInput(
            f"'{param}' has no place in a message of the role '{message.role}'.", param=param
        )
    if content is None and not (message.tool_calls or refusal):
        raise InvalidInput(f"Missing required parameter: '{place}'.", param=place)
    if isinstance(content, list):
        may_refuse = message.role == "assistant"
        content = "".join(_text(p, f"{place}[{i}]", may_refuse) for i, p in enumerate(content))
    return (content or "") + refusal


def _text(part: ContentPart, place: str, may_refuse: bool) -> str:
    said = "refusal" if part.type == "refusal" and may_refuse else "text"
    if part.type != said:
        why = f"as {part.type[:50]!r} is not supported: these models read text"
        raise UnsupportedParameter(f"{place}.type", why)
    for field in ("image_url", "input_audio", "file", "refusal", "text"):
        if field != said and getattr(part, field):
            raise UnsupportedParameter(f"{place}.{field}")
    text: str | None = getattr(part, said)
    if text is None:
        param = f"{place}.{said}"
        raise InvalidInput(f"Missing required parameter: '{param}'.", param=param)
    return text


def _may_be_parallel(body: ChatBody) -> bool:
    """A function that was chosen by name is called once, as in OpenAI's API."""
    chosen = isinstance(body.tool_choice, Choice) and body.tool_choice.type == "function"
    return body.parallel_tool_calls is not False and not chosen and not body.functions


def _max_tokens(body: ChatBody) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidInput(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            param="max_tokens",
        )
    return body.max_tokens or body.max_completion_tokens


def _top_logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs is not None:
        raise InvalidInput(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
            param="top_logprobs",
        )
    return None
