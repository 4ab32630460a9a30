"""An engine over a network that is being trained: its tensors, not a copy of them.

Nothing here has a thread. Whoever awaits an answer takes the steps: each round of the event loop
lets every request in that has come, then the first that finds nothing to read takes one step for
all. So a training process has one team of compute threads (two halve the speed of decoding,
docs/logbook.md), weights cannot move under a request, and equal requests in an equal order are
batched alike: equal bits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bessemer.core.errors import Conflict, InvalidInput
from bessemer.core.protocols import EngineInfo, GenerateRequest, Pooling, TokenChunk
from bessemer.inference.cache import KVCache
from bessemer.inference.engine import open_letter
from bessemer.inference.sequence import EngineSequence, Wanted
from bessemer.inference.stepper import Stepper
from bessemer.inference.unprepared import UnpreparedDecoder
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder

Letter = tuple[str, Any]

ROWS = 32
KV_BYTES = 1 << 30
WAITING = 1 << 20  # the caller knows how much it asks for
CHUNK_TOKENS = 512


class NativeLiveEngine:
    """`core.protocols.LiveEngine` over a native decoder.

    `version` counts how often the weights have moved.

    Raises:
        InvalidInput: the engine cannot compute this network's attention.
    """

    def __init__(self, network: Any) -> None:
        if not isinstance(network, Decoder):
            raise InvalidInput(
                "this network cannot speak while it is trained: the engine has no layers of other"
                " libraries",
                next_step="start from a Llama, Mistral, Qwen or GPT-2",
            )
        self._model = UnpreparedDecoder(network)
        self._cache = KVCache(
            network.config,
            self._model.dtype,
            rows=ROWS,
            context_length=network.config.context_length,
            kv_bytes=KV_BYTES,
        )
        self._stepper = Stepper(
            self._model, self._cache, max_waiting=WAITING, chunk_tokens=CHUNK_TOKENS
        )
        self.version = 0

    def renew(self) -> None:
        """See `LiveEngine.renew`."""
        self._stepper.scheduler.drop_cancelled()
        if not self._stepper.idle:
            raise Conflict("the weights moved while requests were under way")
        self._cache.clear()
        self.version += 1

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """See `Engine.generate`."""
        letters = deque[Letter]()
        sequence = EngineSequence.for_tokens(request, lambda *letter: letters.append(letter))
        self._stepper.admit(sequence)
        try:
            while True:
                chunk = await self._read(letters)
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            sequence.cancelled = True

    async def score(self, ids: Sequence[int]) -> list[float]:
        """See `Engine.score`."""
        scores: list[float] = await self._whole(ids, "scores")
        return scores

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        """See `Engine.embed`."""
        vector: list[float] = await self._whole(ids, "vector", pooling)
        return vector

    async def info(self) -> EngineInfo:
        occupancy = self._stepper.occupancy()
        return EngineInfo(model_digest=f"live:{self.version}", **occupancy._asdict())

    async def _whole(
        self, ids: Sequence[int], wanted: Wanted, pooling: Pooling | None = None
    ) -> Any:
        letters = deque[Letter]()
        self._stepper.admit(
            EngineSequence.for_whole(ids, wanted, lambda *letter: letters.append(letter), pooling)
        )
        return await self._read(letters)

    async def _read(self, letters: deque[Letter]) -> Any:
        """The next letter's content; takes a step whenever a whole round brought none."""
        while not letters:
            await asyncio.sleep(0)
            if not letters:
                self._stepper.step()
        return open_letter(letters.popleft())


def _can_attend(config: ModelConfig) -> bool:
    return config.latent is None and config.layer_windows is None
