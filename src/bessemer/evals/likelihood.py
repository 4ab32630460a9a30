"""Held-out loss: the negative log-likelihood of the answer a person would have wanted.

Only answer tokens count (the text of the answer and the end of its turn), and of a conversation
with examples before it only those after the examples. Nothing is generated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from bessemer.core.errors import RunFailed
from bessemer.core.protocols import Engine, Message
from bessemer.evals.asking import Asked, OnProgress, ask_all, ignore_progress
from bessemer.evals.items import Item
from bessemer.evals.shots import after_shots
from bessemer.text.chat_encoding import encode_chat
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer


class Passage(NamedTuple):
    """Token ids to score; `is_target` marks those that count."""

    item: str
    cluster: str
    ids: list[int]
    is_target: list[bool]


class Likelihood(msgspec.Struct, frozen=True, tag="likelihood"):
    """What one passage costs a model: nats over all its counted tokens."""

    item: str
    cluster: str
    nll_nats: float
    tokens: int


def passages_of_chats(
    items: Sequence[Item],
    shots: Mapping[str, Sequence[Message]],
    tokenizer: Tokenizer,
    template: ChatTemplate,
) -> list[Passage]:
    """Each item as the model was or would be trained on it, after the examples of its kind.

    Args:
        shots: examples by kind of item; a kind without examples is asked zero-shot.
    """
    return [_passage(item, shots.get(item.kind, ()), tokenizer, template) for item in items]


def _passage(
    item: Item, shots: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate
) -> Passage:
    # The answers of the examples have weight 0, so that only the item's own are targets.
    messages = after_shots(shots, item.messages)
    encoded = encode_chat(messages, tokenizer, template, tools=item.tools or None)
    return Passage(item.id, item.cluster, encoded.ids, encoded.is_target)


async def score_passages(
    engine: Engine,
    passages: Sequence[Passage],
    *,
    in_flight: int = 16,
    alone: Sequence[int] = (),
    on_progress: OnProgress = ignore_progress,
) -> Asked[Likelihood]:
    """Ask the engine for every passage.

    Raises:
        RunFailed: the engine's scores are not numbers, or not one per token.
    """

    async def ask(passage: Passage) -> Likelihood:
        logprobs = await engine.score(passage.ids)
        return likelihood_of(passage, logprobs)

    return await ask_all(passages, ask, in_flight=in_flight, alone=alone, on_progress=on_progress)


def likelihood_of(passage: Passage, logprobs: Sequence[float]) -> Likelihood:
    """Sum what counts. `logprobs[i - 1]` belongs to `passage.ids[i]`; the first id has none."""
    if len(logprobs) != len(passage.ids) - 1:
        raise RunFailed(
            f"the engine scored {len(logprobs)} tokens of {passage.item}; "
            f"{len(passage.ids)} ids have {len(passage.ids) - 1}"
        )
    counted = [
        logprob for logprob, counts in zip(logprobs, passage.is_target[1:], strict=True) if counts
    ]
    nll_nats = -math.fsum(counted)
    if not counted or not math.isfinite(nll_nats):
        raise RunFailed(
            f"item {passage.item} has a loss of {nll_nats} nats over {len(counted)} answer tokens",
            next_step="check that the model's weights are finite: bessemer chat",
        )
    return Likelihood(passage.item, passage.cluster, nll_nats, len(counted))
