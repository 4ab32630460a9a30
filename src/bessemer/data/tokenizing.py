"""Documents into token shards, one set for each split, and a dataset folder made of them.

    train/ validation/ test/   token shards (`shards`); a split is decided by the document's id
    tokenizer/                 the files of the tokenizer that made them
    dataset.json               kind "tokens", counts, licences, how it was made

Each document begins with the start token: whoever is trained on the stream learns from the one
after a document that it has ended. The same documents and tokenizer give the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.core.digests import sha256_file
from bessemer.core.errors import DataError, InvalidInput
from bessemer.data.corpus import SPLITS, Document, Split, split_of
from bessemer.data.dataset import FORMAT, Dataset
from bessemer.data.shard_writer import ShardWriter
from bessemer.data.shards import TokenShards
from bessemer.data.texts import Texts
from bessemer.text.tokenizer import Tokenizer

KIND = "tokens"
BATCH_CHARACTERS = 2_000_000  # of text tokenized at once, on all cores
NOT_STATED = "not stated"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


@dataclass(frozen=True)
class TokenDataset:
    """A dataset of kind "tokens", opened for reading."""

    folder: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> TokenDataset:
        """Raises NotFound when `folder` is no dataset, InvalidInput when it is of another kind."""
        found = Dataset.open(folder)
        if found.kind != KIND:
            raise InvalidInput(
                f"{found.info.get('name', folder)} holds {found.kind}; documents in tokens are"
                " needed",
                next_step="bessemer data tokenize SOURCE --tokenizer MODEL --name NAME",
            )
        return cls(folder, found.info)

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    def split(self, name: Split) -> TokenShards:
        """Raises NotFound or IntegrityError when its files are not what they were."""
        return TokenShards(self.folder / name)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raises InvalidInput unless the tokens are this tokenizer's."""
        found = sha256_file(tokenizer.folder / "tokenizer.json")
        if found != self.info["tokenizer_sha256"]:
            raise InvalidInput(
                f"the tokens of {self.info['name']} were made by another tokenizer"
                f" ({self.info['tokenizer_sha256'][:12]}) than the model's ({found[:12]})",
                next_step="bessemer data tokenize SOURCE --tokenizer MODEL --name NAME makes"
                " them with the model's",
            )


def tokenize(
    documents: Iterable[Document],
    tokenizer_folder: Path,
    folder: Path,
    *,
    source: str,
) -> dict[str, Any]:
    """Make a dataset folder and return what its dataset.json holds.

    Args:
        documents: each with an id of its own; one batch of them is in memory at a time.
        tokenizer_folder: with a tokenizer.json and what belongs to it.
        folder: new or empty.
        source: what a person calls the texts.

    Raises:
        DataError: there is no text at all.
        InvalidInput: the tokenizer cannot be read or has no start token.
    """
    tokenizer = Tokenizer.load(tokenizer_folder)
    counts = write_splits(folder, documents, tokenizer, source=source)
    if not sum(counts.documents.values()):
        raise DataError(f"{source} holds no text", next_step="name another source")
    (folder / "tokenizer").mkdir()
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, folder / "tokenizer" / name)
    left_out = documents.left_out if isinstance(documents, Texts) else {}
    facts = {
        "format": FORMAT,
        "kind": KIND,
        "name": source,
        "counts": {split: counts.documents[split] for split in SPLITS},
        "tokens": {split: counts.tokens[split] for split in SPLITS},
        "licences": dict(sorted(counts.licences.items())),
        "empty_documents_left_out": counts.empty,
        "keys_left_out": dict(sorted(left_out.items())),
        "split_by": "SHA-256 of the document's id, 90/5/5",
        "vocab_size": tokenizer.vocab_size,
        "start_id": start_id(tokenizer),
        "tokenizer_sha256": sha256_file(tokenizer_folder / "tokenizer.json"),
    }
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts


class Counts:
    """What was written."""

    def __init__(self) -> None:
        self.documents: Counter[Split] = Counter()
        self.tokens: Counter[Split] = Counter()
        self.licences: Counter[str] = Counter()
        self.empty = 0


def write_splits(
    folder: Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    source: str,
    splits: Sequence[Split] = SPLITS,
    batch_characters: int = BATCH_CHARACTERS,
) -> Counts:
    """Write token shards to `folder/<split>` for each of these splits.

    About `batch_characters` of text are in memory at once, or the longest document.
    """
    start, counts = start_id(tokenizer), Counts()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(folder / split, tokenizer.vocab_size))
            for split in splits
        }
        wanted = _told(documents, counts)
        wanted = (document for document in wanted if split_of(document.id) in writers)
        for batch in _batches(wanted, batch_characters):
            texts = [document.text for document in batch]
            encoded = tokenizer.encode_batch(texts, parse_special=False)
            for (id_, _, licence), ids in zip(batch, encoded, strict=True):
                split = split_of(id_)
                writers[split].add(id_, [start, *ids], source=source, licence=licence)
                counts.documents[split] += 1
                counts.tokens[split] += len(ids) + 1
                counts.licences[licence or NOT_STATED] += 1
    return counts


def start_id(tokenizer: Tokenizer) -> int:
    """The token that stands before each document: the start token, or else the only end token.

    Raises:
        InvalidInput: the tokenizer names neither.
    """
    if tokenizer.bos_id is not None:
        return tokenizer.bos_id
    if len(tokenizer.eos_ids) != 1:
        raise InvalidInput(
            f"the tokenizer in {tokenizer.folder} names no bos_token, and"
            f" {len(tokenizer.eos_ids)} end tokens, so nothing can stand between documents",
            next_step="name a bos_token in its tokenizer_config.json",
        )
    return next(iter(tokenizer.eos_ids))


def _told(documents: Iterable[Document], counts: Counts) -> Iterator[Document]:
    for document in documents:
        if document.text.strip():
            yield document
        else:
            counts.empty += 1


def _batches(documents: Iterable[Document], characters: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
