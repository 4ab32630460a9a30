"""Who computes what in the next step: continuous batching with chunked prefill.

Every running sequence decodes one token a step; what is left of the step's token budget goes to
prefill, so that a long prompt delays nobody's next token by more than one chunk. Who waits is let
in by `fair_queue`, as long as memory lasts. Where answers outgrow it, the sequence that came last
gives its place up and is computed again later (preemption by recompute; Kwon et al., 2023).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from bessemer.core.errors import Busy, ContextLengthExceeded, DeadlineExceeded, InvalidInput
from bessemer.inference.cache import KVCache, Row
from bessemer.inference.fair_queue import FairQueue
from bessemer.inference.sequence import EngineSequence


class Share(NamedTuple):
    """How many tokens of `sequence` this step computes."""

    sequence: EngineSequence
    tokens: int


class Step(NamedTuple):
    """`decodes` are of one token and what was proposed after it, sorted by row."""

    decodes: list[Share]
    chunks: list[Share]

    @property
    def tokens(self) -> int:
        return sum(share.tokens for share in (*self.decodes, *self.chunks))


@dataclass
class Counters:
    """What the engine has done since it started; all only grow."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    completion_tokens: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    expired: int = 0
    queued_s: float = 0.0


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
        self.waiting = FairQueue()
        self.running: list[EngineSequence] = []
        self.counters = Counters()
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
        self.waiting.push(sequence)
        self.counters.requests += 1
        self.counters.prompt_tokens += sequence.prompt_tokens

    def next_step(self) -> Step | None:
        """The next step's work, or None if there is nothing to do."""
        self.drop_cancelled()
        self._drop_expired()
        self._preempt()
        self.cache.trim()
        decoding = sorted((s for s in self.running if self._decodes(s)), key=_row_index)
        decodes = [Share(sequence, 1 + len(sequence.proposed)) for sequence in decoding]
        budget = self.chunk_tokens - sum(share.tokens for share in decodes)
        chunks: list[Share] = []
        for sequence in self.running:
            if not self._decodes(sequence) and budget > 0:
                count = self._cut(sequence, budget)
                chunks.append(Share(sequence, count))
                budget -= count
        while budget > 0 and (admitted := self._admit()) is not None:
            count = self._cut(admitted, budget)
            chunks.append(Share(admitted, count))
            budget -= count
        if not decodes and not chunks:
            return None
        step = Step(decodes, chunks)
        self._count(step)
        return step

    @property
    def room(self) -> int:
        """Tokens that memory has place for beyond the next one of every running sequence."""
        return self.cache.budget_tokens - self.cache.busy_tokens - len(self.running)

    def finish(self, sequence: EngineSequence) -> None:
        """Take it out of the running and free its row."""
        self.running.remove(sequence)
        assert sequence.row is not None
        self.cache.release(sequence.row)
        sequence.row, sequence.proposed = None, []

    def drop_cancelled(self) -> None:
        """Forget sequences that nobody waits for."""
        for sequence in [s for s in self.running if s.cancelled]:
            self.finish(sequence)
        self.waiting.drop(lambda sequence: sequence.cancelled)

    def wait_s(self) -> float:
        """Seconds until the queue has likely moved, from its tokens and the measured speed."""
        todo = sum(s.todo for s in self.running) + sum(len(s.ids) for s in self.waiting)
        return max(1.0, round(todo / self.tokens_per_s, 1))

    def _check_length(self, sequence: EngineSequence) -> None:
        limit, prompt = self.cache.context_length, len(sequence.ids)
        wanted = sequence.request.max_tokens if sequence.request else 0
        if prompt == 0:
            raise InvalidInput("the prompt is empty: there is no token to compute from")
        if sequence.request is not None and wanted < (0 if sequence.reads_prompt else 1):
            raise InvalidInput(f"max_tokens must be at least 1; got {wanted}", param="max_tokens")
        if prompt + wanted > limit:
            raise ContextLengthExceeded(
                f"this model's context is {limit} tokens; the prompt has {prompt} and"
                f" {wanted} were asked for, {prompt + wanted} together",
                next_step="shorten the prompt or ask for fewer tokens",
                prompt_tokens=prompt,
                context_length=limit,
            )

    def _decodes(self, sequence: EngineSequence) -> bool:
        """Whether its next token is one of a decoding step."""
        return sequence.decoding

    def _cut(self, sequence: EngineSequence, budget: int) -> int:
        """How many tokens of its prefill this step computes."""
        return min(sequence.todo, budget)

    def _admit(self) -> EngineSequence | None:
        """Give the next one that waits a row, if there is one and memory has room."""
        sequence = self.waiting.first()
        if sequence is None or not self._fits(sequence):
            return None
        row = self._acquire(sequence)
        if row is None:
            return None
        self.waiting.pop()
        sequence.row = row
        if sequence.admitted_at is None:
            sequence.admitted_at = time.monotonic()
            sequence.cached_tokens = row.computed
            self.counters.cached_tokens += row.computed
            self.counters.queued_s += sequence.admitted_at - sequence.arrived_at
        self.running.append(sequence)
        return sequence

    def _acquire(self, sequence: EngineSequence) -> Row | None:
        return self.cache.acquire(sequence.ids, sequence.reuse, sequence.salt)

    def _preempt(self) -> None:
        """Make room for the next token of everybody by sending back who came last."""
        while len(self.running) > 1:
            growing = sum(1 for sequence in self.running if self._decodes(sequence))
            if self.cache.busy_tokens + growing <= self.cache.budget_tokens:
                return
            latest = next((s for s in reversed(self.running) if s.wanted == "tokens"), None)
            if latest is None:
                return
            self.finish(latest)
            self.waiting.push_front(latest)
            self.counters.preemptions += 1

    def _drop_expired(self) -> None:
        now = time.monotonic()
        late = self.waiting.drop(lambda sequence: sequence.is_late(now))
        running = [sequence for sequence in self.running if sequence.is_late(now)]
        for sequence in running:
            self.finish(sequence)
        for sequence in (*late, *running):
            self.counters.expired += 1
            sequence.send("error", deadline_passed(sequence, now))

    def _count(self, step: Step) -> None:
        self.counters.steps += 1
        for sequence, tokens in (*step.decodes, *step.chunks):
            self.counters.computed_tokens += tokens
            self.waiting.charge(sequence.client, tokens)

    def _fits(self, sequence: EngineSequence) -> bool:
        """Whether memory has room for the prompt and a first stretch of answer."""
        if not self.running:
            return True  # a single sequence always runs: rows are as long as the context
        need = len(sequence.ids) + (256 if sequence.wanted == "tokens" else 0)
        return self.cache.busy_tokens + need <= self.cache.budget_tokens


def deadline_passed(sequence: EngineSequence, now: float) -> DeadlineExceeded:
    """What a request is told that took too long; `now` is of the monotonic clock."""
    return DeadlineExceeded(
        f"{sequence.deadline_s:.3g} s were given to this request; {now - sequence.arrived_at:.1f} s"
        f" have passed, and {sequence.drawn} tokens were drawn",
        next_step="give it more time, or ask for fewer tokens",
    )


def _row_index(sequence: EngineSequence) -> int:
    assert sequence.row is not None
    return sequence.row.index
