"""A smaller model that guesses ahead for a larger one with the same vocabulary.

It draws as the larger one will: with the request's own sampling, and with the noise of the very
positions it guesses. Where both models have nearly the same scores they draw the same token.

    V vocabulary of the larger model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bessemer.core.errors import InvalidInput
from bessemer.inference.cache import KVCache
from bessemer.inference.runner import Runner, ServedModel
from bessemer.inference.sampling import adjusted, draw
from bessemer.inference.scheduler import Share, Step
from bessemer.inference.sequence import EngineSequence
from bessemer.text.tokenizer import Tokenizer

# A shadow this little behind is computed beside the others' rows, else as a chunk of its own.
_FEW = 16


class _Shadow(NamedTuple):
    """The draft's copy of a sequence; its first `agreed[0]` tokens are known to be the same."""

    sequence: EngineSequence
    agreed: list[int]


class DraftModel:
    """Implements `speculation.Drafter`.

    Args:
        cache: the draft's own, with as many rows as sequences run.
        vocabulary: of the larger model; both have the same tokens.
        cost: of one step of the draft, in steps of the larger model.
        chunk_tokens: how much of a prompt is read at a time before there are guesses.
    """

    def __init__(
        self,
        model: ServedModel,
        cache: KVCache,
        *,
        vocabulary: int,
        cost: float,
        chunk_tokens: int,
    ) -> None:
        self.cost = cost
        self._cache = cache
        self._runner = Runner(model, cache)
        self._vocabulary = vocabulary
        self._chunk_tokens = chunk_tokens
        self._shadows: dict[EngineSequence, _Shadow] = {}

    def guess(self, lengths: Mapping[EngineSequence, int]) -> dict[EngineSequence, list[int]]:
        """See `Drafter.guess`. Nothing is guessed for a sequence that is not read yet."""
        self._release_ended()
        followed = {self._follow(original): original for original in lengths}
        scores = self._catch_up(list(followed))
        guesses: dict[EngineSequence, list[int]] = {}
        while scores:
            going_on = []
            for shadow, logits_NV in scores.items():
                original = followed[shadow]
                guess = guesses.setdefault(original, [])
                token = self._draw(original, shadow, logits_NV[-1], len(guess))
                if token in original.stop_ids:
                    continue
                guess.append(token)
                _extend(shadow, token)
                if len(guess) < lengths[original]:
                    going_on.append(shadow)
            scores = self._run(going_on)
        return guesses

    def _follow(self, original: EngineSequence) -> EngineSequence:
        """The shadow, with the original's tokens; what of them is computed stays so."""
        if original not in self._shadows:
            row = self._cache.acquire(original.ids)
            assert row is not None, "the draft has as many rows as sequences run"
            copied = EngineSequence(ids=[], wanted="tokens", send=_nobody, row=row)
            self._shadows[original] = _Shadow(copied, [row.computed])
        shadow, agreed = self._shadows[original]
        assert shadow.row is not None
        ids, start = original.ids, agreed[0]
        while start < min(len(ids), len(shadow.ids)) and ids[start] == shadow.ids[start]:
            start += 1
        agreed[0] = len(ids)
        shadow.ids, shadow.row.tokens = list(ids), list(ids)
        shadow.row.computed = min(shadow.row.computed, start, len(ids) - 1)
        return shadow

    def _catch_up(self, shadows: Sequence[EngineSequence]) -> dict[EngineSequence, Tensor]:
        """Read what is new; scores of those that are through with it."""
        decodes: list[Share] = []
        chunks: list[Share] = []
        budget = self._chunk_tokens
        for shadow in shadows:
            count = min(shadow.todo, budget)
            if count:
                (decodes if count <= _FEW else chunks).append(Share(shadow, count))
                budget -= count
        return self._step(decodes, chunks)

    def _run(self, shadows: Sequence[EngineSequence]) -> dict[EngineSequence, Tensor]:
        return self._step([Share(shadow, 1) for shadow in shadows], [])

    def _step(self, decodes: list[Share], chunks: list[Share]) -> dict[EngineSequence, Tensor]:
        if not decodes and not chunks:
            return {}
        return self._runner.run(Step(sorted(decodes, key=_row_index), chunks))

    def _draw(
        self, original: EngineSequence, shadow: EngineSequence, logits_U: Tensor, ahead: int
    ) -> int:
        request = original.request
        assert request is not None
        logits_V = logits_U[: self._vocabulary]
        if len(logits_V) < self._vocabulary:
            rest = logits_V.new_full((self._vocabulary - len(logits_V),), float("-inf"))
            logits_V = torch.cat((logits_V, rest))
        answer_ids = shadow.ids[original.prompt_tokens :]
        scores_V = adjusted(logits_V, request.sampling, request.prompt_ids, answer_ids)
        return draw(scores_V, request.sampling, original.seed, original.drawn + ahead)

    def _release_ended(self) -> None:
        for original in [s for s in self._shadows if s.row is None]:
            shadow = self._shadows.pop(original).sequence
            assert shadow.row is not None
            self._cache.release(shadow.row)


def check_vocabularies(model: Path, draft: Path, sizes: tuple[int, int]) -> None:
    """Raise InvalidInput unless token ids mean the same to both.

    Args:
        sizes: rows of both models' embeddings, which decide where a folder has no tokenizer.
    """
    have = all((folder / "tokenizer.json").exists() for folder in (model, draft))
    if have:
        one, other = Tokenizer.load(model), Tokenizer.load(draft)
        same = one.vocab_size == other.vocab_size and all(
            one.token_bytes(id_) == other.token_bytes(id_) for id_ in range(one.vocab_size)
        )
    else:
        same = sizes[0] == sizes[1]
    if not same:
        raise InvalidInput(
            f"the draft model's vocabulary ({sizes[1]} rows) is not that of the model it is to"
            f" guess for ({sizes[0]} rows): a token id means different things to them",
            next_step="choose a draft of the same family, or --guesses ngram",
        )


def _extend(shadow: EngineSequence, token: int) -> None:
    assert shadow.row is not None
    shadow.ids.append(token)
    shadow.row.tokens.append(token)


def _row_index(share: Share) -> int:
    assert share.sequence.row is not None
    return share.sequence.row.index


def _nobody(kind: str, body: object) -> None:
    raise AssertionError(f"a draft's copy was told {kind} {body}")
