"""Direct preference optimization: prefer one answer over another, without a reward model.

With pi the network, ref the network before the first step, and r = ln pi(y|x) - ln ref(y|x) summed
over the tokens of an answer, c the preferred one and r the rejected one of a pair:

    dpo    -(1 - e) ln sigmoid(beta (r_c - r_r)) - e ln sigmoid(-beta (r_c - r_r))         [nats]
           Rafailov et al., 2023, equation 7; e: label smoothing (Mitchell, 2023, "cDPO")
    ipo    (r_c / |c| - r_r / |r| - 1 / (2 beta))^2                                 [nats^2]
           Azar et al., 2023, equation 17, of means over an answer's tokens: sums would make the
           distance of long answers count more (what TRL computes, confirmed there by the authors)

averaged over pairs, plus `sft_weight` times the cross-entropy of the preferred answers, averaged
over all their tokens in the step. `beta r` is called the implicit reward. Not here: how ref is
computed and kept (`train.reference`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bessemer.core.train_sections import DpoSection
from bessemer.data.packing import Row
from bessemer.data.pairs import PairMaterial, PairRows, pair_material
from bessemer.train.batch import MicroBatch
from bessemer.train.loss import LossSum, Mean
from bessemer.train.reference import Reference, Table, answer_logprobs, open_reference
from bessemer.train.task import Network, Setting


class Answers(NamedTuple):
    """One side of B pairs: r in nats, and how many tokens each answer has."""

    ratio_B: Tensor
    tokens_B: Tensor


def dpo_loss(
    chosen: Answers, rejected: Answers, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each pair, (B,) in nats."""
    margin_B = beta * (chosen.ratio_B - rejected.ratio_B)
    right_B, wrong_B = -logsigmoid(margin_B), -logsigmoid(-margin_B)
    return (1 - label_smoothing) * right_B + label_smoothing * wrong_B


def ipo_loss(chosen: Answers, rejected: Answers, beta: float) -> Tensor:
    """The loss of each pair, (B,) in nats squared."""
    chosen_B, rejected_B = (ratio_B / tokens_B for ratio_B, tokens_B in (chosen, rejected))
    distance_B: Tensor = chosen_B - rejected_B - 1 / (2 * beta)
    return distance_B**2


class PreferenceTask:
    """DPO or IPO over rows of whole pairs, judged by how often the preferred answer gains more."""

    def __init__(self, material: PairMaterial, reference: Reference, setting: Setting) -> None:
        self.name, self.measure = "dpo", "accuracy"
        self.tokenizer = setting.tokenizer
        self.prompt: Sequence[int] = material.prompt
        self.digest = material.digest
        self._covered = reference.covered_rows(material.train)
        self.facts: Mapping[str, Any] = {
            **material.facts,
            "reference_pairs": int((~np.isnan(reference.train[:, 0])).sum()),
        }
        self._material, self._reference = material, reference
        self._settings: DpoSection = setting.recipe.dpo

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """With the reference of each piece; rows it does not cover are replaced by covered ones."""
        train, table = self._material.train, self._reference.train
        if self._covered < train.rows_per_epoch:
            positions = [position % self._covered for position in positions]
        return self._weighted([_row(train, table, position) for position in positions])

    def validation(self) -> list[Row]:
        rows, table = self._material.validation, self._reference.validation
        return self._weighted([_row(rows, table, i) for i in range(rows.rows_per_epoch)])

    def weight(self, batch: MicroBatch) -> float:
        return len(batch.lengths) / 2

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        settings = self._settings
        logprob_P = answer_logprobs(network, batch)
        ratio_B2 = (logprob_P - batch.columns["reference"].to(logprob_P.dtype)).view(-1, 2)
        tokens_B2 = torch.bincount(batch.pieces_N, minlength=len(logprob_P)).view(-1, 2)
        chosen, rejected = (Answers(ratio_B2[:, side], tokens_B2[:, side]) for side in (0, 1))
        if settings.loss == "ipo":
            total = ipo_loss(chosen, rejected, settings.beta).sum()
        else:
            total = dpo_loss(chosen, rejected, settings.beta, settings.label_smoothing).sum()
        metrics = preference_metrics(settings.beta * ratio_B2.detach())
        if settings.sft_weight:
            share_B = batch.columns["sft_share"].view(-1, 2)[:, 0]
            sft = -(logprob_P.view(-1, 2)[:, 0] * share_B.to(logprob_P.dtype)).sum()
            metrics["sft_loss"] = Mean(sft.item(), len(share_B))
            total = total + settings.sft_weight * sft
        return LossSum(total, self.weight(batch), metrics)

    def _weighted(self, rows: list[Row]) -> list[Row]:
        """Give each piece pairs / (preferred tokens), over all `rows`, if there is an SFT term.

        The loss of a step is divided by its pairs; so the term becomes a mean over tokens.
        """
        if not self._settings.sft_weight:
            return rows
        pairs = sum(len(row.lengths) for row in rows) / 2
        share = pairs / sum(_preferred_tokens(row) for row in rows)
        return [
            row._replace(columns={**row.columns, "sft_share": np.full(len(row.lengths), share)})
            for row in rows
        ]


def preference_metrics(reward_B2: Tensor) -> dict[str, Mean]:
    """Of the rewards of B pairs, preferred and rejected: what is told at each step.

    `accuracy` counts pairs whose preferred answer has the higher reward; equal ones by half.
    """
    chosen_B, rejected_B = reward_B2.double().unbind(1)
    right_B = (chosen_B > rejected_B).double() + 0.5 * (chosen_B == rejected_B)
    named = {
        "accuracy": right_B,
        "margin": chosen_B - rejected_B,
        "chosen_reward": chosen_B,
        "rejected_reward": rejected_B,
    }
    return {name: Mean(value_B.sum().item(), len(value_B)) for name, value_B in named.items()}


def open_dpo(setting: Setting, network: nn.Module) -> PreferenceTask:
    """Open the pairs of a dataset, and what `network` thinks of them before it learns.

    Raises:
        InvalidInput: as `pair_material`.
    """
    material = pair_material(setting.recipe, setting.dataset_path(), setting.model_path())
    return PreferenceTask(material, open_reference(setting, network, material), setting)


def _row(rows: PairRows, table: Table, position: int) -> Row:
    reference_P = table[rows.members(position)].ravel()
    return rows.row(position)._replace(columns={"reference": reference_P})


def _preferred_tokens(row: Row) -> int:
    piece_N = np.searchsorted(np.cumsum(row.lengths), row.sources, side="right")
    return int((piece_N % 2 == 0).sum())
