"""Deterministic mode: an answer's bits depend on its request and the model, and on nothing else.

A processor adds numbers in an order that it chooses by the shape of a product, and another order
rounds differently. So no product here has a shape that the neighbors decide:

- a prompt is computed in chunks that begin at multiples of `CHUNK`, each alone. Of an earlier
  sequence only whole chunks are of use, and only those that were computed as a prompt's;
- answers are decoded in blocks of fixed widths whose rows do not see each other. `widths` tries on
  the model itself that a row has the same bits in each place and width, whoever its neighbors are;
- attention looks at one sequence at a time, over its own length;
- a sequence that was preempted computes its answer again as it did at first, token by token.

The same bits need the same processor, libraries, precision and number of threads: `conditions`.

    T tokens of a block   H heads   K kv heads   M = H / K heads that share one   E head size
    G = H + 2K   D hidden size   L places looked at   S places of a row   2: keys, then values
"""

from __future__ import annotations

import hashlib
import platform
from array import array
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer import __version__
from bessemer.core.processor import processor_name
from bessemer.inference import precision as precisions
from bessemer.inference.attention import Span, places
from bessemer.inference.blocks import BLOCK_TOKENS, common_blocks
from bessemer.inference.cache import Known, KVCache, Reuse, Row
from bessemer.inference.runner import Runner, ServedModel
from bessemer.inference.scheduler import Scheduler, Step
from bessemer.inference.sequence import EngineSequence
from bessemer.inference.stepper import Stepper
from bessemer.models.config import ModelConfig

CHUNK = 128
"""Tokens of a prompt's chunk: what prefix reuse is counted in (docs/logbook.md has the others)."""

CHUNK_BLOCKS = CHUNK // BLOCK_TOKENS

ROWS = 8
WIDTHS = (ROWS, 16, 32)
"""Rows of a decoding block, where they agree; else only the first, else one row at a time."""


class DeterministicStepper(Stepper):
    """A `Stepper` whose steps do not let sequences change each other's bits.

    Attributes:
        conditions: what equal bits need beside an equal model and request.
    """

    # How many rows of an adapter are multiplied together is the neighbors' doing.
    without_adapters = "this engine is deterministic"

    def __init__(self, model: ServedModel, cache: ChunkCache, **settings: object) -> None:
        super().__init__(model, cache, **settings)  # type: ignore[arg-type]
        self.scheduler = ChunkScheduler(
            cache,
            max_waiting=self.scheduler.max_waiting,
            chunk_tokens=self.scheduler.chunk_tokens,
        )
        chosen = widths(model)
        self._runner = DeterministicRunner(model, cache, chosen)
        self.conditions = conditions(model.dtype) | {
            "matrices": model.precision,
            "block": " ".join(map(str, chosen)),
            "chunk": str(CHUNK),
        }


class ChunkScheduler(Scheduler):
    """Prompts are cut at multiples of `CHUNK`; what lies behind a prompt is decoded, always."""

    def _decodes(self, sequence: EngineSequence) -> bool:
        row = sequence.row
        return sequence.drawn > 0 and row is not None and row.computed >= sequence.prompt_tokens

    def _acquire(self, sequence: EngineSequence) -> Row | None:
        """By its prompt alone: what stands in its answer was a prompt's to somebody else."""
        row = self.cache.acquire(sequence.ids[: sequence.prompt_tokens], sequence.reuse)
        if row is not None:
            row.tokens = list(sequence.ids)
        return row

    def _cut(self, sequence: EngineSequence, budget: int) -> int:
        """The whole chunk, whatever the budget: where it ends must not depend on the step."""
        row = sequence.row
        assert row is not None and row.computed % CHUNK == 0, row
        return min(CHUNK, sequence.prompt_tokens - row.computed)


class ChunkCache(KVCache):
    """Remembers, and lends, nothing but whole chunks of prompts.

    A row's chain has the blocks of its whole chunks. A block's digest is of its whole chunk, whose
    other tokens were in the same products.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._chains: list[list[bytes]] = [[] for _ in self.rows]

    def acquire(self, ids: Sequence[int], reuse: Reuse = "prefix", salt: bytes = b"") -> Row | None:
        # The scores of a chunk's last token are of a product as long as what follows: not reused.
        row = super().acquire(ids, reuse if reuse == "prefix" else "nothing", salt)
        if row is not None:
            self.note_chunk(row)
        return row

    def release(self, row: Row) -> None:
        row.backed = max(row.backed, row.computed)
        row.computed = len(self._chain_of(row)) * BLOCK_TOKENS
        super().release(row)
        self._chains[row.index] = []

    def note_chunk(self, row: Row) -> None:
        """A chunk of a prompt was computed; if it is a whole one, others may have it."""
        _extend_chain(self._chain_of(row), row.tokens, row.computed // CHUNK, row.salt)

    def _chain_of(self, row: Row) -> list[bytes]:
        return self._chains[row.index]

    def _chain(self, ids: Sequence[int], salt: bytes) -> list[bytes]:
        chain: list[bytes] = []
        _extend_chain(chain, ids, (len(ids) - 1) // CHUNK, salt)
        return chain

    def _longest_prefix(self, chain: list[bytes]) -> Known:
        found = [Known(self.store.longest(chain) // CHUNK_BLOCKS * CHUNK_BLOCKS, None)]
        busy = [row for row in self.rows if row.busy]
        found += [Known(common_blocks(self._chain_of(row), chain), row) for row in busy]
        return max(found, key=lambda known: known.blocks)


def _extend_chain(chain: list[bytes], ids: Sequence[int], chunks: int, salt: bytes) -> None:
    """Append the digests of the blocks of the first `chunks` that `chain` does not have yet."""
    for chunk in range(len(chain) // CHUNK_BLOCKS, chunks):
        tokens = array("q", ids[chunk * CHUNK : (chunk + 1) * CHUNK])
        before = chain[-1] if chain else salt
        whole = hashlib.blake2b(before + tokens.tobytes(), digest_size=16).digest()
        chain += [whole + bytes([block]) for block in range(CHUNK_BLOCKS)]


class DeterministicRunner(Runner):
    """Each chunk of a prompt alone, decoding sequences in blocks of one of the `widths`."""

    _cache: ChunkCache

    def __init__(self, model: ServedModel, cache: ChunkCache, widths: Sequence[int]) -> None:
        super().__init__(model, cache)
        self._widths = widths

    def run(self, step: Step) -> dict[EngineSequence, Tensor]:
        """See `Runner.run`."""
        scores: dict[EngineSequence, Tensor] = {}
        for first in range(0, len(step.decodes), self._widths[-1]):
            block = step.decodes[first : first + self._widths[-1]]
            scores |= self._decode([share.sequence for share in block])
        for share in step.chunks:
            scores |= super().run(Step([], [share]))
            assert share.sequence.row is not None
            self._cache.note_chunk(share.sequence.row)
        return scores

    def _decode(self, block: Sequence[EngineSequence]) -> dict[EngineSequence, Tensor]:
        """One token of each; rows that nobody needs repeat token 0 and look at nothing."""
        width = next(width for width in self._widths if width >= len(block))
        spans = [Span(s.row.index, s.row.computed, 1) for s in block if s.row is not None]
        idle = [0] * (width - len(block))
        known = zip(block, spans, strict=True)
        ids_T = torch.tensor([s.ids[span.past] for s, span in known] + idle)
        positions_T = torch.tensor([span.past for span in spans] + idle)
        attend = SeparateAttention(self._model.config, self._cache, spans)
        hidden_TD = self._model.forward(ids_T, positions_T, attend)
        for sequence, span in zip(block, spans, strict=True):
            assert sequence.row is not None
            sequence.row.computed = span.past + 1
        scores = torch.split(self._model.logits(hidden_TD), 1)
        return {s: scores[place] for place, s in enumerate(block) if s.todo == 0}


class SeparateAttention:
    """An `AttendFused` for a block of decoding sequences: a product of its own for each."""

    def __init__(self, config: ModelConfig, cache: KVCache, spans: Sequence[Span]) -> None:
        self._heads, self._kv_heads = config.heads, config.kv_heads
        self._cache, self._spans = cache, spans
        self._places = places(spans, cache)

    def __call__(self, layer: int, qkv_TGE: Tensor) -> Tensor:
        cache_2RKSE = self._cache.layers_2RKSE[layer]
        size = qkv_TGE.shape[-1]
        fresh = qkv_TGE[: len(self._spans), self._heads :].reshape(-1, size)
        cache_2RKSE.view(-1, size).index_copy_(0, self._places, fresh)
        q_THE = qkv_TGE[:, : self._heads]
        mixed_THE = torch.zeros_like(q_THE, memory_format=torch.contiguous_format)
        # The heads that share a key-value head stand in for the query length.
        shared = (len(q_THE), 1, self._kv_heads, -1, size)
        q_T1KME, mixed_T1KME = q_THE.reshape(shared), mixed_THE.view(shared)
        for place, (row, past, _) in enumerate(self._spans):
            k_1KLE, v_1KLE = cache_2RKSE[:, row : row + 1, :, : past + 1].unbind(0)
            mixed_T1KME[place] = F.scaled_dot_product_attention(q_T1KME[place], k_1KLE, v_1KLE)
        return mixed_THE


@torch.inference_mode()
def widths(model: ServedModel) -> tuple[int, ...]:
    """The widths of a block in which every row has the same bits, tried on the model itself.

    Eight tokens, then the same eight in other places and with other neighbors, three times: one bit
    that differs after all layers and the head, and the width is not used. A mixture of experts
    multiplies together what came to one expert, which is the neighbors' doing: one row at a time.
    """
    trials = [_Trial(model, seed) for seed in range(3)]
    turned = [[*range(turn, ROWS), *range(turn)] for turn in range(1, ROWS)]
    if model.config.moe is not None or not all(t.agrees(each) for t in trials for each in turned):
        return (1,)
    mixed = [row for each in turned for row in each]
    return (ROWS, *(w for w in WIDTHS[1:] if all(t.agrees(mixed[:w]) for t in trials)))


class _Trial:
    """Eight tokens as one block: what each row's bits should be, whatever is around it.

    Attention is left out: it sees one sequence at a time anyway.
    """

    def __init__(self, model: ServedModel, seed: int) -> None:
        self._model = model
        config, generator = model.config, torch.Generator().manual_seed(seed)
        self._ids_N = torch.randint(config.vocab_size, (ROWS,), generator=generator)
        # The last position too: the table of rotations must not grow later, by one's request.
        ends = torch.linspace(0, config.context_length - 1, ROWS, dtype=torch.float64)
        self._positions_N = ends.long()
        self._expected = self._rows(range(ROWS))

    def agrees(self, order: Sequence[int]) -> bool:
        """Whether a block of these rows gives each of them its bits."""
        return self._rows(order) == [self._expected[row] for row in order]

    def _rows(self, order: Sequence[int]) -> list[bytes]:
        heads, rows = self._model.config.heads, torch.tensor(order)

        def look_at_nothing(_layer: int, qkv_TGE: Tensor) -> Tensor:
            return qkv_TGE[:, :heads].contiguous()

        hidden_TD = self._model.forward(self._ids_N[rows], self._positions_N[rows], look_at_nothing)
        scores_TV = self._model.logits(hidden_TD)
        both = zip(hidden_TD, scores_TV, strict=True)
        return [_bits(hidden) + _bits(scores) for hidden, scores in both]


def _bits(row: Tensor) -> bytes:
    return row.contiguous().view(torch.uint8).numpy().tobytes()


def conditions(dtype: torch.dtype) -> dict[str, str]:
    """What equal bits need beside an equal model and request. Call it in the engine's thread."""
    return {
        "bessemer": __version__,
        "torch": str(torch.__version__),
        "processor": f"{processor_name()} ({platform.machine()})",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "precision": precisions.name_of(dtype),
    }
