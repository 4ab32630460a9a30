"""Models by name and digest, and only those the project named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from bessemer.app.models import find_model, find_model_local, list_models, register
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact, Kind
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.tables import names


def store(platform: Platform, text: str, kind: Kind = "model") -> Artifact:
    folder = platform.artifacts.workspace()
    (folder / "config.json").write_text(text)
    return platform.artifacts.put(folder, kind=kind, name="m")


def test_a_registered_model_is_found_by_name_digest_and_prefix(
    platform: Platform, owner: Principal
) -> None:
    artifact = store(platform, "{}")
    model = register(platform, owner, "tiny", artifact)
    assert (model.name, model.digest, model.path) == ("tiny", artifact.digest, artifact.path)
    digits = artifact.digest.removeprefix("sha256:")
    for text in ("tiny", artifact.digest, digits, digits[:12], f"sha256:{digits[:20]}"):
        assert find_model(platform, owner, text) == model
    assert list_models(platform, owner) == [model]


def test_an_unknown_name_is_answered_with_the_known_ones(
    platform: Platform, owner: Principal
) -> None:
    with pytest.raises(NotFound, match="known: none yet"):
        find_model(platform, owner, "nope")
    register(platform, owner, "b", store(platform, "1"))
    register(platform, owner, "a", store(platform, "2"))
    with pytest.raises(NotFound, match="no model 'nope'; known: a, b") as caught:
        find_model(platform, owner, "nope")
    assert caught.value.next_step == "bessemer pull smollm2-135m-instruct"


@pytest.mark.parametrize("text", ["0" * 11, "f" * 12, "F" * 64, "sha256:", "%", "_" * 12])
def test_digits_that_fit_nothing_are_not_found(
    platform: Platform, owner: Principal, text: str
) -> None:
    register(platform, owner, "a", store(platform, "1"))
    with pytest.raises(NotFound):
        find_model(platform, owner, text)


def test_digits_that_fit_two_are_refused(platform: Platform, owner: Principal) -> None:
    for n, end in enumerate("01"):
        register(platform, owner, f"m{n}", store(platform, end))
    with platform.db.write() as connection:
        rows = connection.execute(sa.select(names.c.id).order_by(names.c.id)).scalars().all()
        for row, end in zip(rows, "01", strict=True):
            digest = "sha256:" + "a" * 63 + end
            connection.execute(names.update().where(names.c.id == row).values(digest=digest))
    with pytest.raises(InvalidInput, match="fits 2 digests"):
        find_model(platform, owner, "a" * 12)


def test_the_newest_meaning_of_a_name_wins_and_the_old_bytes_keep_their_digest(
    platform: Platform, owner: Principal
) -> None:
    old, new = store(platform, "old"), store(platform, "new")
    register(platform, owner, "m", old)
    register(platform, owner, "m", new)
    assert find_model(platform, owner, "m").digest == new.digest
    assert [model.digest for model in list_models(platform, owner)] == [new.digest]
    assert find_model(platform, owner, old.digest).digest == old.digest
    register(platform, owner, "m", old)
    assert find_model(platform, owner, "m").digest == old.digest


def test_registering_twice_adds_no_row(platform: Platform, owner: Principal) -> None:
    artifact = store(platform, "{}")
    register(platform, owner, "m", artifact)
    register(platform, owner, "m", artifact)
    with platform.db.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(names)) == 1


def test_another_project_sees_neither_name_nor_digest(
    platform: Platform, owner: Principal, stranger: Principal
) -> None:
    artifact = store(platform, "{}")
    register(platform, owner, "m", artifact)
    assert list_models(platform, stranger) == []
    for text in ("m", artifact.digest):
        with pytest.raises(NotFound):
            find_model(platform, stranger, text)


def test_a_model_whose_bytes_are_gone_hides_no_other(platform: Platform, owner: Principal) -> None:
    gone, kept = store(platform, "gone"), store(platform, "kept")
    register(platform, owner, "gone", gone)
    register(platform, owner, "kept", kept)
    shutil.rmtree(gone.path)
    gone.path.with_suffix(".json").unlink()
    assert [model.name for model in list_models(platform, owner)] == ["kept"]
    with pytest.raises(NotFound, match=gone.digest):
        find_model(platform, owner, "gone")


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "../up", "sha256:ab", "x" * 201, "a\n"])
def test_what_cannot_be_a_name_is_refused(platform: Platform, owner: Principal, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a name"):
        register(platform, owner, name, store(platform, "{}"))


def test_only_a_model_can_be_registered_as_one(platform: Platform, owner: Principal) -> None:
    with pytest.raises(InvalidInput, match="is a dataset, not a model"):
        register(platform, owner, "m", store(platform, "{}", kind="dataset"))


def test_at_the_machine_a_folder_is_a_model_too(
    platform: Platform, owner: Principal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store(platform, "{}")
    register(platform, owner, "m", artifact)
    folder = tmp_path / "local"
    folder.mkdir()
    with pytest.raises(InvalidInput, match=r"no config\.json"):
        find_model_local(platform, owner, str(folder))
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for text in (str(folder), "./local"):
        found = find_model_local(platform, owner, text)
        assert (found.name, found.path, found.digest) == ("local", folder, artifact.digest)
    assert find_model_local(platform, owner, "m").path == artifact.path
    with pytest.raises(NotFound):
        find_model(platform, owner, str(folder))
