"""Rate limits: requests and tokens a minute, of a project or of one key, for a model or for all.

A limit is a bucket that holds a minute's worth and fills evenly, so that a pause saves up one
burst and no more. A request takes 1 and the tokens that it may use at most; what it did not use
flows back. The rows are in the database; how full a bucket is, is in memory alone, so each server
process gives a minute's worth, and a restart fills them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from bessemer.core.database import Database, now_ms
from bessemer.core.errors import InvalidInput, RateLimited
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.ledger import tables

ANY_MODEL = "*"
MINUTE_S = 60.0
MOST_A_MINUTE = 10**12


class RateLimit(NamedTuple):
    """Of a minute; None for no limit."""

    requests: int | None = None
    tokens: int | None = None


class LimitOf(NamedTuple):
    """Whose limit it is: `project:<id>` or `key:<id>`, and for which model, or `*`."""

    account: str
    model: str


class Standing(NamedTuple):
    """Of the tightest limit after a request: what it is, what is left, seconds until it is full."""

    limit: int
    left: int
    reset_s: float


class Taken(NamedTuple):
    """What a request took of its limits; a standing is None where nothing is limited."""

    buckets: tuple[Bucket, ...]
    tokens: int
    requests_standing: Standing | None
    tokens_standing: Standing | None


def set_rate_limit(
    connection: sa.Connection, principal: Principal, of: LimitOf, limit: RateLimit
) -> None:
    """Set a limit, or lift it (both None). It counts from the next request on.

    Raises:
        InvalidInput: a limit that is not from 0 to `MOST_A_MINUTE`.
    """
    for name, most in limit._asdict().items():
        if most is not None and not 0 <= most <= MOST_A_MINUTE:
            raise InvalidInput(
                f"a limit of {most:,} {name} a minute cannot be; it is from 0 to {MOST_A_MINUTE:,}",
                param=name,
            )
    row = {
        "id": new_id("limit"),
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms(),
        "account": of.account,
        "model": of.model,
        "requests_per_minute": limit.requests,
        "tokens_per_minute": limit.tokens,
    }
    connection.execute(tables.rate_limits.insert().values(row))


def rate_limits_of(connection: sa.Connection) -> dict[LimitOf, RateLimit]:
    """All limits that are in force."""
    rows = tables.rate_limits.c
    found = connection.execute(
        sa.select(
            rows.account, rows.model, rows.requests_per_minute, rows.tokens_per_minute
        ).order_by(rows.id)
    )
    newest = {LimitOf(account, model): RateLimit(*limit) for account, model, *limit in found}
    return {of: limit for of, limit in newest.items() if limit != RateLimit()}


class Bucket:
    """What is left of a minute's worth. `at_s` is when that was so.

    >>> bucket = Bucket("requests", 60, 0.0)
    >>> bucket.take(60, 0.0)
    >>> bucket.left(1.0)
    1.0
    """

    def __init__(self, what: str, most: int, at_s: float) -> None:
        self.what, self.most = what, most
        self._level, self._at_s = float(most), at_s

    def left(self, now_s: float) -> float:
        filled = self._level + (now_s - self._at_s) * self.most / MINUTE_S
        return min(float(self.most), filled)

    def wait_s(self, count: int, now_s: float, held: int = 0) -> float:
        """Seconds until it has `count` beside what the request holds of it already: 0 if it has,
        infinite if it never will."""
        missing = count - self.left(now_s)
        if missing <= 1e-9:
            return 0.0
        return math.inf if held + count > self.most else missing * MINUTE_S / self.most

    def take(self, count: int, now_s: float) -> None:
        self._level, self._at_s = self.left(now_s) - count, now_s

    def standing(self, now_s: float) -> Standing:
        left = self.left(now_s)
        reset_s = 0.0 if not self.most else (self.most - left) * MINUTE_S / self.most
        return Standing(self.most, max(0, math.floor(left + 1e-9)), reset_s)


class RateLimits:
    """The limits in force and how full their buckets are. Lives on one event loop.

    `take` never touches the database. Call `refresh` about once a second, off the event loop.
    """

    def __init__(self, db: Database, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._db, self._clock_s = db, clock_s
        self._rows = -1
        self._limits: dict[LimitOf, RateLimit] = {}
        self._buckets: dict[tuple[LimitOf, str], Bucket] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the limits if any was set since the last time. True if so."""
        with self._db.read() as connection:
            # Rows are only added, so their number tells all. The newest id does not: two processes'
            # ids have no order within a millisecond, nor where their clocks differ.
            rows = connection.scalar(sa.select(sa.func.count()).select_from(tables.rate_limits))
            if rows == self._rows:
                return False
            limits = rate_limits_of(connection)
        self._rows, self._limits = rows or 0, limits
        return True

    def take(
        self,
        principal: Principal,
        model: str,
        tokens: int,
        requests: int = 1,
        held_tokens: int = 0,
    ) -> Taken:
        """Take requests of so many tokens together, or nothing.

        Args:
            held_tokens: that the same caller's request took before, and would take again.

        Raises:
            RateLimited: a limit has not that much left; `standings` are the two `Standing`s.
        """
        if not self._limits:
            return NOTHING_TAKEN
        now_s = self._clock_s()
        buckets = tuple(self._applying(principal, model, now_s))
        needs = [
            (bucket, requests, 0) if bucket.what == "requests" else (bucket, tokens, held_tokens)
            for bucket in buckets
        ]
        waits_s = [bucket.wait_s(count, now_s, held) for bucket, count, held in needs]
        if any(waits_s):
            longest_s = max(waits_s)
            bucket, count, held = needs[waits_s.index(longest_s)]
            needed = held + count if math.isinf(longest_s) else count
            raise _refusal(bucket, needed, longest_s, now_s, _standings(buckets, now_s))
        for bucket, count, _ in needs:
            bucket.take(count, now_s)
        return Taken(buckets, tokens, *_standings(buckets, now_s))

    def give_back(self, taken: Taken, used_tokens: int) -> None:
        """Let flow back what the request did not use; what it used beyond is taken as well."""
        unused = taken.tokens - used_tokens
        if unused:
            now_s = self._clock_s()
            for bucket in taken.buckets:
                if bucket.what == "tokens":
                    bucket.take(-unused, now_s)

    def _applying(self, principal: Principal, model: str, now_s: float) -> Iterator[Bucket]:
        accounts = [f"project:{principal.project_id}"]
        if principal.key_id is not None:
            accounts.append(f"key:{principal.key_id}")
        for account in accounts:
            for of in (LimitOf(account, model), LimitOf(account, ANY_MODEL)):
                limit = self._limits.get(of)
                if limit is None:
                    continue
                for what, most in limit._asdict().items():
                    if most is not None:
                        yield self._bucket(of, what, most, now_s)

    def _bucket(self, of: LimitOf, what: str, most: int, now_s: float) -> Bucket:
        found = self._buckets.get((of, what))
        if found is None or found.most != most:
            found = self._buckets[of, what] = Bucket(what, most, now_s)
        return found


NOTHING_TAKEN = Taken((), 0, None, None)


def _standings(
    buckets: tuple[Bucket, ...], now_s: float
) -> tuple[Standing | None, Standing | None]:
    """Of the tightest bucket of requests, and of tokens."""
    found = {
        what: min(
            (bucket.standing(now_s) for bucket in buckets if bucket.what == what),
            key=lambda standing: standing.left,
            default=None,
        )
        for what in RateLimit._fields
    }
    return found["requests"], found["tokens"]


def _refusal(
    bucket: Bucket,
    count: int,
    wait_s: float,
    now_s: float,
    standings: tuple[Standing | None, Standing | None],
) -> RateLimited:
    never = math.isinf(wait_s)
    left = bucket.standing(now_s).left
    advice = "ask for less at once, or have the limit raised" if never else "try again then"
    return RateLimited(
        f"Rate limit reached on {bucket.what} per minute: the limit is {bucket.most:,}, {left:,}"
        f" are left, and this request needs {count:,}"
        + (". It never fits." if never else f". Please try again in {wait_s:.3g}s."),
        retry_after_s=MINUTE_S if never else wait_s,
        next_step=advice,
        standings=standings,
        never=never,
    )
