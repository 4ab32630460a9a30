"""A home with two models and a dataset, made once; each test that changes it has a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import world
from tests.tiny.house import House, Server


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> House:
    """`tiny`, `other` (the same shape, other weights), the dataset `boxes`, and a key."""
    folder = tmp_path_factory.mktemp("tiny")
    house = House(folder / "home")
    for seed, name in enumerate(("tiny", "other"), 1):
        house.done("pull", str(world.write_model(folder / name, seed)), "--licence", "CC0-1.0")
    house.done("data", "import", str(world.write_chats(folder / "boxes.jsonl")))
    house.key = house.done("key", "create", "--json").json["secret"]
    return house


@pytest.fixture
def house(furnished: House, tmp_path: Path) -> Iterator[House]:
    """A copy of the furnished home; nobody else runs anything on it."""
    copy = House(tmp_path / "home", furnished.key)
    shutil.copytree(furnished.root, copy.root)
    try:
        yield copy
    finally:
        copy.clear()


@pytest.fixture(scope="module")
def served(furnished: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Both models, ready, on a home of this module's own."""
    copy = House(tmp_path_factory.mktemp("served") / "home", furnished.key)
    shutil.copytree(furnished.root, copy.root)
    with copy.up("--model", "tiny", "--model", "other") as server:
        server.wait_ready("tiny", "other")
        yield server


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return world.write_recipe(tmp_path / "tiny.toml")
