"""How a model judges: what it is asked, and what its words are worth. Graders and evals share it.

A judge is held to an answer that can be read: one of the labels, or a number of the range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from bessemer.app.eval_plans import SEED
from bessemer.core.errors import DataError
from bessemer.core.protocols import ChatRequest, Constraint, Message, Sampling
from bessemer.text.criteria import JudgeSampling, LabelModel, ScoreModel

# A judge's answer is a short one; digits after these no longer matter.
SCORE_TOKENS, LABEL_TOKENS = 32, 256


def judging(
    criterion: ScoreModel | LabelModel, messages: Sequence[Message], request_id: str = ""
) -> ChatRequest:
    """What the judge is asked: greedy and with a seed, unless the criterion says otherwise."""
    how = criterion.sampling_params or JudgeSampling()
    if isinstance(criterion, LabelModel):
        labels = msgspec.json.encode(criterion.labels).decode()
        constraint, most = Constraint("choice", labels), LABEL_TOKENS
    else:
        low, high = criterion.bounds
        schema = {"type": "number", "minimum": low, "maximum": high}
        text = msgspec.json.encode(schema).decode()
        constraint, most = Constraint("json_schema", text), SCORE_TOKENS
    return ChatRequest(
        request_id=request_id,
        messages=messages,
        max_tokens=how.max_completions_tokens or how.max_completion_tokens or most,
        sampling=Sampling(
            temperature=0.0 if how.temperature is None else how.temperature,
            top_p=1.0 if how.top_p is None else how.top_p,
            seed=SEED if how.seed is None else how.seed,
        ),
        constraint=constraint,
    )


def label_said(criterion: LabelModel, text: str) -> str:
    """Raises DataError: the judge said none of the labels."""
    label = text.strip()
    if label not in criterion.labels:
        raise DataError(f"the judge said {label[:100]!r}, which is none of the labels")
    return label


def score_said(criterion: ScoreModel, text: str) -> float:
    """Raises DataError: the judge gave no number of the range."""
    low, high = criterion.bounds
    try:
        score = float(text)
    except ValueError:
        raise DataError(f"the judge said {text[:100]!r}, which is no number") from None
    if not low <= score <= high:
        raise DataError(f"the judge gave {score:g}, outside of {low:g} to {high:g}")
    return score


def cosine_of(first: Sequence[float], second: Sequence[float]) -> float:
    """Of two vectors of any length, a partner's may have; 0 where one has none."""
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return product / (math.hypot(*first) * math.hypot(*second) or 1.0)
