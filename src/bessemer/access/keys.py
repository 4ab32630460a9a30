"""API keys as values: how a secret is made, hashed, shown and compared. Nothing is stored here.

A secret is 32 random bytes, so one SHA-256 is enough to keep it: there is no dictionary to try,
and a slow hash would only slow every request down.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable

from bessemer.core.errors import InvalidInput

SECRET_PREFIX = "sk-bsm-"
SECRET_BYTES = 32

SCOPES: dict[str, str] = {
    "*": "everything",
    "chat": "chat, completions and embeddings",
    "models:read": "list models",
    "models:write": "add and name models",
    "answers:read": "read stored chat completions, replay recorded answers",
    "answers:write": "label and delete stored chat completions, forget recorded answers",
    "datasets:read": "list datasets",
    "datasets:write": "add and name datasets",
    "runs:read": "list and follow runs",
    "runs:write": "start, cancel and resume runs",
    "files:read": "list and read files",
    "files:write": "upload and delete files",
    "batches:read": "list and follow batches",
    "batches:write": "start and cancel batches (with chat, which they use)",
    "feedback:read": "list what was said of answers",
    "feedback:write": "say what an answer was worth",
    "usage:read": "read prices, budgets and what is unsettled",
    "evals:read": "list and read evals and their runs",
    "evals:write": "create, run, cancel and delete evals",
    "keys:read": "list keys",
    "keys:write": "create and revoke keys",
    "project:read": "a project's people, service accounts and permissions",
    "project:write": "change them",
    "org:read": "projects, people, roles, usage, costs and the trail of the organization",
    "org:write": "change them, and what may be spent; whoever holds it can give every right",
}

# Told of every secret that is made. The tests listen here, and look for each of them in every log,
# event and database of their run.
on_secret: list[Callable[[str], None]] = []


def make_secret() -> str:
    """A new secret: `sk-bsm-` and 43 URL-safe characters. Show it once, store its hash."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    for told in on_secret:
        told(secret)
    return secret


def hash_secret(secret: str) -> str:
    """Lower-case hex SHA-256 of the secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def hint(secret: str) -> str:
    """What a list may show of a secret, enough to recognize it by.

    >>> hint("sk-bsm-0123456789abcdef")
    'sk-bsm-...cdef'
    """
    return f"{SECRET_PREFIX}...{secret[-4:]}"


def matches(secret_hash: str, stored_hash: str) -> bool:
    """Compare two hashes in a time that does not tell how much of them agrees."""
    return hmac.compare_digest(secret_hash, stored_hash)


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes as a set.

    Raises:
        InvalidInput: on a word that is not a scope, and on no scope at all.
    """
    chosen = frozenset(scopes)
    if not chosen:
        raise InvalidInput("a key needs at least one scope", param="scopes", next_step=_known())
    for scope in sorted(chosen - SCOPES.keys()):
        close = difflib.get_close_matches(scope, SCOPES, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise InvalidInput(
            f"there is no scope {scope!r}{meant}", param="scopes", next_step=_known()
        )
    return chosen


def _known() -> str:
    return f"choose from: {', '.join(SCOPES)}"
