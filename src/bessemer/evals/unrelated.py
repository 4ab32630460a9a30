"""Text that has nothing to do with what was taught: loss on it shows what was forgotten.

Plain text without a chat template, cut into chunks, every token counted but a chunk's
first, which nothing predicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bessemer.core.digests import sha256_bytes
from bessemer.data.corpus import Document
from bessemer.evals.likelihood import Passage
from bessemer.text.tokenizer import Tokenizer


def unrelated_passages(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    chunk_tokens: int,
    total_tokens: int,
    seed: int,
) -> list[Passage]:
    """Chunks of `documents` in the order of a seeded hash, until `total_tokens` are reached.

    The chunks of one document are one cluster.
    """
    chunks = sorted(
        _chunks(documents, tokenizer, chunk_tokens),
        key=lambda chunk: sha256_bytes(f"{seed}:{chunk.item}".encode()),
    )
    chosen: list[Passage] = []
    room = total_tokens
    for chunk in chunks:
        if room > 0:
            chosen.append(chunk)
            room -= len(chunk.ids)
    return chosen


def _chunks(
    documents: Iterable[Document], tokenizer: Tokenizer, chunk_tokens: int
) -> Iterator[Passage]:
    documents = list(documents)
    # Text that spells a control token is text here.
    encoded = tokenizer.encode_batch([document.text for document in documents], parse_special=False)
    prefix = tokenizer.prefix_ids
    step = max(2, chunk_tokens - len(prefix))
    for document, ids in zip(documents, encoded, strict=True):
        for start in range(0, len(ids), step):
            chunk = prefix + ids[start : start + step]
            # The first id has nothing before it, and a prefix is not text.
            counted = len(chunk) - max(1, len(prefix))
            if counted:
                is_target = [False] * (len(chunk) - counted) + [True] * counted
                yield Passage(_name(document, start, chunk), document.id, chunk, is_target)


def _name(document: Document, start: int, chunk: list[int]) -> str:
    # With the ids in it, so that models that cut the text elsewhere share no passage.
    return f"{document.id}:{start}:{sha256_bytes(str(chunk).encode())[:8]}"
