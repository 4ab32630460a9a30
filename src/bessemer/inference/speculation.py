"""Guessing ahead: tokens that may come next, which one step of the model checks all at once.

A step for one sequence waits for weights to come from memory, and a few more tokens cost little
(Leviathan et al., 2023; Chen et al., 2023). What is ours: the stepper draws the token of every
position from the model's own scores with that position's own noise, as it would without guesses,
and a guess was right if it is that token. So an answer never depends on guesses, whatever its
temperature, penalties or constraint (docs/decisions/0008-speculation.md).

Here is who guesses, and how much: as many tokens as the last guesses say will pay.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

from bessemer.inference.sequence import EngineSequence

Guesses = Literal["off", "ngram"]

MOST = 8
"""Tokens guessed for one sequence and step."""

MOST_SEQUENCES = 12
"""With more of them decoding nothing is guessed: every row of a step's attention is as wide as the
widest, and at 32 guesses cost a tenth of the speed even where most were right (logbook)."""

# A step's time is about 1 + TOKEN_COST * tokens (benchmarks/speculation.py --steps prints it).
# A constant and not a stopwatch: equal requests shall be computed alike.
TOKEN_COST = 0.07
# What the first guess of a step costs beyond its tokens.
OPENING_COST = 0.02

_FIRST_RATE = 0.3
_FIRST_RATE_OF_A_DRAFT = 0.7  # somebody chose it for this model; a few guesses show if wrongly
_MEMORY = 1 / 8  # weight of the newest judgment
_LOOK_AGAIN = 24  # tokens after which guesses that cost and did not pay are tried again


class Drafter(Protocol):
    """Guesses how sequences go on. `cost` is that of one token, in steps of the model."""

    @property
    def cost(self) -> float: ...

    def guess(self, lengths: Mapping[EngineSequence, int]) -> dict[EngineSequence, list[int]]:
        """Up to so many tokens for each; sequences that it knows nothing of are left out."""
        ...


@dataclass
class _Record:
    """What was guessed for one sequence last, at which length, and how often guesses are right."""

    rate: float = _FIRST_RATE
    guess: list[int] = field(default_factory=list)
    length: int = 0

    def judge(self, ids: Sequence[int]) -> None:
        """Compare the last guess with what has come since."""
        for guessed, came in zip(self.guess, ids[self.length :], strict=False):
            self.rate += _MEMORY * ((guessed == came) - self.rate)
            if guessed != came:
                break
        self.guess = []


class Speculation:
    """Puts guesses on sequences, where they are likely to pay."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._records: WeakKeyDictionary[EngineSequence, _Record] = WeakKeyDictionary()

    def propose(self, running: Sequence[EngineSequence], room: int) -> None:
        """Fill `proposed` of sequences that decode.

        Args:
            room: tokens that memory has place for, beyond the next one of each sequence.
        """
        decoding = [sequence for sequence in running if sequence.decoding]
        if len(decoding) > MOST_SEQUENCES:
            return
        rates = {sequence: self._judged(sequence).rate for sequence in decoding}
        most = {sequence: min(MOST, _left(sequence)) for sequence in decoding}
        lengths = worthwhile(rates, most, room, self._drafter.cost)
        asked = {s: max(length, self._least(s, most[s])) for s, length in lengths.items()}
        guesses = self._drafter.guess({s: length for s, length in asked.items() if length})
        for sequence, guess in guesses.items():
            record = self._records[sequence]
            record.guess, record.length = guess, len(sequence.ids)
            # A free guess that will not pay is only compared with what comes.
            sequence.proposed = guess[: lengths[sequence] if not self._drafter.cost else None]

    def _judged(self, sequence: EngineSequence) -> _Record:
        first = _FIRST_RATE_OF_A_DRAFT if self._drafter.cost else _FIRST_RATE
        record = self._records.setdefault(sequence, _Record(first))
        record.judge(sequence.ids)
        return record

    def _least(self, sequence: EngineSequence, most: int) -> int:
        """A guess to learn from: always if it is free, now and then if it is not."""
        if not self._drafter.cost:
            return min(1, most)
        waited = len(sequence.ids) - self._records[sequence].length
        return min(1, most) if waited >= _LOOK_AGAIN else 0


def worthwhile(
    rates: Mapping[EngineSequence, float],
    most: Mapping[EngineSequence, int],
    room: int,
    guess_cost: float,
) -> dict[EngineSequence, int]:
    """How many tokens to guess for each, so that the step makes the most tokens in its time.

    The j-th guess for a sequence adds rate ** j tokens and has its cost. The likeliest are added
    as long as they raise the quotient, which then is the highest of a step with guesses; what its
    opening costs may make it less than a step without any.
    """
    lengths = dict.fromkeys(rates, 0)
    tokens, time = float(len(rates)), 1 + TOKEN_COST * len(rates)
    without = tokens / time
    time += OPENING_COST
    cost = TOKEN_COST + guess_cost / max(1, len(rates))
    order = [(-rate, place, s) for place, (s, rate) in enumerate(rates.items()) if most[s]]
    heapq.heapify(order)
    while order and room > 0:
        chance, place, sequence = heapq.heappop(order)
        if -chance * time <= cost * tokens:
            break
        tokens, time = tokens - chance, time + cost
        lengths[sequence] += 1
        room -= 1
        if lengths[sequence] < most[sequence]:
            heapq.heappush(order, (chance * rates[sequence], place, sequence))
    return lengths if tokens / time > without else dict.fromkeys(rates, 0)


def _left(sequence: EngineSequence) -> int:
    """Tokens that can still be of use, when one is drawn in any case."""
    assert sequence.request is not None
    return sequence.request.max_tokens - sequence.drawn - 1


class PromptLookup:
    """Guesses that what followed the last tokens earlier follows them again (Saxena, 2023).

    `cost` is nothing: a dictionary knows where each run of `LONGEST` to `SHORTEST` tokens ended.
    """

    LONGEST, SHORTEST = 4, 2
    cost = 0.0

    def __init__(self) -> None:
        self._indexes: WeakKeyDictionary[EngineSequence, _Index] = WeakKeyDictionary()

    def guess(self, lengths: Mapping[EngineSequence, int]) -> dict[EngineSequence, list[int]]:
        """See `Drafter.guess`."""
        guesses = {}
        for sequence, length in lengths.items():
            index = self._indexes.setdefault(sequence, _Index())
            if (place := index.find(sequence.ids)) is not None:
                guesses[sequence] = _copied(sequence.ids, place, length)
        return guesses


@dataclass
class _Index:
    """Where each run of tokens was followed by another token last; `size` tokens are in it."""

    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    size: int = 0

    def find(self, ids: Sequence[int]) -> int | None:
        """Where the token stands that followed the longest known run that ends `ids`."""
        runs = range(PromptLookup.LONGEST, PromptLookup.SHORTEST - 1, -1)
        # The last run is not followed by anything yet.
        for end in range(self.size + 1, len(ids)):
            for run in runs:
                if run <= end:
                    self.ends[tuple(ids[end - run : end])] = end
        self.size = max(self.size, len(ids) - 1)
        found = (self.ends.get(tuple(ids[-run:])) for run in runs if run < len(ids))
        return next((place for place in found if place is not None), None)


def _copied(ids: Sequence[int], place: int, length: int) -> list[int]:
    """What follows from `place` on, the copy itself included: "a b a b" goes on for ever."""
    copied: list[int] = []
    for source in range(place, place + length):
        copied.append(ids[source] if source < len(ids) else copied[source - len(ids)])
    return copied
