"""Imports somebody's chats: checks every line, drops exact duplicates, splits by hash.

Near-duplicates are kept, since their owner may mean them, but stay in one split: otherwise a
model would be tested on what it was taught. The file is streamed; memory grows by some 400 bytes
for a chat, not by its text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.digests import sha256_file
from bessemer.data.chats import Chat, chat_of, check_file
from bessemer.data.corpus import SPLITS, Split, split_of, split_order
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.duplicates import group_near_duplicates
from bessemer.data.jsonl import parse_line, read_lines


class _Place(NamedTuple):
    """Where a chat stands in the file, and the hash of what it says."""

    offset: int
    digest: bytes


def import_chats(
    jsonl: Path, folder: Path, seed: int = 0, *, licence: str | None = None
) -> dict[str, Any]:
    """Make a dataset folder from a file in OpenAI's chat fine-tuning format.

    Args:
        jsonl: one `{"messages": [...]}` object a line.
        folder: new or empty.
        seed: another seed splits otherwise; the same one always alike.
        licence: an SPDX expression, where it is known.

    Returns:
        What dataset.json holds: counts, duplicates dropped, groups kept together.

    Raises:
        DataError: the file has faults (all are named, up to 20), or no chats. Nothing is written.
    """
    report = check_file(jsonl)
    report.raise_faults()
    places = _distinct_places(jsonl)
    groups = _groups(jsonl, places)
    splits = _splits([places[first].digest.hex() for first in groups], seed)
    sha256 = sha256_file(jsonl)
    return write_dataset(
        folder,
        _rows(jsonl, places, splits, f"file_{sha256[:16]}"),
        [{"id": f"file_{sha256[:16]}", "source": jsonl.name, "licence": licence, "sha256": sha256}],
        {
            "name": jsonl.stem,
            "licence": licence,
            "made_from": f"{jsonl.name} (sha256 {sha256})",
            "made_by": "import of OpenAI chat fine-tuning lines",
            "split_by": f"SHA-256 of the chat with seed {seed}, 90/5/5; near-duplicates together",
            "answers": report.answers,
            "exact_duplicates_dropped": report.chats - len(places),
            "near_duplicates_kept_together": len(groups) - len(set(groups)),
        },
    )


def _distinct_places(jsonl: Path) -> list[_Place]:
    found: dict[bytes, int] = {}
    for line in read_lines(jsonl):
        said = json.dumps(chat_of(line.value).as_line(), sort_keys=True)
        found.setdefault(hashlib.sha256(said.encode()).digest(), line.offset)
    return [_Place(offset, digest) for digest, offset in found.items()]


def _groups(jsonl: Path, places: list[_Place]) -> list[int]:
    with jsonl.open("rb") as file:

        def text_of(index: int) -> str:
            file.seek(places[index].offset)
            return _said(chat_of(parse_line(_clean(file.readline()))))

        return group_near_duplicates(map(text_of, range(len(places))), text_of)


def _said(chat: Chat) -> str:
    """What tells chats apart; instructions that all of them share would make all alike."""
    spoken = [message for message in chat.messages if message["role"] not in _INSTRUCTIONS]
    return "\n".join(message["content"] + _calls_of(message) for message in spoken)


def _calls_of(message: dict[str, Any]) -> str:
    return json.dumps(message["tool_calls"]) if "tool_calls" in message else ""


def _splits(keys: list[str], seed: int) -> list[Split]:
    """A split for each key, none of them empty; fewer than three distinct keys are all train."""
    split_by_key = {key: split_of(key, seed=seed) for key in keys}
    if len(split_by_key) < len(SPLITS):
        return ["train"] * len(keys)
    for split in SPLITS:
        splits = list(split_by_key.values())
        if split not in splits:
            fullest = max(SPLITS, key=splits.count)
            taken = (key for key, found in split_by_key.items() if found == fullest)
            split_by_key[min(taken, key=lambda key: split_order(key, seed=seed))] = split
    return [split_by_key[key] for key in keys]


def _rows(jsonl: Path, places: list[_Place], splits: list[Split], document: str) -> Iterator[Row]:
    with jsonl.open("rb") as file:
        for place, split in zip(places, splits, strict=True):
            file.seek(place.offset)
            yield Row(split, chat_of(parse_line(_clean(file.readline()))), document)


def _clean(data: bytes) -> bytes:
    return data.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")


_INSTRUCTIONS = frozenset({"system", "developer"})
