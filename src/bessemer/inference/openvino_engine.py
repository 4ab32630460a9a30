"""OpenVINO behind `core.protocols.Engine`: the same ids in and out, computed by Intel's runtime.

An optional extra (`pip install "bessemer[openvino]"`). It batches as it goes; the thread of this
file lets requests in, in turns (`fair_queue`), and takes its steps. What it cannot say is refused
by name (`openvino_pipeline`): alternatives to a token, scores, vectors, biases of tokens,
constraints, adapters.

    settings = OpenVinoSettings(threads=2)
    engine = OpenVinoEngine.open(Path("taught-q8_0.gguf"), "sha256:...", settings)
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bessemer.core.errors import BessemerError, Busy, EngineDied, EngineUnavailable, InvalidInput
from bessemer.core.protocols import (
    EngineInfo,
    FinishReason,
    GenerateRequest,
    Pooling,
    TokenChunk,
    TokenLogprob,
)
from bessemer.inference.engine import AdapterChange, mailbox, memory_bytes, open_letter
from bessemer.inference.fair_queue import FairQueue
from bessemer.inference.openvino_pipeline import (
    Opened,
    OpenVinoSettings,
    check,
    open_pipeline,
    settings_of,
    tensor_of,
    untold,
)
from bessemer.inference.scheduler import Counters, deadline_passed
from bessemer.inference.sequence import EngineSequence, Send


@dataclass(eq=False)
class _Running:
    sequence: EngineSequence
    handle: Any


class OpenVinoEngine:
    """Continuous batching by OpenVINO. Start it with `open`, stop it with `close`."""

    _pipeline: Any
    _thread: threading.Thread

    def __init__(self, opened: Opened, digest: str, settings: OpenVinoSettings) -> None:
        self._pipeline, self._opened = opened.pipeline, opened._replace(pipeline=None)
        self._digest, self._settings = digest, settings
        self._numbers = itertools.count()
        self._running: list[_Running] = []
        self._waiting = FairQueue()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._after_step: Callable[[], None] = lambda: None
        self._fault: BaseException | None = None
        self._tokens_per_s = 50.0  # measured as it goes
        self.counters = Counters()

    @classmethod
    def open(cls, gguf: Path, digest: str, settings: OpenVinoSettings) -> OpenVinoEngine:
        """Load a GGUF file and start to work. Raises as `open_pipeline`."""
        engine = cls(open_pipeline(gguf, settings), digest, settings)
        engine._thread = threading.Thread(target=engine._work, name="openvino", daemon=True)
        engine._thread.start()
        return engine

    def close(self) -> None:
        """Stop after the current step; requests under way get EngineUnavailable."""
        self._inbox.put(None)
        self._thread.join()

    # -- from any thread ------------------------------------------------------------------

    def submit(self, sequence: EngineSequence) -> None:
        """Queue a sequence; everything about it comes through its `send`."""
        self._inbox.put(lambda: self._queue(sequence))

    def change_adapters(self, change: AdapterChange, send: Send) -> None:
        """`send` gets an InvalidInput: OpenVINO's reader takes whole models alone."""
        error = InvalidInput(
            "the OpenVINO engine computes no adapters",
            next_step="merge it into its base and quantize that: bessemer merge",
        )
        self._inbox.put(lambda: self._refuse(send, error))

    def cancel(self, sequence: EngineSequence) -> None:
        """Forget it at the next step; it sends nothing more."""
        sequence.cancelled = True

    def set_threads(self, threads: int) -> None:
        """Nothing: OpenVINO keeps the threads that its model was compiled for."""

    def on_step(self, notify: Callable[[], None]) -> None:
        """Call `notify` in the engine's thread after each step."""
        self._after_step = notify

    @property
    def failed(self) -> bool:
        """Whether a step broke; the engine then refuses everything."""
        return self._fault is not None

    def info_now(self) -> EngineInfo:
        running = [one.sequence for one in list(self._running)]
        return EngineInfo(
            model_digest=self._digest,
            context_length=self._opened.context_length,
            precision=self._opened.precision,
            running=len(running),
            waiting=len(self._waiting),
            max_running=self._settings.max_running,
            memory_bytes=memory_bytes(),
            kv_tokens=sum(one.prompt_tokens + one.drawn for one in running),
            kv_budget_tokens=self._opened.kv_tokens,
            tokens_per_s=self._tokens_per_s,
            counters=asdict(self.counters),
        )

    # -- the Engine protocol --------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """See `Engine.generate`."""
        inbox, send = mailbox()
        sequence = EngineSequence.for_tokens(request, send)
        self.submit(sequence)
        try:
            while True:
                chunk = open_letter(await inbox.get())
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self.cancel(sequence)

    async def score(self, ids: Sequence[int]) -> list[float]:
        """Raises InvalidInput: OpenVINO tells no scores of a text."""
        raise untold("scores")

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        """Raises InvalidInput: OpenVINO tells no hidden states."""
        raise untold("vector")

    async def info(self) -> EngineInfo:
        return self.info_now()

    # -- the engine's thread --------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._take_messages():
                self._forget()
                self._admit()
                self._step()
                self._after_step()
        except BaseException as broken:  # a broken step must not leave anybody waiting forever
            self._fault = broken
            raise
        finally:
            self._refuse_the_rest()

    @property
    def _busy(self) -> bool:
        """Whether anything is over there; what was cancelled leaves with the next step."""
        return bool(self._running or self._waiting or self._pipeline.has_non_finished_requests())

    def _take_messages(self) -> bool:
        """Run what was queued; wait for it when there is nothing to compute. False to stop."""
        idle = not self._busy
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get(block=idle)
                if message is None:
                    return False
                message()
                idle = False
        return True

    def _queue(self, sequence: EngineSequence) -> None:
        try:
            check(sequence, self._opened.context_length, self._opened.vocabulary)
            if len(self._waiting) >= self._settings.max_waiting + self._free:
                raise Busy(
                    f"{len(self._running)} requests run and {len(self._waiting)} wait: the queue is"
                    " full",
                    retry_after_s=self._wait_s(),
                )
        except BessemerError as error:
            self._refuse(sequence.send, error)
            return
        self._waiting.push(sequence)
        self.counters.requests += 1
        self.counters.prompt_tokens += sequence.prompt_tokens

    def _refuse(self, send: Send, error: BessemerError) -> None:
        send("error", error)
        self._after_step()

    @property
    def _free(self) -> int:
        return self._settings.max_running - len(self._running)

    def _wait_s(self) -> float:
        """Seconds until the shortest of those that run has likely ended."""
        left = [one.sequence.request.max_tokens - one.sequence.drawn for one in self._running
                if one.sequence.request]  # fmt: skip
        if not left:
            return 1.0
        return max(1.0, round(min(left) * len(left) / self._tokens_per_s, 1))

    def _forget(self) -> None:
        """Drop what nobody waits for, and what is too late."""
        now = time.monotonic()
        self._waiting.drop(lambda sequence: sequence.cancelled)
        late = self._waiting.drop(lambda sequence: sequence.is_late(now))
        for one in [one for one in self._running if one.sequence.cancelled]:
            self._drop(one)
        for one in [one for one in self._running if one.sequence.is_late(now)]:
            self._drop(one)
            late.append(one.sequence)
        for sequence in late:
            self.counters.expired += 1
            sequence.send("error", deadline_passed(sequence, now))

    def _admit(self) -> None:
        while self._waiting and self._free > 0:
            sequence = self._waiting.pop()
            config = settings_of(sequence, self._opened.vocabulary)
            tokens = tensor_of(sequence.ids)
            handle = self._pipeline.add_request(next(self._numbers), tokens, config)
            self._running.append(_Running(sequence, handle))
            self.counters.queued_s += time.monotonic() - sequence.arrived_at
            self._count(sequence, sequence.prompt_tokens)

    def _step(self) -> None:
        if not self._busy:
            return
        since_s, before = time.monotonic(), self.counters.completion_tokens
        self._pipeline.step()
        self.counters.steps += 1
        for one in list(self._running):
            self._tell(one)
        if drawn := self.counters.completion_tokens - before:
            speed = drawn / max(time.monotonic() - since_s, 1e-6)
            self._tokens_per_s += 0.1 * (speed - self._tokens_per_s)

    def _tell(self, one: _Running) -> None:
        """Send what was drawn for it."""
        while one in self._running and one.handle.can_read():
            for output in one.handle.read().values():
                self._extend(one, output.generated_ids, output.generated_log_probs)
        if one in self._running and (state := one.handle.get_status().name) != "RUNNING":
            self._drop(one)  # nothing more would ever come
            one.sequence.send("error", EngineUnavailable(f"OpenVINO gave this up: {state.lower()}"))

    def _extend(self, one: _Running, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        sequence, request = one.sequence, one.sequence.request
        assert request is not None
        kept = list(itertools.takewhile(lambda id_: id_ not in sequence.stop_ids, ids))
        stop = ids[len(kept)] if len(kept) < len(ids) else None
        drawn = len(kept) + (stop is not None)
        sequence.drawn += drawn
        self.counters.completion_tokens += drawn
        self._count(sequence, drawn)
        reason: FinishReason | None = None
        if stop is not None or sequence.drawn >= request.max_tokens:
            reason = "length" if stop is None else "stop"
            self._drop(one)
        told = request.top_logprobs is not None
        chunk = TokenChunk(
            ids=kept,
            logprobs=[TokenLogprob(*pair) for pair in zip(kept, logprobs, strict=False)]
            if told
            else None,
            finish_reason=reason,
            stop_id=stop,
            stop_logprob=logprobs[len(kept)] if told and stop is not None else None,
            prompt_tokens=sequence.prompt_tokens,
            completion_tokens=sequence.drawn,
        )
        sequence.send("chunk", chunk)

    def _count(self, sequence: EngineSequence, tokens: int) -> None:
        self.counters.computed_tokens += tokens
        self._waiting.charge(sequence.client, tokens)

    def _drop(self, one: _Running) -> None:
        self._running.remove(one)
        one.handle.cancel()

    def _refuse_the_rest(self) -> None:
        """Tell whoever is left, and free the pipeline: in the thread that used it, and empty."""
        error = EngineUnavailable("the engine was stopped")
        if self._fault is not None:
            error = EngineDied(f"the engine failed: {self._fault!r}")
        for one in list(self._running):
            self._drop(one)
            one.sequence.send("error", error)
        for sequence in self._waiting.drop(lambda _: True):
            sequence.send("error", error)
        self._after_step()
        while self._fault is None and self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        del self._pipeline
