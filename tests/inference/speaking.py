"""A random network that has text: a real tokenizer, and a few more rows than it has tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from bessemer.core.protocols import Constraint, GenerateRequest, Sampling
from bessemer.inference.engine import NativeEngine
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import save_decoder
from bessemer.text.tokenizer import Tokenizer
from tests.text.model_folder import CHATML, write_model_folder

CONTEXT_LENGTH = 4096


def write_speaking_model(
    folder: Path, template: str = CHATML, control: tuple[str, ...] = ()
) -> Path:
    """`control` are more control tokens than the usual ones."""
    write_model_folder(folder, template)
    if control:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.add_special_tokens(list(control))
        backend.save(str(folder / "tokenizer.json"))
    config = ModelConfig(
        vocab_size=Tokenizer.load(folder).vocab_size + 7,
        hidden_size=32,
        intermediate_size=48,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        context_length=CONTEXT_LENGTH,
        initializer_range=0.4,
    )
    save_decoder(Decoder(config).init_weights(seed=3), folder)
    return folder


def closing(tokenizer: Tokenizer, strength: float = 8.0) -> dict[int, float]:
    """A logit bias to what ends strings, numbers and brackets, so that random answers end."""
    ends = [id_ for text in ('"', "}", "]", ",") for id_ in tokenizer.encode(text)]
    return dict.fromkeys(ends, strength)


def asking(
    tokenizer: Tokenizer, constraint: Constraint | None, prompt: str = "Hello", **more: Any
) -> GenerateRequest:
    """A request that draws from everything, nearly evenly."""
    facts: dict[str, Any] = {
        "request_id": "r",
        "max_tokens": 400,
        "sampling": Sampling(temperature=2.0, seed=1, logit_bias=closing(tokenizer)),
        "stop_ids": sorted(tokenizer.eos_ids),
    }
    ids = tokenizer.encode(prompt)
    return GenerateRequest(prompt_ids=ids, constraint=constraint, **facts | more)


async def answer(
    engine: NativeEngine, tokenizer: Tokenizer, request: GenerateRequest
) -> tuple[str, str]:
    """The text of an answer, and why it ended."""
    ids: list[int] = []
    async for chunk in engine.generate(request):
        ids += chunk.ids
    assert chunk.finish_reason is not None and chunk.completion_tokens - len(ids) in (0, 1)
    return tokenizer.decode(ids), chunk.finish_reason


def schema(value: object, param: str | None = None) -> Constraint:
    return Constraint("json_schema", json.dumps(value), param)
