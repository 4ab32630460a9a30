"""From scores to one token: temperature, top-k, top-p, and noise that can be computed again.

The noise of a draw is one uniform number that depends only on the request's seed and the position
in the answer, never on what else is in the batch. The token is found by inverting the cumulative
distribution over token ids, so equal scores and an equal seed give an equal token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from bessemer.core.protocols import Sampling, TokenLogprob

_FEW = 256  # a top-p set is nearly always among so many; the whole sort is the exception


def draw(logits_V: Tensor, sampling: Sampling, seed: int, position: int) -> int:
    """The next token for one request's scores (float32, (V,))."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled_V = logits_V.double() / sampling.temperature
    ids_I = _candidates(scaled_V, sampling)
    if ids_I is None:
        return _invert(torch.softmax(scaled_V, -1), uniform(seed, position))
    ids_I = ids_I.sort().values
    chosen = _invert(torch.softmax(scaled_V[ids_I], -1), uniform(seed, position))
    return int(ids_I[chosen])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1): 53 bits of BLAKE2b over seed and position."""
    message = seed.to_bytes(16, "big", signed=True) + position.to_bytes(8, "big")
    number = int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "big")
    return (number >> 11) / (1 << 53)


def logprobs_of(logits_V: Tensor, token: int, top: int) -> TokenLogprob:
    """Natural log-probability of `token` and of the `top` likeliest, from the model's scores."""
    logprobs_V = torch.log_softmax(logits_V.double(), -1)
    best: Sequence[tuple[int, float]] = ()
    if top:
        values, ids = logprobs_V.topk(top)
        best = list(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(id=token, logprob=float(logprobs_V[token]), top=best)


def _candidates(scaled_V: Tensor, sampling: Sampling) -> Tensor | None:
    """Ids that top-k and top-p keep, or None for all of them."""
    ids_I: Tensor | None = None
    if 0 < sampling.top_k < len(scaled_V):
        ids_I = scaled_V.topk(sampling.top_k).indices
    if sampling.top_p < 1:
        pool = scaled_V if ids_I is None else scaled_V[ids_I]
        kept = _nucleus(pool, sampling.top_p)
        ids_I = kept if ids_I is None else ids_I[kept]
    return ids_I


def _nucleus(scaled_I: Tensor, top_p: float) -> Tensor:
    """Indices of the smallest set of likeliest tokens whose mass reaches `top_p`; at least one."""
    mass_I = torch.softmax(scaled_I, -1)
    for size in (min(_FEW, len(mass_I)), len(mass_I)):
        values, order = mass_I.topk(size)
        before = values.cumsum(0) - values
        if size == len(mass_I) or float(values.sum()) >= top_p:
            break
    return order[(before < top_p).nonzero()[:, 0]]


def _invert(mass_I: Tensor, u: float) -> int:
    edges_I = mass_I.cumsum(0)
    place = int(torch.searchsorted(edges_I, u * float(edges_I[-1]), right=True))
    return min(place, len(mass_I) - 1)
