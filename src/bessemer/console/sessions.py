"""Who may see the pages: a one-time token from the terminal, exchanged for a browser session.

A token is one empty file named by its hash, in a folder only the owner of the home can read, so
any process of that owner can offer one (`offer_token`) and unlinking it is what makes it work
once. Sessions live in memory, by hash: nothing to steal from the disk, and a restart of the server
ends them all. This is not API authentication; that is the gateway's, by key.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from bessemer.core.home import Home

TOKEN_LIFE_S = 15 * 60
SESSION_LIFE_S = 7 * 24 * 3600


def token_folder(home: Home) -> Path:
    """Where the tokens of this home wait to be redeemed."""
    return home.keys / "login"


def offer_token(folder: Path) -> str:
    """A new secret that `Sessions.redeem` takes once within `TOKEN_LIFE_S`.

    Only its hash is written down. Tokens that nobody used in time are swept away.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > TOKEN_LIFE_S:
            old.unlink(missing_ok=True)
    token = secrets.token_urlsafe(32)
    (folder / _digest(token)).touch(mode=0o600)
    return token


def login_url(base_url: str, folder: Path) -> str:
    """What `up` and `login` print: `http://127.0.0.1:8000/login?token=...`, good once."""
    return f"{base_url.rstrip('/')}/login?token={offer_token(folder)}"


class Sessions:
    """The open browser sessions of one server process.

    Args:
        folder: where tokens are offered, `token_folder(home)`.
        now: Unix seconds; a test's own clock.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now
        self._ends: dict[str, float] = {}

    def redeem(self, token: str) -> str | None:
        """The secret of a new session, or None if the token is unknown, used or too old."""
        path = self._folder / _digest(token)
        try:
            age_s = self._now() - path.stat().st_mtime
            path.unlink()  # of two who try at once, one fails here
        except FileNotFoundError:
            return None
        return self._open() if age_s <= TOKEN_LIFE_S else None

    def is_open(self, secret: str | None) -> bool:
        """Whether this is the secret of a session that has not ended."""
        return secret is not None and self._ends.get(_digest(secret), 0.0) > self._now()

    def close(self, secret: str | None) -> None:
        """End a session; the others stay."""
        if secret is not None:
            self._ends.pop(_digest(secret), None)

    def _open(self) -> str:
        now = self._now()
        self._ends = {digest: end for digest, end in self._ends.items() if end > now}
        secret = secrets.token_urlsafe(32)
        self._ends[_digest(secret)] = now + SESSION_LIFE_S
        return secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
