"""Who computes what in the next step: continuous batching with chunked prefill.

Every running sequence decodes one token a step; what is left of the step's token budget goes to
prefill, in order of arrival, so that a long prompt delays nobody's next token by more than one
chunk.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from bessemer.core.errors import Busy, ContextLengthExceeded, InvalidInput
from bessemer.inference.cache import KVCache
from bessemer.inference.sequence import EngineSequence


class Share(NamedTuple):
    """How many tokens of `sequence` this step computes."""

    sequence: EngineSequence
    tokens: int


class Step(NamedTuple):
    decodes: list[EngineSequence]
    chunks: list[Share]

    @property
    def tokens(self) -> int:
        return len(self.decodes) + sum(share.tokens for share in self.chunks)


class Scheduler:
    """Queues and rows. Not thread-safe: it belongs to the engine's thread.

    Args:
        max_waiting: requests that may wait; one more is told to come back later.
        chunk_tokens: tokens of one step, decode and prefill together.
    """

    def __init__(self, cache: KVCache, *, max_waiting: int, chunk_tokens: int) -> None:
        self.cache = cache
        self.max_waiting = max_waiting
        self.chunk_tokens = chunk_tokens
        self.waiting: deque[EngineSequence] = deque()
        self.running: list[EngineSequence] = []
        self.tokens_per_s = 500.0  # measured as it goes

    def add(self, sequence: EngineSequence) -> None:
        """Queue a sequence.

        Raises:
            ContextLengthExceeded: with both numbers.
            Busy: the queue is full.
            InvalidInput: there is nothing to compute.
        """
        self._check_length(sequence)
        if len(self.waiting) >= self.max_waiting:
            raise Busy(
                f"{len(self.running)} requests run and {len(self.waiting)} wait: the queue is full",
                retry_after_s=self.wait_s(),
            )
        self.waiting.append(sequence)

    def next_step(self) -> Step | None:
        """The next step's work, or None if there is nothing to do."""
        self.drop_cancelled()
        decodes = sorted((s for s in self.running if s.decoding), key=_row_index)
        budget = self.chunk_tokens - len(decodes)
        chunks: list[Share] = []
        for sequence in self.running:
            if not sequence.decoding and budget > 0:
                count = min(sequence.todo, budget)
                chunks.append(Share(sequence, count))
                budget -= count
        while budget > 0 and self.waiting and self._fits(self.waiting[0]):
            sequence = self.waiting[0]
            row = self.cache.acquire(sequence.ids, sequence.reuse)
            if row is None:
                break
            self.waiting.popleft()
            sequence.row = row
            sequence.cached_tokens = row.computed
            self.running.append(sequence)
            count = min(sequence.todo, budget)
            chunks.append(Share(sequence, count))
            budget -= count
        return Step(decodes, chunks) if decodes or chunks else None

    def finish(self, sequence: EngineSequence) -> None:
        """Take it out of the running and free its row."""
        self.running.remove(sequence)
        assert sequence.row is not None
        self.cache.release(sequence.row)
        sequence.row = None

    def drop_cancelled(self) -> None:
        """Forget sequences that nobody waits for."""
        for sequence in [s for s in self.running if s.cancelled]:
            self.finish(sequence)
        self.waiting = deque(s for s in self.waiting if not s.cancelled)

    def wait_s(self) -> float:
        """Seconds until the queue has likely moved, from its tokens and the measured speed."""
        todo = sum(s.todo for s in self.running) + sum(len(s.ids) for s in self.waiting)
        return max(1.0, round(todo / self.tokens_per_s, 1))

    def _check_length(self, sequence: EngineSequence) -> None:
        limit, prompt = self.cache.context_length, len(sequence.ids)
        wanted = sequence.request.max_tokens if sequence.request else 0
        if prompt == 0:
            raise InvalidInput("the prompt is empty: there is no token to compute from")
        if sequence.request is not None and wanted < 1:
            raise InvalidInput(f"max_tokens must be at least 1; got {wanted}", param="max_tokens")
        if prompt + wanted > limit:
            raise ContextLengthExceeded(
                f"this model's context is {limit} tokens; the prompt has {prompt} and"
                f" {wanted} were asked for, {prompt + wanted} together",
                next_step="shorten the prompt or ask for fewer tokens",
                prompt_tokens=prompt,
                context_length=limit,
            )

    def _fits(self, sequence: EngineSequence) -> bool:
        """Whether memory has room for the prompt and a first stretch of answer."""
        if not self.running:
            return True  # a single sequence always runs: rows are as long as the context
        need = len(sequence.ids) + (256 if sequence.wanted == "tokens" else 0)
        return self.cache.busy_tokens + need <= self.cache.budget_tokens


def _row_index(sequence: EngineSequence) -> int:
    assert sequence.row is not None
    return sequence.row.index
