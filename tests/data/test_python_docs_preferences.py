"""Pairs from python-docs: the rejected answer is right for another question, and no split leaks."""

from collections import Counter
from pathlib import Path

import pytest

from bessemer.core.digests import manifest_of
from bessemer.data import python_docs, python_docs_preferences
from bessemer.data.corpus import SPLITS
from bessemer.data.dataset import Dataset

SOME = ("argparse", "asyncio", "collections", "json", "os", "textwrap", "queue", "zipfile")


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("docs")
    python_docs.build(folder, SOME)
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def pairs(chats: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pairs")
    python_docs_preferences.build(chats, folder)
    return Dataset.open(folder)


def test_the_preferred_answer_is_the_chats_own(chats: Dataset, pairs: Dataset) -> None:
    for split in SPLITS:
        known = [chat.messages for chat in chats.split(split)]
        for pair in pairs.preferences(split):
            assert [*pair.messages, pair.preferred] in known


def test_the_rejected_one_answers_another_question_of_its_kind_and_family(
    chats: Dataset, pairs: Dataset
) -> None:
    documents = {document["symbol"]: document for document in chats.documents()}
    related, total = 0, 0
    for split in SPLITS:
        answers: dict[tuple[str | None, str], list[dict[str, str]]] = {}
        for chat in chats.split(split):
            key = (chat.kind, chat.messages[-1]["content"])
            answers.setdefault(key, []).append(documents[str(chat.symbol)])
        for pair in pairs.preferences(split):
            assert pair.rejected["content"] != pair.preferred["content"]
            own = documents[str(pair.symbol)]
            others = answers[pair.kind, pair.rejected["content"]]  # of the same split and kind
            assert own["kind"] in [other["kind"] for other in others]
            families = [other["module"].split(".")[0] for other in others]
            related += own["module"].split(".")[0] in families
            total += 1
    said = pairs.info["rejected_from"]
    assert said["same_family"] + said["another_family"] == total
    assert related >= said["same_family"] > total / 2


def test_a_text_is_as_often_preferred_as_rejected(pairs: Dataset) -> None:
    described = [pair for pair in pairs.preferences("train") if pair.kind == "describe"]
    preferred = Counter(pair.preferred["content"] for pair in described)
    rejected = Counter(pair.rejected["content"] for pair in described)
    assert sum(((preferred - rejected) + (rejected - preferred)).values()) < len(described) / 10


def test_the_same_chats_make_the_same_bytes(chats: Dataset, pairs: Dataset, tmp_path: Path) -> None:
    python_docs_preferences.build(chats, tmp_path / "again")
    assert manifest_of(tmp_path / "again").digest == manifest_of(pairs.folder).digest


def test_it_says_how_it_was_made(pairs: Dataset) -> None:
    assert pairs.kind == "preferences"
    assert pairs.info["licence"] == "PSF-2.0"
    assert "another symbol of the same kind and module family" in pairs.info["made_by"]
    assert {d["symbol"] for d in pairs.documents()} >= {p.symbol for p in pairs.preferences("test")}
