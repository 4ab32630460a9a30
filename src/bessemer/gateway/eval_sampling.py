"""The `data_source` of a run of an eval, and the plan that it means.

Texts of messages become one part each, as OpenAI answers them. What is sent is either in the plan
or refused; nothing is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from bessemer.app.eval_plans import SEED, EvalMessage, Plan, SampleWith
from bessemer.app.eval_sources import FileContent, FileId
from bessemer.app.eval_stored import StoredCompletions, StoredResponses
from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Constraint, Message
from bessemer.gateway.constraints import ResponseFormat, constraint_of
from bessemer.gateway.decoding import decode
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.parameters import Count, Seed, Share, Temperature
from bessemer.gateway.tools import ToolsField, checked_tools

PLACE = "data_source"

Messages = Annotated[list[EvalMessage], Meta(min_length=1, max_length=2_048)]


class _Shape(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Template(_Shape, tag_field="type", tag="template"):
    template: Messages


class ItemReference(_Shape, tag_field="type", tag="item_reference"):
    item_reference: str


class _Sampling(_Shape, kw_only=True):
    reasoning_effort: str | None = None
    temperature: Temperature | None = None
    max_completion_tokens: Count | None = None
    # As OpenAI's own examples have it.
    max_completions_tokens: Count | None = None
    top_p: Share | None = None
    seed: Seed | None = None
    tools: ToolsField | None = None


class ChatSampling(_Sampling):
    response_format: dict[str, Any] | None = None


class TextFormat(_Shape):
    format: dict[str, Any] | None = None


class ResponsesSampling(_Sampling):
    text: TextFormat | None = None


class Jsonl(_Shape, tag_field="type", tag="jsonl"):
    """Judge the samples that are there."""

    source: FileContent | FileId


class Completions(_Shape, tag_field="type", tag="completions", kw_only=True):
    """Sample as `/v1/chat/completions` would; without a model judge what was stored."""

    source: FileContent | FileId | StoredCompletions
    input_messages: Template | ItemReference | None = None
    sampling_params: ChatSampling | None = None
    model: str | None = None


class Responses(_Shape, tag_field="type", tag="responses", kw_only=True):
    """Sample as `/v1/responses` would; without a model judge what was stored."""

    source: FileContent | FileId | StoredResponses
    input_messages: Template | ItemReference | None = None
    sampling_params: ResponsesSampling | None = None
    model: str | None = None


DataSource = Jsonl | Completions | Responses


class Asked(NamedTuple):
    """A plan, and the data source as it will be shown."""

    plan: Plan
    data_source: DataSource


def plan_of(sent: DataSource) -> Asked:
    """Raises InvalidInput (and its kinds), naming the field."""
    if isinstance(sent, Jsonl):
        return Asked(Plan(source=sent.source), sent)
    if sent.model is None:
        stored = isinstance(sent.source, StoredCompletions | StoredResponses)
        if stored and sent.input_messages is None and sent.sampling_params is None:
            return Asked(Plan(source=sent.source), sent)
        raise InvalidInput(
            f"Missing required parameter: '{PLACE}.model'.",
            next_step="to judge samples that are there, use the data source 'jsonl'",
            param=f"{PLACE}.model",
        )
    asked = sent.input_messages
    messages = reference = None
    if isinstance(asked, Template):
        place = f"{PLACE}.input_messages.template"
        messages = [one.normal(f"{place}[{i}]") for i, one in enumerate(asked.template)]
        sent = msgspec.structs.replace(sent, input_messages=Template(messages))
    elif isinstance(asked, ItemReference):
        reference = asked.item_reference
    return Asked(
        Plan(
            source=sent.source,
            model=sent.model,
            messages=messages,
            reference=reference,
            sampling=_sampling(sent.sampling_params),
        ),
        sent,
    )


def _sampling(sent: ChatSampling | ResponsesSampling | None) -> SampleWith:
    if sent is None:
        return SampleWith()
    if sent.reasoning_effort not in (None, "none"):
        raise UnsupportedParameter(f"{PLACE}.sampling_params.reasoning_effort")
    return SampleWith(
        temperature=1.0 if sent.temperature is None else sent.temperature,
        top_p=1.0 if sent.top_p is None else sent.top_p,
        seed=SEED if sent.seed is None else sent.seed,
        max_tokens=sent.max_completion_tokens or sent.max_completions_tokens,
        constraint=_constraint(sent),
        tools=_tools(sent),
    )


_TOOLS = f"{PLACE}.sampling_params.tools"
_format = msgspec.json.Decoder(ResponseFormat)


def _constraint(sent: ChatSampling | ResponsesSampling) -> Constraint | None:
    if isinstance(sent, ChatSampling):
        asked = sent.response_format
    else:
        asked = sent.text.format if sent.text else None
        if asked is not None and asked.get("type") == "json_schema":
            # The Responses API has the schema's fields beside the type.
            inner = {key: value for key, value in asked.items() if key != "type"}
            asked = {"type": "json_schema", "json_schema": inner}
    if asked is None:
        return None
    return constraint_of(decode(_format, msgspec.json.encode(asked)))


def _tools(sent: ChatSampling | ResponsesSampling) -> list[Message]:
    if isinstance(sent, ChatSampling):
        return checked_tools(sent.tools, _TOOLS)
    # And a function's fields beside its type.
    return checked_tools(
        [
            {"type": tool.get("type"), "function": _without_type(tool)}
            if tool.get("type") == "function"
            else tool
            for tool in sent.tools or ()
        ],
        _TOOLS,
    )


def _without_type(tool: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tool.items() if key != "type"}
