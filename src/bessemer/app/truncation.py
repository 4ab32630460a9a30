"""Leaving out the oldest turns of a context that does not fit its model, where that was asked for.

A turn is a message of the user with everything up to the next one, so no result loses its call.
What is of the system or the developer stays, and so does the last turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from bessemer.app.items import Item

# The least that `max_output_tokens` may be: so much room is made for an answer without it.
LEAST_ANSWER_TOKENS = 16


class Fitted(NamedTuple):
    """What is left, and the ids of what was dropped, oldest first."""

    kept: Sequence[Item]
    dropped: Sequence[str]


async def fit(spoken: Sequence[Item], fits: Callable[[Sequence[Item]], Awaitable[bool]]) -> Fitted:
    """Drop as few of the oldest turns as `fits` allows; if none would do, all but the last."""
    turns = _turns(spoken)
    fewest, most = 0, max(0, len(turns) - 1)
    while fewest < most:
        middle = (fewest + most) // 2
        if await fits(_without(spoken, turns[:middle]).kept):
            most = middle
        else:
            fewest = middle + 1
    return _without(spoken, turns[:fewest])


def _turns(spoken: Sequence[Item]) -> list[list[int]]:
    """Places of the items of each turn. What comes before any user is a turn too."""
    turns: list[list[int]] = []
    for place, item in enumerate(spoken):
        if item.get("role") in ("system", "developer"):
            continue
        if item.get("role") == "user" or not turns:
            turns.append([])
        turns[-1].append(place)
    return turns


def _without(spoken: Sequence[Item], turns: Sequence[Sequence[int]]) -> Fitted:
    gone = {place for turn in turns for place in turn}
    kept = [item for place, item in enumerate(spoken) if place not in gone]
    return Fitted(kept, [spoken[place]["id"] for place in sorted(gone)])
