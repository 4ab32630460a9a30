"""What this machine has, and what will work on it: the facts behind `bessemer doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform as python_platform
import shutil
import sys
from dataclasses import dataclass
from typing import Any

import psutil

from bessemer.core import sandbox
from bessemer.core.home import Home
from bessemer.core.processor import processor_name

GB = 1e9
DEMO_MEMORY_BYTES = 6_000_000_000
DEMO_DISK_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Verdict:
    """One thing a person may want to do, whether it will work here, and why."""

    what: str
    works: bool
    why: str


@dataclass(frozen=True)
class Machine:
    """Facts, in bytes and 10^9 floating-point operations a second. None: could not be found out."""

    python: str
    system: str
    processor: str
    cores: int
    memory_bytes: int
    memory_available_bytes: int
    home: str
    disk_free_bytes: int
    torch: str | None
    bf16_gflops: float | None
    fp32_gflops: float | None
    faster: str | None
    accelerator: str | None
    chromium: str | None
    bubblewrap: str | None
    sandbox_fault: str | None

    def verdicts(self) -> list[Verdict]:
        """What will work, the first minutes first."""
        return [
            Verdict("serve the API and the console", True, "needs neither torch nor a GPU"),
            _torch_verdict(self),
            _space_verdict(
                "the demo's memory", self.memory_available_bytes, DEMO_MEMORY_BYTES, "available"
            ),
            _space_verdict("the demo's disk", self.disk_free_bytes, DEMO_DISK_BYTES, "free"),
            _accelerator_verdict(self),
            Verdict(
                "run generated code",
                self.sandbox_fault is None,
                self.sandbox_fault or "in a bubblewrap sandbox, tried just now",
            ),
        ]


def examine(home: Home, *, measure: bool = True) -> Machine:
    """Look at the machine. `measure` multiplies matrices for about a second, with torch."""
    memory = psutil.virtual_memory()
    peak = _peak() if measure and importlib.util.find_spec("torch") else None
    return Machine(
        python=python_platform.python_version(),
        system=f"{python_platform.system()} {python_platform.machine()}",
        processor=processor_name(),
        cores=usable_cores(),
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        home=str(home.root),
        disk_free_bytes=shutil.disk_usage(_existing(home)).free,
        torch=_version("torch"),
        bf16_gflops=peak and round(peak.bf16_gflops, 1),
        fp32_gflops=peak and round(peak.fp32_gflops, 1),
        faster=peak and peak.faster,
        accelerator=_accelerator() if peak else None,
        chromium=_first_on_path("chromium", "chromium-browser", "google-chrome"),
        bubblewrap=_first_on_path("bwrap"),
        sandbox_fault=sandbox.available(),
    )


def usable_cores() -> int:
    """Cores this process may use, which in a container is fewer than the machine has."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _peak() -> Any:
    from bessemer.train.precision import probe

    return probe()


def _accelerator() -> str | None:
    from bessemer.inference.precision import accelerator

    return accelerator()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _existing(home: Home) -> str:
    folder = home.root
    while not folder.exists():
        folder = folder.parent
    return str(folder)


def _first_on_path(*programs: str) -> str | None:
    return next((found for program in programs if (found := shutil.which(program))), None)


def _torch_verdict(machine: Machine) -> Verdict:
    what = "train and run models"
    if machine.torch is None:
        return Verdict(what, False, 'torch is missing: pip install "bessemer[torch]"')
    if machine.bf16_gflops is None:
        return Verdict(what, True, f"torch {machine.torch}")
    gflops = max(machine.bf16_gflops, machine.fp32_gflops or 0)
    return Verdict(what, True, f"torch {machine.torch}, {machine.faster} at {gflops:.0f} GFLOP/s")


def _space_verdict(what: str, have: int, need: int, word: str) -> Verdict:
    why = f"{have / GB:.1f} GB {word}; about {need / GB:.0f} GB needed"
    return Verdict(what, have >= need, why)


def _accelerator_verdict(machine: Machine) -> Verdict:
    found = machine.accelerator
    return Verdict("use a GPU", found is not None, _gpu_advice(found))


def _gpu_advice(found: str | None) -> str:
    if found is None:
        return "none found; everything runs on the CPU"
    return f"{found}: bessemer up --device cuda, which no GPU has run yet; training uses the CPU"
