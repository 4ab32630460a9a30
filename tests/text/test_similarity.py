"""Measures of similarity against those who are cited for them, and worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.text.similarity import MEASURES, common_length, meteor, similarity

NAMES = (
    "fuzzy_match", "bleu", "gleu", "meteor",
    "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
)  # fmt: skip
# What rapidfuzz 3.14.6 (`fuzz.ratio`), sacrebleu 2.6.0 (smooth_method "exp", effective_order), NLTK
# 3.10.4 (`sentence_gleu`; METEOR's exact stage with `align_words`' enumeration) and rouge-score
# 0.1.2 say of these, in the order of NAMES. The first pair is from NLTK's own documentation, the
# second from Papineni et al., the fourth and fifth from Lin.
TABLE = [
    (
        "It is a guide to action which ensures that the military"
        " always obeys the commands of the party",
        "It is a guide to action that ensures that the military will forever heed Party commands",
        (0.751381, 0.411804, 0.439394, 0.694444, 0.705882, 0.5, 0.4, 0.285714, 0.153846, 0.647059),
    ),
    (
        "the the the the the the the",
        "The cat is on the mat.",
        (0.489796, 0.065673, 0.045455, 0.163934, 0.307692, 0.0, 0.0, 0.0, 0.0, 0.307692),
    ),
    (
        "The quick brown dog jumps on the log.",
        "The quick brown fox jumps over the lazy dog",
        (0.825, 0.211053, 0.3, 0.574282, 0.705882, 0.266667, 0.153846, 0.0, 0.0, 0.588235),
    ),
    (
        "police killed the gunman",
        "police kill the gunman",
        (0.956522, 0.353553, 0.4, 0.638889, 0.75, 0.333333, 0.0, 0.0, 0.0, 0.75),
    ),
    (
        "the gunman kill police",
        "police killed the gunman",
        (0.434783, 0.353553, 0.4, 0.638889, 0.75, 0.333333, 0.0, 0.0, 0.0, 0.5),
    ),
    (
        "Paris",
        "The capital of France is Paris, on the Seine.",
        (0.2, 4.5e-05, 0.026316, 0.060976, 0.2, 0.0, 0.0, 0.0, 0.0, 0.2),
    ),
    (
        "a b c d e f g h",
        "a b c d e x g h",
        (0.933333, 0.594604, 0.653846, 0.864796, 0.875, 0.714286, 0.5, 0.4, 0.25, 0.875),
    ),
    (
        "nothing alike",
        "completely different words here",
        (0.272727, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    ),
]


@pytest.mark.parametrize(("text", "reference", "values"), TABLE)
def test_each_measure_says_what_its_reference_says(
    text: str, reference: str, values: tuple[float, ...]
) -> None:
    found = [similarity(name, text, reference) for name in NAMES]
    assert found == pytest.approx(values, abs=1e-5)


def test_bleu_by_hand() -> None:
    # 4 words against 4: 3 of 4 words, 1 of 3 pairs, 0 of 2 triples, 0 of 1: halves 1/2 and 1/4.
    by_hand = (3 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4)
    assert similarity("bleu", "police killed the gunman", "police kill the gunman") == (
        pytest.approx(by_hand)
    )
    # Three words of six: the penalty is exp(1 - 6/3).
    assert similarity("bleu", "a b c", "a b c d e f") == pytest.approx(math.exp(-1))


def test_meteor_by_hand() -> None:
    # Banerjee and Lavie's example of chunks: "the president" and "spoke to the audience".
    text = "the president spoke to the audience"
    reference = "the president then spoke to the audience"
    precision, recall = 1, 6 / 7
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    assert meteor(text, reference) == pytest.approx(mean * (1 - 0.5 * (2 / 6) ** 3))


@given(st.text(alphabet="ab c", max_size=12), st.text(alphabet="ab c", max_size=12))
def test_common_length_is_what_the_table_of_the_textbook_says(first: str, second: str) -> None:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
            )
    assert common_length(first, second) == table[-1][-1]


@given(st.sampled_from(sorted(MEASURES)), st.text(), st.text())
def test_every_measure_is_between_nothing_and_one(name: str, text: str, other: str) -> None:
    assert 0 <= similarity(name, text, other) <= 1 + 1e-9


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_ends_of_the_scale(name: str) -> None:
    text = "one two three four five six"
    # METEOR's penalty for a single chunk of six words is 0.5 / 216.
    assert similarity(name, text, text) == pytest.approx(1, abs=0.0025)
    assert similarity(name, "", "") == 1
    assert similarity(name, "", text) == similarity(name, text, "") == 0
