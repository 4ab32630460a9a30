"""Rows for fill-in-the-middle: some pieces of a row, rearranged with sentinels around the parts.

A piece is cut at two characters drawn uniformly (not at tokens: a cursor stands anywhere), its
three parts are encoded apart and put in PSM or SPM order (`text.infilling`), and it ends with the
end token. Every token stays a target, as in Bavarian et al. (2022), section 3. Which pieces and
where is a pure function of (seed, position of the row, piece), so the order of the data stays one.

A piece keeps at most its length: what sentinels add is taken from the beginning of the prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bessemer.core.errors import InvalidInput
from bessemer.data.packing import Ids, Row, Rows
from bessemer.text.infilling import Order, Parts, Sentinels, arrange
from bessemer.text.tokenizer import Tokenizer

SHORTEST = 16  # tokens; a piece of fewer has no middle worth a sentinel


class Infilled(NamedTuple):
    """One piece, rearranged. `middle` is where the middle begins; the end token follows it."""

    ids: Ids
    targets: Ids
    middle: int


class InfilledRows:
    """`rows`, with a share of their pieces rearranged.

    Args:
        rate: share of the pieces of at least 16 tokens; `spm` share of those in SPM order.
        middle_only: keep only targets of the middles (for judging).

    Raises:
        InvalidInput: the tokenizer has no sentinels.
    """

    def __init__(
        self,
        rows: Rows,
        tokenizer: Tokenizer,
        *,
        rate: float,
        spm: float,
        seed: int,
        middle_only: bool = False,
    ) -> None:
        sentinels = Sentinels.of(tokenizer)
        if sentinels is None or tokenizer.bos_id is None:
            raise InvalidInput(
                f"the tokenizer in {tokenizer.folder} has no sentinel tokens to fill in with",
                next_step="set pretrain.fim_rate=0, or start from a model that has them",
            )
        self._rows, self._tokenizer, self._sentinels = rows, tokenizer, sentinels
        self._end_id = tokenizer.bos_id
        self._rate, self._spm, self._seed = rate, spm, seed
        self._middle_only = middle_only

    def row(self, position: int) -> Row:
        row = self._rows.row(position)
        ids, targets, sources = list[Ids](), list[Ids](), list[Ids]()
        lengths: list[int] = []
        for number, (begin, end) in enumerate(_spans(row.lengths)):
            piece_ids, piece_targets = row.ids[begin:end], row.targets[begin:end]
            taught = np.arange(len(piece_ids))
            found = self._infill(piece_ids, _Draws(self._seed, position, number))
            if found is not None:
                piece_ids, piece_targets = found.ids, found.targets
                taught = taught[: len(piece_ids)]
            if self._middle_only:
                taught = taught[found.middle - 1 :] if found is not None else taught[:0]
            sources.append(taught + sum(lengths))
            targets.append(piece_targets[taught])
            ids.append(piece_ids)
            lengths.append(len(piece_ids))
        joined = np.concatenate(sources), np.concatenate(targets)
        return Row(np.concatenate(ids), tuple(lengths), *joined)

    def _infill(self, ids: Ids, draws: _Draws) -> Infilled | None:
        if len(ids) < SHORTEST or draws.next() >= self._rate:
            return None
        start = [self._end_id] if ids[0] == self._end_id else []
        text = self._tokenizer.decode(ids.tolist())
        order: Order = "spm" if draws.next() < self._spm else "psm"
        first, second = sorted(int(draws.next() * (len(text) + 1)) for _ in range(2))
        parts = Parts(*map(self._encode, (text[:first], text[first:second], text[second:])))
        surplus = sum(map(len, parts)) + len(start) + 3 - len(ids)
        if surplus > len(parts.prefix):
            return None  # almost nothing stands before the middle: there is no room for sentinels
        parts = parts._replace(prefix=parts.prefix[max(0, surplus) :])
        body, middle = arrange(parts, self._sentinels, order)
        made = np.array([*start, *body, self._end_id], dtype=np.int64)
        return Infilled(made[:-1], made[1:], len(start) + middle)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, parse_special=False)


class _Draws:
    """Numbers in [0, 1) that depend on what they are drawn for and nothing else."""

    def __init__(self, *key: int) -> None:
        self._key = key
        self._drawn = 0

    def next(self) -> float:
        text = "/".join(map(str, (*self._key, self._drawn)))
        self._drawn += 1
        digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"infilling").digest()
        return (int.from_bytes(digest, "little") >> 11) / 2**53


def _spans(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    begin = 0
    for length in lengths:
        yield begin, begin + length
        begin += length
