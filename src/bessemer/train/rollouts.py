"""Answers of the network that is trained, sampled by an engine over its own weights.

Every answer's noise is a function of (seed, position of the prompt, number of the answer), and the
engine is deterministic: a step that is taken again after a crash samples the same answers. Each
batch of answers is written to the run's `rollouts/`, for people to read and for runs that take
several steps on the same answers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from bessemer.core.protocols import GenerateRequest, LiveEngine, Sampling
from bessemer.core.runs import write_atomically
from bessemer.data.packing import NO_COLUMNS, Columns, Piece


class Asked(msgspec.Struct, frozen=True):
    """A prompt to be answered: its token ids, and what the noise of the answer is drawn from."""

    prompt_ids: Sequence[int]
    noise: tuple[int, ...]


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One answer.

    Attributes:
        ids: its tokens; the end-of-turn token that ended it is the last.
        logprobs: the engine's, ln p(token | all before it) of each, in nats.
        finished: False where the limit of tokens cut it off.
        cached_tokens: how many of its prompt the engine had in its cache.
    """

    ids: list[int]
    logprobs: list[float]
    finished: bool
    cached_tokens: int = 0


def sample(
    engine: LiveEngine,
    asked: Sequence[Asked],
    *,
    max_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 1.0,
) -> list[Rollout]:
    """Let the engine answer all prompts side by side, with the weights as they are now."""
    engine.renew()

    async def answer(each: Asked) -> Rollout:
        sampling = Sampling(temperature=temperature, seed=_seed(each.noise))
        request = GenerateRequest(
            request_id="/".join(map(str, each.noise)),
            prompt_ids=each.prompt_ids,
            max_tokens=max_tokens,
            sampling=sampling,
            stop_ids=stop_ids,
            top_logprobs=0,
        )
        ids: list[int] = []
        logprobs: list[float] = []
        finished, cached = False, 0
        async for chunk in engine.generate(request):
            ids += chunk.ids
            cached = max(cached, chunk.cached_tokens)
            logprobs += [each.logprob for each in chunk.logprobs or ()]
            if chunk.stop_id is not None and chunk.stop_logprob is not None:
                ids.append(chunk.stop_id)
                logprobs.append(chunk.stop_logprob)
                finished = True
        return Rollout(ids=ids, logprobs=logprobs, finished=finished, cached_tokens=cached)

    async def answer_all() -> list[Rollout]:
        return await asyncio.gather(*map(answer, asked))

    return asyncio.run(answer_all())


def _seed(noise: Sequence[int]) -> int:
    digest = hashlib.blake2b("/".join(map(str, noise)).encode(), digest_size=8, person=b"rollout")
    return int.from_bytes(digest.digest(), "big") >> 1


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, what it earned, and how it stands beside the others to its prompt.

    Attributes:
        prompt: which of its split's prompts was answered, from 0, in the order of the file.
        prompt_ids: that prompt in tokens.
        rewards: of each kind, before its weight; `reward` is their weighted sum.
        old: the trainer's ln p of each token, where it was asked before several steps; else none.
        reference: the same by the network before its first step; none without a KL term.
    """

    prompt: int
    prompt_ids: list[int]
    text: str
    rollout: Rollout
    rewards: dict[str, float]
    reward: float
    advantage: float
    old: list[float] = []
    reference: list[float] = []

    def piece(self, columns: Columns = NO_COLUMNS) -> Piece:
        """Prompt and answer as tokens, the answer's as targets."""
        ids = np.array([*self.prompt_ids, *self.rollout.ids], dtype=np.int64)
        return Piece(ids, np.arange(len(ids)) >= len(self.prompt_ids), columns)


class Record:
    """The run's folder of sampled answers, a file of JSON lines for each batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def write(self, batch: int, judged: Sequence[Judged]) -> None:
        """Write a batch as a whole."""
        encoder = msgspec.json.Encoder()
        write_atomically(self._path(batch), b"\n".join(map(encoder.encode, judged)) + b"\n")

    def read(self, batch: int) -> list[Judged]:
        """A batch that was written."""
        lines = self._path(batch).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Judged) for line in lines]

    def _path(self, batch: int) -> Path:
        return self._folder / f"{batch:08d}.jsonl"
