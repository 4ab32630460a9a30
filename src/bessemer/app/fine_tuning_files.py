"""What a job's files hold: every line checked, stored as a dataset, measured in the base's tokens.

Nothing is cut: a line that the model cannot read whole is a fault like any other, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bessemer.app.datasets import NamedDataset, build_dataset
from bessemer.app.fine_tuning_method import Kind, Method
from bessemer.app.fine_tuning_recipe import Measured
from bessemer.app.platform import Platform
from bessemer.core.errors import BessemerError, DataError, InvalidInput
from bessemer.core.principal import Principal
from bessemer.data.chats import as_context
from bessemer.data.checking import MOST_FAULTS, Fault, Report
from bessemer.data.corpus import Split
from bessemer.data.dataset import Dataset
from bessemer.data.given_splits import check_shape, import_splits, shape_named
from bessemer.data.jsonl import read_lines
from bessemer.data.preferences import Preference
from bessemer.data.shapes import Example, Shape
from bessemer.text.chat_encoding import encode_chat, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.grader_objects import read_grader
from bessemer.text.tokenizer import Tokenizer

SHAPES: dict[Kind, str] = {
    "supervised": "chats", "dpo": "preferences", "reinforcement": "prompts"
}  # fmt: skip


class FileFault(BessemerError):
    """A job's file cannot be learned from. `param` is the field that names it."""

    code = "invalid_file"


def check_files(kind: Kind, train: Path, validation: Path | None) -> Shape[Example]:
    """See that every line is a good one for a job of this kind. Raises FileFault."""
    shape = shape_named(SHAPES[kind])
    for param, path in (("training_file", train), ("validation_file", validation)):
        if path is not None:
            try:
                check_shape(path, shape)
            except DataError as fault:
                raise FileFault(fault.message, param=param) from None
    return shape


def import_files(
    platform: Platform,
    principal: Principal,
    name: str,
    kind: Kind,
    train: Path,
    validation: Path | None,
) -> NamedDataset:
    """Check the files and store them as the dataset `name`.

    Raises:
        FileFault: naming lines and faults, up to 20.
    """
    shape = check_files(kind, train, validation)
    return build_dataset(
        platform,
        principal,
        name,
        lambda folder: import_splits(train, validation, folder, shape),
        licence=None,
        provenance={"source": train.name},
    )


def measure(
    dataset: Path,
    method: Method,
    base: Path,
    context_length: int,
    *,
    train: Path,
    validation: Path | None,
) -> Measured:
    """Lines and tokens of what was imported, as the model at `base` writes it.

    Args:
        train, validation: the files that the dataset was made of, for their lines' numbers.

    Raises:
        FileFault: lines are longer than the model reads, its template refuses some, or they lack a
            field that the grader reads. Up to 20 are named, and the others counted.
    """
    opened = Dataset.open(dataset)
    tokenizer, template = Tokenizer.load(base), ChatTemplate.load(base)
    kind, reinforcement = method.type, method.reinforcement
    grader = None if reinforcement is None else read_grader(reinforcement.grader)

    def size_of(line: Any) -> list[int]:
        """Tokens of a line, of a pair for each answer."""
        if kind == "supervised":
            return [len(encode_chat(line.messages, tokenizer, template, tools=line.tools).ids)]
        if kind == "dpo":
            return _of_pair(line, tokenizer, template)
        if grader is not None:
            grader.check_item(line.item)
        return [len(encode_prompt(line.messages, tokenizer, template, line.tools))]

    learned = _sizes(_examples(opened, kind, "train"), size_of, context_length)
    learned.raise_faults(train, "training_file")
    # Without a file of their own they are the first lines of the other.
    judged = _sizes(_examples(opened, kind, "validation"), size_of, context_length)
    if validation is not None:
        judged.raise_faults(validation, "validation_file")
    longest = max(learned.longest, judged.longest)  # they share the rows
    return Measured(learned.lines, longest, validation is not None, learned.tokens, judged.lines)


@dataclass
class _Sizes:
    """Of a file's lines. `faults` has the first of them by index, `more` counts the others."""

    lines: int = 0
    longest: int = 0
    tokens: int = 0
    faults: dict[int, str] = field(default_factory=dict)
    more: int = 0

    def raise_faults(self, path: Path, param: str) -> None:
        if not self.faults:
            return
        # A dataset has no blank lines, so only the file knows its numbers.
        numbered = (
            Fault(line.number, self.faults[index])
            for index, line in enumerate(read_lines(path))
            if index in self.faults
        )
        try:
            Report(path, faults=list(numbered), more_faults=self.more).raise_faults()
        except DataError as fault:
            raise FileFault(fault.message, param=param) from None


def _sizes(
    examples: Iterator[Any], size_of: Callable[[Any], list[int]], context_length: int
) -> _Sizes:
    found = _Sizes()
    for index, example in enumerate(examples):
        try:
            parts = size_of(example)
            if max(parts) > context_length:
                raise DataError(
                    f"has {max(parts):,} tokens; the model reads {context_length:,} at most"
                )
        except InvalidInput as fault:
            if not isinstance(fault, DataError) and fault.param != "messages":
                raise  # the template's own fault, and no line's
            if len(found.faults) < MOST_FAULTS:
                found.faults[index] = fault.message
            else:
                found.more += 1
            continue
        found.lines += 1
        found.longest, found.tokens = max(found.longest, sum(parts)), found.tokens + sum(parts)
    return found


def _examples(opened: Dataset, kind: Kind, split: Split) -> Iterator[Any]:
    if kind == "supervised":
        return opened.iterate(split)
    return opened.preferences(split) if kind == "dpo" else opened.prompts(split)


def _of_pair(pair: Preference, tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    before = as_context(pair.messages)
    return [
        len(encode_chat([*before, answer], tokenizer, template, tools=pair.tools).ids)
        for answer in (pair.preferred, pair.rejected)
    ]
