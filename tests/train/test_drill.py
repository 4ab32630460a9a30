"""kill -9 at random moments, again and again: the same bits as a run left alone.

A checkpoint falls due after every step, so that one is being written nearly all the time.
"""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from bessemer.core.runs import RunFolder
from bessemer.train.loop import train
from tests.train.test_loop import events, same_bits, start
from tests.train.tiny import RECIPE, make_run

FULL = RECIPE.replace("lora.rank = 4\n", "")
COMMON = ("steps=60", "checkpoints.every_s=0.000001", "evaluation.times=3", "evaluation.rows=4")


class Killed(NamedTuple):
    """How often, and how often that left a half-written checkpoint."""

    times: int
    while_writing: int


def kill_until_done(run: RunFolder, kills: int, random_: random.Random) -> Killed:
    """Kill the run at random moments of its life, `kills` times, then let it end."""
    done = while_writing = 0
    while done < kills:
        process = start(run)
        offset = len(run.read())
        while process.poll() is None and len(run.read()) <= offset + 1:
            time.sleep(0.002)  # past the imports: the rest of its life is what is tested
        if done % 2:
            wait_for_writing(run, process, offset)
        else:
            time.sleep(random_.random() * 0.35)
        if process.poll() is None:
            process.kill()
            done += 1
        process.wait()
        while_writing += saved_since(run, offset) and is_writing(run)
        if run.state() == "succeeded":
            break
    if run.state() != "succeeded":
        assert start(run).wait(120) == 0
    return Killed(done, while_writing)


def wait_for_writing(run: RunFolder, process: subprocess.Popen[bytes], offset: int) -> None:
    # Before the first checkpoint of a life, half of one may be left from the life before.
    while process.poll() is None and not (saved_since(run, offset) and is_writing(run)):
        time.sleep(0.0005)


def saved_since(run: RunFolder, offset: int) -> bool:
    return any(event["kind"] == "checkpoint" for event in run.read()[offset:])


def is_writing(run: RunFolder) -> bool:
    return any(run.checkpoints.glob(".step-*.tmp"))


def drill(tmp_path: Path, recipe: str, overrides: tuple[str, ...], kills: int, seed: int) -> Killed:
    straight = make_run(tmp_path / "straight", *COMMON, *overrides, recipe=recipe)
    killed = make_run(tmp_path / "killed", *COMMON, *overrides, recipe=recipe)
    train(straight)
    found = kill_until_done(killed, kills, random.Random(seed))
    assert found.times == kills, f"the run was done after {found.times} kills"
    resumed = [event["step"] for event in events(killed, "resumed")]
    assert resumed == sorted(resumed)
    assert same_bits(straight, killed)
    return found


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
    found = drill(tmp_path, recipe, ("steps=1500", *overrides), kills=8, seed=len(overrides))
    print(found)
    assert found.while_writing >= 2
