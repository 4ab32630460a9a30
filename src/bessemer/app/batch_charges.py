"""What the lines of a batch cost: each is reserved before its work like any request, and charged
once its result is on disk.

Charges wait for the result (`deferred_meter`), and are a part of it; what a kill kept from being
charged, the next server charges from there (`settle_open`). Whenever it is killed, a line with a
result is charged once, and one without is not.
"""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.app.deferred_meter import DeferredMeter
from bessemer.app.metering import SERVER, Bill, Meter
from bessemer.app.platform import Platform
from bessemer.core.principal import Principal
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Kind
from bessemer.ledger.ledger import unsettled

KINDS: tuple[Kind, ...] = ("batch", "batch_embedding")
_KILLED = "the server was killed before this line had a result; it is asked again"


class LineMeter(DeferredMeter):
    """Meters one try at one line."""

    def open(
        self,
        principal: Principal,
        model: str,
        kind: Kind,
        request_id: str,
        beside: list[Bill] | None = None,
    ) -> Bill:
        """See `Meter.open`; whatever it asks, it is work of a batch."""
        of_batch: Kind = "batch_embedding" if kind == "embedding" else "batch"
        return super().open(principal, model, of_batch, request_id, beside)


def settle_open(platform: Platform, meter: Meter, results: Mapping[str, Counts]) -> None:
    """Close what a killed server left open of batches. Call it before any line is asked.

    Args:
        results: what lines with results are charged, by request id.
    """
    left = [found for found in unsettled(platform.db) if found.kind in KINDS]
    entries = [
        meter.ledger.settle(found.id, results[found.id])
        if found.id in results
        else meter.ledger.release(found.id, SERVER, _KILLED)
        for found in left
    ]
    for entry in entries:
        entry.result()
