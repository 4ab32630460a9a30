"""Mixture of experts: a router, the experts that each token goes through, and how even the load is.

    y = sum over the chosen experts of  w_e * expert_e(x)   (+ the shared experts of x)

Three published ways to choose: Mixtral and Qwen3-MoE take the top k of a softmax, DeepSeek-V3 the
top k of sigmoids plus a bias that steers the choice and is in no weight, within the best groups of
experts. Tokens are sorted by expert, so each expert is one product over just its own tokens, and
no token is dropped.

    T tokens   E experts   K experts of a token   I inner size   D hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.models.config import MoeConfig


class Modules(Protocol):
    """Anything that says which modules it is made of."""

    def modules(self) -> Iterator[nn.Module]: ...


class Routing:
    """What the routers of one forward pass did; see `recorded`."""

    def __init__(self) -> None:
        self._probabilities: list[Tensor] = []  # of each layer: (E,) mean over tokens
        self._shares: list[Tensor] = []  # of each layer: (E,) choices of each expert a token
        self._entropies: list[float] = []

    def add(self, probabilities_TE: Tensor, counts_E: Tensor) -> None:
        """One layer's."""
        tokens = len(probabilities_TE)
        self._probabilities.append(probabilities_TE.mean(0))
        self._shares.append(counts_E.float() / tokens)
        with torch.no_grad():
            shares_TE = probabilities_TE / probabilities_TE.sum(1, keepdim=True)
            entropy_T = -(shares_TE * shares_TE.clamp(min=1e-12).log()).sum(1)
            self._entropies.append(entropy_T.mean().item())

    def balancing_loss(self) -> Tensor:
        """Experts times sum over experts of (choices a token) (mean probability), over all layers.

        Switch Transformer's loss (Fedus et al., 2021, equations 4 to 6) as Mixtral takes it: both
        means are over the tokens of every layer. It is top_k where the load is even.
        """
        shares_E, probabilities_E = _mean(self._shares), _mean(self._probabilities)
        return len(shares_E) * (shares_E * probabilities_E).sum()

    @property
    def load_ratio(self) -> float:
        """Load of the busiest expert over the mean load, mean over layers; 1 is even."""
        return sum((s.max() / s.mean()).item() for s in self._shares) / len(self._shares)

    @property
    def entropy(self) -> float:
        """How undecided the routers are, in nats; mean over tokens and layers."""
        return sum(self._entropies) / len(self._entropies)


class Router(nn.Module):
    """Scores every expert for every token and takes the best."""

    def __init__(self, hidden: int, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts, hidden))
        self.routing: Routing | None = None
        self.bias_rate = self.loss_rate = 0.0  # what training balances with; see `train.balancing`
        self.load_E: Tensor | None = None  # choices since the last `balance`
        if config.gate == "sigmoid":
            self.register_buffer("e_score_correction_bias", torch.zeros(config.experts))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Experts of each token and their weights: int64 (T, K), float32 (T, K)."""
        probabilities_TE, chosen_TK = self._choose(x_TD)
        weights_TK = probabilities_TE.gather(1, chosen_TK)
        if self.config.normalize:
            weights_TK = weights_TK / (weights_TK.sum(1, keepdim=True) + self._tiny)
        counts_E = torch.bincount(chosen_TK.flatten(), minlength=self.config.experts)
        if torch.is_grad_enabled() and self.training:
            self.load_E = counts_E if self.load_E is None else self.load_E + counts_E
        if self.routing is not None:
            self.routing.add(probabilities_TE, counts_E)
        return chosen_TK, weights_TK * self.config.scale

    @torch.no_grad()
    def balance(self, rate: float) -> None:
        """Make busy experts a little less, idle ones a little more likely to be chosen.

        Without a loss (DeepSeek-V3, 2024, section 2.1.2): the bias of each expert moves by `rate`
        against the sign of its load's difference to the mean.
        """
        if self.load_E is not None and self.config.gate == "sigmoid":
            load_E = self.load_E.float()
            self.bias_E.add_(torch.sign(load_E.mean() - load_E), alpha=rate)
        self.load_E = None

    @property
    def bias_E(self) -> Tensor:
        bias = self.e_score_correction_bias
        assert isinstance(bias, Tensor)
        return bias

    @property
    def _tiny(self) -> float:
        return 1e-20 if self.config.gate == "sigmoid" else 0.0

    def _choose(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        # In float32 as the reference implementations do: which expert is best hangs on few bits.
        if self.config.gate == "softmax":
            probabilities_TE = F.linear(x_TD, self.weight).float().softmax(1)
            return probabilities_TE, probabilities_TE.topk(self.config.top_k, dim=1).indices
        probabilities_TE = F.linear(x_TD.float(), self.weight.float()).sigmoid()
        scores_TE = (probabilities_TE + self.bias_E.float()).detach()
        # Unsorted as in the reference: the float32 sum of the weights follows this order.
        best = self._within_groups(scores_TE).topk(self.config.top_k, dim=1, sorted=False)
        return probabilities_TE, best.indices

    def _within_groups(self, scores_TE: Tensor) -> Tensor:
        groups = self.config.groups
        if groups == 1:
            return scores_TE
        scores_TGE = scores_TE.view(len(scores_TE), groups, -1)
        # A group is as good as its two best experts together.
        best_TG = scores_TGE.topk(min(2, scores_TGE.shape[2]), dim=2).values.sum(2)
        kept_T = best_TG.topk(self.config.top_groups, dim=1).indices
        out_TG = torch.ones_like(best_TG, dtype=torch.bool).scatter_(1, kept_T, False)
        return scores_TGE.masked_fill(out_TG.unsqueeze(2), -torch.inf).view_as(scores_TE)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        moved: Router = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.config.gate == "sigmoid":
            # Steps of a thousandth would vanish in a bfloat16 bias.
            self.e_score_correction_bias = self.bias_E.float()
        return moved


class Experts(nn.Module):
    """The experts' matrices, stacked: gate and up in one, and down."""

    def __init__(self, hidden: int, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        self.gate_up_proj = nn.Parameter(torch.empty(config.experts, 2 * config.size, hidden))
        self.down_proj = nn.Parameter(torch.empty(config.experts, hidden, config.size))

    @property
    def active_elements(self) -> int:
        """Weights that one token is multiplied with."""
        of_one = self.gate_up_proj[0].numel() + self.down_proj[0].numel()
        return self.config.top_k * of_one

    def forward(self, x_TD: Tensor, chosen_TK: Tensor, weights_TK: Tensor) -> Tensor:
        order = chosen_TK.flatten().argsort(stable=True)
        counts = torch.bincount(chosen_TK.flatten(), minlength=self.config.experts).tolist()
        sorted_D = x_TD.index_select(0, order // chosen_TK.shape[1])
        parts = torch.split(sorted_D, counts)
        # `unbind` once: indexing would make a gradient of all experts for each of them.
        matrices = zip(self.gate_up_proj.unbind(0), self.down_proj.unbind(0), strict=True)
        answers = torch.cat(
            [_expert(part, *own) for part, own in zip(parts, matrices, strict=True)]
        )
        weighted_D = answers * weights_TK.flatten().index_select(0, order).unsqueeze(1)
        # Back in the tokens' order, so that the sum over a token's experts has a fixed order too.
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        weighted_TKD = weighted_D.to(x_TD.dtype).index_select(0, back).view(*chosen_TK.shape, -1)
        return weighted_TKD.sum(1)


def _expert(x_TD: Tensor, gate_up_2ID: Tensor, down_DI: Tensor) -> Tensor:
    gate_TI, up_TI = F.linear(x_TD, gate_up_2ID).chunk(2, dim=-1)
    return F.linear(F.silu(gate_TI) * up_TI, down_DI)


class MixtureOfExperts(nn.Module):
    """In the place of a layer's feed-forward.

    Args:
        shared: the experts that every token goes through, as one feed-forward; or None.
    """

    def __init__(self, hidden: int, config: MoeConfig, shared: nn.Module | None) -> None:
        super().__init__()
        self.gate = Router(hidden, config)
        self.experts = Experts(hidden, config)
        if shared is not None:
            self.shared_experts = shared

    def forward(self, x_TD: Tensor) -> Tensor:
        y_TD: Tensor = self.experts(x_TD, *self.gate(x_TD))
        return y_TD + self.shared_experts(x_TD) if hasattr(self, "shared_experts") else y_TD


def routers(network: Modules) -> list[Router]:
    """Of every layer that has one."""
    return [module for module in network.modules() if isinstance(module, Router)]


@contextmanager
def recorded(network: Modules) -> Iterator[Routing | None]:
    """What the routers do within the `with`; None for a network without."""
    found = routers(network)
    routing = Routing() if found else None
    for router in found:
        router.routing = routing
    try:
        yield routing
    finally:
        for router in found:
            router.routing = None


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)
