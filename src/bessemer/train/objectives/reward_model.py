"""A reward model: one number for an answer, learned from which of two answers is preferred.

    s = w . h        h: the last hidden state of a chat that ends with the answer, w: the head
    loss = -ln sigmoid(s_c - s_r) + centering (s_c + s_r)^2            averaged over pairs  [nats]

Bradley and Terry, 1952, as in Ouyang et al., 2022, equation 1; the second term keeps scores
around zero, which the first does not fix (Eisenstein et al., 2023).

The folder that `save` writes opens in `transformers` as a sequence classifier with one label. Its
rule for which state counts is kept: the last token of a chat that is not the padding token. (Many
tokenizers pad with the token that ends a turn; the state before it has seen the answer as well.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bessemer.models.attention import Attend
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder, Trunk
from bessemer.models.folder import SINGLE, check_weights, copy_companions, read_tensors
from bessemer.models.gpt2 import Gpt2Trunk
from bessemer.text.special_tokens import special_texts
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import MicroBatch, micro_batch
from bessemer.train.loss import LossSum
from bessemer.train.objectives.preference import preference_metrics
from bessemer.train.packing import Ids, Piece, Row, join
from bessemer.train.pairs import PairMaterial, PairRows, pair_material
from bessemer.train.task import Network, Setting, hidden_states

TOKENS_AT_ONCE = 8192


class RewardModel(nn.Module):
    """A decoder whose last hidden state is scored. It has the decoder's face, and `score`.

    Args:
        decoder: its language head, if it has one of its own, is not trained and not saved.
        pad_id: the token that ends no chat.
    """

    def __init__(self, decoder: Decoder, pad_id: int) -> None:
        super().__init__()
        self.decoder = decoder
        if not decoder.config.tied:
            decoder.head_weight.requires_grad_(False)
        self.config, self.pad_id = decoder.config, pad_id
        # In float32 whatever the decoder computes in: it is small, and trained in any case.
        wide = torch.promote_types(decoder.head_weight.dtype, torch.float32)
        self.score = nn.Linear(decoder.config.hidden_size, 1, bias=False, dtype=wide)
        nn.init.zeros_(self.score.weight)  # no answer is better than another yet

    @property
    def trunk(self) -> Trunk | Gpt2Trunk:
        return self.decoder.trunk

    @property
    def head_weight(self) -> Tensor:
        return self.decoder.head_weight

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        hidden_TD: Tensor = self.decoder(ids_T, positions_T, attend)
        return hidden_TD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return self.decoder.logits(hidden_ND)

    def scores(self, batch: MicroBatch) -> Tensor:
        """The score of each piece, (pieces,); differentiable."""
        hidden_TD = hidden_states(cast(Network, self), batch)
        hidden_PD = hidden_TD.index_select(0, self._last_P(batch))
        scores_P1: Tensor = self.score(hidden_PD.to(self.score.weight.dtype))
        return scores_P1[:, 0]

    def save(self, folder: Path, like: Path | None = None) -> None:
        """Write a folder of `transformers`' layout for sequence classification.

        Args:
            like: folder whose tokenizer and template files are copied.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: w.detach().contiguous() for name, w in self.stored().items()}
        save_file(weights, folder / SINGLE, metadata={"format": "pt"})
        dtype = str(self.score.weight.dtype).removeprefix("torch.")
        config = replace(self.config, pad_token_id=self.pad_id).to_hf(dtype)
        (architecture,) = config["architectures"]
        config["architectures"] = [architecture.replace("CausalLM", "SequenceClassification")]
        config |= {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if like is not None:
            copy_companions(like, folder)

    def stored(self) -> dict[str, Tensor]:
        """The weights by their published names."""
        inner = self.decoder.state_dict()
        kept = {name: w for name, w in inner.items() if not name.startswith("lm_head.")}
        return {**kept, "score.weight": self.score.weight}

    def _last_P(self, batch: MicroBatch) -> Tensor:
        """Where in T each piece's last token is that is not padding; 0th if all are."""
        place_T = batch.positions_T * (batch.ids_T != self.pad_id)
        ends = torch.tensor(batch.lengths).cumsum(0).tolist()
        starts = [end - length for end, length in zip(ends, batch.lengths, strict=True)]
        last = [
            start + int(place_T[start:end].argmax())
            for start, end in zip(starts, ends, strict=True)
        ]
        return torch.tensor(last)


def load_reward_model(folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """The reward model in `folder`; the decoder computes in `dtype`.

    Raises:
        UnsafeWeights, IntegrityError, InvalidInput: as `models.folder.load_decoder`; a language
            model has no `score.weight` and is refused as well.
    """
    config = ModelConfig.from_folder(folder)
    pad_id = config.pad_token_id
    if pad_id is None:
        pad_id = pad_token_id(Tokenizer.load(folder))
    with torch.device("meta"):
        # "tied": no language head is made, and none is stored.
        model = RewardModel(Decoder(replace(config, tied=True)), pad_id)
    expected = model.stored()
    check_weights(folder, {name: list(tensor.shape) for name, tensor in expected.items()})
    found = {name: tensor for name, tensor in read_tensors(folder) if name in expected}
    score = found.pop("score.weight").to(torch.promote_types(dtype, torch.float32))
    model.decoder.load_state_dict({n: t.to(dtype) for n, t in found.items()}, assign=True)
    model.score.weight = nn.Parameter(score)
    return model


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
        scores += model.scores(micro_batch([join(pieces)])).tolist()
        begin = end
    return scores


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
        scores_B2 = cast(RewardModel, network).scores(batch).view(-1, 2)
        total = bradley_terry_loss(scores_B2[:, 0], scores_B2[:, 1], self._centering).sum()
        metrics = preference_metrics(scores_B2.detach())
        return LossSum(total, self.weight(batch), metrics)


def open_reward(setting: Setting, _network: nn.Module) -> RewardTask:
    """Open the pairs of a dataset.

    Raises:
        InvalidInput: as `pair_material`.
    """
    return RewardTask(pair_material(setting), setting)


def _scored(rows: PairRows, position: int) -> Row:
    pieces = [piece for i in rows.members(position) for piece in rows.pairs[i]]
    return join([_untaught(piece.ids) for piece in pieces])


def _untaught(ids: Ids) -> Piece:
    return Piece(ids, np.zeros(len(ids), dtype=np.bool_))
