"""OpenVINO behind `core.protocols.Engine`: the same ids in and out, computed by Intel's runtime.

An optional extra (`pip install "bessemer[openvino]"`). It reads a GGUF file that
`bessemer export MODEL --gguf` wrote as q8_0 or q4_0 (its reader knows no BF16), and batches as it
goes; this file's thread hands it requests and takes its steps. What it cannot say is refused by
name and never left out: alternatives to a token, scores, vectors, biases of tokens, constraints,
adapters.

    engine = OpenVinoEngine.open(Path("taught-q8_0.gguf"), "sha256:...")
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.core.errors import (
    BessemerError,
    Busy,
    ContextLengthExceeded,
    EngineUnavailable,
    InvalidInput,
    Missing,
)
from bessemer.core.protocols import (
    EngineInfo,
    FinishReason,
    GenerateRequest,
    Pooling,
    TokenChunk,
    TokenLogprob,
)
from bessemer.inference import precision as precisions
from bessemer.inference.engine import mailbox, open_letter
from bessemer.inference.scheduler import deadline_passed
from bessemer.inference.sequence import EngineSequence
from bessemer.models.gguf_file import Facts, open_gguf

STEP_TOKENS = 256
# By default OpenVINO rounds activations and the KV cache to 8 bits; `fp32` is float32 everywhere.
_EXACT = {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
_HINTS = {"bf16": "bf16", "fp32": "f32"}


@dataclass(eq=False)
class _Running:
    sequence: EngineSequence
    handle: Any


class OpenVinoEngine:
    """Continuous batching by OpenVINO. Start it with `open`, stop it with `close`."""

    _pipeline: Any
    _thread: threading.Thread

    def __init__(
        self, digest: str, context_length: int, vocabulary: int, precision: str, max_running: int
    ) -> None:
        self._digest = digest
        self._context_length, self._vocabulary = context_length, vocabulary
        self._precision, self._max_running = precision, max_running
        self._numbers = itertools.count()
        self._running: list[_Running] = []
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    @classmethod
    def open(
        cls,
        gguf: Path,
        digest: str,
        *,
        threads: int,
        precision: precisions.Precision = "auto",
        context_length: int | None = None,
        max_running: int = 32,
        cache_gb: int = 1,
    ) -> OpenVinoEngine:
        """Load a GGUF file and start to work.

        Args:
            precision: of the products; `auto` is what this machine's processor multiplies, with
                OpenVINO's own 8-bit activations and cache; `fp32` is float32 everywhere.
            cache_gb: memory for the KV cache, in whole gigabytes.

        Raises:
            Missing: the extra is not installed.
            IntegrityError: no whole GGUF file.
            InvalidInput: a file that OpenVINO does not read, or float64.
        """
        if importlib.util.find_spec("openvino_genai") is None:
            raise Missing(
                "the OpenVINO engine is not installed here",
                next_step='pip install "bessemer[openvino]"',
            )
        facts = Facts(open_gguf(gguf), gguf)
        family = facts.text("general.architecture")
        longest = facts.size(f"{family}.context_length")
        chosen = precisions.name_of(precisions.choose(precision))
        if chosen not in _HINTS:
            raise InvalidInput(f"OpenVINO computes in {' or '.join(_HINTS)}, not in {chosen}")
        engine = cls(
            digest,
            min(context_length or longest, longest),
            len(facts.texts("tokenizer.ggml.tokens")),
            chosen,
            max_running,
        )
        engine._pipeline = _pipeline(gguf, chosen, threads, max_running, cache_gb)
        engine._thread = threading.Thread(target=engine._work, name="openvino", daemon=True)
        engine._thread.start()
        return engine

    def close(self) -> None:
        """Stop after the current step; requests under way get EngineUnavailable."""
        self._inbox.put(None)
        self._thread.join()

    # -- the Engine protocol --------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """See `Engine.generate`."""
        inbox, send = mailbox()
        sequence = EngineSequence.for_tokens(request, send)
        self._inbox.put(lambda: self._admit(sequence))
        try:
            while True:
                chunk = open_letter(await inbox.get())
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            sequence.cancelled = True

    async def score(self, ids: Sequence[int]) -> list[float]:
        """Raises InvalidInput: OpenVINO tells no scores of a text."""
        raise InvalidInput(
            "OpenVINO tells no scores of a text", next_step="score with the native engine"
        )

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        """Raises InvalidInput: OpenVINO tells no hidden states."""
        raise InvalidInput(
            "OpenVINO tells no hidden states", next_step="embed with the native engine"
        )

    async def info(self) -> EngineInfo:
        return EngineInfo(
            model_digest=self._digest,
            context_length=self._context_length,
            precision=self._precision,
            running=len(self._running),
            max_running=self._max_running,
        )

    # -- the engine's thread --------------------------------------------------------------

    def _work(self) -> None:
        fault: BaseException | None = None
        try:
            while self._take_messages():
                if self._busy:
                    self._pipeline.step()
                for one in list(self._running):
                    self._tell(one)
        except BaseException as broken:  # a broken step must not leave anybody waiting forever
            fault = broken
            raise
        finally:
            why = f"the engine failed: {fault!r}" if fault else "the engine was stopped"
            for one in list(self._running):
                self._drop(one)
                one.sequence.send("error", EngineUnavailable(why))
            self._let_go(flush=fault is None)

    @property
    def _busy(self) -> bool:
        """Whether anything is over there; what was cancelled leaves with the next step."""
        return bool(self._running or self._pipeline.has_non_finished_requests())

    def _let_go(self, *, flush: bool) -> None:
        """Free the pipeline, in the thread that used it and with nothing in it."""
        while flush and self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        del self._pipeline

    def _take_messages(self) -> bool:
        """Run what was queued; wait for it when there is nothing to compute. False to stop."""
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get(block=not self._busy)
                if message is None:
                    return False
                message()
        return True

    def _admit(self, sequence: EngineSequence) -> None:
        try:
            config = self._config(sequence)
        except BessemerError as error:
            sequence.send("error", error)
            return
        import numpy as np

        ids = _runtime("openvino").Tensor(np.array([sequence.ids], dtype=np.int64))
        handle = self._pipeline.add_request(next(self._numbers), ids, config)
        self._running.append(_Running(sequence, handle))

    def _tell(self, one: _Running) -> None:
        sequence, now = one.sequence, time.monotonic()
        if sequence.cancelled:
            self._drop(one)
        elif sequence.is_late(now):
            self._drop(one)
            sequence.send("error", deadline_passed(sequence, now))
        else:
            while one in self._running and one.handle.can_read():
                for output in one.handle.read().values():
                    self._extend(one, output.generated_ids, output.generated_log_probs)

    def _extend(self, one: _Running, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        sequence, request = one.sequence, one.sequence.request
        assert request is not None
        kept = list(itertools.takewhile(lambda id_: id_ not in sequence.stop_ids, ids))
        stop = ids[len(kept)] if len(kept) < len(ids) else None
        sequence.drawn += len(kept) + (stop is not None)
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

    def _drop(self, one: _Running) -> None:
        self._running.remove(one)
        one.handle.cancel()

    def _config(self, sequence: EngineSequence) -> Any:
        """OpenVINO's settings of a request.

        Raises:
            BessemerError: as `Engine.generate`, and for what OpenVINO cannot say.
        """
        request = sequence.request
        assert request is not None
        self._check(sequence, request)
        sampling = request.sampling
        config = _runtime("openvino_genai").GenerationConfig()
        config.max_new_tokens = request.max_tokens
        config.ignore_eos = True  # what ends an answer is the request's to say
        config.do_sample = sampling.temperature > 0
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.min_p = sampling.min_p
            config.top_k = sampling.top_k or self._vocabulary
            config.rng_seed = sequence.seed % 2**32
        if request.top_logprobs is not None:
            config.logprobs = 1
        return config

    def _check(self, sequence: EngineSequence, request: GenerateRequest) -> None:
        limit, prompt, sampling = self._context_length, len(sequence.ids), request.sampling
        if prompt == 0 or request.max_tokens < 1:
            raise InvalidInput(
                "a prompt of a token or more, and max_tokens of 1 or more, are needed"
            )
        if prompt + request.max_tokens > limit:
            raise ContextLengthExceeded(
                f"this model's context is {limit} tokens; the prompt has {prompt} and"
                f" {request.max_tokens} were asked for",
                next_step="shorten the prompt or ask for fewer tokens",
                prompt_tokens=prompt,
                context_length=limit,
            )
        if any(not 0 <= token < self._vocabulary for token in sequence.ids):
            raise InvalidInput(f"a token id is outside the vocabulary of {self._vocabulary}")
        drawn = sampling.temperature > 0
        unsaid = {
            "constraint": request.constraint is not None,
            "adapter": request.adapter is not None,
            "logit_bias": bool(sampling.logit_bias),
            "top_logprobs": bool(request.top_logprobs),
            "prompt_logprobs": request.prompt_logprobs is not None,
            # They would be those after temperature and penalties.
            "logprobs": request.top_logprobs is not None and (drawn or sampling.adjusts),
        }
        if names := [name for name, asked in unsaid.items() if asked]:
            raise InvalidInput(
                f"the OpenVINO engine has no {' and no '.join(names)} for this request",
                next_step="leave it out, or use the native engine",
                param=names[0],
            )
        if len(self._running) >= self._max_running:
            raise Busy(f"{len(self._running)} requests run: that is all", retry_after_s=1.0)


def _runtime(module: str) -> Any:
    """The library without its telemetry, for which it has a stub where that is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module(module)


def _pipeline(gguf: Path, precision: str, threads: int, max_running: int, cache_gb: int) -> Any:
    openvino_genai = _runtime("openvino_genai")
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = cache_gb
    scheduling.max_num_batched_tokens = STEP_TOKENS
    scheduling.max_num_seqs = max_running
    scheduling.dynamic_split_fuse = True
    # With it, requests that begin alike and run together get wrong tokens (docs/logbook.md).
    scheduling.enable_prefix_caching = False
    properties = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": str(threads),
        **(_EXACT if precision == "fp32" else {}),
    }
    try:
        return openvino_genai.ContinuousBatchingPipeline(
            str(gguf), scheduling, "CPU", properties, {}
        )
    except RuntimeError as fault:
        last = str(fault).strip().splitlines()[-1]
        raise InvalidInput(
            f"OpenVINO cannot read {gguf.name}: {last}",
            next_step="export it again with --precision q8_0 or q4_0",
        ) from fault
