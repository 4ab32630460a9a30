"""Ends an answer at a stop string, even when it comes in pieces.

The stop string that is complete first wins, and of two complete at once the longer; so the cut
does not depend on how the text was divided. Stop *tokens* are the engine's work, not this file's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bessemer.core.errors import InvalidInput


class Released(NamedTuple):
    """Text that may be sent now, and whether the answer has ended."""

    text: str
    stopped: bool


class StopStrings:
    """Holds back the tail of a text for as long as it may be the start of a stop string.

    >>> stops = StopStrings(["END"])
    >>> stops.push("the E"), stops.push("ND of"), stops.push("it")
    (Released(text='the ', stopped=False), Released(text='', stopped=True), Released(text='', stopped=True))
    """  # noqa: E501

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises InvalidInput for an empty stop string, which would stop everything."""
        if "" in stops:
            raise InvalidInput("a stop string is empty", param="stop")
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> Released:
        """Add new text; get what can no longer become part of a stop string."""
        if self._stopped:
            return Released("", stopped=True)
        text = self._held + text
        cut = self._first_cut(text)
        if cut is not None:
            self._held, self._stopped = "", True
            return Released(text[:cut], stopped=True)
        keep = len(text) - self._overlap(text)
        self._held = text[keep:]
        return Released(text[:keep], stopped=False)

    def flush(self) -> str:
        """The answer is over without a stop string: what was held back."""
        held, self._held = self._held, ""
        return held

    def _first_cut(self, text: str) -> int | None:
        found = [(text.find(stop), len(stop)) for stop in self._stops]
        hits = [(start + length, start) for start, length in found if start >= 0]
        return min(hits)[1] if hits else None

    def _overlap(self, text: str) -> int:
        """Length of the longest tail of `text` that some stop string starts with."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
