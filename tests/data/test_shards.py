"""Token shards: any window of the stream, whose it is, and what is said of bytes that changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.errors import Conflict, IntegrityError, NotFound
from bessemer.data.document_table import Entry
from bessemer.data.shard_writer import ShardWriter
from bessemer.data.shards import TokenShards

LEAF, SHARD = 64, 192  # bytes: a leaf of 32 tokens of two bytes, a shard of three leaves
Document = list[int]


def write(folder: Path, documents: list[Document], vocab_size: int = 1000) -> TokenShards:
    with ShardWriter(folder, vocab_size, shard_bytes=SHARD, leaf_bytes=LEAF) as writer:
        for number, tokens in enumerate(documents):
            licence = "MIT" if number % 2 else None
            writer.add(f"doc {number}", tokens, source="test", licence=licence)
    return TokenShards(folder)


def some_documents(count: int = 20) -> list[Document]:
    return [[(7 * i + j) % 1000 for j in range(1 + 13 * i % 57)] for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "tokens", some_documents())
    return tmp_path / "tokens"


@settings(deadline=None, max_examples=40)
@given(
    documents=st.lists(st.lists(st.integers(0, 69_999), min_size=1, max_size=120), max_size=12),
    vocab_size=st.sampled_from([65_536, 70_000]),
    data=st.data(),
)
def test_any_window_is_the_documents_end_to_end(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[Document],
    vocab_size: int,
    data: st.DataObject,
) -> None:
    documents = [[token % vocab_size for token in tokens] for tokens in documents]
    shards = write(tmp_path_factory.mktemp("w") / "tokens", documents, vocab_size)
    stream = [token for tokens in documents for token in tokens]
    assert shards.tokens == len(stream)
    assert shards.dtype == ("<u2" if vocab_size == 65_536 else "<u4")
    begin = data.draw(st.integers(0, len(stream)))
    end = data.draw(st.integers(begin, len(stream)))
    assert shards.window(begin, end).tolist() == stream[begin:end]
    offsets = np.cumsum([0, *map(len, documents)])
    inside = [int(o) for o in offsets[:-1] if begin <= o < end]
    assert shards.documents.starts(begin, end).tolist() == inside
    if begin < len(stream):
        number = shards.documents.at(begin)
        assert offsets[number] <= begin < offsets[number + 1]
    shards.verify()


def test_a_document_is_found_by_its_id_and_says_where_it_is_from(folder: Path) -> None:
    table = TokenShards(folder).documents
    assert len(table) == len(table.ids()) == 20
    number = table.find("doc 5")
    assert number == 5
    before = sum(map(len, some_documents()[:5]))
    assert table[5] == Entry("doc 5", "test", "MIT", before, len(some_documents()[5]))
    assert table[5].end == table[6].offset
    assert table[4].licence is None
    assert table.find("doc 99") is None


def test_the_same_documents_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again", some_documents())
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.folder.iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (again.folder / name).read_bytes(), name
    other = write(tmp_path / "other", some_documents(19))
    assert other.manifest.digest != again.manifest.digest == TokenShards(folder).manifest.digest


def test_the_root_is_of_the_stream_however_it_is_cut_into_files(tmp_path: Path) -> None:
    roots = set()
    for shard_bytes in (LEAF, 3 * LEAF, 100 * LEAF):
        folder = tmp_path / str(shard_bytes)
        with ShardWriter(folder, 1000, shard_bytes=shard_bytes, leaf_bytes=LEAF) as writer:
            writer.add("a", range(500), source="test", licence=None)
        shards = TokenShards(folder)
        assert len(shards.manifest.shards) == -(-1000 // shard_bytes)
        roots.add(shards.manifest.merkle_root)
    assert len(roots) == 1


def test_a_leaf_is_proved_without_the_rest_of_the_stream(folder: Path) -> None:
    shards = TokenShards(folder)
    proof, data = shards.prove(3), shards.leaf(3)
    for path in folder.iterdir():
        path.unlink()
    assert len(data) == LEAF
    assert proof.root(data).hex() == shards.manifest.merkle_root
    assert proof.root(data[:-1] + b"!").hex() != shards.manifest.merkle_root


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_changed_byte_is_never_handed_out(folder: Path) -> None:
    flip(folder / "tokens-00001.bin", 70)  # leaf 4: the second of the second file
    shards = TokenShards(folder)
    assert shards.window(0, 100).tolist() == TokenShards(folder).window(0, 100).tolist()
    with pytest.raises(IntegrityError, match=r"tokens-00001\.bin has other bytes in leaf 4 of"):
        shards.window(120, 140)
    with pytest.raises(IntegrityError, match="leaf 4 of") as caught:
        shards.verify()
    assert "bessemer data tokenize" in str(caught.value.next_step)
    shards.verify_leaf(3)


@pytest.mark.parametrize("name", ["documents.arrow", "leaves.sha256"])
def test_verification_reads_the_other_files_too(folder: Path, name: str) -> None:
    flip(folder / name, (folder / name).stat().st_size // 2)
    shards = TokenShards(folder)
    with pytest.raises(IntegrityError, match=name):
        shards.verify()
    if name == "documents.arrow":
        with pytest.raises(IntegrityError, match=name):
            shards.verify_table()


def test_a_vanished_file_is_named_with_its_size(folder: Path) -> None:
    (folder / "tokens-00001.bin").unlink()
    with pytest.raises(NotFound, match=r"tokens-00001\.bin is gone; .* 192 bytes") as caught:
        TokenShards(folder, remedy="do this")
    assert caught.value.next_step == "do this"


def test_a_shortened_file_is_named_with_both_sizes(folder: Path) -> None:
    os.truncate(folder / "tokens-00000.bin", 100)
    with pytest.raises(IntegrityError, match=r"00000\.bin has 100 bytes, not the 192"):
        TokenShards(folder)


def test_a_file_that_goes_or_shrinks_while_it_is_mapped_is_no_crash(folder: Path) -> None:
    shards = TokenShards(folder)
    shards.window(0, 10)
    os.truncate(folder / "tokens-00000.bin", 0)  # reading the map now would be SIGBUS
    with pytest.raises(IntegrityError, match="has 0 bytes, not the 192"):
        shards.window(0, 10)
    (folder / "tokens-00000.bin").unlink()
    with pytest.raises(NotFound, match="is gone"):
        shards.window(0, 10)


def test_what_was_not_finished_is_not_opened_and_is_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    with pytest.raises(RuntimeError), ShardWriter(folder, 10, leaf_bytes=4, shard_bytes=4) as torn:
        torn.add("a", [1, 2, 3, 4, 5, 6, 7], source="test", licence=None)
        raise RuntimeError
    assert list(folder.glob("*.bin"))
    with pytest.raises(NotFound, match="did not finish"):
        TokenShards(folder)
    assert write(folder, [[1]]).window(0, 1).tolist() == [1]
    assert len(list(folder.glob("*.bin"))) == 1


def test_a_writer_never_replaces_what_is_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="already"):
        ShardWriter(folder, 1000)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(Conflict, match=r"holds thesis\.tex"):
        ShardWriter(tmp_path / "mine", 1000)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:50], "is no manifest"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format"),
        (lambda text: text.replace("tokens-00000.bin", "../secret.bin"), "shards.0.path"),
        (lambda text: text.replace('"tokens":', '"tokins":'), "tok"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(folder: Path, damage: object, said: str) -> None:
    assert callable(damage)
    path = folder / "manifest.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(IntegrityError, match=said):
        TokenShards(folder)


def test_no_documents_are_an_empty_stream(tmp_path: Path) -> None:
    shards = write(tmp_path / "none", [])
    assert (shards.tokens, shards.leaves, len(shards.documents)) == (0, 0, 0)
    assert shards.window(0, 0).tolist() == []
    shards.verify()


@pytest.mark.slow
def test_a_gigabyte_opens_in_milliseconds(tmp_path: Path) -> None:
    tokens = np.arange(8_000_000) % 50_000
    with ShardWriter(tmp_path / "large", 50_000) as writer:
        for number in range(64):
            writer.add(f"doc {number}", tokens, source="test", licence=None)
    TokenShards(tmp_path / "large")
    begin_s = time.perf_counter()
    shards = TokenShards(tmp_path / "large")
    open_s = time.perf_counter() - begin_s
    assert shards.tokens * 2 > 1e9
    assert open_s < 0.1
    assert shards.window(300_000_000, 300_000_004).tolist() == tokens[4_000_000:4_000_004].tolist()
