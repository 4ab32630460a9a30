"""Charges that wait until what was asked for is kept, for work that is asked again after a kill.

A live answer is settled when it is over. A line of a batch or an item of an eval that is over is
not safe yet: if its server were killed between the two, the next one would ask again, and charge
again. So its charges wait until its result is on disk; without one nothing is charged for it.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from bessemer.app.metering import Meter
from bessemer.ledger.counts import Counts


class DeferredMeter(Meter):
    """Meters one such piece of work, over the server's meter.

    Attributes:
        charges: by request id, what is to be charged once the result is on disk.
    """

    def __init__(self, meter: Meter) -> None:
        super().__init__(meter.ledger, meter.limits)
        self.refused = meter.refused
        self.charges: dict[str, Counts] = {}
        self._meter = meter

    def settle(self, request_id: str, used: Counts) -> None:
        """Keep it for `charge`."""
        self.charges[request_id] = used

    def release(self, request_id: str, reason: str) -> None:
        self._meter.release(request_id, reason)

    def entered(self, entry: Future[Any]) -> None:
        self._meter.entered(entry)

    def charge(self) -> None:
        """The result is on disk."""
        for request_id, used in self.charges.items():
            self._meter.settle(request_id, used)
        self.charges.clear()

    def waive(self, reason: str) -> None:
        """What was not charged led to no result, and never is charged."""
        for request_id in self.charges:
            self._meter.release(request_id, reason)
        self.charges.clear()
