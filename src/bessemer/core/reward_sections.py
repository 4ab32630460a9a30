"""What an answer is judged by, in the words of a recipe; `text.graders` does the judging."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bessemer.core.recipes import Above, Frozen, Positive


class WeightedReward(Frozen):
    """What every reward has."""

    weight: Above = Field(
        default=1.0, description="share of this reward in the sum, relative to the others"
    )


class ExactPart(WeightedReward):
    """1 where the answer is the one in the dataset. Numbers are compared as numbers."""

    kind: Literal["exact"] = Field(description="what answers are judged by")
    field: str = Field(
        default="answer",
        description="field of a dataset's line to judge by; a.b is the field b inside of a",
    )
    extract: Literal["whole", "last-number", "tag", "boxed", "pattern"] = Field(
        default="whole", description="where in the text the answer stands"
    )
    tag: str = Field(default="answer", description="for tag: the last <answer>...</answer>")
    pattern: str | None = Field(
        default=None,
        description="RE2 expression: exact takes its group (?P<answer>...), format wants it to"
        " match the whole text",
    )
    text: Literal["as-is", "folded"] = Field(
        default="as-is", description="folded: neither case nor the amount of white space matters"
    )

    @model_validator(mode="after")
    def _has_its_pattern(self) -> ExactPart:
        if (self.extract == "pattern") != (self.pattern is not None):
            raise ValueError('extract = "pattern" and pattern go together')
        return self


class FormatPart(WeightedReward):
    """1 where the whole text matches a pattern; `.` matches line feeds as well."""

    kind: Literal["format"] = Field(description="what answers are judged by")
    pattern: str = Field(
        description="RE2 expression: exact takes its group (?P<answer>...), format wants it to"
        " match the whole text"
    )


class CodePart(WeightedReward):
    """The share of unit tests that the last block of Python passes, in the sandbox."""

    kind: Literal["code"] = Field(description="what answers are judged by")
    field: str = Field(
        default="tests",
        description="field of a dataset's line to judge by; a.b is the field b inside of a",
    )
    wall_s: Above = Field(default=10.0, description="seconds that an answer's tests may take")
    memory_bytes: Positive = Field(
        default=512 * 1024 * 1024, description="address space of a process of the sandbox"
    )


class ModelPart(WeightedReward):
    """The score of a reward model."""

    kind: Literal["model"] = Field(description="what answers are judged by")
    model: str = Field(description="a reward model: a name, digest or folder")
    score: Literal["sigmoid", "raw"] = Field(
        default="sigmoid", description="sigmoid: between 0 and 1; raw: as the model gives it"
    )


class LengthPart(WeightedReward):
    """1 up to `free`, then less for each further one, 0 from `most` on."""

    kind: Literal["length"] = Field(description="what answers are judged by")
    unit: Literal["tokens", "characters"] = Field(
        default="tokens", description="what is counted; tokens are the trained model's"
    )
    free: Positive = Field(description="the longest answer that costs nothing")
    most: Positive = Field(description="the length from which on the reward is 0")

    @model_validator(mode="after")
    def _falls(self) -> LengthPart:
        if self.most <= self.free:
            raise ValueError(f"most ({self.most}) must be above free ({self.free})")
        return self


class GraderPart(WeightedReward):
    """What a grader of OpenAI's API gives, run by itself: `string_check`, `text_similarity`,
    `python`, or a `multi` of them.
    """

    kind: Literal["grader"] = Field(description="what answers are judged by")
    grader: str = Field(description="the grader as JSON; {{item.field}} is a field of the line")


RewardPart = Annotated[
    ExactPart | FormatPart | CodePart | ModelPart | LengthPart | GraderPart,
    Field(discriminator="kind"),
]
