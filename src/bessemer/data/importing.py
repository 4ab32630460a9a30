"""Imports a file of examples: checks every line, drops exact duplicates, splits by hash.

Near-duplicates are kept, since their owner may mean them, but stay in one split: otherwise a
model would be tested on what it was taught. The file is streamed; memory grows by some 400 bytes
for a line, not by its text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bessemer.core.digests import sha256_file
from bessemer.data.checking import check_file
from bessemer.data.corpus import SPLITS, Split, split_of, split_order
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.duplicates import group_near_duplicates
from bessemer.data.jsonl import parse_line, read_lines
from bessemer.data.shapes import Example, Shape


class _Place(NamedTuple):
    """Where a line stands in the file, and the hash of what it says."""

    offset: int
    digest: bytes


def import_examples(
    jsonl: Path, folder: Path, seed: int = 0, *, licence: str | None = None
) -> dict[str, Any]:
    """Make a dataset folder from a file in one of OpenAI's fine-tuning formats.

    Args:
        jsonl: one object a line, all of one shape, which is recognized.
        folder: new or empty.
        seed: another seed splits otherwise; the same one always alike.
        licence: an SPDX expression, where it is known.

    Returns:
        What dataset.json holds: counts, duplicates dropped, groups kept together.

    Raises:
        DataError: the file has faults (all are named, up to 20), or no lines. Nothing is written.
    """
    report = check_file(jsonl)
    report.raise_faults()
    shape = report.shape
    places = _distinct_places(jsonl, shape)
    groups = _groups(jsonl, places, shape)
    splits = _splits([places[first].digest.hex() for first in groups], seed)
    sha256 = sha256_file(jsonl)
    return write_dataset(
        folder,
        _rows(jsonl, places, splits, f"file_{sha256[:16]}", shape),
        [{"id": f"file_{sha256[:16]}", "source": jsonl.name, "licence": licence, "sha256": sha256}],
        {
            "name": jsonl.stem,
            "licence": licence,
            "made_from": f"{jsonl.name} (sha256 {sha256})",
            "made_by": f"import of {shape.source}",
            "split_by": f"SHA-256 of the {shape.one} with seed {seed}, 90/5/5;"
            " near-duplicates together",
            "answers": report.answers,
            "exact_duplicates_dropped": report.examples - len(places),
            "near_duplicates_kept_together": len(groups) - len(set(groups)),
        },
        shape,
    )


def _distinct_places(jsonl: Path, shape: Shape[Example]) -> list[_Place]:
    found: dict[bytes, int] = {}
    for line in read_lines(jsonl):
        said = json.dumps(shape.parse(line.value, None, None).as_line(), sort_keys=True)
        found.setdefault(hashlib.sha256(said.encode()).digest(), line.offset)
    return [_Place(offset, digest) for digest, offset in found.items()]


def _groups(jsonl: Path, places: list[_Place], shape: Shape[Example]) -> list[int]:
    with jsonl.open("rb") as file:

        def text_of(index: int) -> str:
            return _read_at(file, places[index].offset, shape).said()

        return group_near_duplicates(map(text_of, range(len(places))), text_of)


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


def _rows(
    jsonl: Path, places: list[_Place], splits: list[Split], document: str, shape: Shape[Example]
) -> Iterator[Row]:
    with jsonl.open("rb") as file:
        for place, split in zip(places, splits, strict=True):
            yield Row(split, _read_at(file, place.offset, shape), document)


def _read_at(file: BinaryIO, offset: int, shape: Shape[Example]) -> Example:
    file.seek(offset)
    data = file.readline().removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
    return shape.parse(parse_line(data), None, None)
