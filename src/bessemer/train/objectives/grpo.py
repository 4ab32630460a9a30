"""Group-relative policy optimization: more of what earned more than the other answers to a prompt.

For each prompt the network gives G answers; a reward r_i judges each. With pi the network, mu its
weights when the answers were sampled, ref its weights before the first step, and t the tokens of
an answer:

    A_i = (r_i - mean of the group's r) / (their standard deviation + 1e-4)    `scale = "none"`: / 1
    q_t = pi(t) / mu(t)                                                        1 in the first update
    loss = - w_t min(q_t A_i, clip(q_t, 1 - low, 1 + high) A_i)
           + kl_weight (ref(t) / pi(t) - ln(ref(t) / pi(t)) - 1)               [nats], k3 estimator

Shao et al., 2024, "DeepSeekMath", equations 3 and 4; separate bounds: Yu et al., 2025, "DAPO".
Averaged over all tokens of the step (DAPO), over each answer's tokens and then over answers
(GRPO), or over answers of `max_tokens` (Liu et al., 2025, "Dr. GRPO", together with
`scale = "none"`).

The engine that samples and the trainer that learns are two computations of one network. Their gap
|ln mu_trainer(t) - ln mu_engine(t)| is told at every step, and corrected for: w_t =
min(mu_trainer(t) / mu_engine(t), `mismatch_cap`) (Yao et al., 2025, truncated importance sampling).

    N target tokens   P answers   G answers of a group   B groups
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import LiveEngine
from bessemer.core.train_sections import GrpoSection
from bessemer.data.corpus import Split
from bessemer.data.order import Order
from bessemer.data.packing import Row, first_fit, join
from bessemer.data.pieces import digest_of
from bessemer.data.questions import Question, questions
from bessemer.models.config import ModelConfig
from bessemer.models.lora import lora_layers, without_difference
from bessemer.text.graders import Answer, Grader
from bessemer.train.batch import MicroBatch, micro_batch
from bessemer.train.loss import LossSum, Mean
from bessemer.train.rewards import open_rewards
from bessemer.train.rollouts import Asked, Judged, Record, Rollout, sample
from bessemer.train.task import Network, Setting, evaluating, target_logprobs

TINY = 1e-4
OF_ANSWERS = ("reward", "finished", "decided", "answer_tokens")  # told as means over answers


class Bounds(NamedTuple):
    """How far the ratio q may move what a token counts."""

    low: float
    high: float


def advantages(reward_BG: Tensor, scale: str) -> Tensor:
    """How much better each answer is than its group's mean, (B, G)."""
    centered_BG = reward_BG - reward_BG.mean(1, keepdim=True)
    if scale == "none":
        return centered_BG
    return centered_BG / (reward_BG.std(1, keepdim=True) + TINY)


def grpo_loss(
    logprob_N: Tensor, old_N: Tensor, advantage_N: Tensor, bounds: Bounds
) -> tuple[Tensor, Tensor]:
    """The loss of each token, (N,), and where the bounds took its gradient away."""
    ratio_N = (logprob_N - old_N).exp()
    free_N = ratio_N * advantage_N
    bound_N = ratio_N.clamp(1 - bounds.low, 1 + bounds.high) * advantage_N
    return -torch.minimum(free_N, bound_N), bound_N < free_N


def kl_estimate(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """KL(pi, ref) at each sampled token, (N,), never negative (Schulman, 2020, "k3")."""
    difference_N = reference_N - logprob_N
    return difference_N.exp() - difference_N - 1


class GrpoTask:
    """Samples, judges, and learns from the difference within each group.

    `stop_ids` end an answer; without any, all become as long as they may.
    """

    def __init__(
        self,
        setting: Setting,
        network: nn.Module,
        engine: LiveEngine,
        asked: Mapping[Split, Sequence[Question]],
        rewards: Sequence[tuple[Grader, float]],
        reference: Callable[[MicroBatch], Tensor] | None,
    ) -> None:
        self.name, self.measure = "grpo", "reward"
        self.tokenizer = setting.tokenizer
        self._train, self._validation = asked["train"], asked["validation"]
        self.prompt: Sequence[int] = self._validation[0].ids
        self.stop_ids: Sequence[int] = sorted(setting.tokenizer.eos_ids)
        self.digest = digest_of(np.array(q.ids) for part in asked.values() for q in part)
        self.facts: Mapping[str, Any] = {
            "train_prompts": len(self._train),
            "validation_prompts": len(self._validation),
        }
        self._recipe, self._tell = setting.recipe, setting.tell
        self._network, self._engine, self._rewards = network, engine, rewards
        self._reference = reference
        self._order = Order(len(self._train), setting.recipe.seed)
        self._record = Record(setting.folder / "rollouts")
        self._batch: tuple[int, list[Judged]] | None = None

    @property
    def _settings(self) -> GrpoSection:
        assert self._recipe.grpo is not None
        return self._recipe.grpo

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """Answers to the prompts of a step, sampled now if this is the first step on them."""
        prompts, updates = self._recipe.batch.rows, self._settings.updates
        step = positions[0] // prompts
        batch = step // updates
        if self._batch is None or self._batch[0] != batch:
            if step % updates == 0:
                first = batch * prompts
                self._batch = batch, self._sampled(batch, range(first, first + prompts))
            else:  # resumed between two steps on the same answers
                self._batch = batch, self._record.read(batch)
        return self._packed(self._batch[1])

    def validation(self) -> list[Row]:
        """The likeliest answer to each prompt."""
        with evaluating(self._network):
            asked = [Asked(q.ids, (number,)) for number, q in enumerate(self._validation)]
            rollouts = self._sample(asked, temperature=0.0)
        self._tell("judged", **_counted(asked, rollouts))
        judged = self._judged(self._validation, rollouts, group=1)
        return self._packed(judged)

    def weight(self, batch: MicroBatch) -> float:
        return len(batch.lengths)

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        answers, columns = len(batch.lengths), batch.columns
        metrics = {
            name: Mean(column_P.sum().item(), answers)
            for name, column_P in columns.items()
            if name in OF_ANSWERS or name.startswith("reward/")
        }
        if not torch.is_grad_enabled():  # judged by what it earns
            return LossSum(-columns["reward"].sum(), answers, metrics)
        settings = self._settings
        logprob_N = target_logprobs(network, batch)
        engine_N = columns["engine"].to(logprob_N.dtype)
        old_N = columns["old"].to(logprob_N.dtype) if "old" in columns else logprob_N.detach()
        pieces_N = batch.pieces_N
        advantage_N = columns["advantage"].to(logprob_N.dtype)[pieces_N]
        loss_N, clipped_N = grpo_loss(
            logprob_N, old_N, advantage_N, Bounds(settings.clip_low, settings.clip_high)
        )
        if settings.mismatch_cap is not None:
            loss_N = loss_N * (old_N - engine_N).exp().clamp(max=settings.mismatch_cap)
        told = {
            "entropy": -logprob_N.detach(),
            "engine_gap": (old_N - engine_N).abs(),
            "clipped": clipped_N,
        }
        if "reference" in columns:
            kl_N = kl_estimate(logprob_N, columns["reference"].to(logprob_N.dtype))
            loss_N = loss_N + settings.kl_weight * kl_N
            told["kl"] = kl_N.detach()
        for name, value_N in told.items():
            metrics[name] = Mean(value_N.double().sum().item(), len(value_N))
        total = (loss_N * columns["share"].to(loss_N.dtype)[pieces_N]).sum()
        return LossSum(total, answers, metrics)

    def _sampled(self, batch: int, positions: Sequence[int]) -> list[Judged]:
        begin_s = time.monotonic()
        settings = self._settings
        questions = [self._train[self._order.at(position).item] for position in positions]
        asked = [
            Asked(question.ids, (self._recipe.seed, position, number))
            for question, position in zip(questions, positions, strict=True)
            for number in range(settings.group)
        ]
        with evaluating(self._network):
            rollouts = self._sample(asked, temperature=1.0)
            sampled_s = time.monotonic() - begin_s
            judged = self._judged(questions, rollouts, settings.group)
            judged_s = time.monotonic() - begin_s - sampled_s
            if settings.updates > 1:
                judged = self._with(
                    judged, "old", lambda b: target_logprobs(cast(Network, self._network), b)
                )
            if self._reference is not None:
                judged = self._with(judged, "reference", self._reference)
        self._record.write(batch, judged)
        counted = _counted(asked, rollouts)
        self._tell(
            "rollouts",
            batch=batch,
            **counted,
            sampled_s=round(sampled_s, 3),
            judged_s=round(judged_s, 3),
            tokens_s=round(counted["tokens"] / sampled_s, 1),
        )
        return judged

    def _sample(self, asked: Sequence[Asked], temperature: float) -> list[Rollout]:
        return sample(
            self._engine,
            asked,
            max_tokens=self._settings.max_tokens,
            stop_ids=self.stop_ids,
            temperature=temperature,
        )

    def _judged(
        self, questions: Sequence[Question], rollouts: Sequence[Rollout], group: int
    ) -> list[Judged]:
        whose = [question for question in questions for _ in range(group)]
        texts = [self.tokenizer.decode(r.ids[: len(r.ids) - r.finished]) for r in rollouts]
        answers = [
            Answer(question.asked.messages, text, question.asked.item, rollout.finished)
            for question, text, rollout in zip(whose, texts, rollouts, strict=True)
        ]
        earned = {reward.name: reward(answers) for reward, _ in self._rewards}
        total_P = torch.zeros(len(answers), dtype=torch.float64)
        for reward, weight in self._rewards:
            total_P += weight * torch.tensor(earned[reward.name], dtype=torch.float64)
        scale = self._settings.scale if group > 1 else "none"
        advantage_P = advantages(total_P.view(-1, group), scale).flatten()
        return [
            Judged(
                prompt=whose[i].number,
                prompt_ids=whose[i].ids,
                text=texts[i],
                rollout=rollouts[i],
                rewards={name: values[i] for name, values in earned.items()},
                reward=float(total_P[i]),
                advantage=float(advantage_P[i]),
            )
            for i in range(len(answers))
        ]

    def _with(
        self, judged: list[Judged], name: str, logprobs: Callable[[MicroBatch], Tensor]
    ) -> list[Judged]:
        """The answers, each with what `logprobs` says of its tokens."""
        found: dict[int, list[float]] = {}
        for chosen in self._bins(judged):
            batch = micro_batch([join([judged[i].piece() for i in chosen])])
            with torch.no_grad():
                lengths = [len(judged[i].rollout.ids) for i in chosen]
                parts = torch.split(logprobs(batch), lengths)
            found |= {i: part.tolist() for i, part in zip(chosen, parts, strict=True)}
        return [msgspec.structs.replace(each, **{name: found[i]}) for i, each in enumerate(judged)]

    def _packed(self, judged: Sequence[Judged]) -> list[Row]:
        tokens = sum(len(each.rollout.ids) for each in judged)
        pieces = [each.piece(self._columns(each, tokens / len(judged))) for each in judged]
        return [join([pieces[i] for i in chosen]) for chosen in self._bins(judged)]

    def _bins(self, judged: Sequence[Judged]) -> list[list[int]]:
        """Which answers share a row."""
        lengths = [len(each.prompt_ids) + len(each.rollout.ids) for each in judged]
        return first_fit(lengths, self._recipe.batch.sequence_length)

    def _columns(self, each: Judged, mean_tokens: float) -> dict[str, np.ndarray[Any, Any]]:
        over = {
            "token": mean_tokens,
            "answer": len(each.rollout.ids),
            "constant": self._settings.max_tokens,
        }
        of_piece = {
            "advantage": each.advantage,
            "share": 1 / over[self._settings.average],
            "reward": each.reward,
            "finished": float(each.rollout.finished),
            "answer_tokens": len(each.rollout.ids),
            "decided": float(each.advantage != 0),
            **{f"reward/{name}": value for name, value in each.rewards.items()},
        }
        of_tokens = {"engine": each.rollout.logprobs, "old": each.old, "reference": each.reference}
        return {
            **{name: np.array([value], dtype=np.float64) for name, value in of_piece.items()},
            **{name: np.array(values) for name, values in of_tokens.items() if values},
        }


def _counted(asked: Sequence[Asked], rollouts: Sequence[Rollout]) -> dict[str, int]:
    """What the engine read and wrote, in tokens: they are paid for."""
    return {
        "answers": len(rollouts),
        "tokens": sum(len(rollout.ids) for rollout in rollouts),
        "prompt_tokens": sum(len(each.prompt_ids) for each in asked),
        "cached_tokens": sum(rollout.cached_tokens for rollout in rollouts),
    }


def open_grpo(setting: Setting, network: nn.Module) -> GrpoTask:
    """Open prompts and rewards, and an engine over `network`.

    Raises:
        InvalidInput: there is no engine, a split is empty, or no prompt leaves room for an answer.
        SandboxUnavailable: a reward runs code, and there is no sandbox to run it in.
    """
    if setting.engine_of is None:
        raise InvalidInput("grpo samples answers, and nothing here can: no engine was handed in")
    recipe = setting.recipe
    assert recipe.grpo is not None
    reference = _reference(network) if recipe.grpo.kl_weight else None
    model = setting.model_path()
    context_length = ModelConfig.from_folder(model).context_length
    return GrpoTask(
        setting,
        network,
        setting.engine_of(network),
        questions(recipe, setting.dataset_path(), model, context_length),
        open_rewards(recipe.grpo.rewards, setting),
        reference,
    )


def _reference(network: nn.Module) -> Callable[[MicroBatch], Tensor]:
    """ln p by the network as it is now, whatever becomes of it."""
    if not (layers := lora_layers(network)) or any(layer.lora_B.any() for layer in layers.values()):
        frozen = copy.deepcopy(network).requires_grad_(False).eval()
        return lambda batch: target_logprobs(cast(Network, frozen), batch)

    def without_lora(batch: MicroBatch) -> Tensor:
        with without_difference(layers):
            return target_logprobs(cast(Network, network), batch)

    return without_lora
