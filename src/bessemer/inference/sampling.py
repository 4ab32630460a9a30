"""From scores to one token: bias and penalties, temperature, truncation, and repeatable noise.

The noise of a draw is one uniform number that depends only on the request's seed and the position
in the answer, never on what else is in the batch. The token is found by inverting the cumulative
distribution over token ids, so equal scores and an equal seed give an equal token.

The order is that of other engines: logit bias and penalties change the scores, temperature divides
them, then top-k, top-p and min-p take tokens away. Log-probabilities that are told are of the
model's own scores, before all of that.

    V vocabulary   I tokens that are left   B blocks of tokens
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bessemer.core.protocols import Sampling, TokenLogprob

_FEW = (256, 4096)  # a top-p set is nearly always among so many; the whole sort is the exception
_BLOCK = 256
# Below it is 0: in float32 smaller numbers divide to infinities, and at last by zero.
_COLDEST = 1e-5

_Keep = Callable[[Tensor, float], Tensor]


def draw(logits_V: Tensor, sampling: Sampling, seed: int, position: int) -> int:
    """The next token for one request's scores (float32 or float64, (V,))."""
    if sampling.temperature < _COLDEST:
        return int(logits_V.argmax())
    ids_I = _candidates(logits_V, sampling)
    number = uniform(seed, position)
    if ids_I is None:
        return _invert(_weights(logits_V, sampling.temperature), number)
    ids_I = ids_I.sort().values
    return int(ids_I[_invert(_weights(logits_V[ids_I], sampling.temperature), number)])


def adjusted(
    logits_V: Tensor, sampling: Sampling, prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> Tensor:
    """The scores with logit bias and penalties; the tensor itself where there are none.

    Presence and frequency penalties are OpenAI's, and count the answer's tokens; the repetition
    penalty (Keskar et al., 2019, "CTRL") divides positive scores, and multiplies negative ones, of
    tokens of prompt and answer.
    """
    if not sampling.adjusts:
        return logits_V
    logits_V = logits_V.clone()
    if sampling.repetition_penalty != 1:
        seen_I = torch.tensor(sorted({*prompt_ids, *answer_ids}))
        scores_I = logits_V[seen_I]
        factor = sampling.repetition_penalty
        logits_V[seen_I] = torch.where(scores_I > 0, scores_I / factor, scores_I * factor)
    if answer_ids and (sampling.presence_penalty or sampling.frequency_penalty):
        counts = Counter(answer_ids)
        ids_I, times_I = torch.tensor(list(counts)), torch.tensor(list(counts.values()))
        penalty_I = sampling.presence_penalty + sampling.frequency_penalty * times_I
        logits_V[ids_I] -= penalty_I.to(logits_V.dtype)
    if sampling.logit_bias:
        ids_I = torch.tensor(list(sampling.logit_bias))
        logits_V[ids_I] += torch.tensor(list(sampling.logit_bias.values()), dtype=logits_V.dtype)
    return logits_V


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1): 53 bits of BLAKE2b over seed and position."""
    message = seed.to_bytes(16, "big", signed=True) + position.to_bytes(8, "big")
    number = int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "big")
    return (number >> 11) / (1 << 53)


def logprobs_of(logits_V: Tensor, token: int, top: int) -> TokenLogprob:
    """Natural log-probability of `token` and of the `top` likeliest, from the model's scores."""
    normalizer = _log_normalizer(logits_V)
    best: Sequence[tuple[int, float]] = ()
    if top:
        values, ids = logits_V.topk(top)
        best = list(zip(ids.tolist(), (values.double() - normalizer).tolist(), strict=True))
    return TokenLogprob(id=token, logprob=float(logits_V[token]) - normalizer, top=best)


def prompt_logprobs_of(logits_NV: Tensor, targets_N: Tensor, top: int) -> list[TokenLogprob]:
    """Of each target, with its rank and the `top` likeliest in its place."""
    normalizers_N = torch.logsumexp(logits_NV, -1).double()
    chosen_N1 = logits_NV.gather(1, targets_N[:, None])
    logprobs = (chosen_N1[:, 0].double() - normalizers_N).tolist()
    ranks = ((logits_NV > chosen_N1).sum(1) + 1).tolist()
    best: list[list[tuple[int, float]]] = [[] for _ in logprobs]
    if top:
        values_NK, ids_NK = logits_NV.topk(top)
        told_NK = values_NK.double() - normalizers_N[:, None]
        best = [
            list(zip(ids, values, strict=True))
            for ids, values in zip(ids_NK.tolist(), told_NK.tolist(), strict=True)
        ]
    return [
        TokenLogprob(*each) for each in zip(targets_N.tolist(), logprobs, best, ranks, strict=True)
    ]


def _log_normalizer(logits_V: Tensor) -> float:
    """ln of the sum of exp(logits), the sum in float64: one pass over the vocabulary."""
    highest = logits_V.max()
    total = (logits_V - highest).exp_().sum(dtype=torch.float64)
    return float(highest) + float(total.log())


def _weights(logits_I: Tensor, temperature: float) -> Tensor:
    """exp(logits / temperature) over that of the highest; not normalized."""
    return (logits_I - logits_I.max()).div_(temperature).exp_()


def _candidates(logits_V: Tensor, sampling: Sampling) -> Tensor | None:
    """Ids that top-k, top-p and min-p keep, or None for all of them; at least one."""
    ids_I: Tensor | None = None
    if 0 < sampling.top_k < len(logits_V):
        ids_I = logits_V.topk(sampling.top_k).indices
    if sampling.top_p < 1:
        ids_I = _within(logits_V, ids_I, _nucleus, sampling.top_p, sampling.temperature)
    if sampling.min_p > 0:
        ids_I = _within(logits_V, ids_I, _not_far_below, sampling.min_p, sampling.temperature)
    return ids_I


def _within(
    logits_V: Tensor, ids_I: Tensor | None, keep: _Keep, bound: float, temperature: float
) -> Tensor:
    pool_I = logits_V if ids_I is None else logits_V[ids_I]
    kept_J = keep(_weights(pool_I, temperature), bound)
    return kept_J if ids_I is None else ids_I[kept_J]


def _nucleus(weights_I: Tensor, top_p: float) -> Tensor:
    """Indices of the smallest set of likeliest tokens whose mass reaches `top_p`; at least one."""
    enough = top_p * float(weights_I.sum(dtype=torch.float64))
    for size in (*_FEW, len(weights_I)):
        values, order = weights_I.topk(min(size, len(weights_I)))
        edges = values.double().cumsum(0)
        if float(edges[-1]) >= enough:
            break
    kept = edges - values < enough
    kept[0] = True  # also where `top_p` is 0
    return order[kept.nonzero()[:, 0]]


def _not_far_below(weights_I: Tensor, min_p: float) -> Tensor:
    """Indices of tokens at least `min_p` as likely as the likeliest (Nguyen et al., 2024)."""
    return (weights_I >= min_p).nonzero()[:, 0]


def _invert(weights_I: Tensor, number: float) -> int:
    """Where the cumulative sum passes `number` of the whole: first among blocks, then in one.

    Only the sums of blocks are float64: a pass over them is all that a vocabulary costs.
    """
    whole = len(weights_I) // _BLOCK * _BLOCK
    sums_B = weights_I[:whole].view(-1, _BLOCK).sum(1, dtype=torch.float64)
    sums_B = torch.cat((sums_B, weights_I[whole:].sum(0, keepdim=True, dtype=torch.float64)))
    edges_B = sums_B.cumsum(0)
    target = number * float(edges_B[-1])
    block = min(int(torch.searchsorted(edges_B, target, right=True)), len(edges_B) - 1)
    inside_I = weights_I[block * _BLOCK : (block + 1) * _BLOCK].double()
    before = float(edges_B[block - 1]) if block else 0.0
    place = int(torch.searchsorted(inside_I.cumsum(0), target - before, right=True))
    return _possible(weights_I, block * _BLOCK + place)


def _possible(weights_I: Tensor, place: int) -> int:
    """`place`, or the last one before it that has any weight: sums round."""
    place = min(place, len(weights_I) - 1)
    while place > 0 and not weights_I[place]:
        place -= 1
    return place
