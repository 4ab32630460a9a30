"""Which test chats are asked: chosen by hash, so that anybody chooses the same ones.

Within a kind the order is that of a seeded hash, and the kinds take turns: a smaller choice is
the beginning of a larger one. The hash is taken of each chat, not of its symbol, so that a
choice much smaller than the split touches as many symbols as it can.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bessemer.core.digests import canonical_json, sha256_bytes
from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Message
from bessemer.data.chats import Chat

PLAIN_KIND = "chat"


@dataclass(frozen=True)
class Item:
    """One test chat.

    `cluster` names what must be resampled together: items about one symbol are not independent
    evidence. A chat without a symbol is a cluster of its own.
    """

    id: str
    kind: str
    cluster: str
    messages: tuple[Message, ...]
    tools: tuple[Message, ...] = ()

    @property
    def asked(self) -> tuple[Message, ...]:
        """What comes before the last answer."""
        return self.messages[: self._last_answer]

    @property
    def expected(self) -> str:
        """The last answer."""
        return str(self.messages[self._last_answer]["content"])

    @property
    def _last_answer(self) -> int:
        return max(i for i, one in enumerate(self.messages) if one["role"] == "assistant")


def item_of(chat: Chat) -> Item:
    """A chat as an item; its id is a hash of what it says."""
    identity = sha256_bytes(canonical_json(chat.as_line()))[:16]
    return Item(
        identity,
        chat.kind or PLAIN_KIND,
        chat.symbol or identity,
        tuple(chat.messages),
        tuple(chat.tools or ()),
    )


def choose_items(chats: Iterable[Chat], count: int, seed: int) -> list[Item]:
    """At most `count` different items, as even over their kinds as the chats allow.

    Raises:
        InvalidInput: there is no chat to choose from.
    """
    kinds: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in map(item_of, chats):
        kinds[item.kind][item.id] = item
    if not kinds:
        raise InvalidInput(
            "the test split is empty; there is nothing to measure a model on",
            next_step="bessemer data import FILE.jsonl  (20 chats or more, to fill every split)",
        )
    columns = [by_hash(kinds[kind].values(), seed) for kind in sorted(kinds)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*columns))
    return list(itertools.islice((item for item in turns if item is not None), count))


def by_hash(items: Iterable[Item], seed: int) -> Sequence[Item]:
    """Items in the order of a hash of seed and id."""
    return sorted(items, key=lambda item: sha256_bytes(f"{seed}:{item.id}".encode()))
