"""Texts of a wanted number of tokens: slices of Python's own documentation."""

from __future__ import annotations

import random
from pathlib import Path

from bessemer.data.corpus import topics
from bessemer.text.tokenizer import Tokenizer


class Texts:
    """Another slice at every call; equal seeds give equal slices."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.tokenizer = Tokenizer.load(folder)
        self._random = random.Random(seed)
        whole = "\n\n".join(topic.text for topic in topics())
        self._ids = self.tokenizer.encode(whole, parse_special=False)

    def of(self, tokens: int) -> str:
        """About `tokens` tokens: a cut may take a few more or fewer to write."""
        start = self._random.randrange(len(self._ids) - tokens)
        return self.tokenizer.decode(self._ids[start : start + tokens]).strip("\ufffd")
