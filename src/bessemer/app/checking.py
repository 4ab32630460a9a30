"""Train = serve: does the engine compute what the trainer computes? Measured on one model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bessemer.app.models import find_model_local
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.core.train_sections import Precision
from bessemer.data.corpus import topics
from bessemer.text.tokenizer import Tokenizer

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
PROMPT_TOKENS = 48

# Largest mean gap in nats. In float32 the three differ in the order of their sums only; in bfloat16
# each rounds to 8 bits at other places, which `docs/logbook.md` has figures of.
BOUNDS: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.1}


@dataclass(frozen=True)
class Gap:
    """Two computations of the same log-probabilities, compared token by token.

    Attributes:
        mean_nats, largest_nats: of the absolute difference.
        perplexities: of the tokens compared, by the first and by the second.
    """

    precision: Precision
    pair: str
    tokens: int
    mean_nats: float
    largest_nats: float
    perplexities: tuple[float, float]

    @property
    def within_bound(self) -> bool:
        return self.mean_nats <= BOUNDS[self.precision]


def check_logprobs(
    platform: Platform,
    principal: Principal,
    model: str,
    *,
    text: str | None = None,
    prompts: int = 4,
    tokens: int = 32,
) -> Iterator[Gap]:
    """Compare trainer forward, engine prefill and engine decode, in each precision.

    The engine answers the beginnings of `text` greedily, side by side; then the engine scores, and
    the trainer computes, prompt and answer.

    Args:
        text: what the prompts are cut from; by default Python's help topics.

    Raises:
        NotFound: there is no such model.
        InvalidInput: the text is too short.
    """
    from bessemer.inference.probing import probe
    from bessemer.train.scoring import trainer_logprobs

    folder = find_model_local(platform, principal, model).path
    cut = _prompts(folder, text, prompts)
    for precision in PRECISIONS:
        probed = probe(folder, cut, tokens, precision)
        trained = trainer_logprobs(folder, [each.ids for each in probed], precision)
        read = [score for each in probed for score in each.read]
        forward = [score for scores in trained for score in scores]
        yield _gap(precision, "trainer forward and engine prefill", forward, read)
        decoded = [score for each in probed for score in each.decoded]
        ends = [each.read[len(each.read) - each.answer :] for each in probed]
        yield _gap(
            precision, "engine prefill and engine decode", [s for end in ends for s in end], decoded
        )
        own = [
            scores[len(scores) - each.answer :]
            for scores, each in zip(trained, probed, strict=True)
        ]
        yield _gap(
            precision, "trainer forward and engine decode", [s for end in own for s in end], decoded
        )


def _prompts(folder: Path, text: str | None, count: int) -> list[list[int]]:
    tokenizer = Tokenizer.load(folder)
    text = text if text is not None else "\n\n".join(topic.text for topic in topics()[:40])
    ids = tokenizer.encode(text, parse_special=False)
    if len(ids) < count * PROMPT_TOKENS:
        raise InvalidInput(
            f"the text has {len(ids)} tokens; {count} prompts of {PROMPT_TOKENS} need"
            f" {count * PROMPT_TOKENS}",
            next_step="give a longer text, or fewer prompts",
        )
    stride = len(ids) // count
    return [
        tokenizer.prefix_ids + ids[first : first + PROMPT_TOKENS]
        for first in range(0, count * stride, stride)
    ]


def _gap(precision: Precision, pair: str, one: Sequence[float], other: Sequence[float]) -> Gap:
    gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
    perplexities = tuple(math.exp(-math.fsum(each) / len(each)) for each in (one, other))
    return Gap(
        precision, pair, len(gaps), math.fsum(gaps) / len(gaps), max(gaps),
        (perplexities[0], perplexities[1]),
    )  # fmt: skip
