"""Near-duplicates are found, unlike texts are never joined, and the answer never changes."""

import random
import subprocess
import sys

from hypothesis import example, given
from hypothesis import strategies as st

from bessemer.data.duplicates import THRESHOLD, group_near_duplicates, jaccard, shingles

words = st.sampled_from(["alpha", "beta", "gamma", "return", "the", "value", "of", "a", "file"])
texts = st.lists(words, max_size=12).map(" ".join)


def group(found: list[str]) -> list[int]:
    return group_near_duplicates(found, found.__getitem__)


def true_jaccard(left: str, right: str) -> float:
    """The definition, with Python's sets of strings."""

    def pieces(text: str) -> set[str]:
        text = " ".join(text.lower().split())
        return {text[i : i + 5] for i in range(max(1, len(text) - 4))}

    a, b = pieces(left), pieces(right)
    return len(a & b) / len(a | b)


@example("", "\0")
@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_is_jaccards(left: str, right: str) -> None:
    assert jaccard(shingles(left), shingles(right)) == true_jaccard(left, right)


@given(st.lists(texts, max_size=2))
def test_two_texts_are_joined_exactly_when_they_are_alike(found: list[str]) -> None:
    expected = list(range(len(found)))
    if len(found) == 2:
        similarity = true_jaccard(*found)
        # Between, the bands may miss a pair, with a probability the module states.
        if THRESHOLD <= similarity < 0.95:
            return
        expected = [0, 0] if similarity >= 0.95 else [0, 1]
    assert group(found) == expected


@given(st.lists(texts, max_size=12))
def test_groups_are_chains_of_alike_texts(found: list[str]) -> None:
    groups = group(found)
    for index, first in enumerate(groups):
        assert first <= index
        assert groups[first] == first
        others = [i for i, other in enumerate(groups) if other == first and i != index]
        if others:
            assert max(true_jaccard(found[index], found[i]) for i in others) >= THRESHOLD
    for index, text in enumerate(found):
        assert groups[index] == groups[found.index(text)], "exact duplicates are near"


def test_edited_copies_are_found_among_many() -> None:
    source = random.Random(0)
    alphabet = "abcdefghijklmnopqrstuvwxyz     "
    originals = ["".join(source.choices(alphabet, k=400)) for _ in range(300)]
    copies = [text[:200] + "EDITED" + text[206:] for text in originals]
    groups = group(originals + copies)
    assert groups == list(range(300)) * 2


def test_a_crowd_of_alike_texts_is_one_group() -> None:
    body = "the same long introduction that every one of these texts begins with, word for word; "
    crowd = [f"{body * 3}number {index}" for index in range(1000)]
    assert set(group(crowd)) == {0}


def test_case_and_white_space_are_no_difference() -> None:
    assert group(["Return the value.", "  return\n THE  value. ", ""]) == [0, 0, 2]


def test_every_process_finds_the_same() -> None:
    code = (
        "from bessemer.data.duplicates import shingles;"
        "print(shingles('the quick brown fox').tolist())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert runs == {f"{shingles('the quick brown fox').tolist()}\n".encode()}
