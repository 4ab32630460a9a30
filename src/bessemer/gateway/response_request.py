"""The bodies of `POST /v1/responses` and `/v1/responses/input_tokens`, and what they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from bessemer.app.responses import Asked
from bessemer.app.truncation import LEAST_ANSWER_TOKENS
from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import MAX_CONSTRAINT_CHARS, ChatRequest, Constraint, Message, Sampling
from bessemer.gateway.constraints import NOTHING, Name
from bessemer.gateway.decoding import convert, decode
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.parameters import (
    Metadata,
    Share,
    Temperature,
    refuse_unless_neutral,
)
from bessemer.gateway.response_items import Id, parse_items
from bessemer.gateway.tools import (
    MAX_TOOLS,
    AllowedTools,
    Choice,
    FunctionName,
    Named,
    NamedTool,
    check_depth,
    choice_of,
)

INCLUDABLE = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
"""What an answer may be asked to hold. All but the last are of things that no answer here has."""

_LOGPROBS = "message.output_text.logprobs"
_HOSTED = "is not supported: there are no hosted tools here, only functions"

_any = msgspec.json.Decoder(Any)


class TextFormat(msgspec.Struct, forbid_unknown_fields=True):
    """`strict` changes nothing: a schema is always held to."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    schema: Raw = NOTHING
    description: str | None = None
    strict: bool | None = None


class Text(msgspec.Struct, forbid_unknown_fields=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class FunctionTool(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: Any = None
    output_schema: dict[str, Any] | None = None


class ToolOfChoice(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_TOOLS)] | None = None
    server_label: str | None = None


class Reasoning(msgspec.Struct, forbid_unknown_fields=True):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ConversationOf(msgspec.Struct, forbid_unknown_fields=True):
    id: Id


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


class PromptBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What makes a prompt; null is the same as absent."""

    model: str | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: Id | None = None
    conversation: Id | ConversationOf | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolOfChoice | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: Reasoning | None = None


class CountBody(PromptBody, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/responses/input_tokens`."""

    personality: str | None = None


class ResponseBody(PromptBody, kw_only=True, forbid_unknown_fields=True):
    model: str
    temperature: Temperature | None = None
    top_p: Share | None = None
    max_output_tokens: Annotated[int, Meta(ge=LEAST_ANSWER_TOKENS, le=2**31 - 1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # They say who asks, and how to file it; they do not change an answer.
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=64)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    # Of hosted tools, which are not there to be called.
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    # They would change it.
    service_tier: str | None = None
    prompt: Raw = NOTHING
    moderation: Raw = NOTHING
    context_management: Raw = NOTHING


_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "service_tier": ("auto", "default"),
    "prompt": (),
    "moderation": (),
    "context_management": (),
}
_NEUTRAL_REASONING: Mapping[str, Sequence[Any]] = {
    "effort": ("none",),
    "summary": (),
    "generate_summary": (),
    "context": ("auto",),
    "mode": (),
}
_NEUTRAL_TOOL: Mapping[str, Sequence[Any]] = {
    "defer_loading": (False,),
    "allowed_callers": (["direct"],),
    "output_schema": (),
}

_body = msgspec.json.Decoder(ResponseBody)
_count = msgspec.json.Decoder(CountBody)


def parse_response(raw: bytes, request_id: str) -> Asked:
    """Raises InvalidInput (and its kinds): what is wrong, and in which field."""
    body = decode(_body, raw)
    refuse_unless_neutral(body, _NEUTRAL)
    _check_streaming(body)
    check_include(body.include or ())
    request = ChatRequest(
        request_id=request_id,
        max_tokens=body.max_output_tokens,
        sampling=Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
        ),
        top_logprobs=_top_logprobs(body),
    )
    asked = _asked(body, body.model, request)
    return asked._replace(
        id=f"resp_{request_id.rpartition('_')[2]}",
        says=_says(body),
        store=body.store is not False,
        background=bool(body.background),
        stream=bool(body.stream),
        truncates=body.truncation == "auto",
    )


def parse_count(raw: bytes, request_id: str) -> Asked:
    """Raises as `parse_response`. What does not change the prompt is checked all the same."""
    body = decode(_count, raw)
    if body.personality is not None:
        raise UnsupportedParameter("personality")
    if body.model is None:
        raise InvalidInput("Missing required parameter: 'model'.", param="model")
    return _asked(body, body.model, ChatRequest(request_id=request_id))


def check_include(include: Sequence[str]) -> None:
    """Raise InvalidInput for what no answer ever holds."""
    unknown = next((word for word in include if word not in INCLUDABLE), None)
    if unknown is not None:
        raise InvalidInput(
            f"'include' has {unknown[:100]!r}; it takes {', '.join(INCLUDABLE)}.", param="include"
        )


def _asked(body: PromptBody, model: str, request: ChatRequest) -> Asked:
    """The part of a request that makes its prompt."""
    _check_reasoning(body.reasoning)
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        raise UnsupportedParameter("text.verbosity")
    if body.previous_response_id is not None and body.conversation is not None:
        raise InvalidInput(
            "'previous_response_id' and 'conversation' cannot be used together.",
            param="conversation",
        )
    if body.input is None and body.previous_response_id is None and body.conversation is None:
        raise InvalidInput("Missing required parameter: 'input'.", param="input")
    tools = _tools(body.tools or ())
    one_by_name = isinstance(body.tool_choice, ToolOfChoice) and body.tool_choice.type == "function"
    conversation = body.conversation
    return Asked(
        id="",
        model=model,
        items=parse_items(body.input),
        instructions=body.instructions,
        previous_id=body.previous_response_id,
        conversation_id=conversation.id
        if isinstance(conversation, ConversationOf)
        else conversation,
        says={},
        request=msgspec.structs.replace(
            request,
            tools=tools,
            tool_choice=choice_of(_choice(body.tool_choice), tools),
            parallel_tool_calls=body.parallel_tool_calls is not False and not one_by_name,
            constraint=_constraint(body.text),
        ),
    )


def _check_streaming(body: ResponseBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidInput(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        raise UnsupportedParameter("stream_options.include_obfuscation")
    if body.background and body.store is False:
        raise InvalidInput(
            "'background' needs 'store': an answer that nobody waits for has to be kept.",
            param="background",
        )


def _check_reasoning(reasoning: Reasoning | None) -> None:
    if reasoning is None:
        return
    try:
        refuse_unless_neutral(reasoning, _NEUTRAL_REASONING)
    except UnsupportedParameter as fault:
        raise UnsupportedParameter(f"reasoning.{fault.param}") from None


def _top_logprobs(body: ResponseBody) -> int | None:
    if _LOGPROBS in (body.include or ()):
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidInput(
            f"'top_logprobs' are told of where 'include' has '{_LOGPROBS}'.", param="top_logprobs"
        )
    return None


def _tools(sent: Sequence[dict[str, Any]]) -> list[Message]:
    """The tools as chats spell them."""
    found: list[Message] = []
    for place, tool in enumerate(sent):
        where = f"tools[{place}]"
        kind = tool.get("type", "function")
        if kind != "function":
            raise UnsupportedParameter(f"{where}.type", f"as {str(kind)[:50]!r} {_HOSTED}")
        function = _function(convert(tool, FunctionTool, where), where)
        if any(function["name"] == known["function"]["name"] for known in found):
            raise InvalidInput(
                f"Two tools have the name '{function['name']}'.", param=f"{where}.name"
            )
        found.append({"type": "function", "function": function})
    return found


def _function(tool: FunctionTool, where: str) -> Message:
    try:
        refuse_unless_neutral(tool, _NEUTRAL_TOOL)
    except UnsupportedParameter as fault:
        raise UnsupportedParameter(f"{where}.{fault.param}") from None
    check_depth(tool.parameters, f"{where}.parameters")
    said = {"description": tool.description, "parameters": tool.parameters}
    return {"name": tool.name} | {key: value for key, value in said.items() if value is not None}


def _choice(sent: str | ToolOfChoice | None) -> Any:
    """As chats spell it."""
    if not isinstance(sent, ToolOfChoice):
        return sent
    if sent.type == "function":
        return Choice("function", function=_named(sent.name, "tool_choice"))
    if sent.type != "allowed_tools":
        raise UnsupportedParameter("tool_choice.type", f"as {sent.type[:50]!r} {_HOSTED}")
    tools: list[NamedTool] = []
    for place, tool in enumerate(sent.tools or ()):
        where = f"tool_choice.tools[{place}]"
        one = convert(tool, ToolOfChoice, where)
        if one.type != "function":
            raise UnsupportedParameter(f"{where}.type", f"as {one.type[:50]!r} {_HOSTED}")
        tools.append(NamedTool(_named(one.name, where)))
    if sent.mode is None or not tools:
        param = f"tool_choice.{'tools' if sent.mode else 'mode'}"
        raise InvalidInput(f"Missing required parameter: '{param}'.", param=param)
    return Choice("allowed_tools", allowed_tools=AllowedTools(sent.mode, tools))


def _named(name: str | None, where: str) -> Named:
    if name is None:
        raise InvalidInput(f"Missing required parameter: '{where}.name'.", param=f"{where}.name")
    return Named(name)


def _constraint(text: Text | None) -> Constraint | None:
    form = None if text is None else text.format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return Constraint("json_object", param="text.format")
    for field in ("name", "schema"):
        if not getattr(form, field):
            param = f"text.format.{field}"
            raise InvalidInput(f"Missing required parameter: '{param}'.", param=param)
    check_depth(decode(_any, bytes(form.schema)), "text.format.schema")
    schema = bytes(form.schema).decode()
    if len(schema) > MAX_CONSTRAINT_CHARS:
        raise InvalidInput(
            f"'text.format.schema' has {len(schema):,} characters; the limit is"
            f" {MAX_CONSTRAINT_CHARS:,}.",
            param="text.format.schema",
        )
    return Constraint("json_schema", schema, "text.format")


def _says(body: ResponseBody) -> Mapping[str, Any]:
    """What the response tells again of its request."""
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": _format_said(body.text), "verbosity": "medium"},
        "tool_choice": _choice_said(body.tool_choice),
        "tools": [_tool_said(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
    } | ({} if body.user is None else {"user": body.user})


def _format_said(text: Text | None) -> dict[str, Any]:
    form = None if text is None else text.format
    if form is None or form.type != "json_schema":
        return {"type": "text" if form is None else form.type}
    said = {
        "type": form.type,
        "name": form.name,
        "schema": decode(_any, bytes(form.schema)),
        "strict": form.strict is not False,
    }
    return said if form.description is None else said | {"description": form.description}


def _choice_said(choice: str | ToolOfChoice | None) -> Any:
    if isinstance(choice, ToolOfChoice):
        sent = msgspec.to_builtins(choice)
        return {key: value for key, value in sent.items() if value is not None}
    return choice or "auto"


def _tool_said(tool: dict[str, Any]) -> dict[str, Any]:
    return {"description": None, "parameters": None, "strict": True, **tool, "type": "function"}
