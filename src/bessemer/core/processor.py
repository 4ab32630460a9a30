"""What the processor of this machine calls itself."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """As `/proc/cpuinfo` has it; elsewhere what Python knows, or `unknown`."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            models = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or "unknown"
