"""Turns documents and people's files into checked, counted, deduplicated datasets.

Nothing is imported here: rooms take the module they need. Nothing here trains or serves.
"""

__all__ = [
    "chats",
    "checking",
    "corpus",
    "dataset",
    "importing",
    "infilling",
    "interleaving",
    "jsonl",
    "order",
    "packing",
    "preferences",
    "prompts",
    "python_docs",
    "python_docs_preferences",
    "shard_manifest",
    "shards",
    "texts",
    "tokenizing",
]
