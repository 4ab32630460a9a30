"""Computes one step: token ids of many sequences in, what each of them wanted out.

T tokens of the step   N tokens whose logits are needed   V vocabulary   D hidden size
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bessemer.inference.adapters import Adapters
from bessemer.inference.attention import BatchAttention, Span
from bessemer.inference.bucketed import BucketedDecoder
from bessemer.inference.cache import KVCache
from bessemer.inference.graphs import Graph
from bessemer.inference.prepared import AttendFused, PreparedDecoder
from bessemer.inference.sampling import prompt_logprobs_of
from bessemer.inference.scheduler import Share, Step
from bessemer.inference.sequence import EngineSequence
from bessemer.models.config import ModelConfig

_SCORE_ROWS = 64  # logits of so many tokens at once while scoring: 64 x 49,152 floats are 12 MB


class ServedModel(Protocol):
    """What steps are computed with: weights prepared for speed, or a network that is trained."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> str:
        """What the matrices are stored in: a dtype's short name, int8 or int4."""
        ...

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: AttendFused) -> Tensor:
        """Hidden states after the final norm, (T, D)."""
        ...

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) in float32 or better."""
        ...


class Runner:
    """Steps of one model over one cache, on the device where the cache is.

    Args:
        make_graph: how to record a step that only decodes, where that pays; see `bucketed`.
    """

    def __init__(
        self,
        model: ServedModel,
        cache: KVCache,
        adapters: Adapters | None = None,
        make_graph: Callable[[], Graph] | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._adapters = adapters
        self.bucketed: BucketedDecoder | None = None
        if make_graph is not None and isinstance(model, PreparedDecoder):
            self.bucketed = BucketedDecoder(model, cache, make_graph)

    def run(self, step: Step) -> dict[EngineSequence, Tensor]:
        """Compute the step and fill rows, scores and vectors.

        Returns:
            For each sequence that may draw its next token now, scores (N, V) in float32 or better:
            of the next token, then of the one after each proposed token. They are on the CPU,
            copied there at once: the only time that a step waits for a GPU.
        """
        if self.bucketed is not None and _only_decodes(step):
            return self._decode_bucketed(self.bucketed, [share.sequence for share in step.decodes])
        shares = [*step.decodes, *step.chunks]
        spans = [_span(share) for share in shares]
        ids_T = torch.tensor(
            [t for sh, sp in zip(shares, spans, strict=True) for t in _tokens(sh, sp)],
            device=self._cache.device,
        )
        positions_T = torch.tensor(
            [sp.past + i for sp in spans for i in range(sp.fresh)], device=self._cache.device
        )
        cut = len(step.decodes)
        attend = BatchAttention(
            self._model.config, self._cache, spans[:cut], spans[cut:], self._model.dtype
        )
        if self._adapters is not None:
            self._adapters.choose([(share.sequence.adapter, share.tokens) for share in shares])
        hidden_TD = self._model.forward(ids_T, positions_T, attend)
        for share, span in zip(shares, spans, strict=True):
            row = share.sequence.row
            assert row is not None
            row.computed = span.past + span.fresh
        self._read(shares, spans, hidden_TD)
        return self._next_scores(shares, hidden_TD)

    def _decode_bucketed(
        self, bucketed: BucketedDecoder, sequences: list[EngineSequence]
    ) -> dict[EngineSequence, Tensor]:
        rows = [row for s in sequences if (row := s.row) is not None]
        count, last = rows[-1].index + 1, self._cache.context_length - 1
        ids = [0] * count
        positions = [min(row.computed, last) for row in self._cache.rows[:count]]
        for sequence, row in zip(sequences, rows, strict=True):
            ids[row.index] = sequence.ids[row.computed]
        logits_BV = bucketed.run(ids, positions).cpu()
        for row in rows:
            row.computed += 1
        return {
            sequence: logits_BV[row.index : row.index + 1]
            for sequence, row in zip(sequences, rows, strict=True)
        }

    def _read(self, shares: list[Share], spans: list[Span], hidden_TD: Tensor) -> None:
        start = 0
        for share, span in zip(shares, spans, strict=True):
            part_CD = hidden_TD[start : start + span.fresh]
            start += span.fresh
            if share.sequence.wanted == "scores":
                self._score(share.sequence, span, part_CD)
            elif share.sequence.reads_prompt:
                self._read_prompt(share.sequence, span, part_CD)
            elif share.sequence.wanted == "vector":
                seen = share.sequence.vector_sum
                last = share.sequence.pooling == "last"
                total = part_CD[-1].double() if last else part_CD.double().sum(0)
                share.sequence.vector_sum = total if seen is None or last else seen + total

    def _score(self, sequence: EngineSequence, span: Span, hidden_CD: Tensor) -> None:
        """Write log p of each token that follows one of this chunk's."""
        assert sequence.row is not None
        following = sequence.ids[span.past + 1 : span.past + span.fresh + 1]
        for first in range(0, len(following), _SCORE_ROWS):
            targets_N = torch.tensor(
                following[first : first + _SCORE_ROWS], device=hidden_CD.device
            )
            logits_NV = self._model.logits(hidden_CD[first : first + len(targets_N)])
            chosen_N = logits_NV.gather(1, targets_N[:, None])[:, 0].double()
            scores_N = chosen_N - torch.logsumexp(logits_NV, -1).double()
            place = span.past + 1 + first
            sequence.row.scores[place : place + len(targets_N)] = scores_N.cpu().numpy()

    def _read_prompt(self, sequence: EngineSequence, span: Span, hidden_CD: Tensor) -> None:
        """Keep log-probabilities of the prompt's tokens that follow one of this chunk's."""
        assert sequence.request is not None and sequence.request.prompt_logprobs is not None
        del sequence.prompt_logprobs[span.past :]  # read before it lost its place
        following = sequence.ids[span.past + 1 : span.past + span.fresh + 1]
        for first in range(0, len(following), _SCORE_ROWS):
            targets_N = torch.tensor(following[first : first + _SCORE_ROWS])
            logits_NV = self._model.logits(hidden_CD[first : first + len(targets_N)])
            sequence.prompt_logprobs += prompt_logprobs_of(
                logits_NV.cpu(), targets_N, sequence.request.prompt_logprobs
            )

    def _next_scores(self, shares: list[Share], hidden_TD: Tensor) -> dict[EngineSequence, Tensor]:
        ends = np.cumsum([share.tokens for share in shares])
        ready = [
            (share.sequence, range(int(end) - 1 - len(share.sequence.proposed), int(end)))
            for share, end in zip(shares, ends, strict=True)
            if share.sequence.wanted == "tokens" and share.sequence.todo <= 0
        ]
        if not ready:
            return {}
        logits_NV = self._model.logits(
            hidden_TD[[place for _, places in ready for place in places]]
        ).cpu()
        parts = torch.split(logits_NV, [len(places) for _, places in ready])
        return dict(zip((sequence for sequence, _ in ready), parts, strict=True))


def _only_decodes(step: Step) -> bool:
    return not step.chunks and all(share.tokens == 1 for share in step.decodes)


def _span(share: Share) -> Span:
    row = share.sequence.row
    assert row is not None
    return Span(row.index, row.computed, share.tokens)


def _tokens(share: Share, span: Span) -> list[int]:
    ids = share.sequence.ids[span.past : span.past + span.fresh]
    return ids + share.sequence.proposed[: span.fresh - len(ids)]
