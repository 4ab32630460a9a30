"""What the engine needs of `openvino`: a tensor."""

from __future__ import annotations

from typing import Any


class Tensor:
    def __init__(self, data: Any) -> None:
        self.data = data
