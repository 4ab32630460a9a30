"""What a run learns from and is checked on: chats of a dataset, or documents in token shards.

Chats are tokenized when the run starts or resumes. Documents are read from the shards of a dataset,
or, for `python-stdlib`, from shards that the run makes in its own folder when it first starts; both
are memory-mapped. The digest of the tokens goes into each checkpoint: a run that is resumed with
other data would not be the same run, and is refused.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bessemer.core.errors import DataError, InvalidInput
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.chats import Chat
from bessemer.data.corpus import Split, split_of, stdlib_sources
from bessemer.data.dataset import Dataset
from bessemer.data.packing import ChatRows, DocumentRows, Ids, Piece, Row, Rows
from bessemer.data.prompts import Prompt
from bessemer.data.shard_manifest import is_finished
from bessemer.data.shards import TokenShards
from bessemer.data.tokenizing import TokenDataset, write_splits
from bessemer.models.config import ModelConfig
from bessemer.text.bpe import train_bpe
from bessemer.text.chat_encoding import encode_chat, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

CORPUS = "python-stdlib"
PROMPT_TOKENS = 33
_LEARNED: tuple[Split, ...] = ("train", "validation")


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
    return material_of(recipe, {split: found.split(split) for split in _LEARNED}, model)


def material_of(
    recipe: TrainRecipe, chats: Mapping[Split, Sequence[Chat]], model: Path
) -> Material:
    """The same of the training and validation chats given.

    Raises:
        InvalidInput: as `chat_material`.
    """
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    length = recipe.batch.sequence_length
    fitting = {
        split: fitting_chats(recipe, chats[split], tokenizer, template) for split in _LEARNED
    }
    train, validation = (found.pieces for found in fitting.values())
    dropped = sum(found.dropped for found in fitting.values())
    if dropped and recipe.dataset.over_long == "refuse":
        raise InvalidInput(
            f"{dropped} chats are longer than a row of {length} tokens",
            next_step='set batch.sequence_length higher, or data.over_long="drop"',
        )
    for split, found in (("train", train), ("validation", validation)):
        if not found:
            raise InvalidInput(
                f"the {split} split of {recipe.dataset.name} has no chat of {length} tokens"
            )
    rows = ChatRows(validation, length, recipe.seed, shuffle=False)
    return Material(
        tokenizer=tokenizer,
        train=ChatRows(train, length, recipe.seed),
        validation=_take(rows, recipe.evaluation.rows, rows.rows_per_epoch),
        prompt=_first_prompt(chats["validation"], tokenizer, template),
        digest=digest_of(piece.ids for piece in (*train, *validation)),
        facts={
            "train_chats": len(train),
            "train_tokens": sum(len(piece.ids) for piece in train),
            "validation_chats": len(validation),
            "over_long_chats_dropped": dropped,
        },
    )


class Fitting(NamedTuple):
    """The chats of a split that fit into a row.

    Attributes:
        pieces: the chats in tokens.
        lines: which chat of the split each piece is, from 0.
        dropped: how many do not fit.
    """

    pieces: list[Piece]
    lines: list[int]
    dropped: int


def fitting_chats(
    recipe: TrainRecipe, chats: Sequence[Chat], tokenizer: Tokenizer, template: ChatTemplate
) -> Fitting:
    """Chats in tokens, without those that are longer than a row."""
    every = encode_chats(chats, tokenizer, template, recipe.sft.roles)
    lines = [i for i, piece in enumerate(every) if len(piece.ids) <= recipe.batch.sequence_length]
    return Fitting([every[i] for i in lines], lines, len(every) - len(lines))


class DocumentSplits(NamedTuple):
    """The token shards that a run over documents reads."""

    train: TokenShards
    validation: TokenShards

    @property
    def digest(self) -> str:
        """SHA-256 over the Merkle roots of both streams."""
        roots = "\n".join(shards.manifest.merkle_root for shards in self)
        return hashlib.sha256(roots.encode()).hexdigest()


def open_documents(
    recipe: TrainRecipe, datasets: Mapping[str, Any], folder: Path, tokenizer: Tokenizer
) -> DocumentSplits:
    """The shards of the recipe's dataset.

    Args:
        datasets: of the run's plan.
        folder: the run's own; `python-stdlib` is tokenized into it if that was not done yet.

    Raises:
        InvalidInput: the dataset holds no tokens, or those of another tokenizer.
        NotFound, IntegrityError: a file of the shards is not what it was.
    """
    if recipe.dataset.name == CORPUS:
        _make_own_shards(folder / "tokens", tokenizer)
    else:
        _dataset(recipe, datasets).check_tokenizer(tokenizer)
    return find_documents(recipe, datasets, folder)


def find_documents(
    recipe: TrainRecipe, datasets: Mapping[str, Any], folder: Path
) -> DocumentSplits:
    """The same for a run that has begun: nothing is written."""
    if recipe.dataset.name == CORPUS:
        tokens = folder / "tokens"
        remedy = f"remove {tokens} and resume the run, which makes it again"
        return DocumentSplits(*(TokenShards(tokens / split, remedy) for split in _LEARNED))
    dataset = _dataset(recipe, datasets)
    return DocumentSplits(*(dataset.split(split) for split in _LEARNED))


def open_tokenizer(
    recipe: TrainRecipe, base: Path | None, folder: Path, datasets: Mapping[str, Any]
) -> Tokenizer:
    """The model's own; for a new model its dataset's, or a BPE trained on `python-stdlib`.

    That one is read from `folder` if it is there, else trained and written.
    """
    if base is not None:
        return Tokenizer.load(base)
    if recipe.dataset.name != CORPUS:
        return Tokenizer.load(_dataset(recipe, datasets).tokenizer_folder)
    if not (folder / "tokenizer_config.json").exists():  # the last file that training writes
        texts = (found.text for found in stdlib_sources() if split_of(found.id) == "train")
        train_bpe(texts, recipe.model.vocab_size, folder)
    return Tokenizer.load(folder)


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


class Question(NamedTuple):
    """A prompt in tokens, and what its answers are judged by."""

    number: int
    ids: list[int]
    asked: Prompt


def questions(recipe: TrainRecipe, dataset: Path, model: Path) -> dict[Split, list[Question]]:
    """The prompts of each split that leave room for an answer, as the model at `model` has them.

    Raises:
        InvalidInput: a split has none, or some do not and the recipe says refuse.
    """
    assert recipe.grpo is not None
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    context_length = ModelConfig.from_folder(model).context_length
    length = min(recipe.batch.sequence_length, context_length) - recipe.grpo.max_tokens
    found: dict[Split, list[Question]] = {}
    for split in _LEARNED:
        every = [
            Question(n, encode_prompt(p.messages, tokenizer, template, p.tools), p)
            for n, p in enumerate(Dataset.open(dataset).prompts(split))
        ]
        found[split] = [question for question in every if len(question.ids) <= length]
        too_long = len(every) - len(found[split])
        if too_long and recipe.dataset.over_long == "refuse":
            raise InvalidInput(
                f"{too_long} prompts leave no room for {recipe.grpo.max_tokens} tokens of answer",
                next_step='set batch.sequence_length higher, or data.over_long="drop"',
            )
        if not found[split]:
            raise InvalidInput(
                f"the {split} split of {recipe.dataset.name} has no prompt of at most {length}"
                f" tokens ({too_long} are longer)",
                next_step="set batch.sequence_length higher, or grpo.max_tokens lower",
            )
    found["validation"] = found["validation"][: recipe.evaluation.rows]
    return found


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
            ids, is_target = encode_chat(chat.messages, tokenizer, template, roles, chat.tools)
        except InvalidInput as fault:
            raise DataError(fault.message, line=number, next_step=fault.next_step) from fault
        pieces.append(Piece(np.array(ids, dtype=np.int64), np.array(is_target, dtype=np.bool_)))
    return pieces


def _first_prompt(chats: Sequence[Chat], tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    messages = list(chats[0].messages)
    answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return encode_prompt(messages[:answer], tokenizer, template, chats[0].tools)


def _dataset(recipe: TrainRecipe, datasets: Mapping[str, Any]) -> TokenDataset:
    return TokenDataset.open(Path(datasets[recipe.dataset.name]["path"]))


def _make_own_shards(folder: Path, tokenizer: Tokenizer) -> None:
    if not all(is_finished(folder / split) for split in _LEARNED):
        shutil.rmtree(folder, ignore_errors=True)
        write_splits(folder, stdlib_sources(), tokenizer, source=CORPUS, splits=_LEARNED)


def _take(rows: Rows, wanted: int, there_are: int) -> list[Row]:
    return [rows.row(position) for position in range(min(wanted, there_are))]


def digest_of(ids: Iterable[Ids]) -> str:
    """SHA-256 of token ids, piece by piece."""
    digest = hashlib.sha256()
    for piece in ids:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece.tobytes())
    return digest.hexdigest()
