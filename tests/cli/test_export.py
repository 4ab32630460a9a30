"""`bessemer export`: a model goes out and comes in again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.calling import say
from tests.tiny.world import write_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of a stored model, in a current folder of its own."""
    pulled = say("pull", str(write_model(tmp_path / "tiny")), "--licence", "MIT", "--json").json
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(pulled["digest"])


def test_a_model_goes_out_under_its_name_and_precision_and_comes_in_again(model: str) -> None:
    made = say("export", "tiny", "--gguf", "--precision", "q8_0", "--json").json
    path = Path(made["path"])
    assert path.name == "tiny-q8_0.gguf"
    assert made["parent"] == model
    assert made["digest"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert made["size_bytes"] == path.stat().st_size
    assert say("pull", path.name, "--name", "back").status == 0
    assert say("export", "back", "--gguf").out.startswith(str(path.parent / "back-bf16.gguf"))


def test_a_second_export_to_the_same_file_is_refused(model: str) -> None:
    assert say("export", "tiny", "--gguf", "--output", "a.gguf").status == 0
    said = say("export", model[7:20], "--gguf", "--output", "a.gguf")
    assert (said.status, said.out) == (1, "")
    assert "is there already" in said.err and "--output" in said.err


def test_the_form_has_to_be_said(model: str) -> None:
    said = say("export", "tiny")
    assert said.status == 2
    assert "--gguf" in said.err
