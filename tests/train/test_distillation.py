"""Distillation: the divergence is the library's, the teacher is asked once, the student follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.core.recipes import dumps, loads
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.material import chat_material
from bessemer.models.folder import load_decoder
from bessemer.train.loop import train
from bessemer.train.objectives.distillation import Direction, divergence
from bessemer.train.teacher import Teacher
from tests.train.test_loop import events, same_bits
from tests.train.tiny import make_dataset, make_model

RECIPE = """
objective = "distill"
minutes = 1
steps = 60
precision = "fp32"
model.name = "student"
data.name = "colors"
distill.teacher = "teacher"
distill.top_k = 8
batch.sequence_length = 64
batch.rows = 2
optimizer.learning_rate = 0.01
evaluation.times = 1
evaluation.sample_tokens = 4
"""


def case(seed: int, targets: int, width: int, vocab: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (
        torch.randn(n, width, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (targets, vocab)
    )
    teacher = torch.randn(targets, vocab, generator=generator, dtype=torch.float64) * 2
    ids = torch.randint(0, vocab, (targets,), generator=generator)
    return hidden, head, teacher, ids


@settings(deadline=None)
@given(
    seed=st.integers(0, 999),
    targets=st.integers(1, 9),
    vocab=st.integers(2, 20),
    direction=st.sampled_from(["forward", "reverse"]),
    temperature=st.sampled_from([1.0, 2.5]),
    rows=st.integers(1, 10),
)
def test_with_all_tokens_value_and_gradients_equal_the_librarys(
    seed: int, targets: int, vocab: int, direction: Direction, temperature: float, rows: int
) -> None:
    hidden, head, teacher, ids = case(seed, targets, 5, vocab)
    logp = (teacher / temperature).log_softmax(1)
    top = logp.topk(vocab, dim=1)
    kl, nats = divergence(
        hidden, head, ids, top.indices, top.values, direction=direction,
        temperature=temperature, chunk_elements=rows * vocab,
    )  # fmt: skip
    logq = (hidden @ head.T / temperature).log_softmax(1)
    of, to = (logq, logp) if direction == "forward" else (logp, logq)
    expected = F.kl_div(of, to, reduction="sum", log_target=True)
    assert abs(kl.item() - expected.item()) < 1e-9
    data = F.cross_entropy(hidden @ head.T, ids, reduction="sum")
    assert abs(nats.item() - data.item()) < 1e-9
    for mine, theirs in zip(
        torch.autograd.grad(kl + 0.3 * nats, (hidden, head)),
        torch.autograd.grad(expected + 0.3 * data, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@settings(deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 11))
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_with_few_tokens_it_is_a_lower_bound_that_k_tightens(
    direction: Direction, seed: int, k: int
) -> None:
    hidden, head, teacher, ids = case(seed, 6, 5, 12)
    logp = teacher.log_softmax(1)
    found = {}
    for kept in (k, k + 1):
        top = logp.topk(kept, dim=1)
        found[kept], _ = divergence(
            hidden, head, ids, top.indices, top.values, direction=direction, temperature=1.0
        )
    assert -1e-9 <= found[k].item() <= found[k + 1].item() + 1e-9


def make_distill_run(folder: Path, *overrides: str) -> RunFolder:
    root = folder.parent
    if not (root / "teacher").exists():
        make_model(root / "student")
        make_dataset(root / "dataset")
        teach(root)
    recipe = loads(RECIPE, TrainRecipe, overrides).recipe
    paths = {name: {"path": str(root / name), "digest": f"sha256:{name}", "name": name}
             for name in ("student", "teacher")}  # fmt: skip
    dataset = {"path": str(root / "dataset"), "digest": "sha256:1", "name": "colors"}
    plan = {
        "kind": "train", "name": folder.name, "threads": 1, "model": paths["student"],
        "datasets": {"colors": dataset}, "models": {"teacher": paths["teacher"]},
    }  # fmt: skip
    return RunFolder.create(folder, dumps(recipe), plan)


def teach(root: Path) -> None:
    """The teacher is the student after some supervised steps."""
    text = RECIPE.replace('"distill"', '"sft"').replace('distill.teacher = "teacher"\n', "")
    recipe = loads(text.replace("distill.top_k = 8\n", ""), TrainRecipe, ["steps=80"]).recipe
    dataset = {"path": str(root / "dataset"), "digest": "sha256:1", "name": "colors"}
    student = {"path": str(root / "student"), "digest": "sha256:0", "name": "student"}
    plan = {"kind": "train", "name": "t", "threads": 1, "model": student, "models": {},
            "datasets": {"colors": dataset}}  # fmt: skip
    run = RunFolder.create(root / "teaching", dumps(recipe), plan)
    train(run)
    (run.output / "model").rename(root / "teacher")


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_student_comes_close_to_its_teacher(tmp_path: Path, direction: str) -> None:
    run = make_distill_run(tmp_path / "run", f"distill.direction={direction}")
    train(run)
    first, last = (event["kl"] for event in events(run, "validation"))
    assert last < first / 5
    (result,) = events(run, "result")
    assert (result["measure"], result["after"]) == ("kl", last)


def test_the_teacher_is_asked_once_for_each_row_and_torn_files_again(tmp_path: Path) -> None:
    run = make_distill_run(tmp_path / "run")
    recipe = loads(RECIPE, TrainRecipe).recipe
    network = load_decoder(tmp_path / "teacher")
    material = chat_material(recipe, tmp_path / "dataset", tmp_path / "student")

    def teacher(temperature: float = 1.0) -> Teacher:
        return Teacher(network, "d", run.path / "said", top_k=8, temperature=temperature,
                       vocabulary=len(network.head_weight))  # fmt: skip

    row = material.train.row(0)
    first = teacher()
    said = first.likeliest(row)
    assert (first.likeliest(row).ids == said.ids).all() and first.asked == 1
    again = teacher()
    assert (again.likeliest(row).logprobs == said.logprobs).all() and again.asked == 0
    (file,) = (run.path / "said").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    torn = teacher()
    assert (torn.likeliest(row).ids == said.ids).all() and torn.asked == 1
    other = teacher(temperature=2.0)
    assert (other.likeliest(row).logprobs != said.logprobs).any() and other.asked == 1


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    often = ("steps=8", "checkpoints.every_s=0.000001", "distill.data_weight=0.3")
    straight, torn = (make_distill_run(tmp_path / name, *often) for name in ("straight", "torn"))
    train(straight)
    train(torn)
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")
    assert same_bits(straight, torn)


def test_a_teacher_of_other_tokens_is_refused(tmp_path: Path) -> None:
    run = make_distill_run(tmp_path / "run")
    other = make_model(tmp_path / "other", layers=1)

    text = (other / "tokenizer.json").read_text().replace("fim_middle", "fim_center")
    (tmp_path / "teacher" / "tokenizer.json").write_text(text)
    with pytest.raises(InvalidInput, match="need the same tokens"):
        train(run)
