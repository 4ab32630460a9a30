"""How alike two texts are, from 0 to 1, by the measures that OpenAI's graders name.

fuzzy_match    2 x longest common subsequence of characters / all characters (rapidfuzz's `ratio`)
bleu           Papineni et al. 2002, 1- to 4-grams; a zero precision counts 1/2, 1/4 ... of a match
               (Chen and Cherry 2014, method 3), up to the longest n-gram of the text
gleu           Wu et al. 2016: of all 1- to 4-grams, the smaller of precision and recall
meteor         Banerjee and Lavie 2005 by exact words, alpha 0.9, beta 3, gamma 0.5; neither stems
               nor synonyms
rouge_1 to _5  Lin 2004: F1 of n-grams
rouge_l        Lin 2004: F1 of the longest common subsequence of words

Words are runs of letters and digits, in lower case; for `bleu` and `gleu` they keep their case and
punctuation marks are words too. Two empty texts are alike (1), an empty and a full one are not (0).
Not here: `cosine`, which needs a model.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial

LONGEST_NGRAM = 4

_WORDS = re.compile(r"[^\W_]+")
_WORDS_AND_MARKS = re.compile(r"\w+|[^\w\s]")

Tokens = Sequence[Hashable]


def similarity(metric: str, text: str, reference: str) -> float:
    """How alike they are by the measure of this name; a KeyError where there is none."""
    return MEASURES[metric](text, reference)


def fuzzy_match(text: str, reference: str) -> float:
    if not text and not reference:
        return 1.0
    return 2 * common_length(text, reference) / (len(text) + len(reference))


def bleu(text: str, reference: str) -> float:
    found, wanted = _WORDS_AND_MARKS.findall(text), _WORDS_AND_MARKS.findall(reference)
    if not found or not wanted:
        return float(found == wanted)
    orders = range(1, min(LONGEST_NGRAM, len(found)) + 1)
    matches = [_overlap(found, wanted, n) for n in orders]
    if not any(matches):
        return 0.0
    logs, halves = [], 0
    for n, match in zip(orders, matches, strict=True):
        halves += match == 0
        logs.append(math.log((match or 2.0**-halves) / (len(found) - n + 1)))
    brevity = min(0.0, 1 - len(wanted) / len(found))
    return math.exp(brevity + sum(logs) / len(logs))


def gleu(text: str, reference: str) -> float:
    found, wanted = _WORDS_AND_MARKS.findall(text), _WORDS_AND_MARKS.findall(reference)
    if not found or not wanted:
        return float(found == wanted)
    orders = range(1, LONGEST_NGRAM + 1)
    matches = sum(_overlap(found, wanted, n) for n in orders)
    most = max(sum(max(0, len(tokens) - n + 1) for n in orders) for tokens in (found, wanted))
    return matches / most


def meteor(text: str, reference: str) -> float:
    found, wanted = _words(text), _words(reference)
    if not found or not wanted:
        return float(found == wanted)
    pairs = _aligned(found, wanted)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(found), len(pairs) / len(wanted)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    chunks = 1 + sum((i + 1, j + 1) != after for (i, j), after in itertools.pairwise(pairs))
    return mean * (1 - 0.5 * (chunks / len(pairs)) ** 3)


def rouge_n(text: str, reference: str, n: int) -> float:
    found, wanted = _words(text), _words(reference)
    if not found and not wanted:
        return 1.0
    return _f1(_overlap(found, wanted, n), len(found) - n + 1, len(wanted) - n + 1)


def rouge_l(text: str, reference: str) -> float:
    found, wanted = _words(text), _words(reference)
    if not found and not wanted:
        return 1.0
    return _f1(common_length(found, wanted), len(found), len(wanted))


def common_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, a machine word of `first` at a time (Hyyro 2004).

    >>> common_length("dialog", "d log")
    4
    """
    places: dict[Hashable, int] = {}
    for index, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << index
    every = (1 << len(first)) - 1
    row = every
    for token in second:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(first) - row.bit_count()


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _overlap(found: Tokens, wanted: Tokens, n: int) -> int:
    """N-grams that both have, each as often as the one that has it less often."""
    return (_ngrams(found, n) & _ngrams(wanted, n)).total()


def _ngrams(tokens: Tokens, n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _f1(matches: int, found: int, wanted: int) -> float:
    return 2 * matches / (found + wanted) if matches else 0.0


def _aligned(found: Tokens, wanted: Tokens) -> list[tuple[int, int]]:
    """Places of equal words, as NLTK pairs them: from the end, each with the last one free."""
    free: dict[Hashable, list[int]] = {}
    for place, token in enumerate(wanted):
        free.setdefault(token, []).append(place)
    pairs = [
        (place, free[token].pop())
        for place, token in reversed(list(enumerate(found)))
        if free.get(token)
    ]
    return pairs[::-1]


MEASURES: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{n}": partial(rouge_n, n=n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}
