"""The standard library as text, and the hash that splits every dataset."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.corpus import source_files, source_name, split_of, stdlib_sources, topics


def test_sources_are_the_library_and_nothing_else() -> None:
    names = [source_name(path) for path in source_files()]
    assert names == sorted(names)
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= set(names)
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"encodings", "test", "tests", "idlelib", "lib2to3", "site-packages"}
    assert not any(name.startswith("_sysconfigdata") for name in names)


def test_documents_carry_text_and_licence() -> None:
    documents = stdlib_sources()
    first = next(documents)
    assert first.licence == "PSF-2.0"
    total = len(first.text) + sum(len(document.text) for document in documents)
    assert total > 5_000_000


def test_reading_imports_nothing() -> None:
    before = set(sys.modules)
    list(stdlib_sources())
    topics()
    assert not {"antigravity", "this", "pydoc_data.topics"} & (set(sys.modules) - before)


def test_topics_are_prose_about_the_language() -> None:
    found = {document.id: document.text for document in topics()}
    assert len(found) > 50
    assert "assert" in found["topics/assert"]
    assert list(found) == sorted(found)


@given(st.text())
def test_a_key_is_always_in_the_same_split(key: str) -> None:
    assert split_of(key) == split_of(key)
    assert split_of(key, seed=0) == split_of(key)


def test_splits_are_90_5_5_and_a_seed_changes_them() -> None:
    keys = [f"key {index}" for index in range(20_000)]
    found = [split_of(key) for key in keys]
    shares = [found.count(name) / len(keys) for name in ("train", "validation", "test")]
    assert all(
        abs(share - expected) < 0.01
        for share, expected in zip(shares, (0.90, 0.05, 0.05), strict=True)
    )
    assert found != [split_of(key, seed=1) for key in keys]


def test_known_keys_stay_where_they_were_published() -> None:
    assert [split_of(key) for key in ("print", "reversed", "breakpoint", "Popen.wait")] == [
        "train", "test", "test", "test",
    ]  # fmt: skip
