"""Datasets: built on this machine or imported, stored by content, named for the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.app.datasets import (
    PYTHON_DOCS,
    build_dataset,
    build_python_docs,
    find_dataset,
    import_file,
    list_datasets,
)
from bessemer.app.platform import Platform
from bessemer.core.errors import DataError, InvalidInput, NotFound, PermissionDenied
from bessemer.core.principal import Principal


class Builder:
    """Fills a folder with one file; `text` is what is in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, folder: Path) -> dict[str, Any]:
        (folder / "train.jsonl").write_text(self.text)
        return {"train": 1}


def broken(folder: Path) -> dict[str, Any]:
    (folder / "train.jsonl").write_text("half")
    raise DataError("not JSON", line=7)


def build(platform: Platform, owner: Principal, builder: Any, name: str = "d") -> str:
    made = build_dataset(platform, owner, name, builder, licence="MIT", provenance={"from": "a"})
    return made.digest


def test_what_is_built_is_stored_with_licence_and_provenance(
    platform: Platform, owner: Principal
) -> None:
    digest = build(platform, owner, Builder("x"))
    found = find_dataset(platform, owner, "d")
    assert (found.name, found.digest, found.artifact.licence) == ("d", digest, "MIT")
    assert found.artifact.provenance == {"from": "a", "summary": {"train": 1}}
    assert (found.path / "train.jsonl").read_text() == "x"
    assert found.artifact.kind == "dataset"


def test_building_the_same_again_changes_nothing(platform: Platform, owner: Principal) -> None:
    assert build(platform, owner, Builder("x")) == build(platform, owner, Builder("x"))
    assert len(platform.artifacts.list()) == 1
    assert len(list_datasets(platform, owner)) == 1


def test_a_build_that_fails_leaves_nothing_behind(platform: Platform, owner: Principal) -> None:
    with pytest.raises(DataError, match="line 7"):
        build(platform, owner, broken)
    assert list(platform.home.artifacts.iterdir()) == []
    assert list_datasets(platform, owner) == []


def test_a_bad_name_is_refused_before_the_work(platform: Platform, owner: Principal) -> None:
    with pytest.raises(InvalidInput, match="cannot be a name"):
        build(platform, owner, broken, name="a b")


def test_building_needs_the_right_to(platform: Platform, owner: Principal) -> None:
    reader = Principal(owner.org_id, owner.project_id, "r", frozenset({"datasets:read"}))
    with pytest.raises(PermissionDenied):
        build(platform, reader, broken)
    assert list_datasets(platform, reader) == []


def test_an_unknown_dataset_is_answered_with_how_to_make_one(
    platform: Platform, owner: Principal, stranger: Principal
) -> None:
    build(platform, owner, Builder("x"))
    with pytest.raises(NotFound, match="known: d") as caught:
        find_dataset(platform, owner, "e")
    assert "bessemer data" in str(caught.value.next_step)
    with pytest.raises(NotFound, match="known: none yet"):
        find_dataset(platform, stranger, "d")


def test_a_file_that_is_not_there_is_refused(
    platform: Platform, owner: Principal, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="is not a file"):
        import_file(platform, owner, tmp_path / "none.jsonl", "mine")
    assert list(platform.home.artifacts.iterdir()) == []


def write_chats(path: Path, count: int) -> Path:
    chats = (
        [
            {"role": "user", "content": f"What comes after the number {n}, said aloud?"},
            {"role": "assistant", "content": f"After {n} comes {n + 1}."},
        ]
        for n in range(count)
    )
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return path


def test_a_file_of_chats_becomes_a_dataset_that_knows_its_source(
    platform: Platform, owner: Principal, tmp_path: Path
) -> None:
    path = write_chats(tmp_path / "mine.jsonl", 40)
    made = import_file(platform, owner, path, "mine", licence="CC-BY-4.0")
    again = import_file(platform, owner, path, "mine", licence="CC-BY-4.0")
    assert made.digest == again.digest == find_dataset(platform, owner, "mine").digest
    assert made.artifact.licence == "CC-BY-4.0"
    assert made.artifact.provenance["source"] == "mine.jsonl"
    assert (made.path / "train.jsonl").stat().st_size > 0
    assert import_file(platform, owner, path, "mine", seed=1).artifact.kind == "dataset"


def test_a_file_with_a_bad_line_is_refused_and_leaves_nothing(
    platform: Platform, owner: Principal, tmp_path: Path
) -> None:
    path = write_chats(tmp_path / "mine.jsonl", 3)
    with path.open("a") as file:
        file.write('{"messages": "none"}\n')
    with pytest.raises(DataError, match="line 4"):
        import_file(platform, owner, path, "mine")
    assert list(platform.home.artifacts.iterdir()) == []


@pytest.mark.slow
def test_python_docs_are_built_from_this_interpreter(platform: Platform, owner: Principal) -> None:
    made = build_python_docs(platform, owner)
    assert made.artifact.licence == "PSF-2.0"
    assert made.artifact.provenance["summary"]
    assert find_dataset(platform, owner, PYTHON_DOCS) == made
    platform.artifacts.verify(made.digest)
