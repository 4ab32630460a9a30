"""What a run learns from and is checked on: chats of a dataset, or the standard library's source.

Everything is tokenized once when the run starts. Its digest goes into each checkpoint: a run that
is resumed with other data would not be the same run, and is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.core.errors import DataError, InvalidInput
from bessemer.data.chats import Chat
from bessemer.data.corpus import Document, Split, split_of, stdlib_sources
from bessemer.data.dataset import Dataset
from bessemer.text.bpe import train_bpe
from bessemer.text.chat_encoding import encode_chat, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.packing import ChatRows, DocumentRows, Ids, Piece, Row, Rows
from bessemer.train.recipe import TrainRecipe

CORPUS = "python-stdlib"


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
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    chats = Dataset.open(dataset)
    length = recipe.batch.sequence_length

    def pieces(split: Split) -> tuple[list[Piece], int]:
        every = encode_chats(chats.split(split), tokenizer, template, recipe.sft.roles)
        fitting = [piece for piece in every if len(piece.ids) <= length]
        return fitting, len(every) - len(fitting)

    train, train_dropped = pieces("train")
    validation, validation_dropped = pieces("validation")
    dropped = train_dropped + validation_dropped
    if dropped and recipe.dataset.over_long == "refuse":
        raise InvalidInput(
            f"{dropped} chats are longer than a row of {length} tokens",
            next_step='set batch.sequence_length higher, or data.over_long="drop"',
        )
    for split, found in (("train", train), ("validation", validation)):
        if not found:
            raise InvalidInput(f"the {split} split of {dataset} has no chat of {length} tokens")
    rows = ChatRows(validation, length, recipe.seed, shuffle=False)
    return Material(
        tokenizer=tokenizer,
        train=ChatRows(train, length, recipe.seed),
        validation=_take(rows, recipe.evaluation.rows, len(rows.epoch(0))),
        prompt=_first_prompt(chats.split("validation"), tokenizer, template),
        digest=digest_of(piece.ids for piece in (*train, *validation)),
        facts={
            "train_chats": len(train),
            "train_tokens": sum(len(piece.ids) for piece in train),
            "validation_chats": len(validation),
            "over_long_chats_dropped": dropped,
        },
    )


def corpus(name: str) -> list[Document]:
    """The documents a recipe's `data.name` stands for."""
    if name != CORPUS:
        raise InvalidInput(
            f"pretraining reads {CORPUS!r}; {name!r} is not known",
            next_step=f'set data.name="{CORPUS}"',
        )
    return list(stdlib_sources())


def open_tokenizer(recipe: TrainRecipe, base: Path | None, folder: Path) -> Tokenizer:
    """The model's own, or for a new model a BPE trained on the training documents.

    That one is read from `folder` if it is there, else trained and written.
    """
    if base is not None:
        return Tokenizer.load(base)
    if not (folder / "tokenizer_config.json").exists():  # the last file that training writes
        documents = corpus(recipe.dataset.name)
        texts = (document.text for document in documents if split_of(document.id) == "train")
        train_bpe(texts, recipe.model.vocab_size, folder)
    return Tokenizer.load(folder)


def document_material(
    recipe: TrainRecipe, documents: Sequence[Document], tokenizer: Tokenizer
) -> Material:
    """Documents, split by the hash of their names."""
    train = [document for document in documents if split_of(document.id) == "train"]
    validation = [document for document in documents if split_of(document.id) == "validation"]
    train_ids, validation_ids = _encode(train, tokenizer), _encode(validation, tokenizer)
    length, start_id = recipe.batch.sequence_length, _start_id(tokenizer)
    rows = DocumentRows(validation_ids, length, recipe.seed, start_id)
    validation_rows = _take(rows, recipe.evaluation.rows, rows.rows_per_epoch)
    return Material(
        tokenizer=tokenizer,
        train=DocumentRows(train_ids, length, recipe.seed, start_id),
        validation=validation_rows,
        prompt=[start_id, *validation_ids[0][:32].tolist()],
        digest=digest_of((*train_ids, *validation_ids)),
        facts={
            "train_documents": len(train),
            "train_tokens": sum(map(len, train_ids)),
            "validation_documents": len(validation),
            "vocab_size": tokenizer.vocab_size,
        },
    )


def encode_chats(
    chats: Sequence[Chat], tokenizer: Tokenizer, template: ChatTemplate, roles: Sequence[str]
) -> list[Piece]:
    """Chats in tokens, taught on the messages of `roles`.

    Raises:
        DataError: naming the chat that the template cannot write.
    """
    pieces = []
    for number, chat in enumerate(chats, start=1):
        try:
            ids, is_target = encode_chat(chat.messages, tokenizer, template, roles)
        except InvalidInput as fault:
            raise DataError(fault.message, line=number, next_step=fault.next_step) from fault
        pieces.append(Piece(np.array(ids, dtype=np.int64), np.array(is_target, dtype=np.bool_)))
    return pieces


def _first_prompt(chats: Sequence[Chat], tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    messages = list(chats[0].messages)
    answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return encode_prompt(messages[:answer], tokenizer, template)


def _encode(documents: Sequence[Document], tokenizer: Tokenizer) -> list[Ids]:
    texts = [document.text for document in documents]
    encoded = tokenizer.encode_batch(texts, parse_special=False)
    return [np.array(ids, dtype=np.int64) for ids in encoded]


def _start_id(tokenizer: Tokenizer) -> int:
    assert tokenizer.bos_id is not None, f"the tokenizer in {tokenizer.folder} has no start token"
    return tokenizer.bos_id


def _take(rows: Rows, wanted: int, there_are: int) -> list[Row]:
    return [rows.row(position) for position in range(min(wanted, there_are))]


def digest_of(ids: Iterable[Ids]) -> str:
    """SHA-256 of token ids, piece by piece."""
    digest = hashlib.sha256()
    for piece in ids:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece.tobytes())
    return digest.hexdigest()
