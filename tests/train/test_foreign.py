"""Models of `transformers` go through the same loop: they learn, resume to the bit, and open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from bessemer.core.errors import InvalidInput
from bessemer.core.recipes import dumps, loads
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.models.flops import step_cost
from bessemer.models.foreign import load_foreign
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.loop import train
from tests.models.test_flops import LENGTHS, TARGETS, counted
from tests.train.test_loop import events, same_bits
from tests.train.tiny import RECIPE, TEMPLATE, make_dataset, make_model, make_run, questions
from tests.train.tiny_pairs import make_pairs

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "olmo2": transformers.Olmo2Config,
    "stablelm": transformers.StableLmConfig,
}
FULL = RECIPE.replace("lora.rank = 4\n", "")
OFTEN = ("steps=25", "optimizer.learning_rate=0.01", "checkpoints.every_s=0.000001",
         "evaluation.times=1")  # fmt: skip


def make_foreign(folder: Path, family: str, **settings: Any) -> Path:
    """The tiny model's tokenizer with another network, in `folder/model`; its dataset beside."""
    make_model(folder / "llama")
    vocab = Tokenizer.load(folder / "llama").vocab_size
    transformers.set_seed(1)
    config = FAMILIES[family](**{**SHAPE, **settings}, vocab_size=vocab)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((folder / "llama" / name).read_bytes())
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE)
    make_dataset(folder / "dataset")
    return folder / "model"


def theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def their_loss(folder: Path) -> float:
    """Nats per taught token of the validation chats, each alone, by `transformers` itself."""
    model, tokenizer = theirs(folder), Tokenizer.load(folder)
    nats, count = 0.0, 0
    for chat in questions(54)[48:]:
        question, answer = (message["content"] for message in chat["messages"])
        before = [*tokenizer.encode(f"user: {question}"), 0, *tokenizer.encode("assistant: ")]
        taught = [*tokenizer.encode(answer), 0]
        ids = torch.tensor([before + taught])
        labels = ids.clone()
        labels[0, : len(before)] = -100
        with torch.no_grad():
            nats += model(input_ids=ids, labels=labels).loss.item() * len(taught)
        count += len(taught)
    return nats / count


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_resumes_to_the_bit_and_its_loss_is_transformers_own(
    tmp_path: Path, family: str
) -> None:
    base = make_foreign(tmp_path, family)
    straight, torn = (make_run(tmp_path / n, *OFTEN, recipe=FULL) for n in ("straight", "torn"))
    train(straight)
    first, last = (event["loss"] for event in events(straight, "validation"))
    assert last < first / 2
    assert first == pytest.approx(their_loss(base), rel=1e-5)
    assert last == pytest.approx(their_loss(straight.output / "model"), rel=1e-5)
    train(torn)
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")[0]["step"] == 24
    assert same_bits(straight, torn)
    assert theirs(straight.output / "model").config.model_type == family
    ChatTemplate.load(straight.output / "model")
    shares = [event["mfu"] for event in events(straight, "step")]
    # Four decimals: so small a model's step that had to wait may have none of them.
    assert 0 <= min(shares) <= max(shares) < 1
    assert max(shares) > 0


def test_lora_leaves_an_adapter_that_peft_opens_on_its_base(tmp_path: Path) -> None:
    base = make_foreign(tmp_path, "olmo2")
    run = make_run(tmp_path / "run", *OFTEN, "recompute=layers", "lora.dropout=0.1")
    train(run)
    first, last = (event["loss"] for event in events(run, "validation"))
    assert last < first
    opened = peft.PeftModel.from_pretrained(theirs(base), run.output / "adapter")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = theirs(run.output / "model")(ids).logits
        torch.testing.assert_close(opened(ids).logits, expected, rtol=0, atol=1e-4)
        assert (theirs(base)(ids).logits - expected).abs().max() > 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dpo_distillation_and_mixtures_take_it_as_it_is(tmp_path: Path, precision: str) -> None:
    make_foreign(tmp_path, "stablelm")
    make_pairs(tmp_path / "pairs")
    shared = (
        f'minutes = 1\nsteps = 12\nprecision = "{precision}"\nmodel.name = "tiny"\n'
        "batch.sequence_length = 128\nbatch.rows = 4\noptimizer.learning_rate = 0.01\n"
        "evaluation.times = 1\nevaluation.sample_tokens = 2\n"
    )
    recipes = {
        "dpo": 'objective = "dpo"\ndata.name = "pairs"\n',
        "distill": 'objective = "distill"\ndata.name = "colors"\ndistill.teacher = "llama"\n',
        "mixture": 'objective = "mixture"\n'
        + '[[mixture]]\nobjective = "sft"\ndata.name = "colors"\n' * 2,
    }
    for name, recipe in recipes.items():
        run = plan(tmp_path / name, loads(shared + recipe, TrainRecipe))
        train(run)
        first, last = (event["loss"] for event in events(run, "validation"))
        assert last < first, name
        theirs(run.output / "model")


def plan(folder: Path, loaded: Any) -> RunFolder:
    beside = folder.parent
    facts = {
        "kind": "train", "name": folder.name, "threads": 1,
        "model": {"path": str(beside / "model"), "digest": "sha256:0", "name": "tiny"},
        "datasets": {
            "colors": {"path": str(beside / "dataset"), "digest": "sha256:1"},
            "pairs": {"path": str(beside / "pairs"), "digest": "sha256:2"},
        },
        "models": {"llama": {"path": str(beside / "llama"), "digest": "sha256:3"}},
    }  # fmt: skip
    return RunFolder.create(folder, dumps(loaded.recipe), facts)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_counts_every_product(tmp_path: Path, family: str) -> None:
    decoder = load_foreign(make_foreign(tmp_path, family))
    cost = step_cost(decoder)
    assert cost.flops(sum(LENGTHS), TARGETS, []) == pytest.approx(counted(decoder), rel=1e-9)
    assert cost.per_square == 3 * 2 * 4 * (8 + 8)


def test_what_the_loop_cannot_keep_is_refused(tmp_path: Path) -> None:
    make_foreign(tmp_path, "stablelm", attention_dropout=0.1)
    run = make_run(tmp_path / "tree", 'deterministic="any-world-size"', recipe=FULL)
    with pytest.raises(InvalidInput, match="this stablelm has dropout"):
        train(run)
    run = make_run(tmp_path / "reward", 'objective="reward"', recipe=FULL)
    with pytest.raises(InvalidInput, match="a reward model is made of a native family"):
        train(run)
