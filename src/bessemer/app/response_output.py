"""The items of an answer as they grow: deltas in, pieces out that a stream can tell one by one.

    output = Output()
    for delta in deltas:
        for piece in output.take(delta): ...
    for piece in output.close("completed"): ...
    output.items   # whole

Pieces say what happened; how they are spelled as events is the gateway's business. They can be
kept, and told again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from bessemer.app.items import Item
from bessemer.core.ids import new_id
from bessemer.core.protocols import Delta, TextLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class Opened(msgspec.Struct, frozen=True, tag=True):
    """Item number `index` begins; there is nothing in it yet."""

    index: int
    item: Item


class TextSaid(msgspec.Struct, frozen=True, tag=True):
    """More text of the message that is open."""

    index: int
    item_id: str
    text: str
    logprobs: Sequence[dict[str, Any]] = ()


class ArgumentsSaid(msgspec.Struct, frozen=True, tag=True):
    """More of the arguments of the call that is open."""

    index: int
    item_id: str
    arguments: str


class Closed(msgspec.Struct, frozen=True, tag=True):
    """The item is over, and this is all of it."""

    index: int
    item: Item


OutputPiece = Opened | TextSaid | ArgumentsSaid | Closed


class Output:
    """The items of one answer. One is open at a time: a message, or a call."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._open: Item | None = None
        self._said: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        # Of tokens whose text is held back; if a call comes of it, nobody is told of them.
        self._waiting: list[dict[str, Any]] = []

    def take(self, delta: Delta) -> Iterator[OutputPiece]:
        self._waiting.extend(map(_logprob, delta.logprobs or ()))
        if delta.text:
            yield from self._say(delta.text)
        for piece in delta.tool_calls:
            self._waiting.clear()
            if piece.id is not None:
                yield from self._close("completed")
                yield self._begin(_call(piece.id, piece.name or ""))
            if piece.arguments and self._open is not None:
                self._said.append(piece.arguments)
                yield ArgumentsSaid(len(self.items), self._open["id"], piece.arguments)

    def close(self, status: ItemStatus) -> Iterator[OutputPiece]:
        """The end of the answer; one that has said nothing is an empty message."""
        if self._open is None and not self.items:
            yield self._begin(_message())
        if self._waiting and self._open is not None and self._open["type"] == "message":
            yield from self._say("")
        yield from self._close(status)

    def cut(self) -> list[Item]:
        """All there is of an answer that broke off."""
        for _ in self._close("incomplete"):
            pass
        return self.items

    def _say(self, text: str) -> Iterator[OutputPiece]:
        if self._open is None or self._open["type"] != "message":
            yield from self._close("completed")
            yield self._begin(_message())
        assert self._open is not None
        logprobs, self._waiting = self._waiting, []
        self._said.append(text)
        self._logprobs += logprobs
        yield TextSaid(len(self.items), self._open["id"], text, logprobs)

    def _begin(self, item: Item) -> Opened:
        self._open, self._said, self._logprobs = item, [], []
        return Opened(len(self.items), dict(item))

    def _close(self, status: ItemStatus) -> Iterator[Closed]:
        item = self._open
        if item is None:
            return
        said = "".join(self._said)
        whole: Item = {**item, "status": status}
        if item["type"] == "message":
            whole["content"] = [output_text(said, self._logprobs)]
        else:
            whole["arguments"] = said
        self._open = None
        self.items.append(whole)
        yield Closed(len(self.items) - 1, whole)


def output_text(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> Item:
    """The one part of an answer's message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _message() -> Item:
    return {
        "id": new_id("msg"),
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _call(call_id: str, name: str) -> Item:
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "arguments": "",
    }


def _logprob(found: TextLogprob) -> dict[str, Any]:
    top = [{"token": t, "logprob": p, "bytes": list(b)} for t, p, b in found.top]
    return {
        "token": found.token,
        "logprob": found.logprob,
        "bytes": list(found.bytes),
        "top_logprobs": top,
    }
