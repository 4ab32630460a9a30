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
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from bessemer.core.errors import BessemerError, EngineDied, EngineUnavailable, InvalidInput
from bessemer.core.protocols import EngineInfo, GenerateRequest, Pooling, TokenChunk
from bessemer.inference import devices
from bessemer.inference import precision as precisions
from bessemer.inference.adapters import Adapters
from bessemer.inference.cache import KVCache
from bessemer.inference.constraint import Compiler, Matcher
from bessemer.inference.deterministic import ChunkCache, DeterministicStepper, conditions
from bessemer.inference.devices import Device
from bessemer.inference.draft_model import DraftModel, check_vocabularies
from bessemer.inference.encoding import EncoderStepper
from bessemer.inference.graphs import CudaGraph
from bessemer.inference.prepared import PreparedDecoder
from bessemer.inference.prepared_encoder import PreparedEncoder
from bessemer.inference.runner import ServedModel
from bessemer.inference.scheduler import Counters
from bessemer.inference.sequence import EngineSequence, Send
from bessemer.inference.speculation import Drafter, Guesses, PromptLookup
from bessemer.inference.stepper import Stepper
from bessemer.inference.unprepared import UnpreparedDecoder
from bessemer.models.config import read_tree
from bessemer.models.decoder import Decoder
from bessemer.models.encoder import load_encoder
from bessemer.models.encoder_config import is_encoder, own_pooling
from bessemer.models.folder import load_decoder
from bessemer.models.quantizing import load_coded
from bessemer.models.scheme import kind_of

Cache = TypeVar("Cache", bound=KVCache)


@dataclass(frozen=True)
class EngineSettings:
    """How much an engine may take on.

    `kv_bytes` bounds what idle and newly admitted sequences keep in the cache, `adapter_bytes`
    what LoRA adapters keep in memory. `guesses` says who proposes tokens that come next (see
    `speculation`): `ngram`, or a folder with a draft model. A `deterministic` engine's answers have
    the same bits whatever else it computes (see `deterministic`); it guesses nothing and takes no
    adapters. Encoders, quantized models, adapters and deterministic engines compute on
    the CPU alone.
    """

    precision: precisions.Precision = "auto"
    max_running: int = 32
    max_waiting: int = 256
    context_length: int | None = None
    kv_bytes: int = 1 << 30
    adapter_bytes: int = 1 << 30
    chunk_tokens: int = 256
    guesses: Guesses | Path = "ngram"
    deterministic: bool = False
    device: Device = "cpu"


class AdapterChange(NamedTuple):
    """Load the adapter with this digest from `folder`; without a folder, unload it."""

    digest: str
    folder: Path | None


class NativeEngine:
    """Continuous batching over one model. Start it with `open`, stop it with `close`."""

    _thread: threading.Thread
    _stepper: Stepper | EncoderStepper

    def __init__(self, folder: Path, digest: str, settings: EngineSettings) -> None:
        self._digest, self._settings = digest, settings
        self._compiler = Compiler(folder)
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
        engine = cls(folder, digest, settings or EngineSettings())
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
        self._compiler.close()
        self._inbox.put(None)
        self._thread.join()

    # -- from any thread ------------------------------------------------------------------

    def submit(self, sequence: EngineSequence) -> None:
        """Queue a sequence; everything about it comes through its `send`."""
        constraint = sequence.request.constraint if sequence.request else None
        if constraint is None:
            self._inbox.put(lambda: self._admit(sequence))
        else:
            self._compiler.compile(constraint, partial(self._submit_constrained, sequence))

    def change_adapters(self, change: AdapterChange, send: Send) -> None:
        """Load or unload one between two steps; `send` gets a result (None), or an error."""
        self._inbox.put(lambda: self._change_adapters(change, send))

    def cancel(self, sequence: EngineSequence) -> None:
        """Forget it at the next step; it sends nothing more."""
        sequence.cancelled = True

    def set_threads(self, threads: int) -> None:
        """Compute with this many threads from the next step on.

        A deterministic engine keeps those it began with: they are a condition of its bits.
        """
        if not self._settings.deterministic:
            self._inbox.put(lambda: torch.set_num_threads(threads))

    def on_step(self, notify: Callable[[], None]) -> None:
        """Call `notify` in the engine's thread after each step (one frame per step)."""
        self._after_step = notify

    @property
    def failed(self) -> bool:
        """Whether a step broke; the engine then refuses everything."""
        return self._fault is not None

    @property
    def counters(self) -> Counters:
        """What was done since the start; read while the engine works, so never of one moment."""
        return self._stepper.counters

    def info_now(self) -> EngineInfo:
        occupancy = self._stepper.occupancy()
        return EngineInfo(
            model_digest=self._digest,
            memory_bytes=memory_bytes(),
            adapters=self._stepper.adapters,
            conditions=self._stepper.conditions,
            counters=asdict(self.counters),
            **occupancy._asdict(),
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

    async def score(self, ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """See `Engine.score`."""
        inbox, send = mailbox()
        sequence = EngineSequence.for_whole(ids, "scores", send, adapter=adapter)
        scores: list[float] = await self._whole(sequence, inbox)
        return scores

    async def embed(
        self,
        ids: Sequence[int],
        pooling: Pooling | None = None,
        client: str = "",
        *,
        adapter: str | None = None,
    ) -> list[float]:
        """See `Engine.embed`."""
        inbox, send = mailbox()
        sequence = EngineSequence.for_whole(ids, "vector", send, pooling, client, adapter)
        vector: list[float] = await self._whole(sequence, inbox)
        return vector

    async def info(self) -> EngineInfo:
        return self.info_now()

    async def load_adapter(self, digest: str, folder: Path) -> None:
        """See `AdapterEngine.load_adapter`."""
        await self._after_change(AdapterChange(digest, folder))

    async def unload_adapter(self, digest: str) -> None:
        """See `AdapterEngine.unload_adapter`."""
        await self._after_change(AdapterChange(digest, None))

    async def _whole(self, sequence: EngineSequence, inbox: asyncio.Queue[Any]) -> Any:
        self.submit(sequence)
        try:
            return open_letter(await inbox.get())
        finally:
            self.cancel(sequence)

    async def _after_change(self, change: AdapterChange) -> None:
        inbox, send = mailbox()
        self.change_adapters(change, send)
        open_letter(await inbox.get())

    # -- the compiler's thread ------------------------------------------------------------

    def _submit_constrained(self, sequence: EngineSequence, made: Matcher | BessemerError) -> None:
        if isinstance(made, Matcher):
            sequence.matcher = made
            self._inbox.put(lambda: self._admit(sequence))
        else:
            self._inbox.put(lambda: self._refuse(sequence, made))

    # -- the engine's thread --------------------------------------------------------------

    def _live(self, folder: Path) -> None:
        try:
            self._stepper = _stepper(folder, self._digest, self._settings)
        except BaseException as fault:
            self._fault = fault
            return
        finally:
            self._loaded.set()
        self._work()

    def _work(self) -> None:
        try:
            while self._take_messages():
                self._stepper.step()
                self._after_step()
        except BaseException as fault:  # a broken step must not leave anybody waiting forever
            self._fault = fault
            raise
        finally:
            self._refuse_the_rest()

    def _take_messages(self) -> bool:
        """Run what was queued; wait for it when there is nothing to compute. False to stop."""
        idle = self._stepper.idle
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get(block=idle)
                if message is None:
                    return False
                message()
                idle = False
        return True

    def _admit(self, sequence: EngineSequence) -> None:
        if not self._stepper.admit(sequence):
            self._after_step()

    def _change_adapters(self, change: AdapterChange, send: Send) -> None:
        try:
            if change.folder is None:
                self._stepper.unload_adapter(change.digest)
            else:
                self._stepper.load_adapter(change.digest, change.folder)
        except BessemerError as error:
            send("error", error)
        except (RuntimeError, MemoryError) as fault:  # torch's word for too little memory
            send("error", EngineUnavailable(f"the adapter could not be loaded: {fault}"))
        else:
            send("result", None)
        self._after_step()

    def _refuse(self, sequence: EngineSequence, error: BessemerError) -> None:
        if not sequence.cancelled:
            sequence.send("error", error)
            self._after_step()

    def _refuse_the_rest(self) -> None:
        error = EngineUnavailable("the engine was stopped")
        if self._fault is not None:
            error = EngineDied(f"the engine failed: {self._fault!r}")
        self._stepper.refuse_the_rest(error)
        self._after_step()


def _load(folder: Path, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder, with the codes of a quantized one as they are."""
    coded = kind_of(read_tree(folder)) is not None
    return load_coded(folder, dtype) if coded else load_decoder(folder, dtype)


def _stepper(folder: Path, digest: str, settings: EngineSettings) -> Stepper | EncoderStepper:
    """What takes the steps, by the kind of model that is in the folder."""
    device = _device(folder, settings)
    dtype = precisions.choose(settings.precision, device)
    longest = settings.context_length or 1 << 30
    if is_encoder(folder):
        encoder = PreparedEncoder(load_encoder(folder, dtype))
        length = min(longest, encoder.config.context_length)
        if not settings.deterministic:
            return EncoderStepper(encoder, length)
        alone = EncoderStepper(encoder, length, step_tokens=1)
        alone.conditions = conditions(encoder.dtype)
        return alone
    decoder = _load(folder, dtype).to(device)
    work: dict[str, Any] = {
        "max_waiting": settings.max_waiting,
        "chunk_tokens": settings.chunk_tokens,
        "pooling": own_pooling(folder),
    }
    if settings.deterministic:
        model = _served(decoder)
        return DeterministicStepper(model, _cache(model, settings, longest, ChunkCache), **work)
    if device.type == "cuda":
        return _on_a_gpu(folder, decoder, settings, longest, work)
    adapters = Adapters(decoder, dtype, base_digest=digest, budget_bytes=settings.adapter_bytes)
    model = _served(decoder, adapters)
    adapters.forget_modules()
    cache = _cache(model, settings, longest, KVCache)
    drafter = _drafter(folder, decoder, settings, cache)
    return Stepper(model, cache, **work, adapters=adapters, drafter=drafter)


def _on_a_gpu(
    folder: Path, decoder: Decoder, settings: EngineSettings, longest: int, work: dict[str, Any]
) -> Stepper:
    model = _served(decoder)
    cache = _cache(model, settings, longest, KVCache)
    drafter = _drafter(folder, decoder, settings, cache)
    stepper = Stepper(model, cache, **work, drafter=drafter, make_graph=CudaGraph)
    stepper.without_adapters = "adapters are computed on CPUs alone so far"
    return stepper


def _device(folder: Path, settings: EngineSettings) -> torch.device:
    chosen = devices.choose(settings.device)
    kind = kind_of(read_tree(folder))
    what = "an encoder" if is_encoder(folder) else f"quantized ({kind})" if kind else None
    if settings.deterministic:
        what = "to be deterministic"
    if chosen.type == "cpu" or what is None:
        return chosen
    if settings.device == "auto":
        return torch.device("cpu")
    raise InvalidInput(
        f"{folder.name} is {what}, and that is computed on the CPU alone",
        next_step="use --device cpu or auto",
    )


def _drafter(
    folder: Path, decoder: Decoder, settings: EngineSettings, cache: KVCache
) -> Drafter | None:
    if isinstance(settings.guesses, str):
        return PromptLookup() if settings.guesses == "ngram" else None
    draft = _load(settings.guesses, decoder.embedding_weight.dtype).to(cache.device)
    sizes = (decoder.config.vocab_size, draft.config.vocab_size)
    check_vocabularies(folder, settings.guesses, sizes)
    if draft.config.context_length < cache.context_length:
        raise InvalidInput(
            f"the draft model reads {draft.config.context_length} tokens, and the model it is to"
            f" guess for {cache.context_length}",
            next_step="choose a draft with as long a context",
        )
    model = _served(draft)
    return DraftModel(
        model,
        _cache(model, settings, cache.context_length, KVCache),
        vocabulary=sizes[0],
        cost=_parameters(draft) / _parameters(decoder),
        chunk_tokens=settings.chunk_tokens,
    )


def _served(
    decoder: Decoder, adapters: Adapters | None = None
) -> PreparedDecoder | UnpreparedDecoder:
    if decoder.config.is_plain:
        return PreparedDecoder(decoder, adapters)
    return UnpreparedDecoder(decoder.eval(), adapters)


def _parameters(decoder: Decoder) -> int:
    return sum(parameter.numel() for parameter in decoder.parameters())


def _cache(model: ServedModel, settings: EngineSettings, longest: int, kind: type[Cache]) -> Cache:
    return kind(
        model.config,
        model.dtype,
        rows=settings.max_running,
        context_length=min(longest, model.config.context_length),
        kv_bytes=settings.kv_bytes,
        device=model.device,
    )


def mailbox() -> tuple[asyncio.Queue[Any], Callable[[str, Any], None]]:
    """A queue for the caller's loop, and a `send` for the engine's thread."""
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def send(kind: str, body: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is listening
            loop.call_soon_threadsafe(inbox.put_nowait, (kind, body))

    return inbox, send


def open_letter(letter: tuple[str, Any]) -> Any:
    kind, body = letter
    if kind == "error":
        raise body
    return body


def memory_bytes() -> int:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
