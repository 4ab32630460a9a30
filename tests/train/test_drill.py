"""kill -9 at random moments, again and again: the same bits as a run left alone."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from bessemer.core.runs import RunFolder
from bessemer.train.loop import train
from tests.train.test_loop import events, same_bits, start
from tests.train.tiny import RECIPE, make_run

FULL = RECIPE.replace("lora.rank = 4\n", "")
COMMON = ("steps=60", "checkpoints.every_s=0.000001", "evaluation.times=3", "evaluation.rows=4")


def kill_until_done(run: RunFolder, kills: int, random_: random.Random) -> int:
    """Kill the run at random moments of its life, `kills` times, then let it end."""
    done = 0
    while done < kills:
        process = start(run)
        offset = len(run.read())
        while process.poll() is None and len(run.read()) <= offset + 1:
            time.sleep(0.002)  # past the imports: the rest of its life is what is tested
        time.sleep(random_.random() * 0.35)
        if process.poll() is None:
            process.kill()
            done += 1
        process.wait()
        if run.state() == "succeeded":
            break
    if run.state() != "succeeded":
        assert start(run).wait(120) == 0
    return done


def drill(tmp_path: Path, recipe: str, overrides: tuple[str, ...], kills: int, seed: int) -> None:
    straight = make_run(tmp_path / "straight", *COMMON, *overrides, recipe=recipe)
    killed = make_run(tmp_path / "killed", *COMMON, *overrides, recipe=recipe)
    train(straight)
    found = kill_until_done(killed, kills, random.Random(seed))
    assert found == kills, f"the run was done after {found} kills"
    resumed = [event["step"] for event in events(killed, "resumed")]
    assert resumed == sorted(resumed)
    assert same_bits(straight, killed)


def test_a_few_kills_change_nothing(tmp_path: Path) -> None:
    drill(tmp_path, RECIPE, ("steps=120",), kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        pytest.param(RECIPE, (), id="lora"),
        pytest.param(FULL, ('optimizer.kind="muon"', "precision=bf16"), id="full-muon-bf16"),
        pytest.param(FULL, (), id="full-adamw"),
    ],
)
def test_many_kills_change_nothing(tmp_path: Path, recipe: str, overrides: tuple[str, ...]) -> None:
    drill(tmp_path, recipe, ("steps=1500", *overrides), kills=8, seed=len(overrides))
