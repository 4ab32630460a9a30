"""A decoder as it stands, behind the face that steps are computed with.

For weights that move, and for layers that `prepared` does not know: mixtures of experts and GPT-2.

    T tokens   N chosen tokens   D hidden size   V vocabulary   H heads   K kv heads   E head size
"""

from __future__ import annotations

import torch
from torch import Tensor

from bessemer.core.errors import InvalidInput
from bessemer.inference import precision as precisions
from bessemer.inference.adapters import Adapters
from bessemer.inference.prepared import AttendFused
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder


class UnpreparedDecoder:
    """The decoder's own modules, LoRA and quantized matrices included.

    Raises:
        InvalidInput: the KV cache cannot hold, or attention not see, what its layers need.
    """

    def __init__(self, decoder: Decoder, adapters: Adapters | None = None) -> None:
        if decoder.config.latent or decoder.config.layer_windows:
            raise InvalidInput(
                f"the engine has no latent attention and no sliding windows yet, and this"
                f" {decoder.config.family} has",
                next_step="serve its folder with transformers or vLLM",
            )
        self.config: ModelConfig = decoder.config
        self._decoder = decoder
        if adapters is not None:
            adapters.hook(decoder)

    @property
    def dtype(self) -> torch.dtype:
        return self._decoder.embedding_weight.dtype

    @property
    def device(self) -> torch.device:
        return self._decoder.embedding_weight.device

    @property
    def precision(self) -> str:
        return precisions.name_of(self.dtype)

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
