"""What a teacher would say next at each target: its likeliest tokens, asked once, kept on disk.

For each row of training data one small file in the run's folder holds the teacher's top-k
log-probabilities at the recipe's temperature. A row is asked about when it is first needed and read
from then on, by later epochs and by a resumed run. A file that is torn is asked for again; files of
another teacher, k or temperature have other names.

    N targets   K tokens kept of each   V vocabulary
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from bessemer.core.runs import write_atomically
from bessemer.data.packing import Row
from bessemer.models.decoder import Decoder
from bessemer.models.foreign import ForeignDecoder
from bessemer.train.batch import micro_batch
from bessemer.train.task import hidden_states

AT_ONCE = 64  # targets whose logits exist at one time


class Likeliest(NamedTuple):
    """Token ids int32 (N, K), likeliest first, and their log-probabilities float32 (N, K)."""

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]


class Teacher:
    """A frozen network and the files of what it said.

    Args:
        folder: of the files; made if it is not there.
        top_k: tokens kept; all of them if the vocabulary has fewer.
        vocabulary: of the student, whose ids are asked about.
    """

    def __init__(
        self,
        network: Decoder | ForeignDecoder,
        digest: str,
        folder: Path,
        *,
        top_k: int,
        temperature: float,
        vocabulary: int,
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        self.vocabulary = min(vocabulary, len(network.head_weight))
        self.top_k = min(top_k, self.vocabulary)
        self._temperature = temperature
        facts = f"{digest}/{network.head_weight.dtype}/{self.top_k}/{temperature}"
        self._key = facts.encode()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.asked = 0

    def likeliest(self, row: Row) -> Likeliest:
        """The teacher's likeliest tokens at each target of the row."""
        path = self._folder / f"{self._name(row)}.safetensors"
        found = self._read(path, len(row.targets))
        if found is None:
            found = self._ask(row)
            write_atomically(path, save(found._asdict()))
        return found

    def _name(self, row: Row) -> str:
        digest = hashlib.blake2b(self._key, digest_size=16)
        for part in (row.ids, np.array(row.lengths), row.sources):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def _read(self, path: Path, targets: int) -> Likeliest | None:
        try:
            found = Likeliest(**load_file(path))
        except (OSError, SafetensorError, TypeError):
            return None
        return found if found.ids.shape == (targets, self.top_k) else None

    @torch.no_grad()
    def _ask(self, row: Row) -> Likeliest:
        self.asked += 1
        batch = micro_batch([row._replace(columns={})])
        hidden_ND = hidden_states(self._network, batch)[batch.sources_N]
        ids, logprobs = [], []
        for part_CD in torch.split(hidden_ND, AT_ONCE):
            logits_CV = self._network.logits(part_CD)[:, : self.vocabulary].float()
            top = (logits_CV / self._temperature).log_softmax(1).topk(self.top_k, dim=1)
            ids.append(top.indices.int())
            logprobs.append(top.values)
        return Likeliest(torch.cat(ids).numpy(), torch.cat(logprobs).numpy())
