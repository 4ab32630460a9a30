"""A reward model: a decoder whose last hidden state is scored by one more row of weights.

    s = w . h        h: the last hidden state of a document, w: the head

The folder that `save` writes opens in `transformers` as a sequence classifier with one label. Its
rule for which state counts is kept: the last token of a document that is not the padding token.
(Many tokenizers pad with the token that ends a turn; the state before it has seen the answer as
well.) How it is trained is `train.objectives.reward_model`'s work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bessemer.models.attention import Attend
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder, Trunk
from bessemer.models.folder import SINGLE, check_weights, copy_companions, read_tensors
from bessemer.models.gpt2 import Gpt2Trunk


class RewardModel(nn.Module):
    """A decoder whose last hidden state is scored. It has the decoder's face, and `score`.

    Args:
        decoder: its language head, if it has one of its own, is not trained and not saved.
        pad_id: the token that ends no document; None where there is no such token.
    """

    def __init__(self, decoder: Decoder, pad_id: int | None) -> None:
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
    def layer_windows(self) -> tuple[int | None, ...] | None:
        return self.decoder.layer_windows

    def recompute_layers(self, on: bool) -> None:
        self.decoder.recompute_layers(on)

    @property
    def attention_width(self) -> int:
        return self.decoder.attention_width

    @property
    def head_weight(self) -> Tensor:
        return self.decoder.head_weight

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        hidden_TD: Tensor = self.decoder(ids_T, positions_T, attend)
        return hidden_TD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return self.decoder.logits(hidden_ND)

    def scores(self, hidden_TD: Tensor, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """The score of each document, (documents,); differentiable.

        Args:
            hidden_TD: what `forward` gave for ids_T, documents of these lengths side by side.
        """
        hidden_PD = hidden_TD.index_select(0, self._last_P(ids_T, lengths))
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

    def _last_P(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """Where in T each document's last token is that is not padding; its 0th if all are."""
        places = []
        start = 0
        for ids in torch.split(ids_T, list(lengths)):
            real = torch.ones_like(ids) if self.pad_id is None else ids.ne(self.pad_id)
            real = real.nonzero()
            places.append(start + (int(real[-1]) if len(real) else 0))
            start += len(ids)
        return torch.tensor(places, device=ids_T.device)


def load_reward_model(folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """The reward model in `folder`; the decoder computes in `dtype`.

    Raises:
        UnsafeWeights, IntegrityError, InvalidInput: as `models.folder.load_decoder`; a language
            model has no `score.weight` and is refused as well.
    """
    config = ModelConfig.from_folder(folder)
    with torch.device("meta"):
        # "tied": no language head is made, and none is stored.
        model = RewardModel(Decoder(replace(config, tied=True)), config.pad_token_id)
    expected = model.stored()
    check_weights(folder, {name: list(tensor.shape) for name, tensor in expected.items()})
    found = {name: tensor for name, tensor in read_tensors(folder) if name in expected}
    score = found.pop("score.weight").to(torch.promote_types(dtype, torch.float32))
    model.decoder.load_state_dict({n: t.to(dtype) for n, t in found.items()}, assign=True)
    model.score.weight = nn.Parameter(score)
    return model
