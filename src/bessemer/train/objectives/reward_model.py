"""A reward model: one number for an answer, learned from which of two answers is preferred.

    s = w . h        h: the last hidden state of a chat that ends with the answer, w: the head
    loss = -ln sigmoid(s_c - s_r) + centering (s_c + s_r)^2            averaged over pairs  [nats]

Bradley and Terry, 1952, as in Ouyang et al., 2022, equation 1; the second term keeps scores
around zero, which the first does not fix (Eisenstein et al., 2023).

Not here: the network and its folder (`models.reward_model`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bessemer.data.packing import Ids, Piece, Row, join
from bessemer.data.pairs import PairMaterial, PairRows, pair_material
from bessemer.models.reward_model import RewardModel
from bessemer.text.special_tokens import special_texts
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import MicroBatch, micro_batch
from bessemer.train.loss import LossSum
from bessemer.train.objectives.preference import preference_metrics
from bessemer.train.task import Network, Setting, hidden_states

TOKENS_AT_ONCE = 8192


@torch.no_grad()
def reward_of(model: RewardModel, chats: Sequence[Sequence[int]]) -> list[float]:
    """The scores of chats as token ids: the model's own template and tokenizer, answer included."""
    scores: list[float] = []
    begin = 0
    while begin < len(chats):
        end, tokens = begin + 1, len(chats[begin])
        while end < len(chats) and tokens + len(chats[end]) <= TOKENS_AT_ONCE:
            tokens += len(chats[end])
            end += 1
        pieces = [_untaught(np.array(ids, dtype=np.int64)) for ids in chats[begin:end]]
        scores += scores_of(model, micro_batch([join(pieces)])).tolist()
        begin = end
    return scores


def scores_of(model: RewardModel, batch: MicroBatch) -> Tensor:
    """The score of each piece of the batch, (pieces,); differentiable."""
    hidden_TD = hidden_states(cast(Network, model), batch)
    return model.scores(hidden_TD, batch.ids_T, batch.lengths)


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor, centering: float = 0.0) -> Tensor:
    """The loss of each pair of scores, (B,) in nats."""
    return -logsigmoid(chosen_B - rejected_B) + centering * (chosen_B + rejected_B) ** 2


def pad_token_id(tokenizer: Tokenizer) -> int:
    """The tokenizer's padding token; where it names none, the first that ends a turn."""
    text = special_texts(tokenizer.folder).get("pad_token")
    ids = tokenizer.encode(text) if text is not None else sorted(tokenizer.eos_ids)
    return ids[0] if ids else 0


class RewardTask:
    """Rows of whole pairs without targets: nothing is predicted, each piece is scored."""

    def __init__(self, material: PairMaterial, setting: Setting) -> None:
        self.name, self.measure = "reward", "accuracy"
        self.tokenizer = setting.tokenizer
        self.prompt: Sequence[int] = []  # it cannot speak
        self.digest = material.digest
        self.facts: Mapping[str, Any] = material.facts
        self._material = material
        self._centering = setting.recipe.reward.centering

    def rows(self, positions: Sequence[int]) -> list[Row]:
        return [_scored(self._material.train, position) for position in positions]

    def validation(self) -> list[Row]:
        rows = self._material.validation
        return [_scored(rows, position) for position in range(rows.rows_per_epoch)]

    def weight(self, batch: MicroBatch) -> float:
        return len(batch.lengths) / 2

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        scores_B2 = scores_of(cast(RewardModel, network), batch).view(-1, 2)
        total = bradley_terry_loss(scores_B2[:, 0], scores_B2[:, 1], self._centering).sum()
        metrics = preference_metrics(scores_B2.detach())
        return LossSum(total, self.weight(batch), metrics)


def open_reward(setting: Setting, _network: nn.Module) -> RewardTask:
    """Open the pairs of a dataset.

    Raises:
        InvalidInput: as `pair_material`.
    """
    return RewardTask(
        pair_material(setting.recipe, setting.dataset_path(), setting.model_path()), setting
    )


def _scored(rows: PairRows, position: int) -> Row:
    pieces = [piece for i in rows.members(position) for piece in rows.pairs[i]]
    return join([_untaught(piece.ids) for piece in pieces])


def _untaught(ids: Ids) -> Piece:
    return Piece(ids, np.zeros(len(ids), dtype=np.bool_))
