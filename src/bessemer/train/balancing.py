"""Keeping the experts of a mixture equally busy, and telling how busy they are.

Two ways: a term in the loss (Fedus et al., 2021, "Switch Transformers"), for routers that take a
softmax; or a step of each expert's bias after each optimizer step, without a gradient (DeepSeek-V3,
2024, section 2.1.2), for routers that have one. Metrics of each step: `expert_load`, the busiest
expert's load over the mean (1 is even), and `router_entropy` in nats.
"""

from __future__ import annotations

from torch import nn

from bessemer.core.errors import InvalidInput
from bessemer.core.train_sections import MoeSection
from bessemer.models.experts import Router, Routing, routers
from bessemer.train.loss import LossSum, Mean

BIAS_RATE = 1e-3  # DeepSeek-V3's


def prepare(network: nn.Module, section: MoeSection) -> None:
    """Set how each router of the network is kept even; nothing happens to a network without.

    Raises:
        InvalidInput: the recipe asks for biases and the routers have none.
    """
    for router in routers(network):
        if section.balancing == "bias" and not _has_bias(router):
            raise InvalidInput(
                "the routers of this model have no bias to balance with",
                next_step='set moe.balancing="loss"',
            )
        by_bias = section.balancing == "bias" or (section.balancing == "auto" and _has_bias(router))
        by_loss = section.balancing != "off" and not by_bias
        router.bias_rate = (section.rate or BIAS_RATE) if by_bias else 0.0
        router.loss_rate = (section.rate or router.config.loss_rate) if by_loss else 0.0


def balance(network: nn.Module) -> None:
    """After an optimizer step: move the biases by the load since the last one."""
    for router in routers(network):
        router.balance(router.bias_rate)


def with_routing(loss: LossSum, routing: Routing, rate: float) -> LossSum:
    """The loss with `rate` times the balancing term for each unit of weight, and the metrics."""
    if rate:
        loss = loss._replace(total=loss.total + rate * loss.weight * routing.balancing_loss())
    told = {
        "expert_load": Mean(routing.load_ratio * loss.weight, loss.weight),
        "router_entropy": Mean(routing.entropy * loss.weight, loss.weight),
    }
    return loss._replace(metrics={**loss.metrics, **told})


def _has_bias(router: Router) -> bool:
    return router.config.gate == "sigmoid"
