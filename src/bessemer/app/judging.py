"""How a model judges: what it is asked, and what its words are worth. Graders and evals share it.

A judge is held to an answer that can be read: one of the labels, or a number of the range. A
partner's judge gives an object with it, since OpenAI's own models are held to nothing else. How
alike two texts are is judged by the vectors of an embedding model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from bessemer.app.catalog import SENTENCE_MODEL
from bessemer.app.chat import PARTNER, Serving, askable
from bessemer.app.embeddings import EmbedRequest, embed
from bessemer.app.eval_plans import SEED
from bessemer.app.metering import Meter
from bessemer.core.errors import DataError
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Constraint, Message, Sampling
from bessemer.text.criteria import JudgeSampling, LabelModel, ScoreModel, TextSimilarity
from bessemer.text.criterion_checks import Spaces, compared

# A judge's answer is a short one; digits after these no longer matter. A label has at most as many
# tokens as bytes.
SCORE_TOKENS, OBJECT_TOKENS = 32, 40

# Also one that was cut among its digits.
_SCORE = re.compile(r'\{\s*"score"\s*:\s*([-+.\deE]+)\s*\}?')


class Likeness(NamedTuple):
    """The cosine of two texts' vectors. `model` made them; None where no model was asked."""

    score: float
    model: str | None
    prompt_tokens: int


def partners_of(serving: Serving, principal: Principal) -> frozenset[str]:
    """Names of models that are asked elsewhere. Not for an event loop."""
    return frozenset(one.id for one in askable(serving, principal) if one.owned_by == PARTNER)


def judging(
    criterion: ScoreModel | LabelModel,
    messages: Sequence[Message],
    request_id: str = "",
    *,
    partners: Collection[str] = (),
) -> ChatRequest:
    """What the judge is asked: greedy and with a seed, unless the criterion says otherwise."""
    how = criterion.sampling_params or JudgeSampling()
    if isinstance(criterion, LabelModel):
        field: dict[str, Any] = {"type": "string", "enum": criterion.labels}
        constraint = Constraint("choice", msgspec.json.encode(criterion.labels).decode())
        most = max(len(msgspec.json.encode(label)) for label in criterion.labels)
    else:
        low, high = criterion.bounds
        field = {"type": "number", "minimum": low, "maximum": high}
        constraint = Constraint("json_schema", msgspec.json.encode(field).decode())
        most = SCORE_TOKENS
    if criterion.model in partners:
        constraint = _object_with("label" if isinstance(criterion, LabelModel) else "score", field)
        most += OBJECT_TOKENS
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
    label = _label(text)
    if label not in criterion.labels:
        raise DataError(f"the judge said {label[:100]!r}, which is none of the labels")
    return label


def score_said(criterion: ScoreModel, text: str) -> float:
    """Raises DataError: the judge gave no number of the range."""
    low, high = criterion.bounds
    found = _SCORE.fullmatch(text.strip())
    try:
        score = float(found[1] if found else text)
    except ValueError:
        raise DataError(f"the judge said {text[:100]!r}, which is no number") from None
    if not low <= score <= high:
        raise DataError(f"the judge gave {score:g}, outside of {low:g} to {high:g}")
    return score


def _object_with(name: str, field: dict[str, Any]) -> Constraint:
    schema = {
        "type": "object",
        "properties": {name: field},
        "required": [name],
        "additionalProperties": False,
    }
    return Constraint("json_schema", msgspec.json.encode(schema).decode())


class _Labeled(msgspec.Struct):
    label: str


def _label(text: str) -> str:
    """Out of its object, or as it stands, for judges that are held to nothing."""
    try:
        return msgspec.json.decode(text, type=_Labeled).label
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text.strip()


async def likeness(
    serving: Serving,
    principal: Principal,
    criterion: TextSimilarity,
    spaces: Spaces,
    meter: Meter | None,
) -> Likeness:
    """Of what the criterion compares; an empty text has no vector, and is like another one alone.

    Raises:
        DataError: one of the texts is not there.
        BessemerError: as `embeddings.embed`.
    """
    texts = compared(criterion, spaces)
    if not all(texts):
        return Likeness(float(texts[0] == texts[1]), None, 0)
    model = criterion.embedding_model or SENTENCE_MODEL
    found = await embed(serving, principal, model, EmbedRequest(inputs=texts), meter=meter)
    return Likeness(_cosine(*found.vectors), model, found.prompt_tokens)


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Of two vectors of any length, a partner's may have; 0 where one has none."""
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return product / (math.hypot(*first) * math.hypot(*second) or 1.0)
