"""What the lines of a batch cost: each is reserved before its work like any request, and charged
once its result is on disk.

A live answer is settled when it is over. A line that is over is not safe yet: if its server were
killed between the two, the next one would ask again, and charge again. So a line's charges wait
until its result is on disk, and are a part of it; what a kill kept from being charged, the next
server charges from there (`settle_open`). Whenever it is killed, a line with a result is charged
once, and one without is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from bessemer.app.metering import SERVER, Bill, Meter
from bessemer.app.platform import Platform
from bessemer.core.principal import Principal
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Kind
from bessemer.ledger.ledger import unsettled

KINDS: tuple[Kind, ...] = ("batch", "batch_embedding")
_KILLED = "the server was killed before this line had a result; it is asked again"


class LineMeter(Meter):
    """Meters one try at one line, over the server's meter.

    Attributes:
        charges: by request id, what is to be charged once the line's result is on disk.
    """

    def __init__(self, meter: Meter) -> None:
        super().__init__(meter.ledger, meter.limits)
        self.refused = meter.refused
        self.charges: dict[str, Counts] = {}
        self._meter = meter

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

    def settle(self, request_id: str, used: Counts) -> None:
        """Keep it for `charge`."""
        self.charges[request_id] = used

    def release(self, request_id: str, reason: str) -> None:
        self._meter.release(request_id, reason)

    def entered(self, entry: Future[Any]) -> None:
        self._meter.entered(entry)

    def charge(self) -> None:
        """The line's result is on disk."""
        for request_id, used in self.charges.items():
            self._meter.settle(request_id, used)
        self.charges.clear()

    def waive(self, reason: str) -> None:
        """What was not charged led to no result, and never is charged."""
        for request_id in self.charges:
            self._meter.release(request_id, reason)
        self.charges.clear()


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
