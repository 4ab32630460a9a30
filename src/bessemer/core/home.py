"""The home folder: everything one installation owns, in one place that can be copied.

db.sqlite             rows
artifacts/<digest>/   models, datasets, evaluations: immutable, named by content
runs/<run-id>/        one folder per job
files/<file-id>       what was uploaded, and what batches wrote
uploads/<part-id>     parts of files that are not whole yet
batches/<batch-id>/   input and results of a batch that is not over
targets.toml          other servers by names here, without their secrets
keys/                 secrets of this installation, mode 0600
cache/                may be deleted at any time
sockets are not here: a Unix socket's path is limited to about 100 bytes (see `socket_dir`)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bessemer.core.digests import sha256_bytes
from bessemer.core.errors import HomeLocked


@dataclass(frozen=True)
class Home:
    """Paths below one root. Creating the object creates nothing; `ensure()` does."""

    root: Path

    @classmethod
    def find(cls) -> Home:
        """`BESSEMER_HOME`, else `$XDG_DATA_HOME/bessemer`, else `~/.local/share/bessemer`."""
        if chosen := os.environ.get("BESSEMER_HOME"):
            return cls(Path(chosen).expanduser().absolute())
        base = os.environ.get("XDG_DATA_HOME")
        return cls((Path(base) if base else Path.home() / ".local" / "share") / "bessemer")

    @property
    def database(self) -> Path:
        return self.root / "db.sqlite"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def ensure(self) -> Home:
        """Create the folders, readable by their owner alone."""
        inside = (self.artifacts, self.runs, self.files, self.uploads, self.batches)
        for folder in (self.root, *inside, self.keys, self.cache):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    def socket_dir(self) -> Path:
        """A short private folder for this home's Unix sockets, the same for every process."""
        name = f"bessemer-{os.getuid()}-{sha256_bytes(str(self.root).encode())[:12]}"
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        # After `su` the variable often names the folder of somebody else, or none.
        usable = bool(runtime) and os.access(runtime, os.W_OK | os.X_OK)
        folder = Path(runtime if usable else tempfile.gettempdir()) / name
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.is_symlink():
            raise HomeLocked(f"{folder} belongs to someone else")
        return folder

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this home for one server. The kernel drops the lock when the process dies.

        Raises:
            HomeLocked: another process holds it; its pid and address are in the message.
        """
        path = self.root / "home.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = self.lock_holder()
                raise HomeLocked(
                    f"{self.root} is in use by the server with pid {holder.get('pid', 'unknown')}"
                    + (f" at {holder['url']}" if "url" in holder else ""),
                    next_step="use that server, stop it, or set BESSEMER_HOME to another folder",
                ) from None
            self.note_holder(pid=os.getpid())
            yield
        finally:
            os.close(handle)

    def note_holder(self, **facts: object) -> None:
        """Write who holds the lock (pid, url) for the person who meets it."""
        (self.root / "home.lock").write_text(json.dumps(facts))

    def lock_holder(self) -> dict[str, object]:
        """What the holder wrote; empty if nobody did."""
        try:
            facts = json.loads((self.root / "home.lock").read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def is_locked(self) -> bool:
        """Whether a live server holds this home now."""
        path = self.root / "home.lock"
        if not path.exists():
            return False
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            fcntl.flock(file, fcntl.LOCK_UN)
            return False
