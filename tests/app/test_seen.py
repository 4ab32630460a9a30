"""Which steps saw a document: the inverse of the data order says what looking at each step does."""

from __future__ import annotations

import json
import string
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.app import jobs
from bessemer.app.platform import Platform
from bessemer.app.seen import progress, ranges, seen
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.recipes import dumps, load, loads
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.corpus import Document, Split, split_of
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.shapes import PREFERENCES
from bessemer.data.tokenizing import tokenize
from bessemer.models.folder import load_decoder
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.loop import train
from bessemer.train.opening import open_schedule
from bessemer.train.task import Setting
from tests.fakes import FakeEngine
from tests.train.tiny import make_dataset, make_model
from tests.train.tiny_pairs import pair

LENGTH = 32
COMMON = f"""
minutes = 1
precision = "fp32"
model.name = "tiny"
lora.rank = 2
batch.sequence_length = {LENGTH}
batch.rows = 2
evaluation.times = 1
evaluation.rows = 1
evaluation.sample_tokens = 0
"""
TEXTS = "[data]\nname = 'texts'\n"
CHATS = "[data]\nname = 'chats'\n"
MIXTURE = """
[[mixture]]
objective = "sft"
data.name = "chats"
weight = 2.0
[[mixture]]
objective = "pretrain"
data.name = "texts"
weight = 1.0
"""


def documents() -> list[Document]:
    """Texts of one letter each, so that a scan knows every token of a row."""
    lengths = (5 + 7 * number % 60 for number in range(26))
    return [
        Document(f"t/{letter}.txt", letter * length, "MIT")
        for letter, length in zip(string.ascii_uppercase, lengths, strict=True)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a dataset of texts, one of chats and one of pairs."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    make_model(folder / "model", layers=1)
    make_dataset(folder / "chats", train=24, validation=4)
    make_pairs_of(folder / "pairs")
    tokenize(documents(), folder / "model", folder / "texts", source="texts")
    return folder


def make_pairs_of(folder: Path) -> None:
    """Pairs 0, 5, 10 ... are of document 0, pairs 1, 6, 11 ... of document 1."""
    splits: list[Split] = ["train"] * 20 + ["validation"] * 4
    rows = [Row(split, pair(i), f"document {i % 5}") for i, split in enumerate(splits)]
    write_dataset(folder, rows, [], {"name": "pairs"}, PREFERENCES)


def submit(platform: Platform, owner: Principal, made: Path, recipe: str, steps: int) -> RunFolder:
    resolved = loads(recipe, TrainRecipe, [f"steps={steps}"]).recipe
    plan: dict[str, Any] = {"threads": 1, "models": {}}
    plan["model"] = {"path": str(made / "model"), "digest": "sha256:0", "name": "tiny"}
    plan["datasets"] = {
        name: {"path": str(made / name), "digest": "sha256:1", "name": name}
        for name in resolved.dataset_names
    }
    return jobs.submit(platform, owner, "train", "run", dumps(resolved), plan)


def texts_of_steps(run: RunFolder) -> dict[str, list[str]]:
    """Task -> for each step, what its rows say, made step by step as the loop does."""
    recipe, plan = load(run.path / "resolved.toml", TrainRecipe).recipe, run.plan()
    model = Path(plan["model"]["path"])
    tokenizer = Tokenizer.load(model)
    setting = Setting(recipe, plan, run.path, tokenizer, lambda *_, **__: None)
    schedule = open_schedule(setting, load_decoder(model))
    assert recipe.steps is not None
    found: dict[str, list[str]] = defaultdict(lambda: [""] * (recipe.steps or 0))
    for step in range(1, recipe.steps + 1):
        for part in schedule.parts(step, recipe):
            # The last target tells whose start token a row may end with.
            texts = (tokenizer.decode([*row.ids, row.targets[-1]]) for row in part.rows)
            found[part.task.name][step - 1] = " | ".join(texts)
    return found


def scan(texts: list[str], *words: str) -> list[int]:
    """Steps that say any of these words."""
    return [n for n, text in enumerate(texts, start=1) if any(word in text for word in words)]


def test_a_text_is_seen_by_the_steps_that_a_scan_finds(
    platform: Platform, owner: Principal, made: Path
) -> None:
    run = submit(platform, owner, made, f'objective = "pretrain"\n{COMMON}{TEXTS}', steps=60)
    train(run)
    texts = texts_of_steps(run)["pretrain"]
    for document in documents():
        (by,) = seen(platform, owner, run.run_id, document.id).by
        assert by.split == split_of(document.id)
        assert by.taken == scan(texts, document.text[0])
        assert by.to_come == []
        assert by.pieces == (by.split == "train")
        assert by.epochs > 2


def test_the_document_of_a_chat_is_seen_by_the_steps_that_a_scan_finds(
    platform: Platform, owner: Principal, made: Path
) -> None:
    run = submit(platform, owner, made, f'objective = "sft"\n{COMMON}{CHATS}', steps=20)
    train(run)
    texts = texts_of_steps(run)["sft"]
    for line in (1, 7, 24):
        (by,) = seen(platform, owner, run.run_id, f"train-{line}").by
        assert by.taken == scan(texts, f"number {line - 1}?") != []
        assert (by.task, by.dataset, by.pieces, by.split) == ("sft", "chats", 1, "train")
    (by,) = seen(platform, owner, run.run_id, "validation-2").by
    assert (by.taken, by.pieces, by.split) == ([], 0, "validation")


def test_a_chat_that_a_teacher_answered_is_seen_by_the_steps_that_a_scan_finds(
    platform: Platform, owner: Principal, made: Path
) -> None:
    def engine_of(_network: Any) -> FakeEngine:
        """Says the last byte of a question again; to every third it has nothing to say."""
        return FakeEngine(lambda request: request.prompt_ids[-7:-6] * (len(engines.pop()) % 3))

    engines = [" " * n for n in range(99)]
    recipe = f'objective = "distill"\n{COMMON}{CHATS}[distill]\nteacher = "tiny"\nsignal = "text"\n'
    run = submit(platform, owner, made, recipe, steps=20)
    plan = run.plan()
    plan["models"] = {"tiny": plan["model"]}
    (run.path / "plan.json").write_text(json.dumps(plan))
    train(run, engine_of)
    texts = texts_of_steps(run)["distill"]
    found = {}
    for line in range(1, 25):
        (by,) = seen(platform, owner, run.run_id, f"train-{line}").by
        assert by.taken == scan(texts, f"number {line - 1}?")
        found[line] = by.pieces
    assert 0 < sum(found.values()) < 24


def test_each_task_of_a_mixture_answers_for_its_own_data(
    platform: Platform, owner: Principal, made: Path
) -> None:
    run = submit(platform, owner, made, f'objective = "mixture"\n{COMMON}{MIXTURE}', steps=40)
    train(run)
    texts = texts_of_steps(run)
    (by,) = seen(platform, owner, run.run_id, "train-3").by
    assert by.taken == scan(texts["0-sft"], "number 2?") != []
    for document in documents():
        (by,) = seen(platform, owner, run.run_id, document.id).by
        assert (by.task, by.dataset) == ("1-pretrain", "texts")
        assert by.taken == scan(texts["1-pretrain"], document.text[0])


def test_steps_are_taken_up_to_the_last_and_the_others_come(
    platform: Platform, owner: Principal, made: Path
) -> None:
    run = submit(platform, owner, made, f'objective = "sft"\n{COMMON}{CHATS}', steps=30)
    whole = loads(run.recipe.read_text(), TrainRecipe).recipe
    (run.path / "resolved.toml").write_text(dumps(whole))
    log = run.open_log()
    for step in range(1, 11):
        log.write("step", step=step, loss=1.0)
    found = seen(platform, owner, run.run_id, "train-7")
    (by,) = found.by
    steps = scan(texts_of_steps(run)["sft"], "number 6?")
    assert (found.last_step, found.steps) == (10, 30)
    assert by.taken == [step for step in steps if step <= 10]
    assert by.to_come == [step for step in steps if step > 10] != []
    left_out = by.taken[0]
    log.write("resumed", step=left_out - 1, exact=True)  # it was killed, and goes on from there
    assert progress(run).last_step == left_out - 1
    log.write("skipped", step=left_out, what="a spike")
    log.write("step", step=left_out, loss=9.0)
    (by,) = seen(platform, owner, run.run_id, "train-7").by
    assert (by.taken, by.left_out) == ([], [left_out])
    assert by.to_come == steps[1:]
    log.write("resumed", step=left_out - 1, exact=True)
    log.write("step", step=left_out, loss=1.0)
    log.close()
    assert progress(run) == (left_out, frozenset())


def test_a_document_of_pairs_is_seen_by_the_steps_that_a_scan_finds(
    platform: Platform, owner: Principal, made: Path
) -> None:
    recipe = f'objective = "dpo"\n{COMMON}[data]\nname = "pairs"\n'
    recipe = recipe.replace(f"sequence_length = {LENGTH}", "sequence_length = 96")
    run = submit(platform, owner, made, recipe, steps=8)
    train(run)
    (by,) = seen(platform, owner, run.run_id, "document 3").by
    asked = [f"number {number}?" for number in range(3, 20, 5)]
    assert by.taken == scan(texts_of_steps(run)["dpo"], *asked) != []
    assert (by.pieces, by.split) == (4, "")


def test_pairs_are_seen_again_when_the_steps_pass_what_the_reference_covers(
    platform: Platform, owner: Principal, made: Path
) -> None:
    recipe = f'objective = "dpo"\n{COMMON}[data]\nname = "pairs"\n'
    recipe = recipe.replace(f"sequence_length = {LENGTH}", "sequence_length = 96")
    run = submit(platform, owner, made, recipe, steps=2)
    train(run)  # its reference covers the four rows of two steps
    longer = load(run.path / "resolved.toml", TrainRecipe, ["steps=9"]).recipe
    (run.path / "resolved.toml").write_text(dumps(longer))
    texts = texts_of_steps(run)["dpo"]
    assert texts[0] == texts[2] == texts[4] != texts[1] == texts[3]
    for document in range(5):
        (by,) = seen(platform, owner, run.run_id, f"document {document}").by
        asked = [f"number {number}?" for number in range(document, 20, 5)]
        assert by.taken + by.to_come == scan(texts, *asked)
        assert by.epochs == 18 / 4


def test_an_unknown_document_is_answered_with_those_near_it(
    platform: Platform, owner: Principal, made: Path
) -> None:
    run = submit(platform, owner, made, f'objective = "pretrain"\n{COMMON}{TEXTS}', steps=1)
    with pytest.raises(Conflict, match="has not begun"):
        seen(platform, owner, run.run_id, "t/B.txt")
    (run.path / "resolved.toml").write_text(run.recipe.read_text())
    with pytest.raises(NotFound, match=r"none of the 26 documents .* near it: .*t/B\.txt"):
        seen(platform, owner, run.run_id, "T/B.txt")
    with pytest.raises(NotFound, match=r"near it: t/C"):
        seen(platform, owner, run.run_id, "files/C.txt")
    with pytest.raises(NotFound, match="called 'zzz'\n"):
        seen(platform, owner, run.run_id, "zzz")
    with pytest.raises(NotFound, match="there is no run"):
        seen(platform, owner, "run_0", "t/B.txt")


def test_only_training_with_an_order_can_be_asked(
    platform: Platform, owner: Principal, made: Path
) -> None:
    evaluation = jobs.submit(platform, owner, "eval", "mine", "", {})
    with pytest.raises(InvalidInput, match="a run of kind eval"):
        seen(platform, owner, evaluation.run_id, "a")
    run = submit(platform, owner, made, f'objective = "reptile"\n{COMMON}{CHATS}', steps=1)
    (run.path / "resolved.toml").write_text(run.recipe.read_text())
    with pytest.raises(InvalidInput, match="reptile draws its data anew"):
        seen(platform, owner, run.run_id, "a")


def test_unbroken_stretches_are_told_as_ranges() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]
    assert ranges([]) == []
