"""A digest binds names and bytes of every file, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.digests import canonical_json, check_file, manifest_of, sha256_file
from bessemer.core.errors import IntegrityError


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_canonical_json_is_rfc_8785s_own_example() -> None:
    # Section 3.2.2 of the RFC, with the bytes section 3.2.4 gives for it.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],'
        '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_json(value) == expected.encode()


@given(st.dictionaries(st.text(), st.integers(-(2**53) + 1, 2**53 - 1) | st.text()))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value


def test_a_manifest_is_the_canonical_list_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, {"b.txt": b"two", "a/c.txt": b"one"})
    one, two = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()
    expected = (
        f'[{{"path":"a/c.txt","sha256":"{one}","size":3}},'
        f'{{"path":"b.txt","sha256":"{two}","size":3}}]'
    ).encode()
    manifest = manifest_of(tmp_path)
    assert manifest.canonical() == expected
    assert manifest.digest == "sha256:" + hashlib.sha256(expected).hexdigest()
    assert manifest.size_bytes == 6


def test_renaming_swapping_or_changing_a_file_changes_the_digest(tmp_path: Path) -> None:
    variants = [
        {"a": b"1", "b": b"2"},
        {"a": b"2", "b": b"1"},
        {"a": b"1", "c": b"2"},
        {"a": b"1", "b": b"2", "c": b""},
        {"a": b"1"},
    ]
    digests = {
        manifest_of(write(tmp_path / str(n), files)).digest for n, files in enumerate(variants)
    }
    assert len(digests) == len(variants)


def test_times_modes_and_empty_folders_do_not_change_the_digest(tmp_path: Path) -> None:
    before = manifest_of(write(tmp_path / "x", {"a": b"1"})).digest
    os.utime(tmp_path / "x" / "a", (0, 0))
    (tmp_path / "x" / "a").chmod(0o600)
    (tmp_path / "x" / "empty").mkdir()
    assert manifest_of(tmp_path / "x").digest == before


@pytest.mark.parametrize("target", ["a", "nowhere", "."])
def test_a_symbolic_link_is_refused(tmp_path: Path, target: str) -> None:
    write(tmp_path, {"a": b"1"})
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(IntegrityError, match="symbolic link"):
        manifest_of(tmp_path)


def test_a_special_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IntegrityError, match="not a regular file"):
        manifest_of(tmp_path)


def test_check_file_names_both_digests(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"1"})
    check_file(tmp_path / "a", hashlib.sha256(b"1").hexdigest())
    with pytest.raises(IntegrityError) as caught:
        check_file(tmp_path / "a", "0" * 64)
    assert sha256_file(tmp_path / "a") in caught.value.message
    assert "0" * 64 in caught.value.message
