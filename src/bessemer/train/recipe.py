"""What a training run is told: the recipe, every field with its reason. No torch here.

One dial comes first, `minutes`; the rest has defaults or is derived when the run starts. What was
derived (steps, precision, rows at once) is written into the run's `resolved.toml`, so that a
resumed run decides nothing again.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bessemer.core.recipes import Frozen

Objective = Literal["sft", "pretrain"]
Precision = Literal["bf16", "fp32"]
Positive = Annotated[int, Field(ge=1)]


class ModelSection(Frozen):
    """Where the weights come from: a model to start from, or a shape to start from nothing."""

    name: str | None = Field(
        default=None, description="model to start from: a name, digest or folder"
    )
    depth: Positive | None = Field(
        default=None,
        description="layers of a new model; width is 64 a layer, all else follows from it",
    )
    vocab_size: Annotated[int, Field(ge=300)] = Field(
        default=8192,
        description="tokens of a new model's byte-level BPE, trained on the training files",
    )


class DataSection(Frozen):
    name: str = Field(
        description="dataset of chats; for pretraining `python-stdlib`, the interpreter's source"
    )
    over_long: Literal["refuse", "drop"] = Field(
        default="drop",
        description="chats longer than a row: stop, or leave them out and say how many",
    )


class LoraSection(Frozen):
    """Train a low-rank difference (Hu et al., 2021) instead of the weights themselves."""

    rank: Positive = Field(default=16, description="rank of each difference B A")
    alpha: Annotated[float, Field(gt=0)] = Field(
        default=32.0, description="the difference is scaled by alpha / rank"
    )


class BatchSection(Frozen):
    sequence_length: Annotated[int, Field(ge=8)] = Field(
        default=512,
        description="tokens of a row; a row holds whole chats that cannot see each other",
    )
    rows: Positive = Field(default=2, description="rows of one optimizer step, over all processes")
    rows_at_once: Positive | None = Field(
        default=None, description="rows of one forward pass; by default as many as make 8192 tokens"
    )


class OptimizerSection(Frozen):
    """AdamW (Loshchilov and Hutter, 2019)."""

    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=2e-3, description="peak rate; choose it on validation, never on test"
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.99),
        description="decay of the running mean of gradients and of their squares",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="pull of matrices toward zero, per step and unit of rate"
    )
    clip: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="longest allowed gradient (Euclidean norm over all weights)"
    )


class ScheduleSection(Frozen):
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=5, description="steps over which the rate rises linearly to its peak"
    )
    shape: Literal["linear", "cosine"] = Field(
        default="linear", description="how the rate then falls"
    )
    final_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1, description="the rate of the last step, as a fraction of the peak"
    )


class EvaluationSection(Frozen):
    times: Positive = Field(
        default=4, description="validations spread over the run, besides the one before it"
    )
    rows: Positive = Field(
        default=16, description="validation rows measured each time; always the same"
    )
    sample_tokens: Annotated[int, Field(ge=0)] = Field(
        default=48, description="tokens of the sample written at the end"
    )


class CheckpointSection(Frozen):
    every_s: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="seconds between checkpoints; the two newest are kept"
    )


class TrainRecipe(Frozen):
    """A training run. `minutes` is the dial; everything else may be left alone."""

    objective: Objective = Field(
        description="sft: teach a model the answers of chats; pretrain: next token, from scratch"
    )
    minutes: Annotated[float, Field(gt=0)] = Field(
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
    model: ModelSection
    data: DataSection
    lora: LoraSection | None = Field(default=None, description="absent: every weight is trained")
    batch: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoints: CheckpointSection = CheckpointSection()

    @model_validator(mode="after")
    def _one_origin(self) -> TrainRecipe:
        if self.objective == "sft" and (self.model.name is None or self.model.depth is not None):
            raise ValueError("sft starts from a model: set model.name, and not model.depth")
        if self.objective == "pretrain" and (self.model.depth is None or self.model.name):
            raise ValueError("pretrain starts from nothing: set model.depth, and not model.name")
        if self.objective == "pretrain" and self.lora is not None:
            raise ValueError("pretrain trains every weight: remove the section [lora]")
        return self

    @property
    def tokens_per_step(self) -> int:
        return self.batch.rows * self.batch.sequence_length

    @property
    def rows_at_once(self) -> int:
        fitting = max(1, 8192 // self.batch.sequence_length)
        return min(self.batch.rows, self.batch.rows_at_once or fitting)
