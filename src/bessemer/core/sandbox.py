"""Runs Python that nobody has vouched for, in a bubblewrap sandbox with limits.

    outcome = run_python("print(6 * 7)")
    outcome.status, outcome.stdout                                   # ("passed", "42\\n")

What the program gets: this interpreter, its standard library and the packages that who asks names,
to read; a few megabytes to write in `/work`; `/dev/null` and `/dev/urandom`. No network, no
`/proc`, no other file of the host, no environment, no privileges and no way to regain them; no
processes but its own, which all end with it. Who asks decides how it loses its privileges:

    a user   in a user namespace, and no further one inside it
    root     with an uid of its own from systemd's range for such users. A namespace would leave
             it root's uid, for which the kernel's limit on processes does not hold

The sandbox keeps the machine from the program. It cannot keep a program that is being judged from
lying about itself (`unit_tests`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from bessemer.core.errors import SandboxUnavailable
from bessemer.core.sandbox_init import OUT_OF_MEMORY, PACKAGES

Status = Literal["passed", "failed", "timeout", "cpu", "memory", "output"]

PROGRAM = "/program.py"  # what tracebacks call it
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
FIRST_UID, UIDS = 61184, 4096
LAST_WORDS_S = 10.0  # how long a sandbox may take to fall apart once it was killed


class Limits(NamedTuple):
    """What a program may use.

    Attributes:
        wall_s: time on the clock.
        cpu_s: processor time of each process, in whole seconds.
        memory_bytes: address space of each process; there can be `processes` of them.
        files_bytes: all of `/work`.
        processes: at once, threads included.
        output_bytes: written to stdout and stderr together; a program that writes more is ended.
        kept_bytes: of stdout and of stderr that are kept; the rest is counted.
    """

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 * 1024 * 1024
    files_bytes: int = 16 * 1024 * 1024
    processes: int = 4
    output_bytes: int = 1024 * 1024
    kept_bytes: int = 16 * 1024


class Outcome(NamedTuple):
    """How a program ended.

    Attributes:
        status: "passed" is exit code 0, "failed" any other end of its own; the rest names the limit
            that ended it.
        exit_code: 128 + n after signal n.
        stdout, stderr: the first `kept_bytes` of each; what is not UTF-8 is replaced.
        stdout_bytes, stderr_bytes: how many were written.
        wall_s: from asking to the end, the sandbox's own start included.
        cpu_s: of the program and of the children it waited for.
    """

    status: Status
    exit_code: int
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    wall_s: float
    cpu_s: float


def run_python(
    source: str,
    *,
    stdin: str = "",
    limits: Limits | None = None,
    packages: Sequence[Path] = (),
) -> Outcome:
    """Run a program to its end, or to the first limit it meets. Threads may call this at once.

    Args:
        packages: files and folders of site-packages that it can import, each with all it needs.

    Raises:
        SandboxUnavailable: there is no bubblewrap here, or it cannot make a sandbox. The program
            was not run.
    """
    limits = limits or Limits()
    begin = time.monotonic()
    ends = zip(os.pipe(), ("rb", "wb"), strict=True)
    with contextlib.ExitStack() as stack:
        program, entered = (stack.enter_context(_memory_file(text)) for text in (source, stdin))
        read_end, write_end = (stack.enter_context(os.fdopen(fd, mode, 0)) for fd, mode in ends)
        process = stack.enter_context(
            subprocess.Popen(
                _command(program, write_end.fileno(), limits, packages),
                stdin=entered,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT | (_OF_PACKAGES if packages else {}),
                pass_fds=(program, write_end.fileno()),
            )
        )
        try:
            watch = _Watch(process, limits)
            watch.until(begin + limits.wall_s)
        except BaseException:
            process.kill()
            raise
        write_end.close()
        started, *cpu_s = read_end.read().decode().split() or [""]
    stdout, stderr = (kept.decode("utf-8", "replace") for kept in watch.kept)
    if not started:
        raise _unavailable(f"bubblewrap cannot make a sandbox here ({stderr.strip()})")
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    used_s = float(cpu_s[0]) if cpu_s else watch.cpu_s
    status = watch.stopped or _status(code, used_s, limits)
    stdout_bytes, stderr_bytes = watch.sizes
    wall_s = time.monotonic() - begin
    return Outcome(status, code, stdout, stderr, stdout_bytes, stderr_bytes, wall_s, used_s)


@functools.cache
def available() -> str | None:
    """None where programs can be run, otherwise why they cannot. Found out by running one, once."""
    try:
        found = run_python(_PROBE)
    except SandboxUnavailable as fault:
        return fault.message
    said = f"{found.stdout}{found.stderr}".strip()
    return None if said == "contained" else f"the sandbox is not tight here ({said})"


def require_sandbox() -> None:
    """Raises SandboxUnavailable where `available` gives a reason."""
    if reason := available():
        raise _unavailable(reason)


_PROBE = """
import os, socket
assert os.getuid() != 0, "it runs as root"
assert {name for _, name in socket.if_nameindex()} <= {"lo"}, socket.if_nameindex()
assert not {"home", "proc", "var"} & set(os.listdir("/")), os.listdir("/")
print("contained")
"""


def _unavailable(reason: str) -> SandboxUnavailable:
    step = "apt install bubblewrap"
    if shutil.which("bwrap"):
        step = "bwrap --version (0.8 or newer is needed), bwrap --unshare-all --ro-bind / / true"
    return SandboxUnavailable(reason, next_step=step)


def _command(program: int, report: int, limits: Limits, packages: Sequence[Path]) -> list[str]:
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or bwrap is None:
        raise _unavailable("bubblewrap is not installed, and nothing else may run generated code")
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    prefixes = (Path(sys.base_prefix).resolve(), Path(sys.base_exec_prefix).resolve())
    shown = [python, *(prefix / lib for prefix in prefixes for lib in ("lib", "lib64"))]
    shown += map(Path, LIBRARIES)
    lose_privileges, others = _AS_USER, 2
    switch_user: list[str] = []
    if os.geteuid() == 0:
        setpriv = Path(shutil.which("setpriv") or "/usr/bin/setpriv").resolve()
        shown.append(setpriv)
        uid = str(FIRST_UID + next(_NUMBERS) % UIDS)
        switch_user = [str(setpriv), "--reuid", uid, "--regid", uid, "--clear-groups"]
        lose_privileges, others = _AS_ROOT, 1
    # The supervisor counts among the processes, and so does bubblewrap's own unless it is root's.
    values = (limits.cpu_s, limits.memory_bytes, limits.files_bytes, limits.processes + others)
    return [
        *(bwrap, "--die-with-parent", "--new-session", "--cap-drop", "ALL", *lose_privileges),
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", *_binds({path: path for path in shown})),
        *_binds({path: Path(PACKAGES, path.name) for path in packages}),
        *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
        *("--perms", "0444", "--ro-bind-data", str(program), PROGRAM),
        *("--perms", "0777", "--size", str(limits.files_bytes), "--tmpfs", "/work"),
        *("--symlink", "/work", "/tmp", "--remount-ro", "/", "--chdir", "/work", "--"),
        # Without site-packages: a result must not depend on what happens to be installed. What was
        # asked for is found by the program's own start.
        *(*switch_user, str(python), "-s", "-P", "-S", "-B", "-c", _INIT, str(report), PROGRAM),
        *map(str, values),
    ]


_INIT = Path(__file__).with_name("sandbox_init.py").read_text()
_AS_USER: tuple[str, ...] = (
    "--unshare-user",
    "--disable-userns",
    "--uid",
    "65534",
    "--gid",
    "65534",
)
_AS_ROOT = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
_ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/work", "PYTHONHASHSEED": "0"}
# OpenBLAS would start a thread for each core, and threads count as processes.
_OF_PACKAGES = {"OPENBLAS_NUM_THREADS": "1"}
_NUMBERS = itertools.count(random.SystemRandom().randrange(UIDS))


def _binds(shown: Mapping[Path, Path]) -> Iterator[str]:
    """Each path of the host, and where it is inside. The folders above it there are new, empty, and
    open to any uid.
    """
    shown = {path: inside for path, inside in shown.items() if path.exists()}
    above = (parent for inside in shown.values() for parent in reversed(inside.parents[:-1]))
    for folder in (*dict.fromkeys(above), "/dev"):
        yield from ("--perms", "0755", "--dir", str(folder))
    for path, inside in shown.items():
        yield from ("--ro-bind", str(path), str(inside))


def _status(code: int, cpu_s: float, limits: Limits) -> Status:
    is_killed = code == 128 + signal.SIGKILL
    if code == 128 + signal.SIGXCPU or (is_killed and cpu_s >= limits.cpu_s):
        return "cpu"
    if code == OUT_OF_MEMORY or is_killed:  # killed by nobody here: by a kernel out of memory
        return "memory"
    return "passed" if code == 0 else "failed"


class _Watch:
    """Reads what a sandbox writes, and ends it at a limit."""

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        self._process, self._limits = process, limits
        self.kept = (bytearray(), bytearray())
        self.sizes = [0, 0]
        self.stopped: Status | None = None
        self.cpu_s = 0.0  # as far as it was known when the sandbox was ended

    def until(self, deadline: float) -> None:
        """Read to the end of both streams, then wait for the process."""
        with selectors.DefaultSelector() as selector:
            for number, stream in enumerate((self._process.stdout, self._process.stderr)):
                assert stream is not None
                selector.register(stream, selectors.EVENT_READ, number)
            while selector.get_map():
                left_s = LAST_WORDS_S if self.stopped else deadline - time.monotonic()
                ready = selector.select(left_s) if left_s > 0 else []
                if not ready:
                    if self.stopped:
                        raise TimeoutError(f"sandbox {self._process.pid} outlives its end")
                    self._end("timeout")
                for key, _ in ready:
                    if not self._read(key.fd, key.data):
                        selector.unregister(key.fileobj)
        try:
            self._process.wait(
                LAST_WORDS_S if self.stopped else max(0, deadline - time.monotonic())
            )
        except subprocess.TimeoutExpired:  # it closed its streams and went on
            self._end("timeout")
            self._process.wait(LAST_WORDS_S)

    def _read(self, descriptor: int, number: int) -> bool:
        data = os.read(descriptor, 65536)
        self.sizes[number] += len(data)
        kept = self.kept[number]
        kept += data[: self._limits.kept_bytes - len(kept)]
        if sum(self.sizes) > self._limits.output_bytes and self.stopped is None:
            self._end("output")
        return bool(data)

    def _end(self, why: Status) -> None:
        self.stopped = why
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self.cpu_s += times.user + times.system
        self._process.kill()  # and with it, as --die-with-parent has it, all that is inside


@contextlib.contextmanager
def _memory_file(text: str) -> Iterator[int]:
    descriptor = os.memfd_create("sandbox")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "replace"))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
