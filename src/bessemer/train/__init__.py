"""Moves weights: one loop that can be read top to bottom, and the parts it is made of.

Start at `loop.train`. `recipe` and `memory` need no torch; everything else does.
"""

__all__ = [
    "loop",
    "loss",
    "memory",
    "precision",
    "reference",
    "scoring",
    "task",
]
