"""Guesses never change an answer, whoever makes them, and are made where they pay."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import GenerateRequest, Sampling, TokenChunk
from bessemer.inference import speculation
from bessemer.inference.cache import KVCache
from bessemer.inference.prepared import PreparedDecoder
from bessemer.inference.sequence import EngineSequence
from bessemer.inference.speculation import Drafter, PromptLookup, worthwhile
from bessemer.inference.stepper import Stepper
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from tests.inference.conftest import CONFIGS, VOCABULARY, engine_over
from tests.inference.test_engine import collect, full_logits, ids_of, request, tokens_of

Tiny = Callable[[str], Path]

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": Sampling(temperature=0.0)},
    "sampled": {"sampling": Sampling(temperature=0.7, seed=3)},
    "truncated": {"sampling": Sampling(temperature=1.0, top_k=5, top_p=0.9, min_p=0.02, seed=4)},
    "penalized": {
        "sampling": Sampling(
            temperature=0.5,
            seed=5,
            presence_penalty=1.0,
            frequency_penalty=0.5,
            repetition_penalty=1.2,
            logit_bias={3: 2.0},
        )
    },
    "with log-probabilities": {"sampling": Sampling(temperature=0.7, seed=6), "top_logprobs": 4},
    "stopped": {"sampling": Sampling(temperature=0.7, seed=7), "stop_ids": list(range(12))},
}


class Oracle:
    """Guesses from answers that are known, every `wrong_every`-th token wrong."""

    cost = 0.0

    def __init__(self, answers: Mapping[tuple[int, ...], list[int]], wrong_every: int) -> None:
        self._answers, self._wrong_every = answers, wrong_every
        self.guessed = 0

    def guess(self, lengths: Mapping[EngineSequence, int]) -> dict[EngineSequence, list[int]]:
        return {s: self._go_on(s, length) for s, length in lengths.items()}

    def _go_on(self, sequence: EngineSequence, length: int) -> list[int]:
        known = self._answers[tuple(sequence.ids[: sequence.prompt_tokens])]
        said = len(sequence.ids) - sequence.prompt_tokens
        guess = []
        for token in (known + [0] * length)[said : said + length]:
            self.guessed += 1
            guess.append((token + (self.guessed % self._wrong_every == 0)) % VOCABULARY)
        return guess


class Bench:
    """A stepper in this thread, with whatever guesses are to be tried."""

    def __init__(self, folder: Path, drafter: Drafter | None, rows: int = 4) -> None:
        model = PreparedDecoder(load_decoder(folder, torch.float64))
        length = model.config.context_length
        cache = KVCache(
            model.config, model.dtype, rows=rows, context_length=length, kv_bytes=1 << 30
        )
        self.stepper = Stepper(model, cache, max_waiting=9999, chunk_tokens=64, drafter=drafter)

    def answers(
        self, asked: list[GenerateRequest], budget_tokens: int | None = None
    ) -> list[list[TokenChunk]]:
        """All of them; with a budget, memory gets that short after ten steps."""
        letters: list[list[Any]] = [[] for _ in asked]
        for one, box in zip(asked, letters, strict=True):
            send = lambda kind, body, box=box: box.append((kind, body))  # noqa: E731
            assert self.stepper.admit(EngineSequence.for_tokens(one, send))
        while self.stepper.step():
            if self.stepper.counters.steps == 10 and budget_tokens:
                self.stepper.scheduler.cache.budget_tokens = budget_tokens
            for row in self.stepper.scheduler.cache.rows:
                assert row.computed <= len(row.tokens)
        assert all(kind == "chunk" for box in letters for kind, _ in box)
        return [[body for _, body in box] for box in letters]


def same(left: list[TokenChunk], right: list[TokenChunk]) -> None:
    assert tokens_of(left) == tokens_of(right)
    last, other = left[-1], right[-1]
    assert (last.finish_reason, last.stop_id) == (other.finish_reason, other.stop_id)
    assert last.completion_tokens == other.completion_tokens
    found, expected = ([p for c in side for p in c.logprobs or ()] for side in (left, right))
    for one, two in zip(found, expected, strict=True):
        assert one.id == two.id and one.logprob == pytest.approx(two.logprob, abs=1e-9)
        assert [id_ for id_, _ in one.top] == [id_ for id_, _ in two.top]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong_every", [1, 2, 5, 10**9])
def test_no_guess_changes_an_answer(way: str, wrong_every: int, tiny: Tiny) -> None:
    asked = [request(ids_of(n, n), 40, **WAYS[way]) for n in (3, 9, 21, 50, 33)]
    plain = Bench(tiny("llama"), None).answers(asked)
    known = {tuple(one.prompt_ids): tokens_of(p) for one, p in zip(asked, plain, strict=True)}
    oracle = Oracle(known, wrong_every)
    guessing = Bench(tiny("llama"), oracle)
    for left, right in zip(guessing.answers(asked), plain, strict=True):
        same(left, right)
    counters = guessing.stepper.counters
    assert oracle.guessed > 0
    if wrong_every == 1:
        assert counters.accepted_tokens == 0
    if wrong_every == 10**9 and way != "stopped":
        assert counters.accepted_tokens == counters.proposed_tokens > 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("way", ["greedy", "sampled"])
async def test_prompt_lookup_gives_the_same_answers(name: str, way: str, tiny: Tiny) -> None:
    prompts = [ids_of(12, n) * 3 for n in range(5)]  # texts that repeat themselves
    answers = []
    for guesses in ("off", "ngram"):
        async with engine_over(tiny(name), guesses=guesses, chunk_tokens=16) as engine:
            asked = [request(ids, 50, top_logprobs=2, **WAYS[way]) for ids in prompts]
            answers.append(await asyncio.gather(*(collect(engine, one) for one in asked)))
            counters = engine.counters
            assert (counters.proposed_tokens > 0) == (guesses == "ngram")
            assert counters.accepted_tokens <= counters.proposed_tokens
    for left, right in zip(*answers, strict=True):
        same(left, right)


def test_guesses_make_fewer_steps(tiny: Tiny) -> None:
    asked = [request(ids_of(9), 60)]
    plain = Bench(tiny("llama"), None)
    known = {tuple(ids_of(9)): tokens_of(plain.answers(asked)[0])}
    guessing = Bench(tiny("llama"), Oracle(known, 10**9))
    guessing.answers(asked)
    assert plain.stepper.counters.steps == 60
    assert guessing.stepper.counters.steps < 60 / 4


def test_guesses_that_are_never_right_are_given_up(tiny: Tiny) -> None:
    asked = [request(ids_of(9), 80)]
    known = {tuple(ids_of(9)): tokens_of(Bench(tiny("llama"), None).answers(asked)[0])}
    guessing = Bench(tiny("llama"), Oracle(known, 1))
    guessing.answers(asked)
    assert 0 < guessing.stepper.counters.proposed_tokens < 30


def test_an_answer_with_guesses_survives_losing_its_place(tiny: Tiny) -> None:
    asked = [request(ids_of(20, n), 60, sampling=Sampling(seed=n)) for n in range(4)]
    plain = Bench(tiny("llama"), None).answers(asked)
    known = {tuple(one.prompt_ids): tokens_of(p) for one, p in zip(asked, plain, strict=True)}
    tight = Bench(tiny("llama"), Oracle(known, 3))
    for left, right in zip(tight.answers(asked, 150), plain, strict=True):
        same(left, right)
    counters = tight.stepper.counters
    assert counters.preemptions > 0 and counters.accepted_tokens > 0


def chi_square(counts: Mapping[tuple[int, ...], int], chances: torch.Tensor, draws: int) -> float:
    """How far counts are from `chances`, in standard deviations of the statistic.

    Cells that are expected fewer than five times are one.
    """
    statistic, cells, rare, seen_rare = 0.0, 0, 0.0, 0
    for cell in itertools.product(*(range(size) for size in chances.shape)):
        expected, seen = draws * float(chances[cell]), counts.get(cell, 0)
        if expected < 5:
            rare, seen_rare = rare + expected, seen_rare + seen
            continue
        statistic += (seen - expected) ** 2 / expected
        cells += 1
    if rare > 1:
        statistic += (seen_rare - rare) ** 2 / rare
        cells += 1
    freedom = cells - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_sampled_tokens_have_the_models_distribution_whatever_is_guessed(tmp_path: Path) -> None:
    """Three tokens against their exact joint distribution; some guesses are right and some wrong.
    The same statistic finds a temperature that is off by a fifth."""
    config = dataclasses.replace(CONFIGS["llama"], vocab_size=7)
    save_decoder(Decoder(config).init_weights(seed=3), tmp_path)
    prompt, draws = [1, 2, 3], 2500

    def chances(ids: list[int], temperature: float) -> torch.Tensor:
        return torch.softmax(full_logits(tmp_path, ids)[-1] / temperature, -1)

    def joint(temperature: float) -> torch.Tensor:
        """Of all three tokens: the first one comes out of prefill, without a guess."""
        found = torch.zeros(7, 7, 7, dtype=torch.float64)
        for one in range(7):
            for two in range(7):
                before = chances(prompt, temperature)[one]
                before = before * chances([*prompt, one], temperature)[two]
                found[one, two] = before * chances([*prompt, one, two], temperature)
        return found

    likeliest = int(joint(1.0).sum((0, 2)).argmax())
    bench = Bench(tmp_path, Oracle({tuple(prompt): [likeliest] * 3}, 10**9), rows=4)
    asked = [
        request(prompt, 3, sampling=Sampling(temperature=1.0, seed=seed)) for seed in range(draws)
    ]
    counts = Counter(tuple(tokens_of(chunks)) for chunks in bench.answers(asked))
    counters = bench.stepper.counters
    assert 0.1 < counters.accepted_tokens / counters.proposed_tokens < 0.9
    assert abs(chi_square(counts, joint(1.0), draws)) < 4
    assert chi_square(counts, joint(0.8), draws) > 8


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 8))
def test_prompt_lookup_goes_on_as_the_longest_run_did_last(ids: list[int], length: int) -> None:
    lookup = PromptLookup()
    sequence = EngineSequence(ids=[], wanted="tokens", send=print)
    found: dict[EngineSequence, list[int]] = {}
    for token in ids:  # one at a time, as answers grow
        sequence.ids.append(token)
        found = lookup.guess({sequence: length})
    places = (
        end
        for run in range(lookup.LONGEST, lookup.SHORTEST - 1, -1)
        for end in range(len(ids) - 1, run - 1, -1)
        if run < len(ids) and ids[end - run : end] == ids[-run:]
    )
    place = next(places, None)
    if place is None:
        assert found == {}
        return
    expected = list(ids)
    for step in range(length):
        expected.append(expected[place + step])
    assert found[sequence] == expected[len(ids) :]


@example([0.21875] * 3, 3)  # a first guess alone does not pay for the opening, three do
@given(st.lists(st.floats(0, 1), min_size=1, max_size=3), st.integers(0, 9))
def test_as_much_is_guessed_as_makes_most_tokens_in_the_time(rates: list[float], room: int) -> None:
    sequences = [EngineSequence(ids=[1], wanted="tokens", send=print) for _ in rates]
    rated = dict(zip(sequences, rates, strict=True))
    found = worthwhile(rated, dict.fromkeys(sequences, 4), room, 0.0)

    def speed(lengths: tuple[int, ...]) -> float:
        tokens = sum(sum(r**j for j in range(n + 1)) for r, n in zip(rates, lengths, strict=True))
        time = 1 + speculation.TOKEN_COST * (len(rates) + sum(lengths))
        return tokens / (time + speculation.OPENING_COST * any(lengths))

    possible = itertools.product(range(5), repeat=len(rates))
    best = max(speed(lengths) for lengths in possible if sum(lengths) <= room)
    chosen = speed(tuple(found.values()))
    assert sum(found.values()) <= room
    assert chosen == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("draft", ["llama", "llama3", "gpt2"])
async def test_a_draft_model_gives_the_same_answers(draft: str, way: str, tiny: Tiny) -> None:
    """The model itself is always right; another one is nearly always wrong."""
    prompts = [ids_of(n, n) for n in (3, 40, 9, 21, 33, 7)]  # more than rows
    answers = []
    for guesses in ("off", tiny(draft)):
        async with engine_over(tiny("llama"), guesses=guesses, chunk_tokens=16) as engine:
            asked = [request(ids, 40, **WAYS[way]) for ids in prompts]
            answers.append([await collect(engine, asked[0])])
            answers[-1] += await asyncio.gather(*(collect(engine, one) for one in asked))
            counters = engine.counters
    for left, right in zip(*answers, strict=True):
        same(left, right)
    assert 0 <= counters.accepted_tokens <= counters.proposed_tokens
    if draft == "llama" and way not in ("stopped", "with log-probabilities"):
        assert counters.accepted_tokens > 0.8 * counters.proposed_tokens > 0


async def test_a_draft_of_another_vocabulary_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIGS["llama"], vocab_size=VOCABULARY + 1)
    save_decoder(Decoder(config), tmp_path)
    with pytest.raises(InvalidInput, match=r"98 rows.*97 rows"):
        async with engine_over(tiny("llama"), guesses=tmp_path):
            pass
    short = dataclasses.replace(CONFIGS["llama"], context_length=50)
    save_decoder(Decoder(short), tmp_path)
    with pytest.raises(InvalidInput, match=r"50 tokens.*96"):
        async with engine_over(tiny("llama"), guesses=tmp_path):
            pass
