"""The supervisor with real processes: one run at a time, found again after kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from bessemer.app import jobs
from bessemer.app.models import find_model
from bessemer.app.platform import Platform
from bessemer.app.supervisor import RunStatus, Supervisor, thread_budget
from bessemer.core.principal import Principal
from bessemer.core.runs import RunFolder
from bessemer.core.tables import runs
from tests.app.run_kinds import COMMAND
from tests.polling import until, until_async


def submit(platform: Platform, kind: str, name: str = "m", **plan: Any) -> RunFolder:
    owner = platform.local_principal()
    return jobs.submit(platform, owner, kind, name, "", {"threads": 1, **plan})


def row(platform: Platform, run: RunFolder) -> sa.Row[Any]:
    with platform.db.read() as connection:
        return connection.execute(sa.select(runs).where(runs.c.id == run.run_id)).one()


def supervised(
    platform: Platform, test: Callable[[Supervisor], Awaitable[None]], **more: Any
) -> None:
    async def run() -> None:
        supervisor = Supervisor(platform, command=COMMAND, tick_s=0.02, **more)
        await supervisor.start()
        try:
            await test(supervisor)
        finally:
            await supervisor.close()

    asyncio.run(run())


def pids(run: RunFolder) -> list[int]:
    process = run.process()
    return [process.pid] if process else []


def test_queued_runs_go_one_at_a_time_in_the_order_they_came(platform: Platform) -> None:
    queue = [
        submit(platform, "linger"),
        submit(platform, "fail"),
        submit(platform, "make", text="x"),
    ]

    async def test(supervisor: Supervisor) -> None:
        await until_async(lambda: queue[0].state() == "running", "the first runs")
        await supervisor.tick()
        assert [run.run_id for run in supervisor.status()] == [run.run_id for run in queue]
        assert [run.state for run in supervisor.status()] == ["running", "queued", "queued"]
        assert [row(platform, run).state for run in queue[1:]] == ["queued", "queued"]
        (queue[0].path / "go").touch()
        await until_async(lambda: row(platform, queue[2]).harvested, "the last is brought in")
        await supervisor.tick()  # the round that brought it in is over
        assert supervisor.status() == []

    supervised(platform, test)
    said = [[(event["t"], event["state"]) for event in run.read()] for run in queue]
    assert [states[-1][1] for states in said] == ["succeeded", "failed", "succeeded"]
    assert said[0][-1][0] <= said[1][0][0] and said[1][-1][0] <= said[2][0][0]
    assert [row(platform, run).launcher for run in queue] == ["server"] * 3
    assert find_model(platform, platform.local_principal(), "m")


def test_a_run_gets_the_servers_thread_budget(platform: Platform) -> None:
    run = submit(platform, "nothing", threads=64)

    async def test(supervisor: Supervisor) -> None:
        await until_async(lambda: row(platform, run).harvested, "the run is over")

    supervised(platform, test)
    result = run.last("result")
    assert result is not None and result["planned"] == thread_budget()
    assert 1 <= thread_budget() < max(2, os.cpu_count() or 1)


def test_a_run_started_without_a_server_is_adopted_and_holds_the_queue(
    platform: Platform,
) -> None:
    foreign, waiting = submit(platform, "linger"), submit(platform, "nothing")
    child = jobs.start_detached(platform, foreign, command=COMMAND)
    assert child is not None

    async def test(supervisor: Supervisor) -> None:
        await until_async(lambda: foreign.state() == "running", "the foreign run runs")
        await supervisor.tick()
        first, second = supervisor.status()
        assert (first.run_id, first.state, first.adopted) == (foreign.run_id, "running", True)
        assert (second.run_id, second.state, second.adopted) == (waiting.run_id, "queued", False)
        (foreign.path / "go").touch()
        await asyncio.to_thread(child.wait, 60)
        await until_async(lambda: row(platform, waiting).harvested, "the next is over")

    supervised(platform, test)
    assert row(platform, foreign).state == "succeeded"
    assert row(platform, foreign).attempts == 1


SERVER = """
import asyncio, sys
from pathlib import Path
from bessemer.app.platform import Platform
from bessemer.app.supervisor import Supervisor
from bessemer.core.home import Home

async def serve():
    platform = Platform.open(Home(Path(sys.argv[1])))
    await Supervisor(platform, command=sys.argv[2:], tick_s=0.02).start()
    await asyncio.Event().wait()

asyncio.run(serve())
"""


def test_a_run_survives_kill_9_of_the_server_and_the_next_server_adopts_it(
    platform: Platform,
) -> None:
    run = submit(platform, "linger", "survivor")
    home = str(platform.home.root)
    server = subprocess.Popen([sys.executable, "-c", SERVER, home, *COMMAND])
    until(lambda: run.state() == "running", "the server started the run")
    server.kill()
    server.wait()
    before = pids(run)
    assert run.state() == "running"

    async def test(supervisor: Supervisor) -> None:
        (found,) = supervisor.status()
        assert (found.run_id, found.adopted) == (run.run_id, True)
        for _ in range(3):
            await supervisor.tick()
        assert pids(run) == before and row(platform, run).attempts == 1
        (run.path / "go").touch()
        await until_async(lambda: row(platform, run).harvested, "the run is over")

    supervised(platform, test)
    assert [event["state"] for event in run.read()] == ["running", "succeeded"]


def test_closing_the_supervisor_leaves_its_runs_going(platform: Platform) -> None:
    run = submit(platform, "linger")

    async def test(supervisor: Supervisor) -> None:
        await until_async(lambda: run.state() == "running", "the run runs")

    supervised(platform, test)
    assert run.state() == "running"
    (run.path / "go").touch()
    until(lambda: run.state() == "succeeded", "the run ends by itself")


def test_a_killed_run_is_marked_dead_and_the_queue_goes_on(platform: Platform) -> None:
    dead, nxt = submit(platform, "die"), submit(platform, "nothing")

    async def test(supervisor: Supervisor) -> None:
        await until_async(lambda: row(platform, nxt).harvested, "the next is over")

    supervised(platform, test)
    assert row(platform, dead).state == "dead"
    assert "ended without a last word" in row(platform, dead).note


def test_a_process_that_never_speaks_is_dead_at_once_with_its_last_lines(
    platform: Platform, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module_at_all\n")
    run = submit(platform, "nothing")

    async def test() -> None:
        supervisor = Supervisor(platform, command=(sys.executable, str(broken)), tick_s=0.02)
        await supervisor.start()
        await until_async(lambda: row(platform, run).state == "dead", "the run is dead")
        await supervisor.close()

    asyncio.run(test())
    assert "ended with status 1 before it said a word" in row(platform, run).note
    assert "no_such_module_at_all" in row(platform, run).note


def test_a_command_that_cannot_be_started_is_noted_and_the_server_lives(
    platform: Platform,
) -> None:
    run = submit(platform, "nothing")

    async def test() -> None:
        supervisor = Supervisor(platform, command=("/no/such/program",))
        await supervisor.tick()
        assert supervisor.status() == []

    asyncio.run(test())
    assert row(platform, run).state == "dead"
    assert "could not be started" in row(platform, run).note


def test_a_run_that_lives_but_does_not_beat_is_reported_as_stuck(platform: Platform) -> None:
    run = submit(platform, "linger")

    async def test(supervisor: Supervisor) -> None:
        await until_async(lambda: run.last_beat_s() is not None, "the first beat")
        process = run.process()
        assert process is not None
        assert process.send(signal.SIGSTOP)
        stopped = psutil.Process(process.pid)
        await until_async(lambda: stopped.status() == psutil.STATUS_STOPPED, "it stands still")
        os.utime(run.path / "heartbeat", (time.time() - 31, time.time() - 31))
        await until_async(lambda: states(supervisor.status()) == ["stuck"], "it is reported")
        process.send(signal.SIGCONT)
        await until_async(lambda: states(supervisor.status()) == ["running"], "it beats again")
        (run.path / "go").touch()
        await until_async(lambda: supervisor.status() == [], "the run is over")

    supervised(platform, test)


def states(found: list[RunStatus]) -> list[str]:
    return [run.state for run in found]


def test_a_resumed_run_waits_its_turn_and_goes_on(platform: Platform, owner: Principal) -> None:
    run = submit(platform, "die")

    async def test(supervisor: Supervisor) -> None:
        await until_async(lambda: row(platform, run).state == "dead", "the run is dead")
        (run.path / "plan.json").write_text('{"kind": "nothing", "threads": 1, "name": "m"}')
        await asyncio.to_thread(jobs.resume, platform, owner, run.run_id)
        await until_async(lambda: row(platform, run).harvested, "the run is over")

    supervised(platform, test)
    assert (row(platform, run).state, row(platform, run).attempts) == ("succeeded", 2)


def test_a_locked_database_never_blocks_the_event_loop_and_passes(platform: Platform) -> None:
    run = submit(platform, "nothing")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with platform.db.write():
            held.set()
            release.wait(60)

    async def test() -> None:
        supervisor = Supervisor(platform, command=COMMAND)
        holder = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.to_thread(held.wait)
        ticking = asyncio.create_task(supervisor.tick())
        for _ in range(100):
            await asyncio.sleep(0)
        # The round waits for the lock in its thread; the loop came through here meanwhile.
        assert not ticking.done()
        release.set()
        await asyncio.gather(holder, ticking)
        await until_async(lambda: run.state() == "succeeded", "the run is over")

    asyncio.run(test())
