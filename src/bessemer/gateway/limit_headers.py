"""Rate limits as OpenAI's API tells them in headers: what they are, what is left, when they reset.

They are there wherever a limit is set, on answers and on 429s; of several limits the one with the
least left is told.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.app.metering import Standing, Taken
from bessemer.core.errors import RateLimited

Header = tuple[bytes, bytes]


def limit_headers(taken: Taken) -> Sequence[Header]:
    """Of an answer."""
    return _headers(taken.requests_standing, taken.tokens_standing)


def refusal_headers(error: RateLimited) -> Sequence[Header]:
    """Of a 429."""
    return _headers(*error.facts.get("standings", (None, None)))


def _headers(requests: Standing | None, tokens: Standing | None) -> Sequence[Header]:
    if requests is None and tokens is None:
        return ()
    found: list[Header] = []
    for what, standing in ((b"requests", requests), (b"tokens", tokens)):
        if standing is not None:
            found += [
                (b"x-ratelimit-limit-" + what, b"%d" % standing.limit),
                (b"x-ratelimit-remaining-" + what, b"%d" % standing.left),
                (b"x-ratelimit-reset-" + what, duration(standing.reset_s).encode()),
            ]
    return found


def duration(seconds: float) -> str:
    """As OpenAI writes it.

    >>> duration(0.0204), duration(8.64), duration(360)
    ('20ms', '8.64s', '6m0s')
    """
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
