"""An engine over a network that is being trained: its tensors, not a copy of them.

Nothing here has a thread. Whoever awaits an answer takes the steps: each round of the event loop
lets every request in that has come, then the first that finds nothing to read takes one step for
all. So a training process has one team of compute threads (two halve the speed of decoding,
docs/logbook.md), weights cannot move under a request, and equal requests in an equal order are
batched alike: equal bits.

    T tokens   N chosen tokens   D hidden size   H heads   K kv heads   E head size
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bessemer.core.errors import Conflict, InvalidInput
from bessemer.core.protocols import EngineInfo, GenerateRequest, Pooling, TokenChunk
from bessemer.inference.cache import KVCache
from bessemer.inference.engine import open_letter
from bessemer.inference.prepared import AttendFused
from bessemer.inference.sequence import EngineSequence, Wanted
from bessemer.inference.stepper import Stepper
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder

Letter = tuple[str, Any]

ROWS = 32
KV_BYTES = 1 << 30
WAITING = 1 << 20  # the caller knows how much it asks for
CHUNK_TOKENS = 512


class LiveNetwork:
    """A decoder as it stands, LoRA and quantized matrices included, behind `ServedModel`."""

    def __init__(self, decoder: Decoder) -> None:
        self.config: ModelConfig = decoder.config
        self._decoder = decoder

    @property
    def dtype(self) -> torch.dtype:
        return self._decoder.embedding_weight.dtype

    # Not inference mode: tables that the network fills on the way are used in training as well.
    @torch.no_grad()
    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: AttendFused) -> Tensor:
        """Hidden states after the final norm, (T, D)."""

        def attend_apart(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
            return attend(layer, torch.cat((q_THE, k_TKE, v_TKE), 1))

        hidden_TD: Tensor = self._decoder(ids_T, positions_T, attend_apart)
        return hidden_TD

    @torch.no_grad()
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) in float32 or better."""
        logits_NV = self._decoder.logits(hidden_ND)
        return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()


class NativeLiveEngine:
    """`core.protocols.LiveEngine` over a native decoder.

    `version` counts how often the weights have moved.

    Raises:
        InvalidInput: the engine cannot compute this network's attention.
    """

    def __init__(self, network: Any) -> None:
        if (
            not isinstance(network, Decoder)
            or network.config.latent
            or network.config.layer_windows
        ):
            raise InvalidInput(
                "this network cannot speak while it is trained: the engine has no latent"
                " attention, no sliding windows, and no layers of other libraries yet",
                next_step="start from a Llama, Mistral, Qwen or GPT-2 without windows",
            )
        self._model = LiveNetwork(network)
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
