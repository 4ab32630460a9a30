"""A PostgreSQL server for the tests: in a temporary folder, on a free port, gone when they end.

    python -m tests.postgres.server      # starts one, prints its URL, stops it at Ctrl-C

It promises nothing after a power cut (`fsync=off`), sorts texts as people do and not by bytes, and
refuses to run as root, as PostgreSQL does: root starts it as the user `postgres`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

START_WAIT_S = 30.0
STOP_WAIT_S = 20.0

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
}


class NotHere(Exception):
    """PostgreSQL, or its driver, is not installed; the message says what to install."""


@contextlib.contextmanager
def running(look: Callable[[str], None] = lambda log: None) -> Iterator[str]:
    """The URL of a superuser in the server's own database `postgres`.

    Args:
        look: is given all that the server logged, when it has ended.

    Raises:
        NotHere: see there.
    """
    binaries = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="bessemer-postgres-"))
    password = secrets.token_hex(16)
    try:
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        _initialize(binaries, folder)
        port = _free_port()
        url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        server = _start(binaries, folder, port)
        try:
            _wait_until_it_answers(server, url, folder)
            yield url
        finally:
            # Of its three ways to stop, the one that ends open connections.
            server.send_signal(signal.SIGINT)
            try:
                server.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            look((folder / "server.log").read_text(errors="replace"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`, of the newest version if there are several.

    Raises:
        NotHere: there is none, no driver, or no user to run it as.
    """
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise NotHere('the driver is not installed: pip install "bessemer[postgres]"') from None
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0,
    )
    # Elsewhere than in Debian they are on the path.
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise NotHere("PostgreSQL is not installed: apt install postgresql")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        raise NotHere("PostgreSQL does not run as root, and setpriv is not installed")
    return found[-1].parent if found else Path(on_path or "").resolve().parent


def _initialize(binaries: Path, folder: Path) -> None:
    command = [
        *_as_postgres(),
        str(binaries / "initdb"),
        *("--pgdata", str(folder / "data"), "--username", "postgres"),
        *("--auth", "password", "--pwfile", str(folder / "password")),
        *("--encoding", "UTF8", "--locale", "C.UTF-8"),
        *("--locale-provider", "icu", "--icu-locale", "en-US"),
        *("--no-sync", "--no-instructions"),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _start(binaries: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(
            [
                # If these tests are killed, the kernel stops it.
                *_as_postgres("--pdeathsig", "INT"),
                *(str(binaries / "postgres"), "-D", str(folder / "data"), f"--port={port}"),
                *options,
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the tests; the server ends after them.
            start_new_session=True,
        )


def _as_postgres(*more: str) -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *more, "--"]


def _wait_until_it_answers(server: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    import psycopg

    deadline_s = time.monotonic() + START_WAIT_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            said = (folder / "server.log").read_text()
            assert server.poll() is None, said
            assert time.monotonic() < deadline_s, said
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main() -> None:
    with contextlib.suppress(KeyboardInterrupt), running() as url:
        print(f"BESSEMER_TEST_POSTGRES={url}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
