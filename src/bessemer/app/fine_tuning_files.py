"""What a job's files hold: every line checked, stored as a dataset, measured in the base's tokens.

Nothing is cut: a line that the model cannot read whole is a fault like any other, and named.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bessemer.app.datasets import NamedDataset, build_dataset
from bessemer.app.fine_tuning_method import Kind
from bessemer.app.fine_tuning_recipe import Measured
from bessemer.app.platform import Platform
from bessemer.core.errors import BessemerError, DataError
from bessemer.core.principal import Principal
from bessemer.data.chats import as_context
from bessemer.data.dataset import Dataset
from bessemer.data.given_splits import check_shape, import_splits, shape_named
from bessemer.data.preferences import Preference
from bessemer.data.shapes import Example, Shape
from bessemer.text.chat_encoding import encode_chat, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.grader_objects import GraderObject
from bessemer.text.tokenizer import Tokenizer

SHAPES: dict[Kind, str] = {
    "supervised": "chats", "dpo": "preferences", "reinforcement": "prompts"
}  # fmt: skip
_NAMED_LINES = 5


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
    dataset: Path, kind: Kind, base: Path, context_length: int, grader: GraderObject | None
) -> Measured:
    """Lines and tokens of what was imported, as the model at `base` writes it.

    Raises:
        FileFault: lines are longer than the model reads, its template refuses one, or it lacks a
            field that the grader reads.
    """
    opened = Dataset.open(dataset)
    tokenizer, template = Tokenizer.load(base), ChatTemplate.load(base)
    counts = opened.info["counts"]
    longest, tokens, too_long = 0, 0, []
    lines = _lines(opened, kind, tokenizer, template, grader)
    for number in range(1, counts["train"] + 1):
        try:
            parts = next(lines)
        except DataError as fault:
            raise FileFault(f"line {number}: {fault.message}", param="training_file") from None
        longest, tokens = max(longest, sum(parts)), tokens + sum(parts)
        if max(parts) > context_length:
            too_long.append((number, max(parts)))
    if too_long:
        named = ", ".join(f"line {n} has {size:,}" for n, size in too_long[:_NAMED_LINES])
        raise FileFault(
            f"{len(too_long)} lines are longer than the {context_length:,} tokens that the model"
            f" reads: {named}",
            param="training_file",
        )
    # The validation lines share the rows, so the longest of all counts.
    judged = max((sum(parts) for parts in lines), default=0)
    held_out = bool(opened.info["held_out"])
    return Measured(counts["train"], max(longest, judged), held_out, tokens)


def _lines(
    opened: Dataset,
    kind: Kind,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    grader: GraderObject | None,
) -> Iterator[list[int]]:
    """Tokens of each line, of a pair for each answer: the training lines, then the others."""
    for split in ("train", "validation"):
        if kind == "supervised":
            for chat in opened.iterate(split):
                encoded = encode_chat(chat.messages, tokenizer, template, tools=chat.tools)
                yield [len(encoded.ids)]
        elif kind == "dpo":
            for pair in opened.preferences(split):
                yield _of_pair(pair, tokenizer, template)
        else:
            for asked in opened.prompts(split):
                if grader is not None:
                    grader.check_item(asked.item)
                yield [len(encode_prompt(asked.messages, tokenizer, template, asked.tools))]


def _of_pair(pair: Preference, tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    before = as_context(pair.messages)
    return [
        len(encode_chat([*before, answer], tokenizer, template, tools=pair.tools).ids)
        for answer in (pair.preferred, pair.rejected)
    ]
