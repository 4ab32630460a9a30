"""LoRA adapters beside one set of weights: each row of a step gets its own sequence's difference.

    y[rows] += x[rows] A^T B^T    for each adapter of the step (Hu et al., 2021)

Layers that `prepared` joins are one site here: their A's lie on top of each other and their B's
along a diagonal, so that a joined matrix costs two products. Adapters of equal shape lie side by
side on a shelf, and neighbors are one batched product (Punica and S-LoRA do this by a kernel of
their own: Chen et al., 2023; Sheng et al., 2023). Rows without an adapter are not touched: the
base's product gives them the bits they would have without any. `benchmarks/adapters.py` times it.

    T tokens of a step   I inputs   O outputs   R ranks of a site's layers, summed
    K neighbors of one product   N rows of each
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bessemer.core.adapters import base_of
from bessemer.core.errors import AdapterNotLoaded, Busy, Conflict, IntegrityError, InvalidInput
from bessemer.inference.adapter_groups import Group, grouped
from bessemer.inference.adapter_shelf import Pair, Place, Shelf, shape_of
from bessemer.models.adapter import Factors, misfit, read_adapter
from bessemer.models.codes import CodedLinear
from bessemer.models.decoder import Decoder
from bessemer.models.lora import NOT_A_TARGET, Linear, matrix_of

Product = Callable[[Tensor], Tensor]

# Of a shelf: as many as sequences run at once.
PLACES = 32
# From here on products in 16 bits are faster; below, float32 starts faster and loses nothing.
MANY_ROWS = 64


class Site(NamedTuple):
    """Linear layers of one input whose outputs lie side by side: names and outputs of each."""

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    inputs: int


class Resident(NamedTuple):
    """Where an adapter lies, and how much it takes."""

    place: Place
    size_bytes: int


class Adapters:
    """Those that are resident in one engine; belongs to the engine's thread.

    Args:
        decoder: names and shapes of its layers are noted, nothing of it is kept.
        base_digest: adapters that name another base are refused.
        budget_bytes: what all of them may take; the least recently used goes first.
    """

    def __init__(
        self, decoder: Decoder, dtype: torch.dtype, *, base_digest: str, budget_bytes: int
    ) -> None:
        self._names: dict[nn.Module, str] = {
            module: name
            for name, module in decoder.named_modules()
            if isinstance(module, Linear | CodedLinear)
            and name.rpartition(".")[2] not in NOT_A_TARGET
        }
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._base_digest, self._budget_bytes = base_digest, budget_bytes
        self._sites: list[Site] = []
        self._shelves: list[Shelf] = []
        self._resident: OrderedDict[str, Resident] = OrderedDict()
        self._asked: tuple[tuple[str | None, int], ...] = ()
        self._groups: Sequence[Group] = ()

    # -- at the places where linear layers are called ---------------------------------------

    def wrap(self, product: Product, *layers: nn.Module) -> Product:
        """`product` of these layers, joined, with the differences of the step's adapters added."""
        site = self._note(*layers)

        def with_differences(x_TI: Tensor) -> Tensor:
            y_TO = product(x_TI)
            if self._groups:
                self._add(site, x_TI, y_TO)
            return y_TO

        return with_differences

    def hook(self, decoder: Decoder) -> None:
        """The same for a decoder that computes with its own modules."""
        for module in list(self._names):
            site = self._note(module)

            def add(_: nn.Module, inputs: Any, y_TO: Tensor, site: int = site) -> None:
                if self._groups:
                    self._add(site, inputs[0], y_TO)

            module.register_forward_hook(add)

    def forget_modules(self) -> None:
        """All sites are noted; the base's own matrices may go."""
        self._names.clear()

    # -- for each step -----------------------------------------------------------------------

    def choose(self, spans: Sequence[tuple[str | None, int]]) -> None:
        """Say whose rows the next step has: of each sequence its adapter, and how many rows."""
        asked = tuple(spans)
        if asked == self._asked:
            return
        rows: dict[str, list[int]] = {}
        start = 0
        for digest, count in asked:
            if digest is not None:
                rows.setdefault(digest, []).extend(range(start, start + count))
            start += count
        self._groups = grouped({self._resident[d].place: own for d, own in rows.items()})
        self._asked = asked

    def _add(self, site: int, x_TI: Tensor, y_TO: Tensor) -> None:
        for group in self._groups:
            stack = group.shelf.stacks[site]
            if stack is None:
                continue
            x_KNI = group.take(x_TI)
            a_KRI, b_KOR = stack.a_PRI[group.places], stack.b_POR[group.places]
            if x_KNI.shape[1] >= MANY_ROWS:
                a_KRI, b_KOR = a_KRI.to(x_TI.dtype), b_KOR.to(x_TI.dtype)
            else:
                x_KNI = x_KNI.to(a_KRI.dtype)
            group.add(y_TO, torch.bmm(torch.bmm(x_KNI, a_KRI.mT), b_KOR.mT))

    # -- who is here -------------------------------------------------------------------------

    @property
    def resident(self) -> list[str]:
        """Digests, the least recently used first."""
        return list(self._resident)

    def use(self, digest: str) -> None:
        """A sequence begins with it. Raises AdapterNotLoaded where it is not."""
        if digest not in self._resident:
            raise AdapterNotLoaded(
                f"the adapter {digest[:19]} is not loaded in this engine",
                next_step="send the request again",
            )
        self._resident.move_to_end(digest)

    def load(self, digest: str, folder: Path, in_use: Collection[str]) -> None:
        """Make an adapter resident, and room for it; one that is here already stays.

        Args:
            in_use: adapters of sequences that run or wait, which do not go.

        Raises:
            Conflict: it belongs to another base.
            InvalidInput, IntegrityError: as `read_adapter`; it does not fit, or takes more than
                the whole budget.
            Busy: all others are in use.
        """
        if digest in self._resident:
            self._resident.move_to_end(digest)
            return
        named = base_of(folder)
        if named not in (None, self._base_digest):
            raise Conflict(
                f"the adapter in {folder} belongs to the base {named}; this engine serves"
                f" {self._base_digest}",
                next_step="ask the engine of its own base",
            )
        pairs = self._pairs(read_adapter(folder), folder)
        size_bytes = sum(t.numel() * t.element_size() for pair in pairs if pair for t in pair)
        self._make_room(size_bytes, in_use)
        self._resident[digest] = Resident(self._put(pairs, size_bytes), size_bytes)

    def unload(self, digest: str, in_use: Collection[str]) -> None:
        """Raises AdapterNotLoaded, or Conflict while sequences use it."""
        if digest in in_use:
            raise Conflict(
                f"sequences use the adapter {digest[:19]}",
                next_step="unload it when they have ended",
            )
        self.use(digest)
        self._evict(digest)

    # -- how they get here -------------------------------------------------------------------

    def _note(self, *layers: nn.Module) -> int:
        outputs, (inputs, *_) = zip(*map(_shape, layers), strict=True)
        self._sites.append(Site(tuple(self._names[layer] for layer in layers), outputs, inputs))
        return len(self._sites) - 1

    def _pairs(self, factors: dict[str, Factors], folder: Path) -> list[Pair | None]:
        """Of each site the adapter's factors, joined; None where it has none."""
        shapes = {
            name: (outputs, site.inputs)
            for site in self._sites
            for name, outputs in zip(site.names, site.outputs, strict=True)
        }
        if not factors:
            raise IntegrityError(f"the adapter in {folder} holds no factors")
        for name, (a_RI, b_OR, _) in factors.items():
            wanted, there = (len(b_OR), a_RI.shape[1]), shapes.get(name, "no such layer")
            if wanted != there:
                raise misfit(folder, name, wanted, there)
            if not (a_RI.isfinite().all() and b_OR.isfinite().all()):
                raise IntegrityError(f"{name} in {folder} has values that are not finite")
        return [self._joined(site, factors) for site in self._sites]

    def _joined(self, site: Site, factors: dict[str, Factors]) -> Pair | None:
        if not any(name in factors for name in site.names):
            return None
        a_parts, b_parts = [], []
        for name, outputs in zip(site.names, site.outputs, strict=True):
            found = factors.get(name)
            if found is None:
                b_parts.append(torch.zeros(outputs, 0, dtype=self._dtype))
                continue
            a_parts.append(found.a_RI.to(self._dtype))
            b_parts.append(found.b_OR.to(self._dtype) * found.scale)
        return Pair(torch.cat(a_parts), torch.block_diag(*b_parts))  # type: ignore[no-untyped-call]

    def _put(self, pairs: Sequence[Pair | None], size_bytes: int) -> Place:
        shape = shape_of(pairs)
        fitting = (shelf for shelf in self._shelves if shelf.shape == shape and not shelf.full)
        shelf = next(fitting, None)
        if shelf is None:
            shelf = Shelf(pairs, max(1, min(PLACES, self._budget_bytes // size_bytes)))
            self._shelves.append(shelf)
        return shelf.put(pairs)

    def _make_room(self, size_bytes: int, in_use: Collection[str]) -> None:
        if size_bytes > self._budget_bytes:
            raise InvalidInput(
                f"this adapter takes {size_bytes:,} bytes; the engine has {self._budget_bytes:,}"
                " for all adapters",
                next_step="merge it into its base: bessemer merge",
            )
        while sum(one.size_bytes for one in self._resident.values()) + size_bytes > (
            self._budget_bytes
        ):
            oldest = next((digest for digest in self._resident if digest not in in_use), None)
            if oldest is None:
                raise Busy(
                    f"{len(self._resident)} adapters fill the engine's {self._budget_bytes:,} bytes"
                    " for them, and sequences use every one",
                    retry_after_s=1.0,
                )
            self._evict(oldest)

    def _evict(self, digest: str) -> None:
        place = self._resident.pop(digest).place
        place.shelf.give_back(place.index)
        if place.shelf.empty:
            self._shelves.remove(place.shelf)
        self._asked, self._groups = (), ()


def _shape(layer: nn.Module) -> torch.Size:
    """(outputs, inputs), of numbers or of codes."""
    assert isinstance(layer, Linear | CodedLinear), layer
    return layer.matrix.shape if isinstance(layer, CodedLinear) else matrix_of(layer).shape
