"""The store keeps whole artifacts or none, and knows when one was touched."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bessemer.core.artifacts import Artifact, ArtifactStore, sidecar_facts
from bessemer.core.errors import IntegrityError, NotFound


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def put(store: ArtifactStore, files: dict[str, bytes], name: str = "m") -> Artifact:
    folder = store.workspace()
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return store.put(folder, kind="model", name=name, licence="MIT", provenance={"from": "test"})


def test_what_was_put_can_be_got_listed_and_verified(store: ArtifactStore) -> None:
    artifact = put(store, {"config.json": b"{}", "sub/w.bin": b"123"})
    assert store.get(artifact.digest) == artifact
    assert store.list() == [artifact]
    assert (artifact.path / "sub" / "w.bin").read_bytes() == b"123"
    assert (artifact.size_bytes, artifact.licence) == (5, "MIT")
    assert sidecar_facts(artifact)["path"] == str(artifact.path)
    assert store.manifest(artifact.digest).digest == artifact.digest
    store.verify(artifact.digest)


def test_putting_the_same_bytes_twice_keeps_the_first(store: ArtifactStore) -> None:
    first = put(store, {"a": b"1"}, name="first")
    second = put(store, {"a": b"1"}, name="second")
    assert second == first
    assert leftovers(store) == []


def test_the_same_bytes_put_by_many_at_once_are_one_artifact(store: ArtifactStore) -> None:
    files = {f"f{n}": bytes([n]) * 1000 for n in range(20)}
    with ThreadPoolExecutor(8) as pool:
        put_ones = list(pool.map(lambda _: put(store, files), range(16)))
    assert {artifact.digest for artifact in put_ones} == {store.list()[0].digest}
    assert leftovers(store) == []
    store.verify(put_ones[0].digest)


def test_an_empty_folder_is_no_artifact(store: ArtifactStore) -> None:
    with pytest.raises(IntegrityError, match="empty"):
        put(store, {})


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha256:../../etc", "", "sha256:ABC"])
def test_an_unknown_or_impossible_digest_is_not_found(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(NotFound):
        store.get(digest)


def test_verify_names_the_files_that_changed_appeared_or_went(store: ArtifactStore) -> None:
    artifact = put(store, {"changed": b"1", "gone": b"2", "same": b"3"})
    (artifact.path / "changed").write_bytes(b"x")
    (artifact.path / "gone").unlink()
    (artifact.path / "new").write_bytes(b"4")
    with pytest.raises(IntegrityError) as caught:
        store.verify(artifact.digest)
    assert caught.value.message.endswith("changed: changed, gone, new")


# Kills itself with the N-th call of fsync or rename, wherever in `put` that is.
KILLED_PUT = """
import os, signal, sys
from pathlib import Path
from bessemer.core.artifacts import ArtifactStore

left = int(sys.argv[2])

def counted(original):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return call

store = ArtifactStore(Path(sys.argv[1]))
folder = store.workspace()
for name in ("a", "b"):
    (folder / name).write_bytes(name.encode() * 100)
os.fsync = counted(os.fsync)
Path.rename = counted(Path.rename)
Path.replace = counted(Path.replace)
store.put(folder, kind="model", name="m")
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_store_has_a_whole_artifact_or_none(tmp_path: Path) -> None:
    seen = set()
    for moment in range(20):
        root = tmp_path / str(moment)
        done = subprocess.run([sys.executable, "-c", KILLED_PUT, str(root), str(moment)])
        store = ArtifactStore(root)
        whole = store.list()
        for artifact in whole:
            store.verify(artifact.digest)
        again = put(store, {"a": b"a" * 100, "b": b"b" * 100})
        store.verify(again.digest)
        assert store.list() == [again]
        seen.add((done.returncode, len(whole)))
        if done.returncode == 0:
            break
    # It was killed before there was an artifact, after it, and at last not at all.
    assert {(-9, 0), (-9, 1), (0, 1)} <= seen


def leftovers(store: ArtifactStore) -> list[str]:
    return [path.name for path in store.root.iterdir() if path.name.startswith(".")]
