"""Distillation from text: the teacher is asked once, no more than needed, and is followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.core.errors import InvalidInput, RecipeError
from bessemer.core.protocols import GenerateRequest
from bessemer.core.recipes import dumps, loads
from bessemer.core.runs import RunFolder, StopRequested
from bessemer.core.train_recipe import TrainRecipe
from bessemer.inference.live import NativeLiveEngine
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from bessemer.text.bpe import train_bpe
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.loop import train
from bessemer.train.sample import greedy
from tests.fakes import FakeEngine
from tests.train.test_loop import events, same_bits
from tests.train.tiny import COLORS, make_dataset, make_model, questions

RECIPE = """
minutes = 1
precision = "fp32"
data.name = "colors"
batch.sequence_length = 64
batch.rows = 2
optimizer.learning_rate = 0.01
evaluation.times = 1
evaluation.sample_tokens = 4
"""
STUDENT = (
    """
objective = "distill"
model.name = "student"
distill.teacher = "teacher"
distill.signal = "text"
distill.answer_tokens = 16
"""
    + RECIPE
)
LIE = "It is 7."
OTHER_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}<|endoftext|>"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def make_teacher(folder: Path) -> Path:
    """Other tokens and another template than the student's."""
    texts = [f"It is {color}. Which color has number 0123456789?" for color in COLORS]
    tokenizer = train_bpe([*texts, "[user][assistant]"], 310, folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, layers=2, heads=4,
        kv_heads=2, head_dim=8, context_length=128, tied=True, initializer_range=0.3,
    )  # fmt: skip
    save_decoder(Decoder(config).init_weights(3), folder)
    (folder / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    return folder


def make_run(folder: Path, *overrides: str, recipe: str = STUDENT) -> RunFolder:
    root = folder.parent
    if not (root / "student").exists():
        make_model(root / "student")
        make_teacher(root / "teacher")
        make_dataset(root / "dataset", train=90, validation=12)
    resolved = loads(recipe, TrainRecipe, overrides).recipe
    paths = {name: {"path": str(root / name), "digest": f"sha256:{name}", "name": name}
             for name in ("student", "teacher")}  # fmt: skip
    dataset = {"path": str(root / "dataset"), "digest": "sha256:1", "name": "colors"}
    plan = {
        "kind": "train", "name": folder.name, "threads": 1, "model": paths["student"],
        "datasets": {"colors": dataset}, "models": {"teacher": paths["teacher"]},
    }  # fmt: skip
    if 'model.name = "teacher"' in recipe:
        plan["model"] = paths["teacher"]
    return RunFolder.create(folder, dumps(resolved), plan)


def lie(dataset: Path) -> None:
    """Give every question of a dataset the same answer."""
    for path in dataset.glob("*.jsonl"):
        text = path.read_text()
        for color in COLORS:
            text = text.replace(f"It is {color}.", LIE)
        path.write_text(text)


def says(folder: Path, number: int) -> str:
    """The model's greedy answer to one question."""
    tokenizer, template = Tokenizer.load(folder), ChatTemplate.load(folder)
    question = questions(number + 1)[number]["messages"][:1]
    prompt = encode_prompt(question, tokenizer, template)
    return tokenizer.decode(greedy(load_decoder(folder), prompt, 16, tokenizer.eos_ids))


def test_a_student_answers_as_its_teacher_of_other_tokens(tmp_path: Path) -> None:
    teaching = RECIPE + 'objective = "sft"\nmodel.name = "teacher"\n'
    lesson = make_run(tmp_path / "lesson", "steps=60", recipe=teaching)
    colors = tmp_path / "dataset"
    colors.rename(tmp_path / "kept")
    lie(make_dataset(colors, train=90, validation=12))
    train(lesson)
    for folder in (colors, tmp_path / "teacher"):
        folder.rename(tmp_path / f"old-{folder.name}")
    (tmp_path / "kept").rename(colors)
    (lesson.output / "model").rename(tmp_path / "teacher")
    run = make_run(tmp_path / "run", "steps=80")
    train(run, NativeLiveEngine)
    first, last = (event["loss"] for event in events(run, "validation"))
    assert last < first / 3
    asked = range(90, 102)
    folders = (tmp_path / "student", run.output / "model", tmp_path / "teacher")
    before, after, wanted = ([says(folder, n) for n in asked] for folder in folders)
    assert set(wanted) == {LIE}  # which stands nowhere in the student's data
    assert LIE not in before
    assert after == wanted
    assert events(run, "progress")[-1]["stage"] == "answers"


class Speaking:
    """Makes engines that say one text, and counts what they are asked."""

    def __init__(self, folder: Path, text: str, stop_after: int | None = None) -> None:
        tokenizer = Tokenizer.load(folder)
        self._ids = [*tokenizer.encode(text), *sorted(tokenizer.eos_ids)]
        self._stop_after = stop_after
        self.asked: list[str] = []

    def __call__(self, network: Any) -> Any:
        assert isinstance(network, Decoder)
        return FakeEngine(self._answer)

    def _answer(self, request: GenerateRequest) -> Sequence[int]:
        if self._stop_after is not None and len(self.asked) >= self._stop_after:
            raise StopRequested
        self.asked.append(request.request_id)
        return self._ids


def test_a_killed_run_asks_again_about_one_piece_at_most(tmp_path: Path) -> None:
    straight, torn = (make_run(tmp_path / name, "steps=30") for name in ("straight", "torn"))
    whole = Speaking(tmp_path / "teacher", "It is red.")
    train(straight, whole)
    assert len(whole.asked) == len(set(whole.asked))
    cut = Speaking(tmp_path / "teacher", "It is red.", stop_after=50)
    with pytest.raises(StopRequested):
        train(torn, cut)
    rest = Speaking(tmp_path / "teacher", "It is red.")
    train(torn, rest)
    kept = set(cut.asked) - set(rest.asked)
    assert len(kept) == 12 + 32
    assert kept | set(rest.asked) == set(whole.asked)
    again = Speaking(tmp_path / "teacher", "another")
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn, again)
    assert again.asked == []
    assert same_bits(straight, torn)


def test_no_more_are_asked_than_the_steps_can_hold(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "steps=2", "evaluation.rows=1")
    speaking = Speaking(tmp_path / "teacher", "It is red.")
    train(run, speaking)
    # A question and its answer take some 20 tokens: two steps of two rows of 64 hold 12 of them.
    assert sum(name.startswith("train") for name in speaking.asked) == 32
    speaking = Speaking(tmp_path / "teacher", "It is red.")
    train(make_run(tmp_path / "more", "steps=30", "evaluation.rows=1"), speaking)
    assert sum(name.startswith("train") for name in speaking.asked) == 90


def test_answers_that_are_cut_off_or_empty_are_left_out_and_counted(tmp_path: Path) -> None:
    class Mixed(Speaking):
        def _answer(self, request: GenerateRequest) -> Sequence[int]:
            said = list(super()._answer(request))
            kinds: list[Callable[[], list[int]]] = [
                lambda: said, lambda: said[:-1] * 9, lambda: said[-1:],
            ]  # fmt: skip
            return kinds[int(request.request_id.split("-")[1]) % 3]()

    run = make_run(tmp_path / "run", "steps=20")
    train(run, Mixed(tmp_path / "teacher", "It is red."))
    (plan,) = events(run, "plan")
    assert (plan["train_chats"], plan["validation_chats"]) == (30, 4)
    assert plan["answers_left_out"] == 2 * (30 + 4)


def test_without_an_engine_or_with_keys_that_nothing_reads_it_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "steps=2")
    with pytest.raises(InvalidInput, match="comes from an engine") as caught:
        train(run)
    assert "bessemer train" in str(caught.value.next_step)
    with pytest.raises(RecipeError, match=r"nothing reads distill\.top_k"):
        loads(STUDENT, TrainRecipe, ["distill.top_k=3"])
    logits = STUDENT.replace('"text"', '"logits"')
    with pytest.raises(RecipeError, match=r"nothing reads distill\.answer_tokens"):
        loads(logits, TrainRecipe, [])


def test_sampled_answers_differ_between_chats_and_not_between_runs(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        run = make_run(tmp_path / name, "steps=1", "distill.answer_temperature=1.0",
                       "distill.answer_tokens=60")  # fmt: skip
        torch.manual_seed(len(name))
        train_or_stop(run)
        files = sorted(run.path.glob("answers-*/*.jsonl"))
        texts.append("".join(file.read_text() for file in files))
    assert texts[0] == texts[1]
    assert len(set(texts[0].splitlines())) > 10


def train_or_stop(run: RunFolder) -> None:
    """A random teacher may have said nothing worth teaching; its words are on disk all the same."""
    try:
        train(run, NativeLiveEngine)
    except InvalidInput as fault:
        assert "has no chat" in fault.message
