"""Jobs with real processes: asked for, started once, stopped, gone on with, brought in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bessemer.app import jobs
from bessemer.app.models import find_model, list_models
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from bessemer.core.principal import Principal
from bessemer.core.runs import RunFolder
from bessemer.core.tables import names, runs
from tests.app.run_kinds import COMMAND
from tests.polling import until


def submit(
    platform: Platform, owner: Principal, kind: str, name: str = "m", **plan: Any
) -> RunFolder:
    return jobs.submit(platform, owner, kind, name, "steps = 1\n", {"threads": 1, **plan})


def start(platform: Platform, run: RunFolder, **more: Any) -> subprocess.Popen[bytes]:
    child = jobs.start_detached(platform, run, command=COMMAND, **more)
    assert child is not None
    return child


def finish(platform: Platform, run: RunFolder) -> int:
    return start(platform, run).wait(60)


def state(platform: Platform, owner: Principal, run: RunFolder) -> str:
    return jobs.get_run(platform, owner, run.run_id).state


def row(platform: Platform, run: RunFolder) -> sa.Row[Any]:
    with platform.db.read() as connection:
        return connection.execute(sa.select(runs).where(runs.c.id == run.run_id)).one()


def change(platform: Platform, run: RunFolder, **values: Any) -> None:
    with platform.db.write() as connection:
        connection.execute(runs.update().where(runs.c.id == run.run_id).values(**values))


def put_base(platform: Platform) -> Artifact:
    folder = platform.artifacts.workspace()
    (folder / "config.json").write_text("base")
    return platform.artifacts.put(folder, kind="model", name="base", licence="Apache-2.0")


def count_names(platform: Platform) -> int:
    with platform.db.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(names)) or 0


# Asking and starting


def test_a_submitted_run_is_queued_with_its_recipe_and_plan(
    platform: Platform, owner: Principal
) -> None:
    folder = submit(platform, owner, "nothing", "cake", dataset={"name": "d"})
    run = jobs.get_run(platform, owner, folder.run_id)
    assert (run.state, run.kind, run.name, run.attempts) == ("queued", "nothing", "cake", 0)
    assert run.folder == folder
    assert folder.recipe.read_text() == "steps = 1\n"
    assert folder.plan() == {
        "threads": 1, "dataset": {"name": "d"}, "kind": "nothing", "name": "cake",
    }  # fmt: skip


def test_runs_are_listed_newest_first_and_by_kind(platform: Platform, owner: Principal) -> None:
    first = submit(platform, owner, "nothing")
    second = submit(platform, owner, "make", text="x")
    listed = jobs.list_runs(platform, owner)
    assert [run.id for run in listed] == [second.run_id, first.run_id]
    assert [run.id for run in jobs.list_runs(platform, owner, limit=1)] == [second.run_id]
    assert [run.id for run in jobs.list_runs(platform, owner, kind="nothing")] == [first.run_id]


def test_a_run_belongs_to_its_project(
    platform: Platform, owner: Principal, stranger: Principal
) -> None:
    run = submit(platform, owner, "nothing")
    assert jobs.list_runs(platform, stranger) == []
    for use in (jobs.get_run, jobs.cancel, jobs.resume):
        with pytest.raises(NotFound):
            use(platform, stranger, run.run_id)
    assert state(platform, owner, run) == "queued"


def test_reading_and_writing_runs_are_two_rights(platform: Platform, owner: Principal) -> None:
    reader = Principal(owner.org_id, owner.project_id, "r", frozenset({"runs:read"}))
    run = submit(platform, owner, "nothing")
    jobs.get_run(platform, reader, run.run_id)
    with pytest.raises(PermissionDenied):
        submit(platform, reader, "nothing")
    for use in (jobs.cancel, jobs.resume):
        with pytest.raises(PermissionDenied):
            use(platform, reader, run.run_id)


def test_a_name_that_cannot_be_bound_is_refused_before_anything_runs(
    platform: Platform, owner: Principal
) -> None:
    with pytest.raises(InvalidInput):
        submit(platform, owner, "make", "../m", text="x")
    assert jobs.list_runs(platform, owner) == []


def test_a_started_run_outlives_its_starter_in_a_session_of_its_own(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "linger")
    child = start(platform, run)
    until(lambda: state(platform, owner, run) == "running", "the run says that it runs")
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    (run.path / "go").touch()
    assert child.wait(60) == 0
    assert state(platform, owner, run) == "succeeded"


def test_threads_are_the_plans_and_a_starter_may_lower_them(
    platform: Platform, owner: Principal
) -> None:
    for planned, given, expected in ((3, None, 3), (3, 1, 1), (2, 8, 2)):
        run = submit(platform, owner, "nothing", threads=planned)
        start(platform, run, threads=given).wait(60)
        result = run.last("result")
        assert result is not None
        assert (result["omp"], result["planned"]) == (str(expected), expected)


def test_a_run_that_goes_on_from_a_checkpoint_keeps_its_threads(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "nothing", threads=3)
    (run.checkpoints / "saved").touch()
    start(platform, run, threads=1).wait(60)
    result = run.last("result")
    assert result is not None and result["omp"] == "3"


def test_of_many_that_would_start_a_run_one_does(platform: Platform, owner: Principal) -> None:
    run = submit(platform, owner, "linger")
    with ThreadPoolExecutor(6) as pool:
        children = list(
            pool.map(lambda _: jobs.start_detached(platform, run, command=COMMAND), range(12))
        )
    (child,) = [child for child in children if child is not None]
    (run.path / "go").touch()
    assert child.wait(60) == 0
    assert row(platform, run).attempts == 1
    assert [event["state"] for event in run.read()] == ["running", "succeeded"]


def test_a_run_whose_folder_is_not_whole_is_not_started(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "nothing")
    (run.path / "plan.json").unlink()
    with pytest.raises(Conflict, match="no plan"):
        jobs.start_detached(platform, run, command=COMMAND)
    assert jobs.harvest(platform) == []
    change(platform, run, created_ms=0)
    ((run_id, said, _),) = jobs.harvest(platform)
    assert (run_id, said) == (run.run_id, "failed")
    assert "never completely written" in str(row(platform, run).note)


def test_the_real_command_runs_the_real_kinds(platform: Platform, owner: Principal) -> None:
    run = submit(platform, owner, "bake")
    child = jobs.start_detached(platform, run)
    assert child is not None and child.wait(60) == 1
    assert "known: train, plan, eval" in run.log.read_text()
    assert state(platform, owner, run) == "failed"


# Stopping and going on


def test_a_queued_run_is_cancelled_at_once_and_never_started(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "nothing")
    assert jobs.cancel(platform, owner, run.run_id).state == "cancelled"
    assert run.state() == "cancelled"
    assert jobs.start_detached(platform, run, command=COMMAND) is None
    with pytest.raises(Conflict, match="is cancelled already"):
        jobs.cancel(platform, owner, run.run_id)


def test_a_running_run_is_cancelled_after_its_checkpoint(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "linger")
    child = start(platform, run)
    until((run.path / "began").exists, "the work began")
    assert jobs.cancel(platform, owner, run.run_id).state == "running"
    assert child.wait(60) == 75
    assert state(platform, owner, run) == "cancelled"
    assert (run.checkpoints / "saved").exists()
    assert [h.state for h in jobs.harvest(platform)] == ["cancelled"]


def test_a_run_that_is_still_starting_is_cancelled_as_soon_as_it_speaks(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "linger")
    child = start(platform, run)
    jobs.cancel(platform, owner, run.run_id, wait_s=60)
    assert child.wait(60) == 75
    assert run.state() == "cancelled"


def test_a_run_that_is_starting_and_silent_is_not_cancelled_behind_its_back(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "nothing")
    change(platform, run, state="starting")
    with pytest.raises(Conflict, match="still starting"):
        jobs.cancel(platform, owner, run.run_id, wait_s=0.1)


def test_cancelling_never_signals_a_process_that_took_the_pid(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "die")
    start(platform, run).wait(60)
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
    facts = f'{{"pid": {bystander.pid}, "started": 1.0}}'
    (run.path / "process.json").write_text(facts)
    with pytest.raises(Conflict, match="is dead already"):
        jobs.cancel(platform, owner, run.run_id)
    assert bystander.poll() is None
    bystander.communicate(b"\n", timeout=60)
    assert bystander.returncode == 0


@pytest.mark.parametrize("kind", ["die", "fail"])
def test_a_dead_or_failed_run_goes_on(platform: Platform, owner: Principal, kind: str) -> None:
    run = submit(platform, owner, kind)
    finish(platform, run)
    jobs.harvest(platform)
    ended = row(platform, run)
    assert ended.state == ("dead" if kind == "die" else "failed")
    assert ended.note
    resumed = jobs.resume(platform, owner, run.run_id)
    assert (resumed.state, resumed.note, run.state()) == ("queued", None, "queued")
    assert jobs.harvest(platform) == []
    (run.path / "plan.json").write_text('{"kind": "nothing", "threads": 1, "name": "m"}')
    assert finish(platform, run) == 0
    assert state(platform, owner, run) == "succeeded"
    assert row(platform, run).attempts == 2


def test_a_run_can_go_on_before_anybody_wrote_down_that_it_died(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "die")
    finish(platform, run)
    assert state(platform, owner, run) == "dead"
    assert jobs.resume(platform, owner, run.run_id).state == "queued"


def test_only_what_is_over_and_did_not_succeed_goes_on(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "linger")
    with pytest.raises(Conflict, match="is queued"):
        jobs.resume(platform, owner, run.run_id)
    child = start(platform, run)
    until(lambda: state(platform, owner, run) == "running", "the run says that it runs")
    with pytest.raises(Conflict, match="is running"):
        jobs.resume(platform, owner, run.run_id)
    (run.path / "go").touch()
    child.wait(60)
    with pytest.raises(Conflict, match="is succeeded"):
        jobs.resume(platform, owner, run.run_id)


# Bringing in


def test_what_a_run_made_becomes_a_named_model_with_its_descent(
    platform: Platform, owner: Principal
) -> None:
    base = put_base(platform)
    run = submit(
        platform, owner, "make", "taught", text="new", model={"digest": base.digest},
        dataset={"digest": "sha256:d"},
    )  # fmt: skip
    finish(platform, run)
    ((run_id, said, digest),) = jobs.harvest(platform)
    assert (run_id, said) == (run.run_id, "succeeded")
    model = find_model(platform, owner, "taught")
    assert model.digest == digest
    assert (model.path / "config.json").read_text() == "new"
    assert (model.artifact.licence, model.artifact.parents) == ("Apache-2.0", (base.digest,))
    assert model.artifact.provenance["run_id"] == run.run_id
    assert model.artifact.provenance["dataset"] == "sha256:d"
    platform.artifacts.verify(model.digest)
    assert jobs.harvest(platform) == []
    assert count_names(platform) == 1
    # The run's own folder still has what it made.
    assert (run.output / "model" / "config.json").read_text() == "new"


def test_a_model_made_from_nothing_has_no_parent(platform: Platform, owner: Principal) -> None:
    finish(platform, submit(platform, owner, "make", text="new", model=None, dataset=None))
    jobs.harvest(platform)
    artifact = find_model(platform, owner, "m").artifact
    assert (artifact.parents, artifact.licence) == ((), None)


def test_two_runs_that_made_the_same_bytes_name_one_artifact(
    platform: Platform, owner: Principal
) -> None:
    for name in ("one", "two"):
        finish(platform, submit(platform, owner, "make", name, text="same"))
    assert len(jobs.harvest(platform)) == 2
    assert len(platform.artifacts.list()) == 1
    assert [model.name for model in list_models(platform, owner)] == ["one", "two"]


def test_a_failed_run_is_brought_in_with_its_reason_and_no_model(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "fail")
    finish(platform, run)
    assert [h.state for h in jobs.harvest(platform)] == ["failed"]
    assert row(platform, run).note == "the loss is NaN at step 7"
    assert jobs.harvest(platform) == []
    assert list_models(platform, owner) == []


def test_a_dead_run_is_marked_once_and_says_how_to_go_on(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "die")
    child = start(platform, run)
    child.wait(60)
    assert [h.state for h in jobs.harvest(platform)] == ["dead"]
    assert f"pid {child.pid}" in row(platform, run).note
    assert f"bessemer train --resume {run.run_id}" in row(platform, run).note
    assert jobs.harvest(platform) == []


def test_a_started_run_that_never_spoke_is_dead_after_a_while(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "nothing")
    start(platform, run, **{}).wait(60)
    run.events.unlink()
    (run.path / "process.json").unlink()
    assert jobs.harvest(platform) == [], "it may still be starting"
    os.utime(run.log, (0, 0))
    assert [h.state for h in jobs.harvest(platform)] == ["dead"]
    assert state(platform, owner, run) == "dead"


def test_a_run_thought_dead_that_speaks_after_all_is_believed(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "make", text="late")
    finish(platform, run)
    change(platform, run, state="dead", note="said nothing")
    assert [h.state for h in jobs.harvest(platform)] == ["succeeded"]
    assert find_model(platform, owner, "m")
    assert row(platform, run).note is None


def test_a_model_that_cannot_be_stored_is_said_and_not_tried_forever(
    platform: Platform, owner: Principal
) -> None:
    run = submit(platform, owner, "make", text="x")
    finish(platform, run)
    (run.output / "model" / "link").symlink_to("/etc/hostname")
    assert [h.digest for h in jobs.harvest(platform)] == [None]
    assert "symbolic link" in row(platform, run).note
    assert jobs.harvest(platform) == []
    assert platform.artifacts.list() == []


# Kills itself at the N-th step of the harvest.
KILLED_HARVEST = """
import os, signal, sys
from pathlib import Path

import sqlalchemy as sa

from bessemer.app import jobs
from bessemer.app.platform import Platform
from bessemer.core.artifacts import ArtifactStore
from bessemer.core.home import Home

left = int(sys.argv[2])

def step(*_args):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(original):
    def call(*args, **kwargs):
        step()
        return original(*args, **kwargs)
    return call

platform = Platform.open(Home(Path(sys.argv[1])))
os.fsync, os.link = counted(os.fsync), counted(os.link)
Path.rename, Path.replace = counted(Path.rename), counted(Path.replace)
sa.event.listen(platform.db.engine, "before_cursor_execute", step)
sa.event.listen(platform.db.engine, "commit", step)
jobs.harvest(platform)
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_harvest_names_the_model_exactly_once(tmp_path: Path) -> None:
    from bessemer.core.home import Home

    killed = []
    for moment in range(40):
        with Platform.open(Home(tmp_path / str(moment))) as platform:
            owner = platform.local_principal()
            run = submit(platform, owner, "make", text="x")
            run.output.joinpath("model").mkdir(parents=True)
            (run.output / "model" / "config.json").write_text("x")
            log = run.open_log()
            log.write("state", state="succeeded")
            log.close()
            change(platform, run, state="running")
            home = str(platform.home.root)
            done = subprocess.run([sys.executable, "-c", KILLED_HARVEST, home, str(moment)])
            jobs.harvest(platform)
            assert count_names(platform) == 1, f"killed at step {moment}"
            assert row(platform, run).harvested == 1
            platform.artifacts.verify(find_model(platform, owner, "m").digest)
            killed.append(done.returncode)
        if done.returncode == 0:
            break
    assert killed[-1] == 0 and len(killed) > 8
    assert set(killed[:-1]) == {-signal.SIGKILL}


def test_many_harvests_at_once_name_the_model_once(platform: Platform, owner: Principal) -> None:
    run = submit(platform, owner, "make", text="x")
    finish(platform, run)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: jobs.harvest(platform), range(8)))
    assert sum(len(harvested) for harvested in found) == 1
    assert count_names(platform) == 1
