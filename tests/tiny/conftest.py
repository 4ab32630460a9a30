"""A home with two models and a dataset, made once; each test that changes it has a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.calling import say
from tests.tiny import world
from tests.tiny.house import House, Server


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> House:
    """`tiny`, `other` (the same shape, other weights), the dataset `boxes`, and a key."""
    folder = tmp_path_factory.mktemp("tiny")
    house = House(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        # In this process, which has loaded torch already: each verb would load it again.
        patch.setenv("BESSEMER_HOME", str(house.root))
        for seed, name in enumerate(("tiny", "other"), 1):
            model = world.write_model(folder / name, seed)
            assert say("pull", str(model), "--licence", "CC0-1.0").status == 0
        assert say("data", "import", str(world.write_chats(folder / "boxes.jsonl"))).status == 0
        house.key = say("key", "create", "--json").json["secret"]
    return house


@pytest.fixture
def house(furnished: House, tmp_path: Path) -> Iterator[House]:
    """A copy of the furnished home; nobody else runs anything on it."""
    copy = furnished.copied_to(tmp_path / "home")
    try:
        yield copy
    finally:
        copy.clear()


@pytest.fixture(scope="session")
def served(furnished: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of both models, ready, on a home of its own, for tests that leave it as it is."""
    copy = furnished.copied_to(tmp_path_factory.mktemp("served") / "home")
    with copy.up("--model", "tiny", "--model", "other") as server:
        server.wait_ready("tiny", "other")
        yield server


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return world.write_recipe(tmp_path / "tiny.toml")
