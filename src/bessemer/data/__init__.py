"""Turns documents and people's files into checked, counted, deduplicated datasets of chats.

Nothing is imported here: rooms take the module they need. Nothing here trains or serves.
"""

__all__ = [
    "chats",
    "corpus",
    "dataset",
    "importing",
    "python_docs",
]
