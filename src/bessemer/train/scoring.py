"""What the trainer's own forward pass says of a text: the computation that a loss is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bessemer.core.train_sections import Precision
from bessemer.data.packing import Piece, join
from bessemer.models.folder import load_decoder
from bessemer.train.batch import micro_batch
from bessemer.train.precision import DTYPES
from bessemer.train.task import target_logprobs


@torch.no_grad()
def trainer_logprobs(
    model: Path, texts: Sequence[Sequence[int]], precision: Precision
) -> list[list[float]]:
    """ln p(ids[i] | ids[:i]) for i >= 1 of each text, packed as in training.

    Args:
        model: a Hugging Face folder.
        texts: token ids, two or more each.
    """
    network = load_decoder(model, DTYPES[precision]).eval()
    ids = [np.array(text, dtype=np.int64) for text in texts]
    batch = micro_batch([join([Piece(each, np.ones(len(each), dtype=np.bool_)) for each in ids])])
    lengths = [len(text) - 1 for text in texts]
    return [part.tolist() for part in torch.split(target_logprobs(network, batch), lengths)]
