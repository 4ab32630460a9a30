"""The default dataset: two kinds of chats, no symbol on both sides, the same bytes each time."""

import hashlib
import json
import platform
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from bessemer.core.digests import manifest_of
from bessemer.core.errors import DataError
from bessemer.data.chats import Chat
from bessemer.data.corpus import SPLITS, read_source, source_files, source_name
from bessemer.data.dataset import Dataset
from bessemer.data.duplicates import THRESHOLD, jaccard, shingles
from bessemer.data.python_docs import build
from bessemer.data.symbols import symbols_of

SOME = ("argparse", "asyncio", "collections", "datetime", "json", "ntpath", "os", "posixpath",
        "textwrap", "timeit", "queue", "wave", "sunau", "zipfile")  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("docs")
    build(folder, SOME)
    return Dataset.open(folder)


def chats_of(dataset: Dataset) -> list[Chat]:
    return [chat for name in SPLITS for chat in dataset.split(name)]


def answer_of(chat: Chat) -> str:
    text: str = chat.messages[-1]["content"]
    return text


def find(dataset: Dataset, symbol: str, kind: str) -> Chat:
    (found,) = [chat for chat in chats_of(dataset) if (chat.symbol, chat.kind) == (symbol, kind)]
    return found


def test_describe_asks_with_a_signature_and_answers_in_a_paragraph(small: Dataset) -> None:
    chat = find(small, "textwrap.dedent", "describe")
    question, answer = (message["content"] for message in chat.messages)
    assert question == (
        "What is this function of Python's standard library for?\n\ntextwrap.dedent(text)"
    )
    assert answer == "Remove any common leading whitespace from every line in `text`."


def test_name_asks_with_the_docstring_and_answers_with_the_own_name(small: Dataset) -> None:
    chat = find(small, "textwrap.TextWrapper.wrap", "name")
    question, answer = (message["content"] for message in chat.messages)
    assert question.startswith("Which method of `textwrap.TextWrapper` does this describe?")
    assert answer == "wrap"


def test_no_question_for_a_name_holds_it(small: Dataset) -> None:
    found = [chat for chat in chats_of(small) if chat.kind == "name"]
    assert len(found) > 300
    for chat in found:
        # The first line is the question's own words, beside the container in backquotes.
        line, _, text = chat.messages[0]["content"].partition("\n\n")
        container = line.split("`")[1] if "`" in line else ""
        assert answer_of(chat) not in [*text.replace(".", " ").split(), *container.split(".")]


def test_every_answer_is_short_enough_to_teach(small: Dataset) -> None:
    for chat in chats_of(small):
        assert [message["role"] for message in chat.messages] == ["user", "assistant"]
        assert 0 < len(answer_of(chat)) <= 600
        assert sum(len(message["content"]) for message in chat.messages) <= 1000


def test_no_symbol_is_in_two_splits_whatever_module_exports_it(small: Dataset) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    modules = {document["symbol"]: document["module"] for document in small.documents()}
    for name in SPLITS:
        for chat in small.split(name):
            assert chat.symbol is not None
            splits[chat.symbol.removeprefix(modules[chat.symbol] + ".")].add(name)
    assert {key for key, found in splits.items() if len(found) > 1} == set()
    assert small.info["counts"]["test"] > 0


def test_one_of_two_modules_with_the_same_docstrings_is_left_out(small: Dataset) -> None:
    symbols = {document["symbol"] for document in small.documents()}
    assert "ntpath.basename" in symbols
    assert "posixpath.basename" not in symbols
    texts = [answer_of(chat) for chat in chats_of(small) if chat.kind == "describe"]
    assert len(texts) == len(set(texts))


def test_each_document_is_traceable_to_its_source(small: Dataset) -> None:
    paths = {source_name(path): path for path in source_files()}
    for document in small.documents()[::20]:
        source, line = document["source"].rsplit(":", 1)
        found = {s.dotted: s for s in symbols_of(read_source(paths[source]), document["module"])}
        symbol = found[document["symbol"]]
        assert symbol.line == int(line)
        assert document["sha256"] == hashlib.sha256(symbol.docstring.encode()).hexdigest()
        assert document["licence"] == "PSF-2.0"
        assert document["python"] == platform.python_version()
    index = (small.folder / "index.jsonl").read_text().splitlines()
    by_id = {document["id"]: document for document in small.documents()}
    assert len(by_id) == len(small.documents())
    for row in map(json.loads, index):
        document = by_id[row["document"]]
        assert (document["symbol"], document["split"]) == (row["symbol"], row["split"])


def test_two_builds_in_two_processes_are_the_same_bytes(small: Dataset, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bessemer.data.python_docs import build;"
        "build(Path(sys.argv[1]), sys.argv[2:]);"
        # Building must not run what it reads.
        "assert not {'antigravity', 'turtle', 'sunau', 'wave'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b"), *SOME], check=True)
    assert manifest_of(tmp_path / "b").digest == manifest_of(small.folder).digest


def test_modules_without_documentation_make_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no documented symbol"):
        build(tmp_path / "out", ["no_such_module"])


@pytest.mark.slow
def test_the_whole_library_makes_ten_thousand_chats(tmp_path: Path) -> None:
    info = build(tmp_path)
    assert 8_000 < info["chats"] < 13_000
    assert 4_000 < info["symbols"] < 7_000
    counts = info["counts"]
    assert 0.87 < counts["train"] / info["chats"] < 0.93
    assert min(counts["validation"], counts["test"]) > 300
    _assert_no_near_duplicates_across(Dataset.open(tmp_path))


def _assert_no_near_duplicates_across(dataset: Dataset) -> None:
    """Every held-out answer against every taught one: no banding, only a bound on the size."""
    taught, held_out = (
        [shingles(answer_of(c)) for n in names for c in dataset.split(n) if c.kind == "describe"]
        for names in (("train",), ("validation", "test"))
    )
    sizes = np.array([len(found) for found in taught])
    for found in held_out:
        # Jaccard is at most the smaller size over the larger one.
        possible = (sizes >= THRESHOLD * len(found)) & (sizes <= len(found) / THRESHOLD)
        assert all(jaccard(taught[i], found) < THRESHOLD for i in np.flatnonzero(possible))
