"""An engine's steps, one at a time: admit, compute, draw, tell. No thread, no asyncio.

`engine` takes these steps in a thread of its own, `live` in the thread of whoever waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bessemer.core.errors import BessemerError, InvalidInput
from bessemer.core.protocols import FinishReason, Pooling, TokenChunk, TokenLogprob
from bessemer.inference.adapters import Adapters
from bessemer.inference.cache import KVCache
from bessemer.inference.graphs import Graph
from bessemer.inference.runner import Runner, ServedModel
from bessemer.inference.sampling import adjusted, draw, logprobs_of
from bessemer.inference.scheduler import Counters, Scheduler, Step
from bessemer.inference.sequence import EngineSequence
from bessemer.inference.speculation import Drafter, Speculation


class Occupancy(NamedTuple):
    """How much an engine holds, and how busy it is."""

    context_length: int
    precision: str
    running: int
    waiting: int
    max_running: int
    tokens_per_s: float
    kv_tokens: int = 0
    kv_budget_tokens: int = 0


@dataclass
class _News:
    """What one step drew for one sequence."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_id: int | None = None
    stop_logprob: float | None = None


class Stepper:
    """Continuous batching over one decoder; `pooling` is what a vector is made by unless asked.

    `make_graph` is how steps are recorded that only decode, if they are (see `bucketed`).

    Attributes:
        without_adapters: why, of an engine that has none.
        conditions: what equal bits need beside an equal request; empty where they are not promised.
    """

    without_adapters = "this engine computes with the weights of a run"

    def __init__(
        self,
        model: ServedModel,
        cache: KVCache,
        *,
        max_waiting: int,
        chunk_tokens: int,
        pooling: Pooling = "mean",
        adapters: Adapters | None = None,
        drafter: Drafter | None = None,
        make_graph: Callable[[], Graph] | None = None,
    ) -> None:
        self.scheduler = Scheduler(cache, max_waiting=max_waiting, chunk_tokens=chunk_tokens)
        self._vocabulary = model.config.vocab_size
        self._pooling: Pooling = pooling
        self._precision = model.precision
        self._adapters = adapters
        self._runner = Runner(model, cache, adapters, make_graph)
        self._speculation = Speculation(drafter) if drafter is not None else None
        self.conditions: dict[str, str] = {}

    @property
    def idle(self) -> bool:
        return not self.scheduler.running and not self.scheduler.waiting

    @property
    def counters(self) -> Counters:
        return self.scheduler.counters

    def admit(self, sequence: EngineSequence) -> bool:
        """Queue a sequence, or send it the reason why not."""
        try:
            if any(not 0 <= token < self._vocabulary for token in sequence.ids):
                raise InvalidInput(f"a token id is outside the vocabulary of {self._vocabulary}")
            bias = sequence.request.sampling.logit_bias if sequence.request else {}
            if any(not 0 <= token < self._vocabulary for token in bias):
                raise InvalidInput(
                    f"logit_bias names token {max(bias)}; this model's ids are 0 to"
                    f" {self._vocabulary - 1}",
                    param="logit_bias",
                )
            self._check_constraint(sequence)
            sequence.pooling = sequence.pooling or self._pooling
            if sequence.pooling == "cls":
                raise InvalidInput(
                    "a decoder's first token has seen nothing else; pooling is mean or last",
                    param="pooling",
                )
            self._check_adapter(sequence)
            self.scheduler.add(sequence)
        except BessemerError as error:
            sequence.send("error", error)
            return False
        return True

    def step(self) -> bool:
        """Take the next step; False if there is nothing to do."""
        start = time.perf_counter()
        if self._speculation is not None:
            self._speculation.propose(self.scheduler.running, self.scheduler.room)
        step = self.scheduler.next_step()
        if step is None:
            return False
        self._take(step)
        speed = step.tokens / (time.perf_counter() - start)
        self.scheduler.tokens_per_s += 0.1 * (speed - self.scheduler.tokens_per_s)
        return True

    @property
    def adapters(self) -> list[str]:
        """Digests of the adapters that are loaded, the least recently used first."""
        return self._adapters.resident if self._adapters else []

    def load_adapter(self, digest: str, folder: Path) -> None:
        """See `AdapterEngine.load_adapter`."""
        self._can_adapt().load(digest, folder, self._adapters_in_use())

    def unload_adapter(self, digest: str) -> None:
        """See `AdapterEngine.unload_adapter`."""
        self._can_adapt().unload(digest, self._adapters_in_use())

    def occupancy(self) -> Occupancy:
        cache = self.scheduler.cache
        return Occupancy(
            context_length=cache.context_length,
            precision=self._precision,
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            max_running=len(cache.rows),
            tokens_per_s=self.scheduler.tokens_per_s,
            kv_tokens=cache.held_tokens,
            kv_budget_tokens=cache.budget_tokens,
        )

    def refuse_the_rest(self, error: BessemerError) -> None:
        """Tell everybody who still waits."""
        for sequence in (*self.scheduler.running, *self.scheduler.waiting):
            if not sequence.cancelled:
                sequence.send("error", error)

    def _take(self, step: Step) -> None:
        for sequence, logits_NV in self._runner.run(step).items():
            self._extend(sequence, logits_NV)
        for share in step.chunks:
            if share.sequence.wanted != "tokens" and share.sequence.todo == 0:
                self._complete(share.sequence)

    def _extend(self, sequence: EngineSequence, logits_NV: Tensor) -> None:
        """Draw for as long as what was proposed is what is drawn, then tell of it."""
        assert sequence.row is not None and sequence.request is not None
        proposed, right = sequence.proposed, 0
        sequence.proposed = []
        news, fault = _News(), None
        if sequence.reads_prompt:
            news.prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, []
        if sequence.request.max_tokens == 0:
            news.finish_reason = "length"
        try:
            while news.finish_reason is None:
                ids = self._draw(sequence, logits_NV[right], news)
                matched = _common_prefix(ids, proposed[right:])
                right += matched
                if matched < len(ids):
                    break
        except InvalidInput as error:
            fault = error
        row, wrong = sequence.row, len(proposed) - right
        row.computed = min(row.computed - wrong, len(row.tokens))
        self.scheduler.counters.proposed_tokens += len(proposed)
        self.scheduler.counters.accepted_tokens += right
        self._tell(sequence, news, fault)

    def _draw(self, sequence: EngineSequence, logits_V: Tensor, news: _News) -> list[int]:
        """Draw one token, and take with it what can only follow; the sequence grows unless the
        last token is among them.

        Raises:
            InvalidInput: as `Matcher.masked`.
        """
        request = sequence.request
        assert request is not None and sequence.row is not None
        answer_ids = sequence.ids[sequence.prompt_tokens :]
        scores_V = adjusted(logits_V, request.sampling, request.prompt_ids, answer_ids)
        matcher = sequence.matcher
        if matcher is not None:
            scores_V = matcher.masked(scores_V, sequence.stop_ids)
        token = draw(scores_V, request.sampling, sequence.seed, sequence.drawn)
        stopped = token in sequence.stop_ids
        ids = [] if stopped else [token]
        if matcher is not None and not stopped:
            # Log-probabilities of tokens nobody computes scores for could not be told.
            room = request.max_tokens - sequence.drawn if request.top_logprobs is None else 1
            ids = matcher.take(token, room, sequence.stop_ids)
        sequence.drawn += len(ids) + stopped
        self.scheduler.counters.completion_tokens += len(ids) + stopped
        if stopped or (matcher is not None and matcher.done):
            news.finish_reason = "stop"
        elif sequence.drawn >= request.max_tokens:
            news.finish_reason = "length"
        else:
            sequence.ids.extend(ids)
            sequence.row.tokens.extend(ids)
        news.ids += ids
        if request.top_logprobs is not None:
            news.logprobs += [logprobs_of(logits_V, t, request.top_logprobs) for t in ids]
        if stopped:
            news.stop_id = token
            if request.top_logprobs is not None:
                news.stop_logprob = logprobs_of(logits_V, token, 0).logprob
        return ids

    def _tell(self, sequence: EngineSequence, news: _News, fault: InvalidInput | None) -> None:
        """Send what one step drew, and end the sequence if that is its end."""
        request = sequence.request
        assert request is not None
        chunk = TokenChunk(
            ids=news.ids,
            logprobs=None if request.top_logprobs is None else news.logprobs,
            finish_reason=news.finish_reason,
            stop_id=news.stop_id,
            stop_logprob=news.stop_logprob,
            prompt_logprobs=news.prompt_logprobs,
            prompt_tokens=sequence.prompt_tokens,
            cached_tokens=sequence.cached_tokens,
            completion_tokens=sequence.drawn,
        )
        if fault is not None or news.finish_reason is not None:
            self.scheduler.finish(sequence)
        if sequence.cancelled:
            return
        if news.ids or news.finish_reason is not None:
            sequence.send("chunk", chunk)
        if fault is not None:
            sequence.send("error", fault)

    def _check_constraint(self, sequence: EngineSequence) -> None:
        constraint = sequence.request.constraint if sequence.request else None
        if constraint is None:
            return
        if sequence.matcher is None:
            raise InvalidInput(
                "this engine knows no text, so it cannot hold an answer to a constraint",
                param=constraint.param,
            )
        sequence.stop_ids |= sequence.matcher.eos_ids

    def _check_adapter(self, sequence: EngineSequence) -> None:
        if sequence.adapter is not None:
            self._can_adapt().use(sequence.adapter)

    def _can_adapt(self) -> Adapters:
        if self._adapters is None:
            raise InvalidInput(
                f"{self.without_adapters}; it has no adapters",
                next_step="merge the adapter into its base: bessemer merge",
            )
        return self._adapters

    def _adapters_in_use(self) -> set[str]:
        self.scheduler.drop_cancelled()
        everybody = (*self.scheduler.running, *self.scheduler.waiting)
        return {sequence.adapter for sequence in everybody if sequence.adapter is not None}

    def _complete(self, sequence: EngineSequence) -> None:
        assert sequence.row is not None
        if sequence.wanted == "scores":
            result = sequence.row.scores[1 : len(sequence.ids)].tolist()
        else:
            result = torch.nn.functional.normalize(sequence.vector_sum, dim=0).tolist()
        self.scheduler.finish(sequence)
        sequence.send("result", result)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(left), len(right)))
