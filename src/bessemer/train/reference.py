"""What the network thought of each answer before its first step: computed once, kept in the run.

ln p(answer | prompt), summed over the answer's tokens, of every pair that the run will see. The
file is written as a whole, under a key of data, model and precision; one that is torn, or of
something else, is computed again. A resumed run reads it.

Which pairs a run will see follows from its steps. Where these are not known yet (the recipe gives
minutes), the pass takes rows in the run's order for at most half of that time. A forward pass
takes less than half of a step, so that is more than the steps can use; were it not, the run would
learn from the rows covered again and again.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor, nn

from bessemer.core.progress import Progress
from bessemer.core.runs import write_atomically
from bessemer.core.train_recipe import MEASURED_STEPS, TrainRecipe
from bessemer.data.pairs import PairMaterial, PairRows
from bessemer.train.batch import MicroBatch, micro_batch
from bessemer.train.task import Network, Setting, evaluating, target_logprobs

Table = NDArray[np.float64]

FILE = "reference.safetensors"


class Reference(NamedTuple):
    """Log-probabilities in nats: a row for a pair, preferred and rejected; NaN if not computed."""

    train: Table
    validation: Table

    def covered_rows(self, rows: PairRows) -> int:
        """How many rows of the first epoch are known, counted from its beginning."""
        for position in range(rows.rows_per_epoch):
            if np.isnan(self.train[rows.members(position)]).any():
                return position
        return rows.rows_per_epoch


def covered_rows(folder: Path, rows: PairRows) -> int:
    """How many rows a run with this folder goes through again and again: all, or those known."""
    if not (folder / FILE).exists():
        return rows.rows_per_epoch
    return Reference(**load((folder / FILE).read_bytes())).covered_rows(rows)


def answer_logprobs(network: Network, batch: MicroBatch) -> Tensor:
    """ln p of the targets of each piece, summed over them, (pieces,); differentiable."""
    logprob_N = target_logprobs(network, batch)
    return logprob_N.new_zeros(len(batch.lengths)).index_add(0, batch.pieces_N, logprob_N)


def open_reference(setting: Setting, network: nn.Module, material: PairMaterial) -> Reference:
    """Read the run's reference, or compute it with `network` as it is and write it."""
    path, key = setting.folder / FILE, _key(setting, network, material)
    if path.exists():
        found = _read(path, key)
        if found is not None:
            return found
        setting.tell("note", message=f"{FILE} is torn or of other data; it is computed again")
    reference = _compute(setting, network, material)
    write_atomically(path, save(reference._asdict(), metadata={"key": key}))
    return reference


def _read(path: Path, key: str) -> Reference | None:
    data = path.read_bytes()
    try:
        tensors = load(data)
    except SafetensorError:
        return None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header.get("__metadata__", {}).get("key") != key:
        return None
    return Reference(**tensors)


def _key(setting: Setting, network: nn.Module, material: PairMaterial) -> str:
    lora = setting.recipe.lora
    facts = {
        "data": material.digest,
        "model": setting.plan["model"]["digest"],
        "dtype": str(cast(Network, network).head_weight.dtype),
        "lora": None if lora is None else lora.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def _compute(setting: Setting, network: nn.Module, material: PairMaterial) -> Reference:
    recipe = setting.recipe
    reference = Reference(_unknown(material.train), _unknown(material.validation))
    judged, wanted = material.validation.rows_per_epoch, _wanted_rows(recipe, material.train)
    limit_s = recipe.pass_limit_s
    fewest = MEASURED_STEPS * recipe.batch.rows
    progress = Progress(
        setting.tell, "reference", "rows", judged + wanted, judged=judged, limit_s=limit_s
    )
    with evaluating(network):
        for first in range(0, judged, recipe.rows_at_once):
            part = range(first, min(first + recipe.rows_at_once, judged))
            _fill(reference.validation, network, material.validation, part)
            progress.tell(part.stop)
        begin_s = time.monotonic()
        for first in range(0, wanted, recipe.rows_at_once):
            if time.monotonic() - begin_s > limit_s and first >= fewest:
                break
            part = range(first, min(first + recipe.rows_at_once, wanted))
            _fill(reference.train, network, material.train, part)
            progress.tell(judged + part.stop)
        progress.end()
    return reference


def _fill(table: Table, network: nn.Module, rows: PairRows, positions: range) -> None:
    batch = micro_batch([rows.row(position) for position in positions])
    members = [i for position in positions for i in rows.members(position)]
    logprob_P = answer_logprobs(cast(Network, network), batch)
    table[members] = logprob_P.view(-1, 2).double().numpy()


def _unknown(rows: PairRows) -> Table:
    return np.full((len(rows.pairs), 2), np.nan)


def _wanted_rows(recipe: TrainRecipe, rows: PairRows) -> int:
    most = rows.rows_per_epoch
    return most if recipe.steps is None else min(most, recipe.steps * recipe.batch.rows)
