"""`examples/move_in.py`: the whole life of a model, with books that agree on both sides."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.calling import Said
from tests.tiny.house import House, Server
from tests.tiny.test_examples import run_example

# Dollars for a million tokens are whole micro-dollars a token, so nothing is rounded.
CARD = """
currency = "usd"
[[rates]]
model = "*"
prompt = 2_000_000
cached = 1_000_000
completion = 5_000_000
training = 3_000_000
"""
PRICES = "2,1,5"


@pytest.fixture
def moving(house: House, tmp_path: Path) -> Iterator[House]:
    """The furnished home with prices and a key that may do everything."""
    prepare(house, tmp_path)
    yield house
    house.clear()


def prepare(house: House, folder: Path) -> None:
    card = folder / "card.toml"
    card.write_text(CARD)
    house.done("prices", "set", str(card))
    house.key = house.done("key", "create", "--scope", "*", "--json").json["secret"]


def move_in(server: Server, limit_s: float, **settings: str) -> Said:
    return run_example(
        "move_in.py",
        limit_s=limit_s,
        BESSEMER_URL=server.url,
        BESSEMER_KEY=server.house.key,
        **settings,
    )


def test_a_tiny_model_lives_its_whole_life_and_the_books_agree(moving: House) -> None:
    with moving.up("--model", "tiny") as server:
        said = move_in(server, 120, MODEL="tiny", RATE="10", PRICES=PRICES)
        assert (said.status, said.err) == (0, ""), said.out
    lines = said.out.splitlines()
    assert lines[-1].endswith("moved in: every number is the same on both sides")
    assert sum(", as counted here" in line for line in lines) == 10
    (costs,) = [line for line in lines if "costs of all answers, in micro-dollars: " in line]
    assert int(costs.split(": ")[1].split(",")[0]) > 0


@pytest.mark.slow
def test_a_price_that_differs_is_told_and_ends_it(moving: House) -> None:
    with moving.up("--model", "tiny") as server:
        said = move_in(server, 120, MODEL="tiny", RATE="10", PRICES="2,1,6")
    assert said.status == 1
    assert said.err.startswith("WRONG: costs of all answers, in micro-dollars: the server says ")


@pytest.mark.slow
def test_the_default_model_lives_its_whole_life_within_six_minutes(
    default_model_folder: Path, tmp_path: Path
) -> None:
    house = House(tmp_path / "home")
    house.done("pull", str(default_model_folder), "--name", "smollm2-135m-instruct")
    prepare(house, tmp_path)
    began_s = time.monotonic()
    with house.up() as server:
        said = move_in(server, 360, PRICES=PRICES)
    wall_s = time.monotonic() - began_s
    assert (said.status, said.err) == (0, ""), said.out
    print(said.out, f"{wall_s:.0f} s with the server's start and end", sep="")
    assert wall_s < 360
    asked = [line.split(": ", 1)[1] for line in said.out.splitlines() if "asked for the pl" in line]
    base, taught, polite = asked
    assert "Ada" not in base
    assert "Ada" in taught and "7" in taught
    # Which of its two ways it takes, a few steps of preferences mostly decide, and not surely.
    assert "Ada" in polite
    assert " is better than " in said.out
