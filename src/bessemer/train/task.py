"""What one objective gives the loop: a `Task`. An objective is a file in `objectives`.

The loop knows rows, a weight and a loss; what they mean is the task's affair. A run with a mixture
has several tasks, any other run has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from bessemer.core.protocols import EngineMaker
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.packing import Row
from bessemer.models.attention import Attend
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.attention import BlockAttention
from bessemer.train.batch import MicroBatch
from bessemer.train.loss import LossSum, linear_logprobs


class Network(Protocol):
    """The face of `models.Decoder`: what a task may ask of the network that is trained.

    `models.ForeignDecoder` has it too.
    """

    def __call__(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor: ...

    def modules(self) -> Iterator[nn.Module]: ...

    @property
    def layer_windows(self) -> Sequence[int | None] | None: ...

    @property
    def head_weight(self) -> Tensor: ...

    def logits(self, hidden_ND: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Setting:
    """What a task is opened with.

    Attributes:
        recipe: of this task, as if it stood alone.
        plan: the run's inputs: paths and digests of datasets and models by name.
        folder: the run's own, for what is computed once.
        tokenizer: of the model that is trained.
        tell: write an event (`tell("reference", done=3, total=10)`).
        engine_of: makes an engine that answers with a network's weights as they are at the time;
            None where nobody handed one in.
    """

    recipe: TrainRecipe
    plan: Mapping[str, Any]
    folder: Path
    tokenizer: Tokenizer
    tell: Callable[..., Any]
    engine_of: EngineMaker | None = None

    def dataset_path(self) -> Path:
        return Path(self.plan["datasets"][self.recipe.dataset.name]["path"])

    def model_path(self, name: str | None = None) -> Path:
        """Folder of the model that is trained, or of another one that the recipe names."""
        found = self.plan["model"] if name is None else self.plan["models"][name]
        return Path(found["path"])


class Task(Protocol):
    """One objective over its data.

    Attributes:
        name: what its metrics are called by in a mixture.
        measure: the validation metric that it is judged by.
        tokenizer: what its tokens mean.
        prompt: token ids that the sample at the end continues; empty for none.
        digest: SHA-256 of its data; a resumed run over other data is refused.
        facts: counts for the plan event.
    """

    name: str
    measure: str
    tokenizer: Tokenizer
    prompt: Sequence[int]
    digest: str
    facts: Mapping[str, Any]

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """The rows at these positions of the task's own endless order.

        A pure function of the recipe's seed and the positions; only a task that samples from the
        network also depends on its weights.
        """
        ...

    def weight(self, batch: MicroBatch) -> float:
        """What the step's loss is divided by, summed over its micro-batches."""
        ...

    def loss(self, network: Network, batch: MicroBatch) -> LossSum: ...

    def validation(self) -> list[Row]:
        """What it is judged on: the same each time, unless it samples from the network."""
        ...


def hidden_states(network: Network, batch: MicroBatch) -> Tensor:
    """After the final norm, (T, D); documents of the batch do not see each other."""
    windows = network.layer_windows
    attend = BlockAttention(batch.lengths, network.head_weight.dtype, windows)
    return network(batch.ids_T, batch.positions_T, attend)


def target_logprobs(network: Network, batch: MicroBatch) -> Tensor:
    """ln p of every target, (N,) in nats; differentiable."""
    hidden_TD = hidden_states(network, batch)
    return linear_logprobs(hidden_TD, network.head_weight, batch.sources_N, batch.targets_N)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Without dropout."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
