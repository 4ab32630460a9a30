"""Rate limits: requests and tokens a minute of a project or a key, for a model or for all.

Servers hold to them from memory (`ledger.rate_limits`) and learn of a change within a second.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import api_keys
from bessemer.app import audit
from bessemer.app.platform import Platform
from bessemer.app.spending import WRITE_SCOPE, account_of, within
from bessemer.app.targets import read_targets
from bessemer.core.errors import NotFound
from bessemer.core.principal import Principal
from bessemer.core.tables import names
from bessemer.ledger import rate_limits
from bessemer.ledger.rate_limits import ANY_MODEL, MOST_A_MINUTE, LimitOf, RateLimit

# With what a face needs of the ledger, which it does not import.
__all__ = [
    "ANY_MODEL", "MOST_A_MINUTE", "ModelLimit", "RateLimit", "SetLimit", "list_limits", "list_set",
    "set_key_limit", "set_limit",
]  # fmt: skip


class ModelLimit(NamedTuple):
    """Of a model, or of all together (`*`). A number that is None is no limit."""

    model: str
    limit: RateLimit


class SetLimit(NamedTuple):
    """A limit that somebody set: of `project:<id>` or `key:<id>`."""

    account: str
    model: str
    requests: int | None
    tokens: int | None


def list_set(platform: Platform, principal: Principal) -> list[SetLimit]:
    """Those in force of the principal's project and of its keys."""
    with platform.db.read() as connection:
        there = within(connection, principal, principal.project_id)
        mine = sa.select(api_keys.c.id).where(api_keys.c.project_id == there.project_id)
        keys = {f"key:{key_id}" for key_id in connection.scalars(mine)}
        found = rate_limits.rate_limits_of(connection)
    accounts = {account_of(there, "project"), *keys}
    return sorted(SetLimit(*of, *limit) for of, limit in found.items() if of.account in accounts)


def list_limits(platform: Platform, principal: Principal, project_id: str) -> list[ModelLimit]:
    """For all models together and for each that the project has, limited or not, by name."""
    with platform.db.read() as connection:
        there = within(connection, principal, project_id)
        limits = _limits(connection, account_of(there, "project"))
        known = _models(platform, connection, project_id) | limits.keys()
    return [ModelLimit(model, limits.get(model, RateLimit())) for model in sorted(known)]


def set_limit(
    platform: Platform,
    principal: Principal,
    project_id: str,
    model: str,
    *,
    requests: int | None = None,
    tokens: int | None = None,
) -> ModelLimit:
    """Change what is given and leave the other; `MOST_A_MINUTE` lifts a limit.

    Raises:
        InvalidInput: as `ledger.rate_limits.set_rate_limit`.
        NotFound: the project has no such model.
    """
    with platform.db.write() as connection:
        there = within(connection, principal, project_id, write=True)
        of = LimitOf(account_of(there, "project"), model)
        known = _models(platform, connection, project_id) | _limits(connection, of.account).keys()
        if model not in known:
            raise NotFound(
                f"the project has no model {model[:100]!r}",
                next_step=f"GET /v1/organization/projects/{project_id}/rate_limits",
                param="rate_limit_id",
            )
        return ModelLimit(model, _change(connection, there, of, f"rl-{model}", requests, tokens))


def set_key_limit(
    platform: Platform,
    principal: Principal,
    key_id: str,
    model: str,
    *,
    requests: int | None = None,
    tokens: int | None = None,
) -> None:
    """Limit a key of the principal's project beyond the project itself, as `set_limit` does."""
    principal.require(WRITE_SCOPE)
    mine = (api_keys.c.id == key_id) & (api_keys.c.project_id == principal.project_id)
    with platform.db.write() as connection:
        if connection.execute(sa.select(api_keys.c.id).where(mine)).first() is None:
            raise NotFound(f"there is no key {key_id[:100]!r}", next_step="bessemer key list")
        of = LimitOf(f"key:{key_id}", model)
        _change(connection, principal, of, f"{key_id} {model}", requests, tokens)


def _change(
    connection: sa.Connection,
    there: Principal,
    of: LimitOf,
    target: str,
    requests: int | None,
    tokens: int | None,
) -> RateLimit:
    was = _limits(connection, of.account).get(of.model, RateLimit())
    now = RateLimit(_changed(was.requests, requests), _changed(was.tokens, tokens))
    if now != was:
        rate_limits.set_rate_limit(connection, there, of, now)
        _record(connection, there, target, was, now)
    return now


def _models(platform: Platform, connection: sa.Connection, project_id: str) -> set[str]:
    mine = (names.c.project_id == project_id) & names.c.kind.in_(("model", "adapter"))
    named = connection.scalars(sa.select(names.c.name).where(mine).distinct())
    return {ANY_MODEL, *named, *read_targets(platform.home)}


def _limits(connection: sa.Connection, account: str) -> dict[str, RateLimit]:
    found = rate_limits.rate_limits_of(connection)
    return {of.model: limit for of, limit in found.items() if of.account == account}


def _changed(was: int | None, wanted: int | None) -> int | None:
    if wanted is None:
        return was
    return None if wanted == MOST_A_MINUTE else wanted


def _record(
    connection: sa.Connection, principal: Principal, target: str, was: RateLimit, now: RateLimit
) -> None:
    lifted = now == RateLimit()
    audit.record(
        connection, principal, "rate_limit.deleted" if lifted else "rate_limit.updated",
        target[:200], before=_facts(was), after=None if lifted else _facts(now),
    )  # fmt: skip


def _facts(limit: RateLimit) -> audit.Facts:
    """In OpenAI's words, since the event is one of theirs."""
    found = {
        "max_requests_per_1_minute": limit.requests,
        "max_tokens_per_1_minute": limit.tokens,
    }
    return {name: most for name, most in found.items() if most is not None}
