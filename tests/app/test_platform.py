"""A home opens quickly, migrates itself once, and stands any number of openers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from bessemer.access import tables as access_tables
from bessemer.app.migrations import HEAD
from bessemer.app.platform import OWNER_ID, PROJECT_ID, Platform, stored_revision
from bessemer.core.errors import Conflict
from bessemer.core.home import Home
from tests.postgres import homes

OPEN = """
import sys
from pathlib import Path
from bessemer.app.platform import Platform
from bessemer.core.home import Home

sys.stdin.readline()
with Platform.open(Home(Path(sys.argv[1]))) as platform:
    platform.local_principal()
print("alembic" in sys.modules)
"""


def opener(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(home)], stdin=-1, stdout=-1, stderr=-1, text=True
    )


def test_a_new_home_has_one_organization_project_and_owner(platform: Platform) -> None:
    tables = (access_tables.organizations, access_tables.projects, access_tables.people)
    with platform.db.read() as connection:
        assert stored_revision(connection) == HEAD
        for table in tables:
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 1
    principal = platform.local_principal()
    assert (principal.project_id, principal.owner_id) == (PROJECT_ID, OWNER_ID)
    principal.require("anything")


def test_opening_again_never_imports_alembic(platform: Platform) -> None:
    process = opener(platform.home.root)
    out, err = process.communicate("go\n", timeout=60)
    assert (process.returncode, out.strip()) == (0, "False"), err


def test_many_processes_may_open_a_new_home_at_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    homes.leave_empty(home)
    processes = [opener(home) for _ in range(5)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    with Platform.open(Home(home)) as platform, platform.db.read() as connection:
        count = sa.select(sa.func.count()).select_from(access_tables.people)
        assert connection.scalar(count) == 1


def test_a_home_of_a_newer_version_is_refused_and_left_alone(platform: Platform) -> None:
    with platform.db.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match=f"has schema 9999; this version knows {HEAD}"):
        Platform.open(platform.home)
    with platform.db.read() as connection:
        assert stored_revision(connection) == "9999"


def test_a_migration_that_was_killed_halfway_left_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").ensure()
    homes.leave_empty(home.root)
    killed = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from bessemer.app import platform\n"
        "from bessemer.core.home import Home\n"
        "platform._seed = lambda connection: os.kill(os.getpid(), 9)\n"
        "platform.Platform.open(Home(Path(sys.argv[1])))\n"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(home.root)]).returncode == -9
    with Platform.open(home) as platform, platform.db.read() as connection:
        assert stored_revision(connection) == HEAD
        assert connection.scalar(sa.select(access_tables.people.c.id)) == OWNER_ID
