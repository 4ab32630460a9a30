"""How much memory a process has and may still have, and whether the kernel killed for want of it.

The machine's, or that of the control group the process is in (a container, a job of a scheduler),
whichever is less. Groups of version 1 and 2; files in the page cache count as free.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil

NEARLY_FULL = 0.1
ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")
USED = ("memory.current", "memory.usage_in_bytes")
CACHED = ("inactive_file", "active_file", "total_inactive_file", "total_active_file")
EVENTS = ("memory.events", "memory.oom_control")


class Memory(NamedTuple):
    """Bytes of one process and of where it runs, at one moment.

    Attributes:
        group: folder of its control group, if it has one.
        oom_kills: how many processes of that group the kernel has killed for want of memory; None
            where it does not say.
    """

    resident: int
    available: int
    total: int
    group: str | None
    oom_kills: int | None

    @property
    def nearly_full(self) -> bool:
        return self.available < NEARLY_FULL * self.total

    def __str__(self) -> str:
        return f"{gb(self.resident)} of {gb(self.total)}, with {gb(self.available)} free"


def measure() -> Memory:
    """Of this process, now."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    groups = groups_of(ROOT, OWN)
    for group in groups:
        limit, used = _number(group, LIMITS), _number(group, USED)
        if limit is not None and used is not None and limit < machine.total:
            total = min(total, limit)
            available = min(available, max(0, limit - used + _cached(group)))
    own = groups[0] if groups else None
    kills = None if own is None else oom_kills(own)
    resident = int(psutil.Process().memory_info().rss)
    return Memory(resident, available, total, None if own is None else str(own), kills)


def groups_of(root: Path, own: Path) -> list[Path]:
    """Folders of the memory control group named in the file `own`, and of those it is in."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    # Version 1 has a hierarchy for memory; version 2 has one for everything, without a name.
    for controller, mount in (("memory", root / "memory"), ("", root)):
        path = next((p for _, names, p in lines if controller in names.split(",")), None)
        if path is None:
            continue
        folder = mount / path.lstrip("/")
        # Inside a container the path may be the host's, and what is mounted the container's own.
        around = [folder, *folder.parents][: len(folder.parts) - len(mount.parts) + 1]
        if found := [group for group in around if (group / "memory.stat").exists()]:
            return found
    return []


def oom_kills(group: Path) -> int | None:
    """How many processes of a control group the kernel has killed for want of memory."""
    for name in EVENTS:
        if (count := _table(group / name).get("oom_kill")) is not None:
            return count
    return None


def gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"


def _cached(group: Path) -> int:
    told = _table(group / "memory.stat")
    # Version 1 says both its own and those below; the totals include both.
    names = CACHED[2:] if CACHED[2] in told else CACHED[:2]
    return sum(told.get(name, 0) for name in names)


def _table(path: Path) -> dict[str, int]:
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(group: Path, names: tuple[str, ...]) -> int | None:
    for name in names:
        try:
            text = (group / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None  # "max": no limit
    return None
