"""Where an engine computes: on the processor, or on a CUDA device if it is told to.

The default is the processor also where there is a GPU: the path over CUDA is tested with stand-ins
on CPUs and has not run on a GPU yet (decision 0014).
"""

from __future__ import annotations

from typing import Literal

import torch

from bessemer.core.errors import InvalidInput

Device = Literal["auto", "cpu", "cuda"]


def choose(device: Device) -> torch.device:
    """The device; `auto` is CUDA where there is one.

    Raises:
        InvalidInput: CUDA is asked for, and torch sees none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        build = torch.version.cuda
        why = "sees no CUDA device" if build else "was built without CUDA"
        raise InvalidInput(
            f"the device is to be cuda, and this torch ({torch.__version__}) {why}",
            next_step="use --device cpu, or install torch with CUDA; bessemer doctor says what is"
            " there",
        )
    return torch.device(device)
