"""What an evaluation asks: how many items, how many examples, how much unrelated text."""

from __future__ import annotations

from pydantic import Field

from bessemer.core.recipes import Frozen


class EvalRecipe(Frozen):
    """The dials of an evaluation.

    The defaults are sized for two CPU cores and a 135M model (about 1,000 prompt tokens/s): a
    minute for a base model with and without examples, half of that for a taught one.
    """

    items: int = Field(
        default=256, ge=1, description="Test chats asked, spread evenly over their kinds."
    )
    shots: int = Field(
        default=6,
        ge=0,
        description="Examples the base model is also measured with; 0 leaves that out.",
    )
    seed: int = Field(
        default=0, description="Chooses the items, the examples and the unrelated text."
    )
    unrelated_tokens: int = Field(
        default=6144, ge=0, description="Tokens of unrelated text that show what was forgotten."
    )
    chunk_tokens: int = Field(
        default=256, ge=2, description="Unrelated text is scored in chunks of this many tokens."
    )
    answer_tokens: int = Field(
        default=24, ge=1, description="The longest answer to a naming question, in tokens."
    )
    in_flight: int = Field(default=16, ge=1, description="Questions the engine works on at once.")
    resamples: int = Field(
        default=10_000, ge=1_000, description="Bootstrap resamples per interval."
    )
    level: float = Field(
        default=0.95, gt=0.5, lt=1, description="The share of intervals that hold."
    )
