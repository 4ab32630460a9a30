"""The walls of the house, held by a machine: who may import whom, and who may import torch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "bessemer"

# Every room may import core; beyond that only these arrows exist.
ROOMS_ABOVE_CORE = (
    "text", "data", "models", "train", "inference", "evals",
    "access", "ledger", "governance", "routing", "cluster",
)  # fmt: skip
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "data": {"text"},
    "train": {"text", "data", "models"},
    "inference": {"text", "models"},
    "evals": {"text", "data"},
    **{
        room: set()
        for room in ("text", "models", "access", "ledger", "governance", "routing", "cluster")
    },
    "app": set(ROOMS_ABOVE_CORE),
    "gateway": {"app"},
    "console": {"app"},
    # `up` starts gateway and console.
    "cli": {"app", "gateway", "console"},
}
MAY_IMPORT_TORCH = {"models", "train", "inference"}
TORCH_FAMILY = {"torch", "safetensors", "gguf", "transformers"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


class Import(NamedTuple):
    file: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE)}:{self.line} imports {self.module}"


def rooms() -> list[str]:
    return sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def imports_of(file: Path) -> Iterator[Import]:
    """Every import, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} uses a relative import"
            assert node.module is not None
            for alias in node.names:
                yield Import(file, node.lineno, f"{node.module}.{alias.name}")


def imports_of_room(room: str) -> list[Import]:
    return [found for file in (SOURCE / room).rglob("*.py") for found in imports_of(file)]


def test_every_room_is_on_the_plan_and_has_content() -> None:
    assert rooms(), "no rooms found"
    for room in rooms():
        assert room in ARROWS, f"{room} is not a room of the design"
        files = [file for file in (SOURCE / room).rglob("*.py") if file.name != "__init__.py"]
        assert files, f"{room} is an empty room"


@pytest.mark.parametrize("room", rooms())
def test_room_imports_only_along_its_arrows(room: str) -> None:
    allowed = ARROWS[room] | {"core", room}
    wrong = []
    for found in imports_of_room(room):
        parts = found.module.split(".")
        if parts[0] == "bessemer" and parts[1] not in allowed | {"__version__"}:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", rooms())
def test_room_takes_only_what_other_rooms_offer_in_all(room: str) -> None:
    wrong = []
    for found in imports_of_room(room):
        parts = found.module.split(".")
        if parts[0] != "bessemer" or len(parts) < 3 or parts[1] == room:
            continue
        public = importlib.import_module(f"bessemer.{parts[1]}").__all__
        if parts[2] not in public:
            wrong.append(f"{found}: not in {parts[1]}.__all__")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", rooms())
def test_only_the_rooms_of_tensors_import_torch(room: str) -> None:
    if room in MAY_IMPORT_TORCH:
        return
    wrong = [f for f in imports_of_room(room) if f.module.split(".")[0] in TORCH_FAMILY]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("room", rooms())
def test_no_door_imports_torch(room: str) -> None:
    code = (
        f"import sys, bessemer.{room} as room; "
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy; assert room.__doc__, 'no docstring'; list(room.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", rooms())
def test_every_public_name_of_a_room_is_there(room: str) -> None:
    package = importlib.import_module(f"bessemer.{room}")
    for name in package.__all__:
        if not hasattr(package, name):
            importlib.import_module(f"bessemer.{room}.{name}")


def test_no_file_has_a_vague_name() -> None:
    assert [p for p in SOURCE.rglob("*.py") if p.stem in VAGUE_NAMES] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert silent == []
