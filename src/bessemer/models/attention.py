"""Attention as a function handed to the decoder: what each token may look at.

The decoder computes queries, keys and values of T flat tokens and calls `attend(layer, q, k, v)`.
`PackedAttention` is the plain way; training hands in a faster one (`train.attention`), an engine
one that also reads its KV cache, and an encoder gets `WholeAttention`.

    T tokens   N documents   L longest document of a group   H heads   K kv heads   D head size
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_THD, k_TKD, v_TKD) -> mixed_THD"""


class Group(NamedTuple):
    """Documents of similar length, padded at the end to the longest of them."""

    real_NL: Tensor  # places that are not padding
    gather_NL: Tensor  # token index of each place; padding repeats the document's last token
    keep_I: Tensor  # flat places that are not padding
    scatter_I: Tensor  # where they belong among the T tokens


class PackedAttention:
    """Causal attention within each document, none across; only a window needs a mask.

    Padding stands at the end of a document, so a causal kernel never lets a real token see it.
    Documents are grouped by power-of-two length, which bounds the padding to a factor of two.

    Args:
        lengths: tokens of each document, in the order in which they stand in the T tokens.
        windows: of each layer, how many tokens back it sees, itself counted; None for all.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        windows: Sequence[int | None] | None = None,
    ) -> None:
        self._windows = windows
        self.tokens = sum(lengths)
        self._groups = padded_groups(lengths, device)
        self._whole = len(lengths) == 1

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        assert len(q_THD) == self.tokens, (len(q_THD), self.tokens)
        window = self._windows[layer] if self._windows else None
        if self._whole:
            return _causal(q_THD[None], k_TKD[None], v_TKD[None], window)[0]
        mixed_THD = q_THD.new_empty(*q_THD.shape[:2], v_TKD.shape[2])
        parts, places = [], []
        for group in self._groups:
            mixed_NLHD = _causal(
                q_THD[group.gather_NL], k_TKD[group.gather_NL], v_TKD[group.gather_NL], window
            )
            parts.append(mixed_NLHD.flatten(0, 1).index_select(0, group.keep_I))
            places.append(group.scatter_I)
        return mixed_THD.index_copy(0, torch.cat(places), torch.cat(parts))


class WholeAttention:
    """Attention within each document, both ways, none across: an encoder's.

    Grouped like `PackedAttention`; here padding would be seen, so a mask hides it.

    Args:
        lengths: tokens of each document, in the order in which they stand in the T tokens.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.tokens = sum(lengths)
        self._groups = padded_groups(lengths, device)
        self._masks = [
            None if bool(group.real_NL.all()) else group.real_NL[:, None, None]
            for group in self._groups
        ]
        self._whole = len(lengths) == 1

    def __call__(self, layer: int, q_THD: Tensor, k_THD: Tensor, v_THD: Tensor) -> Tensor:
        assert len(q_THD) == self.tokens, (len(q_THD), self.tokens)
        if self._whole:
            return _both_ways(q_THD[None], k_THD[None], v_THD[None], None)[0]
        parts, places = [], []
        for group, mask_N11L in zip(self._groups, self._masks, strict=True):
            mixed_NLHD = _both_ways(
                q_THD[group.gather_NL], k_THD[group.gather_NL], v_THD[group.gather_NL], mask_N11L
            )
            parts.append(mixed_NLHD.flatten(0, 1).index_select(0, group.keep_I))
            places.append(group.scatter_I)
        return torch.empty_like(q_THD).index_copy(0, torch.cat(places), torch.cat(parts))


def padded_groups(lengths: Sequence[int], device: torch.device | str = "cpu") -> list[Group]:
    """Documents side by side as padded batches, by power-of-two length."""
    assert all(length > 0 for length in lengths), lengths
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    by_size: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_size.setdefault((length - 1).bit_length(), []).append(index)
    return [
        _group([starts[i] for i in chosen], [lengths[i] for i in chosen], device)
        for chosen in by_size.values()
    ]


def positions(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Position of each token within its document: 0 .. length - 1 for each, (T,) int64."""
    return torch.cat([torch.arange(length, device=device) for length in lengths])


def _causal(q_NLHD: Tensor, k_NLKD: Tensor, v_NLKD: Tensor, window: int | None) -> Tensor:
    length, mask_LL = q_NLHD.shape[1], None
    if window is not None and window < length:
        back_LL = torch.arange(length)[:, None] - torch.arange(length)
        mask_LL = ((back_LL >= 0) & (back_LL < window)).to(q_NLHD.device)
    mixed_NHLD = F.scaled_dot_product_attention(
        q_NLHD.transpose(1, 2),
        k_NLKD.transpose(1, 2),
        v_NLKD.transpose(1, 2),
        attn_mask=mask_LL,
        is_causal=mask_LL is None,
        enable_gqa=q_NLHD.shape[2] != k_NLKD.shape[2],
    )
    return mixed_NHLD.transpose(1, 2)


def _both_ways(q_NLHD: Tensor, k_NLHD: Tensor, v_NLHD: Tensor, mask_N11L: Tensor | None) -> Tensor:
    mixed_NHLD = F.scaled_dot_product_attention(
        q_NLHD.transpose(1, 2),
        k_NLHD.transpose(1, 2),
        v_NLHD.transpose(1, 2),
        attn_mask=mask_N11L,
    )
    return mixed_NHLD.transpose(1, 2)


def _group(starts: list[int], lengths: list[int], device: torch.device | str) -> Group:
    longest = max(lengths)
    start_N1 = torch.tensor(starts, device=device)[:, None]
    length_N1 = torch.tensor(lengths, device=device)[:, None]
    place_L = torch.arange(longest, device=device)
    gather_NL = start_N1 + torch.minimum(place_L, length_N1 - 1)
    real_NL = place_L < length_N1
    keep_I = real_NL.flatten().nonzero()[:, 0]
    return Group(real_NL, gather_NL, keep_I, gather_NL.flatten()[keep_I])
