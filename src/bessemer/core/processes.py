"""Which process is which: a pid alone lies after reuse, a pid with its start time does not."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

import psutil


class ProcessId(NamedTuple):
    """A process for certain: `pid` and its creation time in seconds since the epoch."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Raises psutil.NoSuchProcess if there is none."""
        return cls(pid, psutil.Process(pid).create_time())

    @classmethod
    def current(cls) -> ProcessId:
        return cls.of(os.getpid())

    def alive(self) -> bool:
        """Whether this very process runs (a zombie does not, nor does a later one with its pid)."""
        try:
            process = psutil.Process(self.pid)
            itself = abs(process.create_time() - self.started) < 0.05
            return itself and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def send(self, signum: signal.Signals) -> bool:
        """Signal it if it is still itself; False if it is gone."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            return False
        return True
