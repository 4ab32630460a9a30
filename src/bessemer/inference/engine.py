"""The native engine: a thread that takes steps, and an asyncio face in front of it.

It satisfies `core.protocols.Engine` in process; `worker` puts a socket before the same object.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import resource
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bessemer.core.errors import BessemerError, EngineUnavailable, InvalidInput
from bessemer.core.protocols import EngineInfo, FinishReason, GenerateRequest, TokenChunk
from bessemer.inference import precision as precisions
from bessemer.inference.cache import KVCache
from bessemer.inference.prepared import PreparedDecoder
from bessemer.inference.runner import Runner
from bessemer.inference.sampling import draw, logprobs_of
from bessemer.inference.scheduler import Scheduler, Step
from bessemer.inference.sequence import EngineSequence
from bessemer.models.folder import load_decoder


@dataclass(frozen=True)
class EngineSettings:
    """How much an engine may take on.

    `kv_bytes` bounds what idle and newly admitted sequences keep in the cache.
    """

    precision: precisions.Precision = "auto"
    max_running: int = 32
    max_waiting: int = 256
    context_length: int | None = None
    kv_bytes: int = 1 << 30
    chunk_tokens: int = 256


class NativeEngine:
    """Continuous batching over one model. Start it with `open`, stop it with `close`."""

    _thread: threading.Thread
    _model: PreparedDecoder
    _runner: Runner
    _scheduler: Scheduler

    def __init__(self, digest: str, settings: EngineSettings) -> None:
        self._digest, self._settings = digest, settings
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loaded = threading.Event()
        self._fault: BaseException | None = None
        self._after_step: Callable[[], None] = lambda: None

    @classmethod
    def open(
        cls, folder: Path, digest: str, settings: EngineSettings | None = None
    ) -> NativeEngine:
        """Load a Hugging Face folder and start to work.

        Raises:
            BessemerError: whatever `load_decoder` raises.
        """
        engine = cls(digest, settings or EngineSettings())
        # The thread that computes also loads: a process whose parallel regions start from two
        # threads has two OpenMP teams, and the runtime then stops spinning, which halves the
        # speed of decoding (docs/logbook.md).
        engine._thread = threading.Thread(target=engine._live, args=(folder,), name="engine")
        engine._thread.daemon = True
        engine._thread.start()
        engine._loaded.wait()
        if (fault := engine._fault) is not None:
            raise fault
        return engine

    def close(self) -> None:
        """Stop after the current step; sequences under way get EngineUnavailable."""
        self._inbox.put(None)
        self._thread.join()

    # -- from any thread ------------------------------------------------------------------

    def submit(self, sequence: EngineSequence) -> None:
        """Queue a sequence; everything about it comes through its `send`."""
        self._inbox.put(lambda: self._admit(sequence))

    def cancel(self, sequence: EngineSequence) -> None:
        """Forget it at the next step; it sends nothing more."""
        sequence.cancelled = True

    def set_threads(self, threads: int) -> None:
        """Compute with this many threads from the next step on."""
        self._inbox.put(lambda: torch.set_num_threads(threads))

    def on_step(self, notify: Callable[[], None]) -> None:
        """Call `notify` in the engine's thread after each step (one frame per step)."""
        self._after_step = notify

    @property
    def failed(self) -> bool:
        """Whether a step broke; the engine then refuses everything."""
        return self._fault is not None

    def info_now(self) -> EngineInfo:
        scheduler = self._scheduler
        return EngineInfo(
            model_digest=self._digest,
            context_length=scheduler.cache.context_length,
            precision=precisions.name_of(self._model.dtype),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            max_running=len(scheduler.cache.rows),
            memory_bytes=_memory_bytes(),
        )

    # -- the Engine protocol --------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """See `Engine.generate`."""
        inbox, send = _mailbox()
        sequence = EngineSequence.for_tokens(request, send)
        self.submit(sequence)
        try:
            while True:
                chunk = _open(await inbox.get())
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self.cancel(sequence)

    async def score(self, ids: Sequence[int]) -> list[float]:
        """See `Engine.score`."""
        inbox, send = _mailbox()
        self.submit(EngineSequence.for_whole(ids, "scores", send))
        scores: list[float] = _open(await inbox.get())
        return scores

    async def embed(self, ids: Sequence[int]) -> list[float]:
        """See `Engine.embed`: the mean of the last hidden states, of unit length."""
        inbox, send = _mailbox()
        self.submit(EngineSequence.for_whole(ids, "vector", send))
        vector: list[float] = _open(await inbox.get())
        return vector

    async def info(self) -> EngineInfo:
        return self.info_now()

    # -- the engine's thread --------------------------------------------------------------

    def _live(self, folder: Path) -> None:
        try:
            self._load(folder)
        except BaseException as fault:
            self._fault = fault
            return
        finally:
            self._loaded.set()
        self._work()

    def _load(self, folder: Path) -> None:
        settings = self._settings
        self._model = PreparedDecoder(load_decoder(folder, precisions.choose(settings.precision)))
        context = min(settings.context_length or 1 << 30, self._model.config.context_length)
        cache = KVCache(
            self._model.config,
            self._model.dtype,
            rows=settings.max_running,
            context_length=context,
            kv_bytes=settings.kv_bytes,
        )
        self._runner = Runner(self._model, cache)
        self._scheduler = Scheduler(
            cache, max_waiting=settings.max_waiting, chunk_tokens=settings.chunk_tokens
        )

    def _work(self) -> None:
        try:
            while self._take_messages():
                step = self._scheduler.next_step()
                if step is not None:
                    self._take(step)
        except BaseException as fault:  # a broken step must not leave anybody waiting forever
            self._fault = fault
            raise
        finally:
            self._refuse_the_rest()

    def _take_messages(self) -> bool:
        """Run what was queued; wait for it when there is nothing to compute. False to stop."""
        idle = not self._scheduler.running and not self._scheduler.waiting
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get(block=idle)
                if message is None:
                    return False
                message()
                idle = False
        return True

    def _admit(self, sequence: EngineSequence) -> None:
        vocabulary = self._model.config.vocab_size
        try:
            if any(not 0 <= token < vocabulary for token in sequence.ids):
                raise InvalidInput(f"a token id is outside the vocabulary of {vocabulary}")
            self._scheduler.add(sequence)
        except BessemerError as error:
            sequence.send("error", error)
            self._after_step()

    def _take(self, step: Step) -> None:
        start = time.perf_counter()
        logits = self._runner.run(step)
        for sequence, logits_V in logits.items():
            self._extend(sequence, logits_V)
        for share in step.chunks:
            if share.sequence.wanted != "tokens" and share.sequence.todo == 0:
                self._complete(share.sequence)
        self._after_step()
        speed = step.tokens / (time.perf_counter() - start)
        self._scheduler.tokens_per_s += 0.1 * (speed - self._scheduler.tokens_per_s)

    def _extend(self, sequence: EngineSequence, logits_V: Tensor) -> None:
        """Draw one token, tell of it, and end the sequence if it was the last."""
        request = sequence.request
        assert request is not None and sequence.row is not None
        token = draw(logits_V, request.sampling, sequence.seed, sequence.drawn)
        sequence.drawn += 1
        stopped = token in sequence.stop_ids
        if not stopped and sequence.drawn < request.max_tokens:
            sequence.ids.append(token)
            sequence.row.tokens.append(token)
            reason: FinishReason | None = None
        else:
            reason = "stop" if stopped else "length"
        ids = [] if stopped else [token]
        logprobs = None
        if request.top_logprobs is not None:
            logprobs = [logprobs_of(logits_V, t, request.top_logprobs) for t in ids]
        chunk = TokenChunk(
            ids=ids,
            logprobs=logprobs,
            finish_reason=reason,
            prompt_tokens=sequence.prompt_tokens,
            cached_tokens=sequence.cached_tokens,
            completion_tokens=sequence.drawn,
        )
        if reason is not None:
            self._scheduler.finish(sequence)
        if not sequence.cancelled:
            sequence.send("chunk", chunk)

    def _complete(self, sequence: EngineSequence) -> None:
        assert sequence.row is not None
        if sequence.wanted == "scores":
            result = sequence.row.scores[1 : len(sequence.ids)].tolist()
        else:
            result = torch.nn.functional.normalize(sequence.vector_sum, dim=0).tolist()
        self._scheduler.finish(sequence)
        sequence.send("result", result)

    def _refuse_the_rest(self) -> None:
        why = f"the engine failed: {self._fault!r}" if self._fault else "the engine was stopped"
        for sequence in (*self._scheduler.running, *self._scheduler.waiting):
            if not sequence.cancelled:
                sequence.send("error", EngineUnavailable(why))
        self._after_step()


def _mailbox() -> tuple[asyncio.Queue[Any], Callable[[str, Any], None]]:
    """A queue for the caller's loop, and a `send` for the engine's thread."""
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def send(kind: str, body: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is listening
            loop.call_soon_threadsafe(inbox.put_nowait, (kind, body))

    return inbox, send


def _open(letter: tuple[str, Any]) -> Any:
    kind, body = letter
    if kind == "error":
        raise body
    return body


def _memory_bytes() -> int:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
