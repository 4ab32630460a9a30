"""Looks for every secret that was made during a test run in everything the run left behind.

Secrets are told by `access.keys.on_secret`; looked through are the logs and standard errors of all
tests, the bodies of failed requests, and at the end the databases, events and logs below pytest's
temporary folder. Cheap: a secret begins with its prefix, so most bytes are passed by one search.
Not here: processes that a test starts, whose secrets nobody tells; their files and logs are looked
through for what was made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bessemer.access.keys import SECRET_PREFIX

_LIKE_A_SECRET = re.compile(re.escape(SECRET_PREFIX.encode()) + rb"[A-Za-z0-9_-]{43}")
_FILES = ("db.sqlite*", "*.jsonl", "*.log", "plan.json", "recipe.toml", "targets.toml")
_MOST_BYTES = 64 * 2**20


class Leaks:
    """`made` are the secrets so far; `found` says where one was seen, without the secret."""

    def __init__(self) -> None:
        self.made: set[bytes] = set()
        self.found: list[str] = []

    def told(self, secret: str) -> None:
        self.made.add(secret.encode())

    def look(self, where: str, text: str | bytes) -> None:
        """Note it when one of the secrets is in `text`."""
        raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
        if any(match in self.made for match in _LIKE_A_SECRET.findall(raw)):
            self.found.append(where)

    def look_through(self, folder: Path) -> int:
        """The files below `folder` that a server or run writes; how many those were."""
        count = 0
        for path in _files(folder):
            count += 1
            self.look(str(path), path.read_bytes())
        return count


def _files(folder: Path) -> Iterable[Path]:
    for pattern in _FILES:
        for path in folder.rglob(pattern):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= _MOST_BYTES:
                yield path


LEAKS = Leaks()
