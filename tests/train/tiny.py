"""A tiny model, dataset and run to train on: made in a second, learned in another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bessemer.core.recipes import dumps, loads
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.prompts import Prompt
from bessemer.data.shapes import PROMPTS
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import save_decoder
from bessemer.text.bpe import train_bpe

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|endoftext|>"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
COLORS = ("red", "green", "blue", "black", "white", "yellow")


def questions(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Which color has number {i}?"},
                {"role": "assistant", "content": f"It is {COLORS[i % len(COLORS)]}."},
            ]
        }
        for i in range(count)
    ]


def make_model(folder: Path, layers: int = 2, hidden_size: int = 32) -> Path:
    texts = [message["content"] for chat in questions(60) for message in chat["messages"]]
    tokenizer = train_bpe([*texts, "user: assistant: "], 300, folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden_size,
        intermediate_size=64,
        layers=layers,
        heads=4,
        kv_heads=2,
        head_dim=8,
        context_length=128,
        tied=True,
        initializer_range=0.3,  # a frozen head of small numbers could say nothing
    )
    save_decoder(Decoder(config).init_weights(1), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def make_dataset(folder: Path, train: int = 48, validation: int = 6) -> Path:
    folder.mkdir(parents=True)
    chats = questions(train + validation)
    for split, part in (("train", chats[:train]), ("validation", chats[train:]), ("test", [])):
        lines = "".join(json.dumps(chat) + "\n" for chat in part)
        (folder / f"{split}.jsonl").write_text(lines)
    counts = {"train": train, "validation": validation, "test": 0}
    (folder / "dataset.json").write_text(json.dumps({"format": 1, "counts": counts}))
    rows = [
        {"split": split, "line": line, "kind": None, "symbol": None, "document": f"{split}-{line}"}
        for split, count in counts.items()
        for line in range(1, count + 1)
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


RECIPE = """
objective = "sft"
minutes = 1
precision = "fp32"
model.name = "tiny"
data.name = "colors"
lora.rank = 4
batch.sequence_length = 64
batch.rows = 2
evaluation.sample_tokens = 6
"""


def make_run(
    folder: Path,
    *overrides: str,
    recipe: str = RECIPE,
    furnish: Callable[[Path], Path] = make_dataset,
) -> RunFolder:
    """A run beside its model and dataset, which are made if they are not there."""
    model, dataset = folder.parent / "model", folder.parent / "dataset"
    if not model.exists():
        make_model(model)
        furnish(dataset)
    resolved = loads(recipe, TrainRecipe, overrides).recipe
    plan = {
        "kind": "train",
        "name": folder.name,
        "threads": 1,
        "model": {"path": str(model), "digest": "sha256:0", "name": "tiny"},
        "datasets": {"colors": {"path": str(dataset), "digest": "sha256:1", "name": "colors"}},
        "models": {},
    }
    return RunFolder.create(folder, dumps(resolved), plan)


def make_prompts(folder: Path, train: int = 48, validation: int = 6) -> Path:
    """The questions of `make_dataset`, with the color for whoever judges."""
    rows = []
    for number in range(train + validation):
        question, answer = questions(number + 1)[-1]["messages"]
        prompt = Prompt([question], {"answer": answer["content"]})
        rows.append(Row("train" if number < train else "validation", prompt, f"d-{number}"))
    documents = [{"id": row.document} for row in rows]
    write_dataset(folder, rows, documents, {"name": "colors"}, PROMPTS)
    return folder
