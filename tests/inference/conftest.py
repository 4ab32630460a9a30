"""Tiny random models on disk, and engines over them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.models.config import Llama3Scaling, ModelConfig, MoeConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import save_decoder

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "context_length": 96,
    "initializer_range": 0.4,
}
CONFIGS = {
    "llama": ModelConfig(**SHAPE, tied=True),
    "llama3": ModelConfig(**SHAPE, rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 32)),
    "qwen2": ModelConfig(**SHAPE, family="qwen2", qkv_bias=True),
    "qwen3": ModelConfig(**SHAPE, family="qwen3", qk_norm=True),
    "mixtral": ModelConfig(**SHAPE, family="mixtral", moe=MoeConfig(experts=4, top_k=2, size=48)),
    "wide": ModelConfig(**SHAPE | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}),
    "gpt2": ModelConfig(**SHAPE | {"kv_heads": 4}, family="gpt2", tied=True),
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            decoder = Decoder(CONFIGS[name]).init_weights(seed=3)
            torch.manual_seed(4)
            with torch.no_grad():
                for parameter_name, parameter in decoder.named_parameters():
                    if parameter.dim() == 1:
                        parameter.uniform_(0.5, 1.5)
                        assert any(word in parameter_name for word in ("norm", "ln_", "bias"))
            save_decoder(decoder, folders[name])
        return folders[name]

    return folder_of


@asynccontextmanager
async def engine_over(folder: Path, **settings: Any) -> AsyncIterator[NativeEngine]:
    engine = NativeEngine.open(
        folder, "sha256:test", EngineSettings(**{"precision": "fp64", "max_running": 4} | settings)
    )
    try:
        yield engine
    finally:
        engine.close()
