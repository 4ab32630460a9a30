"""Who may see the pages: a one-time token from the terminal, exchanged for a browser session.

A token is one file named by its hash, in a folder only the owner of the home can read, so any
process of that owner can offer one (`offer_token`) and unlinking it is what makes it work once. In
the file is the id of the person it lets in; an empty one lets in the owner of the home. Sessions
live in memory, by hash: nothing to steal from the disk, and a restart of the server ends them all.
This is not API authentication; that is the gateway's, by key.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bessemer.core.home import Home

TOKEN_LIFE_S = 15 * 60
SESSION_LIFE_S = 7 * 24 * 3600


def token_folder(home: Home) -> Path:
    """Where the tokens of this home wait to be redeemed."""
    return home.keys / "login"


class Session(NamedTuple):
    """Who is logged in and where they work; None is the owner of the home, and their project of
    choice at the beginning (`app.signing_in`). `ends_s` is Unix seconds.
    """

    person_id: str | None
    project_id: str | None
    ends_s: float


def offer_token(folder: Path, person_id: str | None = None) -> str:
    """A new secret that `Sessions.redeem` takes once within `TOKEN_LIFE_S`.

    Only its hash is written down. Tokens that nobody used in time are swept away.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > TOKEN_LIFE_S:
            old.unlink(missing_ok=True)
    token = secrets.token_urlsafe(32)
    path = folder / _digest(token)
    path.touch(mode=0o600)
    path.write_text(person_id or "")
    return token


def login_url(base_url: str, folder: Path, person_id: str | None = None) -> str:
    """What `up` and `login` print: `http://127.0.0.1:8000/login?token=...`, good once."""
    return f"{base_url.rstrip('/')}/login?token={offer_token(folder, person_id)}"


class Sessions:
    """The open browser sessions of one server process.

    Args:
        folder: where tokens are offered, `token_folder(home)`.
        now: Unix seconds; a test's own clock.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now
        self._open: dict[str, Session] = {}

    def redeem(self, token: str) -> str | None:
        """The secret of a new session, or None if the token is unknown, used or too old."""
        path = self._folder / _digest(token)
        try:
            age_s, person_id = self._now() - path.stat().st_mtime, path.read_text() or None
            path.unlink()  # of two who try at once, one fails here
        except FileNotFoundError:
            return None
        return self._begin(person_id) if age_s <= TOKEN_LIFE_S else None

    def find(self, secret: str | None) -> Session | None:
        """The session with this secret, unless it has ended."""
        found = None if secret is None else self._open.get(_digest(secret))
        return found if found is not None and found.ends_s > self._now() else None

    def is_open(self, secret: str | None) -> bool:
        """Whether this is the secret of a session that has not ended."""
        return self.find(secret) is not None

    def work_in(self, secret: str | None, project_id: str) -> None:
        """From now on a session shows this project. That its person may is the caller's word."""
        session = self.find(secret)
        if secret is not None and session is not None:
            self._open[_digest(secret)] = session._replace(project_id=project_id)

    def close(self, secret: str | None) -> None:
        """End a session; the others stay."""
        if secret is not None:
            self._open.pop(_digest(secret), None)

    def _begin(self, person_id: str | None) -> str:
        now = self._now()
        self._open = {key: each for key, each in self._open.items() if each.ends_s > now}
        secret = secrets.token_urlsafe(32)
        self._open[_digest(secret)] = Session(person_id, None, now + SESSION_LIFE_S)
        return secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
