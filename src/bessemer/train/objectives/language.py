"""Next-token prediction: pretraining on documents, supervised fine-tuning on chats.

    loss = -1/N sum over targets of ln p(token | tokens of its document before it)     [nats/token]

N counts the target tokens of the whole step. In pretraining every token is a target; in
fine-tuning the messages of the chosen roles are, with the end-of-turn token after each. With
`pretrain.z_loss` the term z_loss * ln(Z)^2 is added to each (PaLM, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import MicroBatch
from bessemer.train.loss import LossSum, Mean, linear_cross_entropy
from bessemer.train.material import Material, chat_material, corpus, document_material
from bessemer.train.packing import Row
from bessemer.train.task import Network, Setting, hidden_states


class LanguageTask:
    """Cross-entropy over the targets of each row.

    Args:
        z_loss: weight of the squared log-normalizer.
        token_bytes: bytes that each token of the vocabulary spells, int64; given, the measure is
            bits per byte, which vocabularies of different size can be compared by.
    """

    def __init__(
        self, name: str, material: Material, *, z_loss: float = 0.0, token_bytes: Tensor | None
    ) -> None:
        self.name = name
        self.measure = "loss" if token_bytes is None else "bits_per_byte"
        self.tokenizer: Tokenizer = material.tokenizer
        self.prompt: Sequence[int] = material.prompt
        self.digest: str = material.digest
        self.facts: Mapping[str, Any] = material.facts
        self._material = material
        self._z_loss = z_loss
        self._token_bytes = token_bytes

    def rows(self, positions: Sequence[int]) -> list[Row]:
        return [self._material.train.row(position) for position in positions]

    def validation(self) -> list[Row]:
        return self._material.validation

    def weight(self, batch: MicroBatch) -> float:
        return batch.targets

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        z_loss = self._z_loss if torch.is_grad_enabled() else 0.0  # validation tells likelihood
        nats = linear_cross_entropy(
            hidden_states(network, batch),
            network.head_weight,
            batch.sources_N,
            batch.targets_N,
            z_loss=z_loss,
        )
        metrics = {}
        if self._token_bytes is not None and not torch.is_grad_enabled():
            count = self._token_bytes[batch.targets_N].sum().item()
            metrics["bits_per_byte"] = Mean(nats.item() / math.log(2), count)
        return LossSum(nats, batch.targets, metrics)


def open_sft(setting: Setting, _network: nn.Module) -> LanguageTask:
    """Teach the answers of a dataset of chats."""
    material = chat_material(setting.recipe, setting.dataset_path(), setting.model_path())
    return LanguageTask("sft", material, token_bytes=None)


def open_pretrain(setting: Setting, _network: nn.Module) -> LanguageTask:
    """Predict every next token of documents."""
    recipe = setting.recipe
    material = document_material(recipe, corpus(recipe.dataset.name), setting.tokenizer)
    return LanguageTask(
        "pretrain",
        material,
        z_loss=recipe.pretrain.z_loss,
        token_bytes=bytes_of_tokens(material.tokenizer),
    )


def bytes_of_tokens(tokenizer: Tokenizer) -> Tensor:
    """How many bytes each token spells. A control token spells none."""
    every = range(tokenizer.vocab_size)
    return torch.tensor(
        [0 if tokenizer.is_special(i) else len(tokenizer.token_bytes(i)) for i in every]
    )
