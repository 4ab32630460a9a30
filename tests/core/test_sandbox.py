"""What untrusted programs try, tried in the real sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bessemer.core import sandbox
from bessemer.core.errors import SandboxUnavailable
from bessemer.core.sandbox import Limits, Outcome, available, run_python

MARK = "31.4159265"  # the seconds our sleepers sleep; no other process has them in its arguments


@pytest.fixture(autouse=True, scope="module")
def _sandbox() -> None:
    if reason := available():
        pytest.skip(reason)


def run(source: str, stdin: str = "", **limits: float) -> Outcome:
    return run_python(textwrap.dedent(source), stdin=stdin, limits=Limits(**limits))  # type: ignore[arg-type]


def sandboxed_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if MARK in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def gone(seconds: float = 5.0) -> bool:
    """Whether no program with our mark runs, at the latest after `seconds`."""
    end = time.monotonic() + seconds
    while sandboxed_processes() and time.monotonic() < end:
        time.sleep(0.01)
    return not sandboxed_processes()


def test_a_program_reads_writes_and_ends() -> None:
    found = run(
        """
        import sys
        name = input()
        print("hello", name, __name__, sys.argv)
        print("careful", file=sys.stderr)
        """,
        stdin="Ada\n",
    )
    assert (found.status, found.exit_code) == ("passed", 0)
    assert found.stdout == "hello Ada __main__ ['/program.py']\n"
    assert (found.stderr, found.stderr_bytes) == ("careful\n", 8)
    assert 0 < found.cpu_s < found.wall_s < 10


def test_a_failure_shows_where() -> None:
    found = run("def f():\n    return 1 / 0\nf()")
    assert (found.status, found.exit_code) == ("failed", 1)
    assert "return 1 / 0" in found.stderr
    assert found.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("source", "code"),
    [("exit(7)", 7), ("import os; os.abort()", 128 + signal.SIGABRT), ("x =", 1), ("\0", 1)],
)
def test_other_ends_are_failures_with_their_code(source: str, code: int) -> None:
    found = run(source)
    assert (found.status, found.exit_code) == ("failed", code)


def test_hashes_are_the_same_each_time() -> None:
    assert len({run("print(hash('a'), {*'abcdef'})").stdout for _ in range(3)}) == 1


def test_there_is_no_network() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _LISTENER], stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None
        port = int(listener.stdout.readline())
        found = run(
            f"""
            import socket
            for address in (("127.0.0.1", {port}), ("1.1.1.1", 53)):
                try:
                    socket.create_connection(address, timeout=2)
                    print("connected")
                except OSError as fault:
                    print(type(fault).__name__)
            print([name for _, name in socket.if_nameindex()])
            """
        )
        listener.kill()
    first, second, interfaces = found.stdout.splitlines()
    assert (first, second) == ("ConnectionRefusedError", "OSError")
    assert interfaces == "['lo']"


_LISTENER = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    server.accept()
"""


def test_the_hosts_files_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("do not tell")
    found = run(
        f"""
        import os
        for path in ({str(secret)!r}, "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/sys",
                     {str(Path.home() / ".bashrc")!r}, {__file__!r}):
            assert not os.path.exists(path), path
        print(sorted(os.environ))
        """
    )
    assert found.status == "passed", found.stderr
    assert found.stdout == "['HOME', 'LANG', 'PWD', 'PYTHONHASHSEED']\n"


def test_nothing_is_written_outside_the_work_folder() -> None:
    found = run(
        """
        import os
        for folder in ("/", "/usr", "/usr/lib", "/dev", os.path.dirname(os.__file__)):
            try:
                open(os.path.join(folder, "x"), "w")
                print("wrote into", folder)
            except OSError:
                pass
        try:
            open("/program.py", "w")
        except OSError:
            open("/tmp/x", "w").write("kept in memory")
        print(os.getcwd(), os.listdir("/work"))
        """
    )
    assert found.stdout == "/work ['x']\n"


def test_the_work_folder_is_bounded() -> None:
    found = run(
        """
        for number in range(100):
            with open(f"{number}", "wb") as file:
                file.write(bytes(400_000))
        """,
        files_bytes=1_000_000,
    )
    assert found.status == "failed"
    assert "No space left on device" in found.stderr


def test_privileges_are_gone_for_good() -> None:
    found = run(
        """
        import ctypes, os
        print(os.getuid() == 0, os.getgroups() in ([], [os.getgid()], [65534]))
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.prctl(39, 0, 0, 0, 0))  # PR_GET_NO_NEW_PRIVS
        print(libc.mount(b"none", b"/work", b"tmpfs", 0, None))
        for call in (os.setuid, os.setgid):
            try:
                call(0)
                print("became root")
            except OSError:
                pass
        try:
            os.kill(1, 9)
        except OSError:
            pass
        """
    )
    assert found.stdout.split()[:4] == ["False", "True", "1", "-1"]
    assert "became root" not in found.stdout


def test_a_memory_bomb_ends_alone() -> None:
    found = run("kept = []\nwhile True:\n    kept.append(bytearray(10**6))", memory_bytes=2**28)
    assert found.status == "memory"
    assert run("x = bytearray(10**10)").status == "memory"


def test_a_fork_bomb_gets_no_further_than_its_share() -> None:
    found = run(
        """
        import os
        made = 0
        while True:
            try:
                if os.fork() == 0:
                    import time
                    time.sleep(100)
            except BlockingIOError:
                break
            made += 1
        print(made)
        """,
        processes=5,
    )
    assert (found.status, found.stdout) == ("passed", "4\n")


def test_threads_count_as_processes() -> None:
    source = """
        import threading, time
        for _ in range(3):
            threading.Thread(target=time.sleep, args=(0.01,)).start()
        """
    assert run(source, processes=4).status == "passed"
    assert "can't start new thread" in run(source, processes=2).stderr


def test_two_sandboxes_do_not_count_each_others_processes() -> None:
    source = """
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(1)
                os._exit(0)
        time.sleep(0.3)
        """
    with ThreadPoolExecutor(2) as pool:
        assert {found.status for found in pool.map(run, [source, source])} == {"passed"}


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_an_endless_loop_is_ended_by_its_cpu_time(source: str) -> None:
    found = run(source, cpu_s=1)
    assert found.status == "cpu"
    # The kernel ends it by ticks and tells exact times: a second of one is not one of the other.
    assert 0.5 < found.cpu_s < 2.5


def test_a_sleeper_is_ended_by_the_clock() -> None:
    for source in (
        f"import time; time.sleep({MARK})",
        f"import os, time; os.close(1); os.close(2); time.sleep({MARK})",
    ):
        found = run(source, wall_s=0.3)
        assert (found.status, found.exit_code) == ("timeout", 137)
        assert found.wall_s < 3


def test_endless_output_is_ended_and_does_not_fill_memory() -> None:
    before = psutil.Process().memory_info().rss
    found = run("while True: print('x' * 10_000)", output_bytes=10_000_000, kept_bytes=1_000)
    assert found.status == "output"
    assert len(found.stdout) == 1_000
    # How much more it writes before it is gone depends on the machine; none of it is kept.
    assert found.stdout_bytes > 10_000_000
    assert psutil.Process().memory_info().rss - before < 5_000_000


def test_output_is_cut_and_its_true_size_told() -> None:
    found = run("import sys\nprint('é' * 1000)\nsys.stderr.write('!' * 500)", kept_bytes=101)
    assert (found.stdout_bytes, found.stderr_bytes) == (2001, 500)
    assert found.stdout == "é" * 50 + "\N{REPLACEMENT CHARACTER}"
    assert found.stderr == "!" * 101


def test_children_left_behind_are_ended() -> None:
    found = run(
        f"""
        import os, sys
        if os.fork() == 0:
            os.setsid()
            for fd in range(32):
                try:
                    os.close(fd)
                except OSError:
                    pass
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep({MARK})"])
        print("left")
        """
    )
    assert (found.status, found.stdout) == ("passed", "left\n")
    assert gone()


def test_when_the_asker_is_killed_the_program_ends_too() -> None:
    program = (
        "import os, sys\n"
        f"os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep({MARK})'])"
    )
    asker = subprocess.Popen(
        [sys.executable, "-c", f"from bessemer.core.sandbox import *; run_python({program!r})"]
    )
    end = time.monotonic() + 20
    # The asker's own command line holds the mark as well.
    while len(sandboxed_processes()) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert len(sandboxed_processes()) > 1
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    assert gone()


def test_no_descriptor_of_ours_leaks_in() -> None:
    with Path(__file__).open() as file:
        os.set_inheritable(file.fileno(), True)
        found = run(
            """
            import os
            for fd in range(3, 32):
                try:
                    os.fstat(fd)
                    print(fd)
                except OSError:
                    pass
            """
        )
    assert found.stdout == ""


def test_where_it_is_missing_code_is_refused_and_the_next_command_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="bubblewrap is not installed") as caught:
        run_python("print(1)")
    assert caught.value.next_step == "apt install bubblewrap"


def test_where_it_makes_no_sandbox_its_own_words_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match="No permissions to create new namespace"):
        run_python("print(1)")
    sandbox.available.cache_clear()
    try:
        assert "No permissions" in (available() or "")
        with pytest.raises(SandboxUnavailable):
            sandbox.require_sandbox()
    finally:
        sandbox.available.cache_clear()
