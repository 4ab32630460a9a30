"""Answers that were stored, as the items of an eval: chat completions and responses.

    chosen = choose(platform, principal, StoredCompletions(model="tiny", limit=100), sampled=False)
    for number, item, sample in read(platform, principal, chosen): ...

Which ones a run judges is fixed when it is asked for, so that its items and their numbers stay the
same while answers go on being stored. What was deleted since then has no line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from bessemer.app import conversations, responses, stored_completions
from bessemer.app.items import messages_of, text_of
from bessemer.app.platform import Platform
from bessemer.app.stored_completions import Kept
from bessemer.app.tables import chat_completions, labels
from bessemer.app.tables import responses as responses_table
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import Message
from bessemer.text.criterion_checks import sample_of

PARAM = "data_source.source"
MOST = 10_000  # a run keeps their ids

Labels = Mapping[str, str]
Seconds = Annotated[int, Meta(ge=0, le=2**40)]


class _Source(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    pass


class StoredCompletions(_Source, tag="stored_completions"):
    """All of these hold. Times are Unix seconds and inclusive; `limit` keeps the newest."""

    metadata: dict[str, str] | None = None
    model: str | None = None
    created_after: Seconds | None = None
    created_before: Seconds | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None


class StoredResponses(_Source, tag="responses"):
    """All of these hold; of `users` and of `tools` one is enough. `limit` is an extension."""

    metadata: dict[str, str] | None = None
    model: str | None = None
    instructions_search: str | None = None
    created_after: Seconds | None = None
    created_before: Seconds | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    users: list[str] | None = None
    tools: list[str] | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None


class Chosen(_Source, tag="chosen"):
    """These ones. With `sampled` a model answers anew, and what was answered is no sample."""

    kind: Literal["stored_completions", "responses"]
    ids: list[str]
    sampled: bool


class Answer(NamedTuple):
    """One of them: `number` is its place in `Chosen`."""

    number: int
    item: dict[str, Any]
    sample: dict[str, Any] | None


def choose(
    platform: Platform,
    principal: Principal,
    source: StoredCompletions | StoredResponses,
    *,
    sampled: bool,
    having: Mapping[str, Any] | None = None,
) -> Chosen:
    """Those that match, in the order in which they were made.

    Args:
        having: metadata that they need besides, which the eval itself asks for.

    Raises:
        InvalidInput: none matches, or more than `MOST`.
        PermissionDenied: the principal may not read them.
    """
    wanted = {**(having or {}), **(source.metadata or {})}
    kind: Literal["stored_completions", "responses"]
    if isinstance(source, StoredCompletions):
        principal.require(stored_completions.READ_SCOPE)
        kind, found = "stored_completions", _completions(platform, principal, source, wanted)
    else:
        conversations.require_reading(principal)
        kind, found = "responses", _responses(platform, principal, source, wanted)
    there = (id_ for id_ in found if _read_one(platform, principal, kind, id_) is not None)
    ids = list(itertools.islice(there, min(source.limit or MOST + 1, MOST + 1)))
    if len(ids) > MOST:
        raise InvalidInput(
            f"more than {MOST:,} stored answers match, which is as many as a run takes",
            next_step="narrow it by model, time or metadata, or set 'limit'",
            param=PARAM,
        )
    if not ids:
        raise InvalidInput(
            f"no answer that is stored here matches the source '{kind}'",
            next_step="answers are stored with store: true; GET /v1/chat/completions lists those"
            " of chats",
            param=PARAM,
        )
    return Chosen(kind, ids[::-1], sampled)


def read(platform: Platform, principal: Principal, chosen: Chosen) -> Iterator[Answer]:
    """Each that is still there."""
    for number, id_ in enumerate(chosen.ids):
        found = _read_one(platform, principal, chosen.kind, id_)
        if found is not None:
            item, sample = found
            yield Answer(number, item, None if chosen.sampled else sample)


_Read = tuple[dict[str, Any], dict[str, Any]]


def _read_one(platform: Platform, principal: Principal, kind: str, id_: str) -> _Read | None:
    """Its item and sample; None where it, or an earlier turn that it answers, is gone."""
    try:
        if kind == "stored_completions":
            return _of_completion(stored_completions.get(platform, principal, id_))
        return _of_response(*responses.get_with_context(platform, principal, id_))
    except NotFound:
        return None


def _of_completion(kept: Kept) -> _Read:
    choices = kept.answer["choices"]
    first = choices[0]
    said = _message(first["message"])
    sample = sample_of(said["content"], said.get("tool_calls", ()), first["finish_reason"])
    if len(choices) > 1:
        sample["choices"] = choices
    spoken = [_message(message) for message in kept.messages]
    return _item(kept.id, kept.model, kept.labels, spoken, said), sample


def _of_response(response: responses.Response, context: Sequence[dict[str, Any]]) -> _Read:
    said = (messages_of(response.output, None) or [{"role": "assistant", "content": ""}])[-1]
    calls = said.get("tool_calls", ())
    end = "length" if response.incomplete else "tool_calls" if calls else "stop"
    spoken = messages_of(context, response.says.get("instructions"))
    labels_ = response.says.get("metadata") or {}
    item = _item(response.id, response.model, labels_, spoken, said)
    return item, sample_of(said["content"], calls, end)


def _item(
    id_: str, model: str, labels_: Labels, spoken: Sequence[Message], said: Message
) -> dict[str, Any]:
    return {
        "id": id_,
        "model": model,
        "metadata": dict(labels_),
        "input": list(spoken),
        "output_text": said["content"],
    }


def _message(sent: Mapping[str, Any]) -> Message:
    """A message as models read it: its words are one text, and functions are tools."""
    role, called = sent["role"], sent.get("function_call")
    kept = {key: sent[key] for key in ("name", "tool_calls", "tool_call_id") if sent.get(key)}
    if called:
        call = {"id": f"call_{called['name']}", "type": "function", "function": called}
        kept["tool_calls"] = [call]
    if role == "function":
        role, kept["tool_call_id"] = "tool", f"call_{kept.pop('name')}"
    said = text_of(sent.get("content") or "") + (sent.get("refusal") or "")
    return {"role": role, "content": said, **kept}


def _completions(
    platform: Platform, principal: Principal, source: StoredCompletions, wanted: Labels
) -> Iterator[str]:
    """Ids, newest first."""
    table = chat_completions.c
    query = sa.select(table.id).where(_made(table, principal, source))
    for key, value in wanted.items():
        having = (labels.c.project_id == principal.project_id) & (labels.c.key == key)
        holders = sa.select(labels.c.holder_id).where(having, labels.c.value == value)
        query = query.where(table.id.in_(holders))
    newest_first = query.order_by(table.id.desc())
    with platform.db.read() as connection:
        ids = connection.execute(newest_first.limit(source.limit or MOST + 1)).scalars().all()
    yield from ids


def _responses(
    platform: Platform, principal: Principal, source: StoredResponses, wanted: Labels
) -> Iterator[str]:
    """Ids, newest first; what an answer says of its request is in its record alone."""
    table = responses_table.c
    answered = _made(table, principal, source) & table.status.in_(responses.CONTINUABLE)
    query = sa.select(table.id, table.record).where(answered)
    newest_first = query.order_by(table.id.desc())
    with platform.db.read() as connection:
        rows = connection.execute(newest_first.execution_options(yield_per=200))
        ids = [row.id for row in rows if _says(_record.decode(row.record).says, source, wanted)]
    yield from ids


class _Record(msgspec.Struct):
    says: dict[str, Any]


_record = msgspec.json.Decoder(_Record)


def _says(says: Mapping[str, Any], source: StoredResponses, wanted: Labels) -> bool:
    search = source.instructions_search
    users = {says.get("user"), says.get("safety_identifier")}
    tools = {tool.get("name") for tool in says["tools"]}
    return (
        wanted.items() <= (says.get("metadata") or {}).items()
        and (search is None or search.casefold() in (says.get("instructions") or "").casefold())
        # No model here reasons, which is what a response of `effort` null says, too.
        and source.reasoning_effort in (None, "none")
        and source.temperature in (None, says["temperature"])
        and source.top_p in (None, says["top_p"])
        and (source.users is None or not users.isdisjoint(source.users))
        and (source.tools is None or not tools.isdisjoint(source.tools))
    )


def _made(
    table: Any, principal: Principal, source: StoredCompletions | StoredResponses
) -> sa.ColumnElement[bool]:
    found: sa.ColumnElement[bool] = table.project_id == principal.project_id
    if source.model is not None:
        found &= table.model == source.model
    # The API speaks of whole seconds, and an answer is of the one that it was made in.
    if source.created_after is not None:
        found &= table.created_ms >= source.created_after * 1000
    if source.created_before is not None:
        found &= table.created_ms < (source.created_before + 1) * 1000
    return found
