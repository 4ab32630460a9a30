"""The sections of a training recipe, every field with its reason.

`train_recipe` puts them together and says which of them an objective reads; what answers are
judged by is in `reward_sections`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bessemer.core.recipes import Above, Frozen, NotBelow, Positive, Share
from bessemer.core.reward_sections import RewardPart

Objective = Literal[
    "pretrain", "sft", "dpo", "grpo", "reward", "distill", "reptile", "mixture"
]  # fmt: skip
Precision = Literal["bf16", "fp32"]
Packing = Literal["first-fit", "none"]


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
        description="a dataset; for pretraining also `python-stdlib`, the interpreter's source"
    )
    over_long: Literal["refuse", "drop"] = Field(
        default="drop",
        description="chats longer than a row: stop, or leave them out and say how many",
    )


class LoraSection(Frozen):
    """Train a low-rank difference (Hu et al., 2021) instead of the weights themselves."""

    rank: Positive = Field(default=16, description="rank of each difference B A")
    alpha: Above = Field(default=32.0, description="the difference is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="share of a difference's inputs that a training pass leaves out"
    )
    targets: tuple[str, ...] = Field(
        default=("all-linear",),
        description="layers that get a difference, by the last part of their name",
    )
    base_precision: Literal["auto", "fp32", "bf16", "int8", "int4"] = Field(
        default="auto",
        description="of the frozen matrices; auto: as the run's precision",
    )
    adapter: str | None = Field(
        default=None,
        description="folder of an adapter in PEFT's layout to go on from, at its own rank",
    )
    leaves: Literal["both", "adapter"] = Field(
        default="both",
        description="what is there at the end: the merged model and the adapter, or it alone",
    )
    snapshots: bool = Field(
        default=False, description="leave the adapter of each validation as well, in snapshots/"
    )


class BatchSection(Frozen):
    sequence_length: Annotated[int, Field(ge=8)] = Field(
        default=512,
        description="tokens of a row; a row holds whole chats that cannot see each other",
    )
    rows: Positive = Field(default=2, description="rows of one optimizer step, over all processes")
    packing: Packing = Field(
        default="first-fit",
        description="as many chats or pairs as fit share a row; none: a row holds one of them",
    )
    rows_at_once: Positive | None = Field(
        default=None, description="rows of one forward pass; by default as many as make 4096 tokens"
    )


class OptimizerSection(Frozen):
    """AdamW (Loshchilov and Hutter, 2019), or Muon (Jordan et al., 2024) for matrices."""

    kind: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="muon: matrices by orthogonalized momentum, all else by AdamW",
    )
    learning_rate: Above = Field(
        default=2e-3, description="peak rate; choose it on validation, never on test"
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.99),
        description="decay of the running mean of gradients and of their squares",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.95, description="Muon's decay of the running sum of gradients"
    )
    weight_decay: NotBelow = Field(
        default=0.0, description="pull of matrices toward zero, per step and unit of rate"
    )
    clip: Above = Field(
        default=1.0, description="longest allowed gradient (Euclidean norm over all weights)"
    )


class ScheduleSection(Frozen):
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=5, description="steps over which the rate rises linearly to its peak"
    )
    shape: Literal["constant", "linear", "cosine", "wsd"] = Field(
        default="linear",
        description="how the rate then falls; wsd: not until the last `decay_fraction`",
    )
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="share of the steps over which wsd falls"
    )
    final_fraction: Share = Field(
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
    every_s: Above = Field(default=60.0, description="seconds between checkpoints")
    keep_last: Positive = Field(default=2, description="how many of the newest are kept")
    keep_every: Positive | None = Field(
        default=None, description="checkpoints at multiples of so many steps are kept for good"
    )


class GuardSection(Frozen):
    """What to do when a step goes wrong."""

    on_nan: Literal["stop", "skip"] = Field(
        default="stop", description="a gradient that is not finite: stop, or leave the batch out"
    )
    on_spike: Literal["off", "stop", "skip"] = Field(
        default="off", description="a loss far above the recent ones: stop, or leave the batch out"
    )
    spike_factor: Above = Field(
        default=8.0,
        description="a spike is above the recent median by so many median deviations",
    )
    window: Annotated[int, Field(ge=8)] = Field(
        default=64, description="how many steps are recent; no spike is seen before so many / 2"
    )
    most_skips: Positive = Field(
        default=5, description="batches left out in a row before the run stops anyway"
    )
    hang_s: Above | None = Field(
        default=None,
        description="seconds without a step before the run ends with all its stacks written;"
        " by default 600, or 20 times the slowest step",
    )


class PretrainSection(Frozen):
    """Next-token prediction over documents that cannot see each other."""

    z_loss: NotBelow = Field(
        default=0.0,
        description="weight of ln(Z)^2, which keeps logits from drifting (PaLM: 1e-4)",
    )
    fim_rate: Share = Field(
        default=0.0,
        description="share of documents rearranged to fill in the middle (Bavarian et al., 2022)",
    )
    fim_spm: Share = Field(
        default=0.5, description="of those, the share in suffix-prefix-middle order"
    )


class SftSection(Frozen):
    """Supervised fine-tuning on chats."""

    roles: tuple[Literal["system", "user", "assistant", "tool"], ...] = Field(
        default=("assistant",), description="whose messages the loss is on"
    )


class DpoSection(Frozen):
    """Direct preference optimization (Rafailov et al., 2023)."""

    loss: Literal["dpo", "ipo"] = Field(
        default="dpo", description="ipo: squared distance to a margin (Azar et al., 2023)"
    )
    beta: Above = Field(
        default=0.1, description="how much a nat of difference to the reference counts"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="share of the pairs taken to be labeled the wrong way round"
    )
    sft_weight: NotBelow = Field(
        default=0.0, description="weight of the cross-entropy on the preferred answer"
    )


class RewardSection(Frozen):
    """A reward model from preference pairs (Bradley and Terry, 1952)."""

    centering: NotBelow = Field(
        default=0.01, description="weight of (s_c + s_r)^2, which keeps scores around zero"
    )


class DistillSection(Frozen):
    """Learn a teacher's distribution over next tokens (Hinton et al., 2015), or its text."""

    teacher: str = Field(description="model to learn from: a name, digest or folder")
    signal: Literal["logits", "text"] = Field(
        default="logits",
        description="text: the teacher answers the prompts of the chats, and its answers are"
        " taught; the two need no common tokens",
    )
    answer_tokens: Positive = Field(
        default=256, description="text: longest answer; one that is cut off there is not taught"
    )
    answer_temperature: NotBelow = Field(
        default=0.0, description="text: how freely the teacher answers; 0 takes the likeliest token"
    )
    direction: Literal["forward", "reverse"] = Field(
        default="forward",
        description="KL(teacher, student) covers the teacher; KL(student, teacher) seeks its modes",
    )
    top_k: Positive = Field(
        default=64, description="teacher's likeliest tokens kept at each place; the rest is one sum"
    )
    temperature: Above = Field(
        default=1.0, description="logits: both distributions are softened by it"
    )
    data_weight: Share = Field(
        default=0.0, description="share of the ordinary cross-entropy on the data in the loss"
    )

    @property
    def unread(self) -> list[str]:
        """Fields of the other signal that were set to something."""
        of_text = {"answer_tokens", "answer_temperature"}
        of_logits = {"direction", "top_k", "temperature", "data_weight"}
        fields = type(self).model_fields
        return [
            f"distill.{name}"
            for name in sorted(of_logits if self.signal == "text" else of_text)
            if getattr(self, name) != fields[name].default
        ]


class ReptileSection(Frozen):
    """Meta-learning (Nichol et al., 2018): start where a few steps on a new task go far."""

    tasks_by: Literal["system", "kind", "module"] = Field(
        default="system",
        description="which chats are one task: with the same system message, of the same kind, or"
        " about the same top-level module",
    )
    inner_steps: Positive = Field(default=5, description="steps on one task before the outer one")
    inner_rate: Above = Field(default=1e-3, description="rate of those steps (plain SGD)")
    shots: Positive = Field(default=4, description="chats of a task that an inner step sees")
    held_out: Annotated[int, Field(ge=2)] = Field(
        default=12, description="tasks kept for judging: adapted from k shots, then measured"
    )


class GrpoSection(Frozen):
    """Group-relative policy optimization (Shao et al., 2024); `batch.rows` are prompts here."""

    rewards: Annotated[tuple[RewardPart, ...], Field(min_length=1)] = Field(
        description="what an answer is judged by; their weighted sum is its reward"
    )
    group: Annotated[int, Field(ge=2)] = Field(default=8, description="answers to each prompt")
    max_tokens: Positive = Field(default=128, description="tokens of an answer, at most")
    updates: Positive = Field(
        default=1, description="optimizer steps on the same answers before new ones are sampled"
    )
    clip_low: Above = Field(
        default=0.2, description="how far the ratio to the sampling weights may fall below 1"
    )
    clip_high: Above = Field(
        default=0.28, description="how far it may rise above 1 (Yu et al., 2025: more than below)"
    )
    kl_weight: NotBelow = Field(
        default=0.0, description="weight of KL(network, network before the first step); 0 is off"
    )
    scale: Literal["group", "none"] = Field(
        default="group",
        description="divide advantages by their group's standard deviation, or not (Dr. GRPO)",
    )
    average: Literal["token", "answer", "constant"] = Field(
        default="token",
        description="the loss is a mean over all tokens, over answers of means over their tokens,"
        " or over answers of `max_tokens`",
    )
    mismatch_cap: Above | None = Field(
        default=2.0,
        description="most that a token counts more because the trainer finds it likelier than the"
        " engine that sampled it did",
    )


class MixturePart(Frozen):
    """One task of a mixture."""

    objective: Literal["pretrain", "sft", "dpo", "distill"] = Field(description="what to learn")
    data: DataSection
    weight: Above = Field(default=1.0, description="share of the rows, relative to the others")


class MoeSection(Frozen):
    """How the experts of a mixture-of-experts model are kept equally busy."""

    balancing: Literal["auto", "off", "bias", "loss"] = Field(
        default="auto",
        description="bias: shift the choice without a gradient (DeepSeek-V3); loss: Switch's term;"
        " auto: bias where the routers have one",
    )
    rate: Above | None = Field(
        default=None,
        description="step of the biases, by default 0.001; or weight of the term, by default the"
        " model's own",
    )
