"""What a training run is told: the recipe.

One dial comes first, `minutes`; the rest has defaults or is derived when the run starts. What was
derived (steps, precision, rows at once) is written into the run's `resolved.toml`, so that a
resumed run decides nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from bessemer.core.recipes import Above, Frozen, Positive
from bessemer.core.train_sections import (
    BatchSection,
    CheckpointSection,
    DataSection,
    DistillSection,
    DpoSection,
    EvaluationSection,
    GrpoSection,
    GuardSection,
    LoraSection,
    MixturePart,
    ModelSection,
    MoeSection,
    Objective,
    OptimizerSection,
    PretrainSection,
    ReptileSection,
    RewardSection,
    ScheduleSection,
    SftSection,
)

MEASURED_STEPS = 5  # that a run looks at before it fixes their number


class TrainRecipe(Frozen):
    """A training run. `minutes` is the dial; everything else may be left alone."""

    objective: Objective = Field(
        description="pretrain: next token; sft: the answers of chats; dpo: preferred answers;"
        " grpo: answers that earn more; reward: a model of preferences; distill: a teacher;"
        " reptile: to learn quickly; mixture: several of these"
    )
    minutes: Above = Field(
        description="time for the optimizer's steps; reading data and validating come on top"
    )
    steps: Positive | None = Field(
        default=None,
        description="number of steps; by default what fits `minutes` at the measured speed",
    )
    seed: int = Field(default=0, description="decides the order of the data and the first weights")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="of the matrix products; auto: bf16 where this machine is faster in it",
    )
    deterministic: Literal["run", "any-world-size"] = Field(
        default="run",
        description="run: equal bits on equal machines and threads; any-world-size: gradients are"
        " summed along one fixed tree, so that the number of processes does not matter either",
    )
    virtual_shards: Positive = Field(
        default=8, description="leaves of that tree; each step's rows are divided among them"
    )
    recompute: Literal["off", "layers"] = Field(
        default="off",
        description="layers: keep each layer's input only, and compute it again going backward",
    )
    model: ModelSection
    data: DataSection | None = Field(default=None, description="absent only in a mixture")
    pretrain: PretrainSection = PretrainSection()
    sft: SftSection = SftSection()
    dpo: DpoSection = DpoSection()
    grpo: GrpoSection | None = Field(default=None, description="needed for grpo")
    reward: RewardSection = RewardSection()
    distill: DistillSection | None = Field(default=None, description="needed to distill")
    reptile: ReptileSection = ReptileSection()
    mixture: tuple[MixturePart, ...] = Field(default=(), description="tasks of a mixture")
    moe: MoeSection = MoeSection()
    lora: LoraSection | None = Field(default=None, description="absent: every weight is trained")
    batch: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoints: CheckpointSection = CheckpointSection()
    guard: GuardSection = GuardSection()

    @model_validator(mode="after")
    def _is_whole(self) -> TrainRecipe:
        for complaint in _COMPLAINTS:
            if said := complaint(self):
                raise ValueError(said)
        return self

    @property
    def tokens_per_step(self) -> int:
        return self.batch.rows * self.batch.sequence_length

    @property
    def rows_at_once(self) -> int:
        fitting = max(1, 4096 // self.batch.sequence_length)
        return min(self.batch.rows, self.batch.rows_at_once or fitting)

    @property
    def validated_steps(self) -> frozenset[int]:
        """Steps with a validation behind them, once `steps` are known; there is one before the
        first step besides."""
        steps, times = self.steps or 0, self.evaluation.times
        return frozenset(round(steps * k / times) for k in range(1, times + 1)) - {0}

    @property
    def pass_limit_s(self) -> float:
        """Of a pass over the data before the first step: half of `minutes` if steps are open."""
        return self.minutes * 60 / 2 if self.steps is None else math.inf

    @property
    def parts(self) -> tuple[MixturePart, ...]:
        """The tasks of a mixture; none for a single objective."""
        return self.mixture if self.objective == "mixture" else ()

    @property
    def dataset_names(self) -> list[str]:
        """Every dataset the recipe names, each once, in its order."""
        sections = [part.data for part in self.parts] or [self.dataset]
        return list(dict.fromkeys(section.name for section in sections))

    @property
    def other_model_names(self) -> list[str]:
        """Models besides the one that is trained: a teacher, models that give rewards."""
        names = [self.distill.teacher] if self.distill and self._distills else []
        if self.objective == "grpo" and self.grpo:
            names += [part.model for part in self.grpo.rewards if part.kind == "model"]
        return list(dict.fromkeys(names))

    @property
    def dataset(self) -> DataSection:
        """The one dataset of a recipe that is no mixture."""
        assert self.data is not None
        return self.data

    def of_part(self, part: MixturePart) -> TrainRecipe:
        """The recipe of one task of the mixture, as if it stood alone."""
        return self.model_copy(
            update={"objective": part.objective, "data": part.data, "mixture": ()}
        )

    @property
    def _distills(self) -> bool:
        return any(o == "distill" for o in (self.objective, *(p.objective for p in self.parts)))


def _about_origin(recipe: TrainRecipe) -> str | None:
    name, depth = recipe.model.name, recipe.model.depth
    if recipe.objective == "pretrain":
        if (name is None) == (depth is None):
            return "pretrain starts from nothing (set model.depth) or from a model (model.name)"
    elif name is None or depth is not None:
        return f"{recipe.objective} starts from a model: set model.name, and not model.depth"
    if depth is not None and recipe.lora is not None:
        return "a new model has every weight trained: remove the section [lora]"
    return None


def _about_data(recipe: TrainRecipe) -> str | None:
    if recipe.objective == "mixture":
        if recipe.data is not None or len(recipe.mixture) < 2:
            return "a mixture has two or more [[mixture]] tables, each with its data, and no [data]"
    elif recipe.data is None:
        return "set data.name"
    elif recipe.mixture:
        return '[[mixture]] is read with objective = "mixture" only'
    return None


def _about_parts(recipe: TrainRecipe) -> str | None:
    if recipe._distills and recipe.distill is None:
        return "distill needs a teacher: set distill.teacher"
    if recipe.objective == "grpo":
        if recipe.grpo is None:
            return "grpo needs something to judge answers by: add [[grpo.rewards]]"
        if recipe.grpo.max_tokens >= recipe.batch.sequence_length:
            return "an answer of grpo.max_tokens and its prompt must fit batch.sequence_length"
    if recipe.lora and recipe.lora.leaves == "adapter" and recipe.objective == "reward":
        return 'a reward model is whole or not there: remove lora.leaves = "adapter"'
    if recipe.distill and (unread := recipe.distill.unread):
        return f'with distill.signal = "{recipe.distill.signal}" nothing reads {", ".join(unread)}'
    if recipe.lora and recipe.lora.dropout and recipe.deterministic == "any-world-size":
        return "dropout draws in the order of the shards: set lora.dropout=0 with any-world-size"
    if recipe.objective == "reptile" and recipe.deterministic == "any-world-size":
        return "reptile's inner steps follow each other; deterministic can only be run"
    return None


_COMPLAINTS: tuple[Callable[[TrainRecipe], str | None], ...] = (
    _about_origin,
    _about_data,
    _about_parts,
)
