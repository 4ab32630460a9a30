"""Moves weights: one loop that can be read top to bottom, and the parts it is made of.

Start at `loop.train`. The recipe (`recipe`) and `tracing` need no torch; everything else does.
"""

__all__ = [
    "adapter",
    "flops",
    "loop",
    "lora",
    "loss",
    "packing",
    "precision",
    "recipe",
    "scoring",
    "tracing",
]
