"""Fixed examples a model is shown first, as earlier turns of the same conversation.

They tell the form of an answer apart from the knowledge in it: what a base model gains from
them is not counted as learning. All items of a kind get the same examples in the same order, so
an engine with a prefix cache computes them once.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Message
from bessemer.data.chats import Chat
from bessemer.evals.items import Item, by_hash, item_of

_INSTRUCTIONS = ("system", "developer")


def choose_shots(train: Iterable[Chat], kind: str, count: int, seed: int) -> tuple[Message, ...]:
    """`count` chats of `kind`, each of another symbol, as the turns that come before an item.

    They are the first by hash among the chats no longer than the median of their kind: short
    enough to leave room in the context, and not the shortest, which are not typical. Their
    answers have weight 0: they are shown, not scored.

    Args:
        train: the train split; examples from anywhere else would leak what is measured.
        kind: the kind of the items that will follow.

    Raises:
        InvalidInput: the split has fewer than `count` symbols of this kind.
    """
    pool = [item for item in map(item_of, train) if item.kind == kind]
    limit = statistics.median(map(_length, pool)) if pool else 0
    ordered = by_hash(pool, seed)
    chosen: dict[str, Item] = {}
    for item in sorted(ordered, key=lambda item: _length(item) > limit):
        if len(chosen) < count:
            chosen.setdefault(item.cluster, item)
    if len(chosen) < count:
        raise InvalidInput(
            f"the train split has {len(chosen)} chats of kind {kind!r} on different symbols; "
            f"{count} examples were asked for",
            next_step=f"measure with --set shots={len(chosen)}",
        )
    turns = (turn for item in chosen.values() for turn in _turns(item.messages))
    return tuple(_shown(turn) for turn in turns)


def after_shots(shots: Sequence[Message], messages: Sequence[Message]) -> list[Message]:
    """The item's messages with the examples before them; its instructions stay first."""
    instructions = [message for message in messages if message["role"] in _INSTRUCTIONS]
    return [*instructions, *shots, *_turns(messages)]


def _turns(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message["role"] not in _INSTRUCTIONS]


def _shown(message: Message) -> Message:
    # An answer of weight 0 is context: it is not scored.
    return {**message, "weight": 0} if message["role"] == "assistant" else message


def _length(item: Item) -> int:
    return sum(len(str(message["content"])) for message in item.messages)
