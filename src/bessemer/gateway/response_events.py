"""Responses in OpenAI's words: the object, and the events that tell how it comes about.

The events of a message: `response.output_item.added`, `response.content_part.added`,
`response.output_text.delta` ..., `response.output_text.done`, `response.content_part.done`,
`response.output_item.done`; of a call: added, `response.function_call_arguments.delta` ..., `done`,
done. Each has a `sequence_number`, the same every time the same pieces are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from bessemer.app.response_output import ArgumentsSaid, Closed, Opened, TextSaid
from bessemer.app.responses import Ended, Piece, Response, Started
from bessemer.core.protocols import Usage


class Event(NamedTuple):
    """`number` counts from 0 within a response; `data` has it too."""

    number: int
    name: str
    data: dict[str, Any]


def response_shape(response: Response) -> dict[str, Any]:
    """The object `response`. With `truncation` `auto` it has an extension, `dropped_items`."""
    completed_ms = response.completed_ms
    shape: dict[str, Any] = {
        "id": response.id,
        "object": "response",
        "created_at": response.created_ms // 1000,
        "completed_at": None if completed_ms is None else completed_ms // 1000,
        "status": response.status,
        "background": response.background,
        "error": response.error,
        "incomplete_details": response.incomplete and {"reason": response.incomplete},
        "model": response.model,
        "output": response.output,
        "previous_response_id": response.previous_id,
        "conversation": response.conversation_id and {"id": response.conversation_id},
        **response.says,
    }
    if response.usage is not None:
        shape["usage"] = _usage(response.usage)
    if response.dropped is not None:
        shape["dropped_items"] = response.dropped
    return shape


class Events:
    """Tells pieces as events, from the first one on."""

    def __init__(self) -> None:
        self._next = 0

    def of(self, piece: Piece) -> Iterator[Event]:
        for name, data in self._spelled(piece):
            yield Event(self._next, name, {"type": name, "sequence_number": self._next, **data})
            self._next += 1

    def _spelled(self, piece: Piece) -> Iterator[tuple[str, dict[str, Any]]]:
        match piece:
            case Started(response):
                if self._next == 0:
                    yield "response.created", {"response": response_shape(response)}
                yield f"response.{response.status}", {"response": response_shape(response)}
            case Opened(index, item):
                yield "response.output_item.added", {"output_index": index, "item": item}
                if item["type"] == "message":
                    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                    yield "response.content_part.added", _within(item["id"], index) | {"part": part}
            case TextSaid(index, item_id, text, logprobs):
                said: dict[str, Any] = {"delta": text, "logprobs": logprobs}
                yield "response.output_text.delta", _within(item_id, index) | said
            case ArgumentsSaid(index, item_id, arguments):
                said = {"item_id": item_id, "output_index": index, "delta": arguments}
                yield "response.function_call_arguments.delta", said
            case Closed(index, item):
                yield from _closed(index, item)
            case Ended(response):
                # There is no event of its own for one that was cancelled.
                status = "incomplete" if response.status == "cancelled" else response.status
                yield f"response.{status}", {"response": response_shape(response)}


def _closed(index: int, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if item["type"] == "message":
        (part,) = item["content"]
        within = _within(item["id"], index)
        said = {"text": part["text"], "logprobs": part["logprobs"]}
        yield "response.output_text.done", within | said
        yield "response.content_part.done", within | {"part": part}
    else:
        said = {"item_id": item["id"], "output_index": index, "name": item["name"]}
        yield "response.function_call_arguments.done", said | {"arguments": item["arguments"]}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _within(item_id: str, index: int) -> dict[str, Any]:
    return {"item_id": item_id, "output_index": index, "content_index": 0}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
