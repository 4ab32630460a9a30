"""Problems made here: right answers, no question on two sides, the same bytes each time."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from bessemer.core.digests import manifest_of
from bessemer.data import arithmetic
from bessemer.data.corpus import SPLITS
from bessemer.data.dataset import Dataset
from bessemer.data.prompts import Prompt


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("arithmetic")
    arithmetic.build(folder)
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def prompts(dataset: Dataset) -> list[Prompt]:
    return [prompt for split in SPLITS for prompt in dataset.prompts(split)]


def test_sums_have_the_answers_that_python_gives(prompts: list[Prompt]) -> None:
    checked = 0
    for prompt in prompts:
        asked = re.fullmatch(r"What is ([-+*/0-9 ]+)\?", prompt.messages[-1]["content"])
        if asked:
            assert eval(asked[1]) == int(prompt.item["answer"]), prompt
            checked += 1
    assert checked > 1000


def test_answers_are_whole_numbers_from_0_on_and_differ(prompts: list[Prompt]) -> None:
    assert all(re.fullmatch("0|[1-9][0-9]*", prompt.item["answer"]) for prompt in prompts)
    (_, most), *_ = Counter(prompt.item["answer"] for prompt in prompts).most_common(1)
    assert most < 0.1 * len(prompts)  # no single guess pays


@pytest.mark.parametrize(
    ("story", "numbers", "answer"),
    [
        (0, (3, 4, 9), 7),
        (1, (7, 3, 9), 4),
        (2, (3, 4, 9), 12),
        (3, (9, 2, 5), 7),
        (4, (5, 3, 9), 15),
    ],
)
def test_a_story_of_one_step(story: int, numbers: tuple[int, int, int], answer: int) -> None:
    assert arithmetic.ONE_STEP[story].solve(*numbers) == answer


@pytest.mark.parametrize(
    ("story", "numbers", "answer"),
    [
        (0, (3, 4, 5), 2),
        (1, (3, 4, 5), 17),
        (2, (3, 4, 5), 7),
        (3, (9, 4, 5), 10),
        (3, (2, 4, 5), -1),
    ],
)
def test_a_story_of_two_steps(story: int, numbers: tuple[int, int, int], answer: int) -> None:
    assert arithmetic.TWO_STEPS[story].solve(*numbers) == answer


def test_no_question_is_in_two_splits_in_any_order_of_its_numbers(dataset: Dataset) -> None:
    seen: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        for prompt in dataset.prompts(split):
            text = prompt.messages[-1]["content"]
            numbers = sorted(re.findall("[0-9]+", text))
            rest = re.sub("[0-9]+", "#", text)
            for word in (*arithmetic.PEOPLE, *arithmetic.THINGS):
                rest = rest.replace(word, "@")
            assert seen.setdefault((rest, " ".join(numbers)), split) == split
    assert all(dataset.info["counts"][split] > 50 for split in SPLITS)


def test_questions_are_distinct_and_of_every_kind(dataset: Dataset, prompts: list[Prompt]) -> None:
    texts = [prompt.messages[-1]["content"] for prompt in prompts]
    assert len(set(texts)) == len(texts) == dataset.info["prompts"]
    assert set(dataset.info["kinds"]) == set(arithmetic.KINDS)
    assert min(dataset.info["kinds"].values()) >= 50
    assert {prompt.item["level"] for prompt in prompts} == {1, 2, 3}


def test_the_same_arguments_make_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    arithmetic.build(tmp_path / "again")
    assert manifest_of(tmp_path / "again").digest == manifest_of(dataset.folder).digest
    arithmetic.build(tmp_path / "other", seed=1)
    assert manifest_of(tmp_path / "other").digest != manifest_of(dataset.folder).digest
    # The digest is what a recipe's figures were measured on: it changes on purpose only.
    assert manifest_of(dataset.folder).digest.endswith(DIGEST)


DIGEST = "974da0b3e452594155f961160c4bdd6168f97862923bbf86291f9e7347981b20"
