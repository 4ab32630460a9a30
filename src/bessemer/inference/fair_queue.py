"""Sequences that wait, and whose turn it is: the client that was served the least goes first.

Each client (an API key, a batch job) has its own line. A client's account is the tokens computed
for it; the head of the line with the lowest account is next, so a client with a thousand requests
does not delay one with a single request by more than what runs already. Who comes back after a
pause starts level with the others: idling earns nothing (start-time fair queueing; Goyal et al.,
1996).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from bessemer.inference.sequence import EngineSequence


class FairQueue:
    """Lines by client, and what each client was served."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[EngineSequence]] = {}
        self._served: dict[str, int] = {}  # tokens
        self._level = 0  # the account of the last one whose turn it was

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[EngineSequence]:
        for line in self._lines.values():
            yield from line

    def push(self, sequence: EngineSequence) -> None:
        """Queue at the end of its client's line."""
        self._line(sequence.client).append(sequence)

    def push_front(self, sequence: EngineSequence) -> None:
        """Queue before the others of its client: it was running already."""
        self._line(sequence.client).appendleft(sequence)

    def first(self) -> EngineSequence | None:
        """Whose turn it is."""
        if not self._lines:
            return None
        return self._lines[min(self._lines, key=self._account)][0]

    def pop(self) -> EngineSequence:
        """Take out the one whose turn it is."""
        client = min(self._lines, key=self._account)
        self._level = self._account(client)
        sequence = self._lines[client].popleft()
        self._forget_empty()
        return sequence

    def charge(self, client: str, tokens: int) -> None:
        """So many tokens were computed for a client."""
        self._served[client] = self._account(client) + tokens

    def drop(self, is_done: Callable[[EngineSequence], bool]) -> list[EngineSequence]:
        """Take out all that are done with, and return them."""
        dropped = [sequence for sequence in self if is_done(sequence)]
        if dropped:
            gone = set(map(id, dropped))
            for client, line in self._lines.items():
                self._lines[client] = deque(s for s in line if id(s) not in gone)
            self._forget_empty()
        return dropped

    def _line(self, client: str) -> deque[EngineSequence]:
        if not self._lines:  # nobody waited: all are level again
            self._level = max([self._level, *self._served.values()])
            self._served.clear()
        self._served[client] = self._account(client)
        return self._lines.setdefault(client, deque())

    def _account(self, client: str) -> int:
        return max(self._level, self._served.get(client, 0))

    def _forget_empty(self) -> None:
        self._lines = {client: line for client, line in self._lines.items() if line}
