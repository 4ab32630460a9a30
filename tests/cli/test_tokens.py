"""`bessemer data tokenize` and `bessemer data seen`: texts in, and which steps read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.app.platform import Platform
from bessemer.app.training import submit_train
from bessemer.core.recipes import loads
from bessemer.core.train_recipe import TrainRecipe
from bessemer.text.bpe import train_bpe
from tests.cli.calling import say

RECIPE = """
objective = "pretrain"
minutes = 1
steps = 12
model.depth = 1
data.name = "novel"
batch.sequence_length = 64
batch.rows = 2
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of texts with a tokenizer beside it, tokenized as `novel`."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"Chapter {number}. " + "It rained again. " * 8)
    train_bpe(["Chapter 1. It rained again. "], 280, tmp_path / "tokenizer")
    return folder


def tokenize(texts: Path, *more: str) -> tuple[str, ...]:
    tokenizer = str(texts.parent / "tokenizer")
    return ("data", "tokenize", str(texts), "--tokenizer", tokenizer, "--name", "novel", *more)


def test_texts_become_a_dataset_that_is_listed(texts: Path) -> None:
    said = say(*tokenize(texts, "--licence", "CC0-1.0"))
    assert said.status == 0
    assert said.out.startswith("novel  ")
    assert "train" in said.out
    assert "tokens" in said.out
    again = say(*tokenize(texts, "--json")).json
    assert again["info"]["kind"] == "tokens"
    assert sum(again["info"]["counts"].values()) == 60
    (listed,) = say("data", "list", "--json").json
    assert (listed["name"], listed["kind"]) == ("novel", "dataset")


@pytest.fixture
def run_id(texts: Path) -> str:
    """A run over `novel` that has begun: its steps are known, and five were taken."""
    assert say(*tokenize(texts)).status == 0
    recipe = loads(RECIPE, TrainRecipe).recipe
    with Platform.open() as platform:
        run = submit_train(platform, platform.local_principal(), recipe, threads=1)
    (run.path / "resolved.toml").write_text(run.recipe.read_text())
    log = run.open_log()
    for step in range(1, 6):
        log.write("step", step=step, loss=1.0)
    log.close()
    return run.run_id


def test_the_steps_that_see_a_document_are_told(run_id: str) -> None:
    found = say("data", "seen", run_id, "7.txt", "--json").json
    (by,) = found["by"]
    assert (found["last_step"], found["steps"], by["split"]) == (5, 12, "train")
    assert all(step <= 5 for step in by["taken"])
    assert all(5 < step <= 12 for step in by["to_come"])
    said = say("data", "seen", run_id, "7.txt").out
    assert said.startswith(f"pretrain on novel: {by['tokens']} tokens\n")
    assert f"taken    {len(by['taken']):>6} steps" in said
    assert f"to come  {len(by['to_come']):>6} steps" in said


def test_a_held_out_document_is_seen_by_no_step(run_id: str) -> None:
    answers = [say("data", "seen", run_id, f"{number}.txt").out for number in range(60)]
    held_out = [answer for answer in answers if "split" in answer]
    assert held_out
    assert all("which no step learns from" in answer for answer in held_out)


def test_an_unknown_document_is_refused_with_those_near_it(run_id: str) -> None:
    said = say("data", "seen", run_id, "7.TXT")
    assert (said.status, said.out) == (1, "")
    assert "none of the 60 documents of this run is called '7.TXT'; near it: " in said.err
    assert "7.txt" in said.err
    assert "next: " in said.err
