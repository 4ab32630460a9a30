"""Next-token prediction: pretraining on documents, supervised fine-tuning on chats.

    loss = -1/N sum over targets of ln p(token | tokens of its document before it)     [nats/token]

N counts the target tokens of the whole step. In pretraining every token is a target; in
fine-tuning the messages of the chosen roles are, with the end-of-turn token after each. With
`pretrain.z_loss` the term z_loss * ln(Z)^2 is added to each (PaLM, section 5). With
`pretrain.fim_rate` some documents are rearranged to fill in their middle (`data.infilling`); then
validation also tells `middle_loss`, nats per token of middles that the model has both sides of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.document_splits import open_documents
from bessemer.data.infilling import InfilledRows
from bessemer.data.material import Material, chat_material, document_material
from bessemer.data.packing import Row
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import MicroBatch
from bessemer.train.loss import LossSum, Mean, linear_cross_entropy
from bessemer.train.task import Network, Setting, hidden_states

MIDDLE = "middle"


class LanguageTask:
    """Cross-entropy over the targets of each row.

    Args:
        z_loss: weight of the squared log-normalizer.
        token_bytes: bytes that each token of the vocabulary spells, int64; given, the measure is
            bits per byte, which vocabularies of different size can be compared by.
        middles: validation rows whose targets are middles to fill in.
    """

    def __init__(
        self,
        name: str,
        material: Material,
        *,
        z_loss: float = 0.0,
        token_bytes: Tensor | None = None,
        middles: Sequence[Row] = (),
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
        plain, asked = (_marked(rows, i) for i, rows in enumerate((material.validation, middles)))
        self._validation = [*plain, *asked] if middles else material.validation

    def rows(self, positions: Sequence[int]) -> list[Row]:
        return [self._material.train.row(position) for position in positions]

    def validation(self) -> list[Row]:
        return self._validation

    def weight(self, batch: MicroBatch) -> float:
        return batch.targets

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        hidden_TD, head_VD = hidden_states(network, batch), network.head_weight
        if torch.is_grad_enabled():
            nats = linear_cross_entropy(
                hidden_TD, head_VD, batch.sources_N, batch.targets_N, z_loss=self._z_loss
            )
            return LossSum(nats, batch.targets)
        metrics = {}
        sources_N, targets_N = batch.sources_N, batch.targets_N
        if MIDDLE in batch.columns:
            asked_N = batch.columns[MIDDLE] == 1
            nats = linear_cross_entropy(hidden_TD, head_VD, sources_N[asked_N], targets_N[asked_N])
            metrics["middle_loss"] = Mean(nats.item(), int(asked_N.sum()))
            sources_N, targets_N = sources_N[~asked_N], targets_N[~asked_N]
        nats = linear_cross_entropy(hidden_TD, head_VD, sources_N, targets_N)
        if self._token_bytes is not None:
            count = self._token_bytes[targets_N].sum().item()
            metrics["bits_per_byte"] = Mean(nats.item() / math.log(2), count)
        return LossSum(nats, len(targets_N), metrics)


def open_sft(setting: Setting, _network: nn.Module) -> LanguageTask:
    """Teach the answers of a dataset of chats."""
    material = chat_material(setting.recipe, setting.dataset_path(), setting.model_path())
    return LanguageTask("sft", material)


def open_pretrain(setting: Setting, _network: nn.Module) -> LanguageTask:
    """Predict every next token of documents."""
    recipe = setting.recipe
    datasets, tokenizer = setting.plan["datasets"], setting.tokenizer
    documents = open_documents(recipe, datasets, setting.folder, tokenizer)
    material = document_material(recipe, documents, tokenizer)
    middles: list[Row] = []
    if recipe.pretrain.fim_rate:
        material, middles = infilled(material, recipe)
    return LanguageTask(
        "pretrain",
        material,
        z_loss=recipe.pretrain.z_loss,
        token_bytes=bytes_of_tokens(material.tokenizer),
        middles=middles,
    )


def infilled(material: Material, recipe: TrainRecipe) -> tuple[Material, list[Row]]:
    """Training rows rearranged at the recipe's rate; validation rows, each with its middles."""
    settings, tokenizer = recipe.pretrain, material.tokenizer
    train = InfilledRows(
        material.train, tokenizer, rate=settings.fim_rate, spm=settings.fim_spm, seed=recipe.seed
    )
    judged = InfilledRows(
        _Listed(material.validation), tokenizer, rate=1.0, spm=0.0, seed=0, middle_only=True
    )
    middles = [judged.row(position) for position in range(len(material.validation))]
    return replace(material, train=train), [row for row in middles if len(row.targets)]


class _Listed(NamedTuple):
    rows: Sequence[Row]

    def row(self, position: int) -> Row:
        return self.rows[position]


def _marked(rows: Sequence[Row], mark: int) -> list[Row]:
    """The rows with the column that says whether a target is in a middle."""
    return [row._replace(columns={MIDDLE: np.full(len(row.targets), mark)}) for row in rows]


def bytes_of_tokens(tokenizer: Tokenizer) -> Tensor:
    """How many bytes each token spells. A control token spells none."""
    every = range(tokenizer.vocab_size)
    return torch.tensor(
        [0 if tokenizer.is_special(i) else len(tokenizer.token_bytes(i)) for i in every]
    )
