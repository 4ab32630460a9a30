"""What training needs against what there is; running out becomes an error with numbers."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bessemer.core.errors import OutOfMemory
from bessemer.core.recipes import loads
from bessemer.core.train_recipe import TrainRecipe
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.train.checkpoint import Snapshot
from bessemer.train.guard import Guard
from bessemer.train.memory import explained, refuse_if_too_large, snapshot_bytes, state_bytes
from bessemer.train.optimizer import Optimizer
from bessemer.train.resuming import Moving
from bessemer.train.weights import TrainedWeights

ROOT = Path(__file__).parent.parent.parent
RECIPE = """
objective = "sft"
minutes = 1
model.name = "m"
data.name = "d"
batch.rows = 8
"""


def recipe(*overrides: str) -> TrainRecipe:
    return loads(RECIPE, TrainRecipe, overrides).recipe


def decoder(hidden: int = 32, device: str = "cpu") -> Decoder:
    config = ModelConfig(
        vocab_size=64, hidden_size=hidden, intermediate_size=2 * hidden, layers=2, heads=2,
        kv_heads=2, head_dim=hidden // 2, context_length=16,
    )  # fmt: skip
    with torch.device(device):
        return Decoder(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_estimate_is_what_training_then_holds(dtype: torch.dtype, kind: str) -> None:
    network = decoder().init_weights(0).to(dtype)
    asked = recipe(f"optimizer.kind={kind}")
    estimate = state_bytes(network, asked)
    weights = TrainedWeights(network)
    optimizer = Optimizer(weights.masters, asked.optimizer)
    for name, master in weights.masters.items():
        master.grad = torch.zeros_like(master)
        if dtype == torch.bfloat16:
            network.get_parameter(name).grad = torch.zeros_like(network.get_parameter(name))
    optimizer.step(1e-3)
    held = sum(master.grad.nbytes for master in weights.masters.values() if master.grad is not None)
    held += sum(tensor.nbytes for tensor in optimizer.state().values())
    if dtype == torch.bfloat16:
        held += sum(master.nbytes for master in weights.masters.values())
        held += sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)
    # Muon keeps two moments for tables: those are counted with one.
    assert held == estimate or (kind == "muon" and 0.75 * held < estimate < held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_copy_for_checkpoints_is_counted(dtype: torch.dtype, kind: str) -> None:
    network = decoder().init_weights(0).to(dtype)
    asked = recipe(f"optimizer.kind={kind}")
    weights = TrainedWeights(network)
    optimizer = Optimizer(weights.masters, asked.optimizer)
    moving = Moving(network, weights, optimizer, Guard(asked.guard))
    tensors = {k: v for k, v in moving.tensors().items() if k != "rng" and "buffer." not in k}
    held = sum(tensor.nbytes for tensor in Snapshot().stage(tensors).values())
    estimate = snapshot_bytes(network, asked)
    assert held == estimate or (kind == "muon" and 0.75 * held < estimate < held)


def test_the_advice_needs_no_torch() -> None:
    code = "import sys, bessemer.train.memory; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_cannot_fit_is_refused_with_both_numbers_and_a_change() -> None:
    huge = decoder(hidden=1 << 17, device="meta")
    with pytest.raises(
        OutOfMemory, match=r"needs [\d.]+ GB: .* GB for the copy .*; [\d.]+ GB are free"
    ) as e:
        refuse_if_too_large(huge, recipe())
    assert "batch.rows_at_once=4" in str(e.value.next_step)
    assert "lora.rank=16" in str(e.value.next_step)
    refuse_if_too_large(decoder(), recipe())


def test_a_shortage_is_explained_and_other_faults_pass() -> None:
    with pytest.raises(OutOfMemory, match="8 rows of 512 tokens"), explained(recipe()):
        raise MemoryError("no more")
    with pytest.raises(RuntimeError, match="shape"), explained(recipe()):
        raise RuntimeError("shape mismatch")


STARVED = """
import resource, torch
from bessemer.core.errors import OutOfMemory
from tests.train.test_memory import explained, recipe
torch.ones(4).sum()
limit = 12_000_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    with explained(recipe("lora.rank=4")):
        torch.empty(5_000_000_000).fill_(1)
except OutOfMemory as fault:
    print(fault)
"""


def test_the_allocators_own_refusal_is_recognized() -> None:
    assert resource.RLIMIT_AS
    done = subprocess.run(
        [sys.executable, "-c", STARVED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "out of memory: this process has" in done.stdout, done.stderr
    assert "lora.base_precision=int8" in done.stdout
