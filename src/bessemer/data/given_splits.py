"""A dataset whose splits its owner has made: a file to learn from, and maybe one to be judged by.

Unlike `importing`, nothing is dropped, grouped or dealt out: a line that is there twice is learned
twice. Without a second file the first training lines are what the run measures itself on, and
`dataset.json` says that they are not held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bessemer.core.digests import sha256_file
from bessemer.core.errors import DataError
from bessemer.data.checking import check_file, checked_lines
from bessemer.data.corpus import Split
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.shapes import PROMPTS, SHAPES, Example, Shape

MEASURED_LINES = 16


def shape_named(name: str) -> Shape[Example]:
    """ "chats", "preferences" or "prompts"."""
    return next(shape for shape in (*SHAPES, PROMPTS) if shape.name == name)


def check_shape(jsonl: Path, shape: Shape[Example]) -> int:
    """See that every line of the file is a good one of this shape; returns how many there are.

    Raises:
        DataError: naming the lines and their faults, up to 20.
    """
    report = check_file(jsonl)
    report.raise_faults()
    if report.shape is not shape:
        raise DataError(f"its lines are {report.shape.name}; {shape.name} are needed")
    return report.examples


def import_splits(
    train: Path, validation: Path | None, folder: Path, shape: Shape[Example]
) -> dict[str, Any]:
    """Make a dataset folder of checked files.

    Args:
        train, validation: files of lines of this shape, which `check_shape` has seen.
        folder: new or empty.

    Returns:
        What dataset.json holds.
    """
    files = {"train": train, "validation": validation or train}
    documents = {split: f"{split}_{sha256_file(path)[:16]}" for split, path in files.items()}
    return write_dataset(
        folder,
        _rows(train, validation, documents, shape),
        [
            {"id": documents[split], "source": path.name, "sha256": sha256_file(path)}
            for split, path in files.items()
        ],
        {
            "name": train.stem,
            "licence": None,
            "made_by": f"import of {shape.source}, split by their owner",
            "held_out": validation is not None,
        },
        shape,
    )


def _rows(
    train: Path, validation: Path | None, documents: dict[str, str], shape: Shape[Example]
) -> Iterator[Row]:
    yield from _of("train", checked_lines(train, shape), documents, shape)
    measured: Iterator[dict[str, Any]] = (
        islice(checked_lines(train, shape), MEASURED_LINES)
        if validation is None
        else checked_lines(validation, shape)
    )
    yield from _of("validation", measured, documents, shape)


def _of(
    split: Split, lines: Iterator[dict[str, Any]], documents: dict[str, str], shape: Shape[Example]
) -> Iterator[Row]:
    for line in lines:
        yield Row(split, shape.parse(line, None, None), documents[split])
