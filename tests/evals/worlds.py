"""Small worlds to measure in: a byte tokenizer, models whose loss is known, chats.

A `UnigramEngine` gives every token a fixed probability, whatever came before. The loss of any
text under it is a sum over its bytes, which the tests compute without the code under test.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from bessemer.core.errors import Busy, ContextLengthExceeded
from bessemer.core.protocols import EngineInfo, GenerateRequest, TokenChunk
from bessemer.data.chats import Chat
from bessemer.data.dataset import Row, write_dataset

START, END = "<|im_start|>", "<|im_end|>"
VOCABULARY = 258  # every byte, and the two control tokens
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model_folder(folder: Path, context_length: int = 8192) -> Path:
    """A folder with a byte tokenizer, a ChatML template and a config; no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={char: id_ for id_, char in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([START, END])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": context_length,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class UnigramEngine:
    """An engine that never looks back; `log_p` gives some tokens another than uniform odds.

    Args:
        log_p: natural log-probability by token id; the others share nothing and are uniform.
        answer: prompt ids to answer ids; the engine says them greedily and stops.
        context_length: longer sequences raise ContextLengthExceeded.
        refusals: how often it says that it is busy before it takes anything.
    """

    def __init__(
        self,
        log_p: Mapping[int, float] | None = None,
        answer: Callable[[Sequence[int]], Sequence[int]] = lambda ids: (),
        context_length: int = 1_000_000,
        refusals: int = 0,
    ) -> None:
        self.log_p, self.answer, self.context_length = dict(log_p or {}), answer, context_length
        self.refusals = refusals
        self.scored: list[list[int]] = []
        self.requests: list[GenerateRequest] = []
        self.running = self.most_running = 0

    async def score(self, ids: Sequence[int]) -> list[float]:
        await self._admit(len(ids))
        self.scored.append(list(ids))
        return [self.log_p.get(id_, -math.log(VOCABULARY)) for id_ in ids[1:]]

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        await self._admit(len(request.prompt_ids) + request.max_tokens)
        self.requests.append(request)
        ids = list(self.answer(request.prompt_ids))[: request.max_tokens]
        for id_ in ids:
            yield TokenChunk(ids=[id_])
        yield TokenChunk(ids=[], finish_reason="stop", completion_tokens=len(ids))

    async def embed(self, ids: Sequence[int]) -> list[float]:
        raise NotImplementedError

    async def info(self) -> EngineInfo:
        return EngineInfo(
            model_digest="sha256:0", context_length=self.context_length, precision="fp32"
        )

    async def _admit(self, tokens: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Busy("full", retry_after_s=0.0)
        if tokens > self.context_length:
            raise ContextLengthExceeded(f"{tokens} tokens; the context is {self.context_length}")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        for _ in range(3):
            await asyncio.sleep(0)  # let the others come in
        self.running -= 1


def chat(question: str, answer: str, kind: str | None = None, symbol: str | None = None) -> Chat:
    """One question and its answer."""
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return Chat(messages, kind=kind, symbol=symbol)


def symbol_chats(first: int, last: int) -> list[Chat]:
    """A describe and a name chat for each of the symbols `first` to `last - 1`."""
    chats = []
    for number in range(first, last):
        name = f"f{number:03}"
        text = f"Return {number} times {'two' * (number % 7)}."
        chats.append(chat(f"What does {name} do?", text, "describe", f"mod.{name}"))
        chats.append(chat(f"Which function: {text}", name, "name", f"mod.{name}"))
    return chats


def symbol_dataset(folder: Path, train: Sequence[Chat], test: Sequence[Chat]) -> Path:
    """A dataset folder with these splits and an empty validation split."""
    rows = [Row("train", one, "") for one in train] + [Row("test", one, "") for one in test]
    write_dataset(folder, rows, [], {"name": "symbols", "licence": "PSF-2.0"})
    return folder
