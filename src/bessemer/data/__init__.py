"""Turns documents and people's files into checked, counted, deduplicated datasets.

Nothing is imported here: rooms take the module they need. Nothing here trains or serves.
"""

__all__ = [
    "arithmetic",
    "chats",
    "checking",
    "corpus",
    "dataset",
    "dictation",
    "document_splits",
    "given_splits",
    "importing",
    "infilling",
    "interleaving",
    "jsonl",
    "material",
    "order",
    "packing",
    "pairs",
    "pieces",
    "preferences",
    "prompts",
    "python_docs",
    "python_docs_preferences",
    "python_puzzles",
    "questions",
    "shapes",
    "shard_manifest",
    "shards",
    "texts",
    "tokenizing",
]
