"""The schedule's shape, AdamW against its formula, and masters that keep small steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bessemer.core.train_sections import OptimizerSection, ScheduleSection
from bessemer.train.optimizer import Optimizer
from bessemer.train.schedule import learning_rate
from bessemer.train.weights import TrainedWeights


def rates(steps: int, schedule: ScheduleSection) -> list[float]:
    return [learning_rate(step, steps, 2.0, schedule) for step in range(1, steps + 1)]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_rate_rises_to_its_peak_and_falls_to_its_fraction(shape: str) -> None:
    every = rates(100, ScheduleSection(warmup_steps=5, shape=shape, final_fraction=0.1))  # type: ignore[arg-type]
    assert every[:5] == pytest.approx([2 / 6, 4 / 6, 1.0, 8 / 6, 10 / 6])
    assert max(every) == every[5] < 2.0
    assert every[5:] == sorted(every[5:], reverse=True)
    assert every[-1] == pytest.approx(0.2)
    assert every[52] == pytest.approx(1.1, abs=0.02)  # half way down


def test_a_short_run_is_not_all_warm_up() -> None:
    assert rates(3, ScheduleSection(warmup_steps=5)) == pytest.approx([1.4, 0.8, 0.2])


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 2, generator=generator))
        self.vector = nn.Parameter(torch.randn(4, generator=generator))

    def loss(self, step: int) -> torch.Tensor:
        return (self.matrix.sin() * step).sum() + (self.vector**2).sum()


def move(network: Two, weights: TrainedWeights, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        network.loss(step).backward()
        weights.collect()
        optimizer.step(0.01 * step)
        weights.publish()


def test_adamw_is_the_papers_with_decay_on_matrices_only() -> None:
    network = Two()
    matrix, vector = network.matrix.detach().clone(), network.vector.detach().clone()
    section = OptimizerSection(betas=(0.8, 0.9), weight_decay=0.5)
    weights = TrainedWeights(network)
    move(network, weights, Optimizer(weights.masters, section), range(1, 4))
    for start, end, decay, slope in (
        (matrix, network.matrix, 0.5, lambda x, step: x.cos() * step),
        (vector, network.vector, 0.0, lambda x, step: 2 * x),
    ):
        x, mean, square = start.double(), torch.zeros(()), torch.zeros(())
        for step in range(1, 4):
            gradient, rate = slope(x, step), 0.01 * step
            mean = 0.8 * mean + 0.2 * gradient
            square = 0.9 * square + 0.1 * gradient**2
            x = x * (1 - rate * decay)
            unbiased = mean / (1 - 0.8**step), square / (1 - 0.9**step)
            x = x - rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        torch.testing.assert_close(end.detach().double(), x, rtol=1e-5, atol=1e-6)


def test_an_optimizer_continued_from_its_state_takes_the_same_steps() -> None:
    straight, first, second = Two(), Two(), Two()
    weights = TrainedWeights(straight)
    move(straight, weights, Optimizer(weights.masters, OptimizerSection()), range(1, 9))
    weights = TrainedWeights(first)
    optimizer = Optimizer(weights.masters, OptimizerSection())
    move(first, weights, optimizer, range(1, 5))
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    again = TrainedWeights(second)
    again.load({name: master.detach().clone() for name, master in weights.masters.items()})
    continued = Optimizer(again.masters, OptimizerSection())
    continued.load(state, steps=4)
    move(second, again, continued, range(5, 9))
    assert torch.equal(second.matrix, straight.matrix)
    assert torch.equal(second.vector, straight.vector)


def test_steps_too_small_for_bfloat16_are_not_lost() -> None:
    network = nn.Linear(1, 1, bias=False).bfloat16()
    network.weight.data.fill_(1.0)
    weights = TrainedWeights(network)
    for _ in range(100):
        master = weights.masters["weight"]
        master.data -= 2.0**-12  # a sixteenth of what bfloat16 resolves at 1
        weights.publish()
    assert network.weight.item() == pytest.approx(1 - 100 * 2.0**-12, abs=2.0**-8)


def test_gradients_of_micro_batches_are_summed_in_float32() -> None:
    network = nn.Linear(1, 1, bias=False).bfloat16()
    weights = TrainedWeights(network)
    for _ in range(1024):
        (network(torch.ones(1, 1).bfloat16()) * 1.0).sum().backward()
        weights.collect()
    gradient = weights.masters["weight"].grad
    assert gradient is not None
    assert gradient.item() == 1024.0  # bfloat16 would have stopped at 256
    assert weights.clip(1.0) == 1024.0
    assert gradient.item() == pytest.approx(1.0, rel=1e-5)
