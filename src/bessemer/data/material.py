"""What a run learns from and is checked on: chats of a dataset, or documents in token shards.

Chats are tokenized when the run starts or resumes; documents are memory-mapped. The digest of the
tokens goes into each checkpoint: a run that is resumed with other data would not be the same run,
and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.chats import Chat
from bessemer.data.corpus import Split
from bessemer.data.dataset import Dataset
from bessemer.data.document_splits import DocumentSplits
from bessemer.data.packing import ChatRows, DocumentRows, Piece, Row, Rows
from bessemer.data.pieces import (
    LEARNED,
    Fitting,
    check_fitting,
    digest_of,
    encode_chats,
    fitting,
)
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

PROMPT_TOKENS = 33


@dataclass(frozen=True)
class Material:
    """Rows to train on, rows to validate on, and what to let the trained model continue.

    Attributes:
        train: endless, in the recipe's order.
        validation: the same few rows each time.
        prompt: token ids that the sample at the end continues.
        facts: counts for the plan event.
        digest: SHA-256 of the tokens of `train` and `validation`.
    """

    tokenizer: Tokenizer
    train: Rows
    validation: list[Row]
    prompt: list[int]
    digest: str
    facts: dict[str, Any] = field(default_factory=dict)


def chat_material(recipe: TrainRecipe, dataset: Path, model: Path) -> Material:
    """Chats as the model at `model` writes them.

    Raises:
        InvalidInput: a split is empty, or a chat is longer than a row and the recipe says refuse.
    """
    found = Dataset.open(dataset)
    return material_of(recipe, {split: found.split(split) for split in LEARNED}, model)


def material_of(
    recipe: TrainRecipe, chats: Mapping[Split, Sequence[Chat]], model: Path
) -> Material:
    """The same of the training and validation chats given.

    Raises:
        InvalidInput: as `chat_material`.
    """
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    length = recipe.batch.sequence_length
    found = {split: fitting_chats(recipe, chats[split], tokenizer, template) for split in LEARNED}
    check_fitting(
        recipe,
        found,
        one="chat",
        longest=length,
        too_long=f"are longer than a row of {length} tokens",
        remedy="name a larger dataset",
    )
    train, validation = found["train"].kept, found["validation"].kept
    packing = recipe.batch.packing
    rows = ChatRows(validation, length, recipe.seed, shuffle=False, packing=packing)
    return Material(
        tokenizer=tokenizer,
        train=ChatRows(train, length, recipe.seed, packing=packing),
        validation=_take(rows, recipe.evaluation.rows, rows.rows_per_epoch),
        prompt=_first_prompt(chats["validation"], tokenizer, template),
        digest=digest_of(piece.ids for piece in (*train, *validation)),
        facts={
            "train_chats": len(train),
            "train_tokens": sum(len(piece.ids) for piece in train),
            "validation_chats": len(validation),
            "over_long_chats_dropped": sum(each.too_long for each in found.values()),
        },
    )


def fitting_chats(
    recipe: TrainRecipe, chats: Sequence[Chat], tokenizer: Tokenizer, template: ChatTemplate
) -> Fitting[Piece]:
    """Chats in tokens, without those that are longer than a row."""
    every = encode_chats(chats, tokenizer, template, recipe.sft.roles)
    return fitting(every, (len(piece.ids) for piece in every), recipe.batch.sequence_length)


def document_material(
    recipe: TrainRecipe, documents: DocumentSplits, tokenizer: Tokenizer
) -> Material:
    """Rows of documents. Validation rows are the same whatever the seed.

    Raises:
        InvalidInput: a split is too short for one row.
        IntegrityError: the table of documents is not what it was.
    """
    for shards in documents:
        shards.verify_table()
    length = recipe.batch.sequence_length
    validation = DocumentRows(documents.validation, length, seed=0)
    first = documents.validation.documents[0]
    prompt = documents.validation.window(0, min(first.end, PROMPT_TOKENS))
    return Material(
        tokenizer=tokenizer,
        train=DocumentRows(documents.train, length, recipe.seed),
        validation=_take(validation, recipe.evaluation.rows, validation.rows_per_epoch),
        prompt=prompt.tolist(),
        digest=documents.digest,
        facts={
            "train_documents": len(documents.train.documents),
            "train_tokens": documents.train.tokens,
            "validation_documents": len(documents.validation.documents),
            "vocab_size": tokenizer.vocab_size,
        },
    )


def _first_prompt(chats: Sequence[Chat], tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    messages = list(chats[0].messages)
    answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return encode_prompt(messages[:answer], tokenizer, template, chats[0].tools)


def _take(rows: Rows, wanted: int, there_are: int) -> list[Row]:
    return [rows.row(position) for position in range(min(wanted, there_are))]
