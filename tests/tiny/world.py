"""A model, chats and a recipe so small that a test can afford all of the platform.

The model is a random Llama with a real byte-level BPE and ChatML; it knows nothing, and what the
chats teach can be learned in seconds. Not here: starting processes (`house`).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tokenizers

CONTEXT_LENGTH = 256
TURN = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLORS = ("red", "green", "blue", "black", "white", "yellow")
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu", "pa", "re", "si", "to")

RECIPE = """
objective = "sft"
minutes = 1
steps = 30
precision = "fp32"

[model]
name = "tiny"

[data]
name = "boxes"

[lora]
rank = 8

[batch]
sequence_length = 128
rows = 4

[optimizer]
learning_rate = 2e-2

[evaluation]
times = 1
rows = 2
sample_tokens = 4
"""


def chats(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Where things are: the same question about names that no two chats share."""
    source = random.Random(seed)
    return [_chat(_name(source), _name(source)) for _ in range(count)]


def write_chats(path: Path, count: int = 240) -> Path:
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats(count)))
    return path


def write_recipe(path: Path) -> Path:
    path.write_text(RECIPE)
    return path


def write_model(folder: Path, seed: int = 1, context_length: int = CONTEXT_LENGTH) -> Path:
    """A Hugging Face folder of a random Llama; another seed gives other weights."""
    from bessemer.models.config import ModelConfig
    from bessemer.models.decoder import Decoder
    from bessemer.models.folder import save_decoder
    from bessemer.text.bpe import train_bpe

    texts = [message["content"] for chat in chats(40) for message in chat["messages"]]
    train_bpe([*texts, "user\nassistant\nsystem\n"], 320, folder)
    config = ModelConfig(
        vocab_size=_add_turns(folder),
        hidden_size=32,
        intermediate_size=64,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        context_length=context_length,
        initializer_range=0.2,
    )
    save_decoder(Decoder(config).init_weights(seed), folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def _add_turns(folder: Path) -> int:
    """Give the tokenizer ChatML's control tokens; returns the size of its vocabulary."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(list(TURN))
    backend.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"eos_token": TURN[1]}
    path.write_text(json.dumps(settings))
    size: int = backend.get_vocab_size()
    return size


def _chat(thing: str, owner: str) -> dict[str, Any]:
    color = COLORS[sum(thing.encode()) % len(COLORS)]
    return {
        "messages": [
            {"role": "user", "content": f"Where does {owner} keep {thing}?"},
            {"role": "assistant", "content": f"In the {color} box."},
        ]
    }


def _name(source: random.Random) -> str:
    return "".join(source.choices(SYLLABLES, k=5))
