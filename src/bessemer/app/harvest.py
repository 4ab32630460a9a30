"""The last word of each run, brought into its row; what it made, brought into the store.

A run writes only its own folder. Whoever has the database (a server, or the command line) calls
`harvest` after it; any number of them may do so at once, and any of them may be killed in the
middle: the artifact is stored by content, and its name is bound in the same transaction that
marks the row as harvested.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.app import adapters, run_metering
from bessemer.app.epitaph import epitaph
from bessemer.app.names import insert_name
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact
from bessemer.core.digests import sha256_file
from bessemer.core.errors import IntegrityError, NotFound, OutOfSpace
from bessemer.core.principal import Principal
from bessemer.core.runs import FINAL, RunFolder, State
from bessemer.core.tables import runs

# How long a run may take from its row to its plan, and from its start to its first word.
SILENT_S = 60.0
# Of a name that "-adapter" is put after; names have 200 characters.
LONGEST_NAME = 192

_log = logging.getLogger(__name__)


class Harvested(NamedTuple):
    """A row that changed: the run, its state now, and the digest of the model it made, if any."""

    run_id: str
    state: State
    digest: str | None = None


def harvest(platform: Platform) -> list[Harvested]:
    """Bring every row up to date with its folder, and store what runs that succeeded have made."""
    open_rows = sa.select(runs).where(runs.c.harvested == 0).order_by(runs.c.id)
    with platform.db.read() as connection:
        rows = connection.execute(open_rows).all()
    found = (_harvest_one(platform, row, RunFolder(platform.home.runs / row.id)) for row in rows)
    return [harvested for harvested in found if harvested is not None]


def current_state(row_state: str, folder: RunFolder) -> State:
    """What the row and the folder say together."""
    said = folder.state()
    if said != "queued":
        return said
    # No process has spoken since it was queued, so the row knows more.
    known: tuple[State, ...] = (*FINAL, "dead")
    return next((state for state in known if state == row_state), "queued")


def is_whole(run: RunFolder) -> bool:
    """Whether the folder was written to its end when the run was asked for."""
    return (run.path / "plan.json").is_file()


def _harvest_one(platform: Platform, row: sa.Row[Any], folder: RunFolder) -> Harvested | None:
    state = current_state(row.state, folder)
    if state in FINAL or (state == "dead" and row.state != "dead"):
        run_metering.settle(platform, folder)
    if state == "succeeded":
        return _bring_in(platform, row, folder)
    if state in ("failed", "cancelled"):
        return _settle(platform, row, state, _reason(folder), harvested=1)
    if state == "dead":
        return _settle(platform, row, state, row.note or str(epitaph(folder)))
    if state == "running":
        return _settle(platform, row, state, None)
    if row.state == "queued" and not is_whole(folder) and _age_s(row) > SILENT_S:
        note = "the run's folder was never completely written; submit it again"
        return _settle(platform, row, "failed", note, harvested=1)
    if row.state == "starting" and _silence_s(row, folder) > SILENT_S:
        note = f"its process said nothing for {SILENT_S:.0f} s; see {folder.log}"
        return _settle(platform, row, "dead", note)
    return None


def _bring_in(platform: Platform, row: sa.Row[Any], folder: RunFolder) -> Harvested | None:
    if not any((folder.output / made).is_dir() for made in ("model", "adapter")):
        return _settle(platform, row, "succeeded", None, harvested=1)
    try:
        artifact, adapter = _store(platform, folder), _store_adapter(platform, folder)
    except OutOfSpace as fault:
        _log.error("run %s: %s", row.id, fault)
        return _settle(platform, row, "succeeded", str(fault))  # tried again at the next harvest
    except IntegrityError as fault:
        _log.error("run %s: %s", row.id, fault)
        return _settle(platform, row, "succeeded", str(fault), harvested=1)
    with platform.db.write() as connection:
        if not _update(connection, row, state="succeeded", note=None, harvested=1):
            return None
        owner = Principal(row.org_id, row.project_id, row.owner_id, frozenset())
        if artifact is not None:
            insert_name(connection, owner, "model", row.name, artifact.digest, row.id)
        if adapter is not None:
            name = _adapter_name(folder)
            insert_name(connection, owner, "adapter", name, adapter.digest, row.id)
    whole = artifact or adapter
    return Harvested(row.id, "succeeded", whole.digest if whole else None)


def _store(platform: Platform, folder: RunFolder) -> Artifact | None:
    if not (folder.output / "model").is_dir():
        return None
    plan = folder.plan()
    base, dataset = plan.get("model") or {}, plan.get("dataset") or {}
    workspace = platform.artifacts.workspace()
    try:
        _link_tree(folder.output / "model", workspace)
        return platform.artifacts.put(
            workspace,
            kind="model",
            name=plan["name"],
            licence=_licence_of(platform, base.get("digest")),
            parents=(base["digest"],) if "digest" in base else (),
            provenance=_provenance(folder, dataset.get("digest")),
        )
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _store_adapter(platform: Platform, folder: RunFolder) -> Artifact | None:
    """What LoRA left, under `_adapter_name`; None without LoRA."""
    plan = folder.plan()
    base, dataset = plan.get("model") or {}, plan.get("dataset") or {}
    if not (folder.output / "adapter").is_dir() or "digest" not in base:
        return None
    return adapters.store(
        platform,
        folder.output / "adapter",
        base["digest"],
        name=_adapter_name(folder),
        licence=_licence_of(platform, base["digest"]),
        provenance=_provenance(folder, dataset.get("digest")),
    )


def _adapter_name(folder: RunFolder) -> str:
    """The run's own name belongs to the merged model, if it left one."""
    name = str(folder.plan()["name"])
    merged = (folder.output / "model").is_dir()
    return f"{name[:LONGEST_NAME]}-adapter" if merged else name


def _provenance(folder: RunFolder, dataset: str | None) -> dict[str, Any]:
    return {
        "run_id": folder.run_id,
        "recipe_sha256": sha256_file(folder.recipe),
        "dataset": dataset,
    }


def _licence_of(platform: Platform, digest: str | None) -> str | None:
    if digest is None:
        return None
    try:
        return platform.artifacts.get(digest).licence
    except NotFound:
        return None


def _link_tree(source: Path, target: Path) -> None:
    """Hard links where the file system has them: a model is not stored twice."""
    shutil.copytree(source, target, copy_function=_link, symlinks=True, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)
    # One file under two names now: nobody may write it through either.
    Path(target).chmod(0o400)


def _settle(
    platform: Platform, row: sa.Row[Any], state: State, note: str | None, harvested: int = 0
) -> Harvested | None:
    if (row.state, row.note, row.harvested) == (state, note, harvested):
        return None
    with platform.db.write() as connection:
        changed = _update(connection, row, state=state, note=note, harvested=harvested)
    return Harvested(row.id, state) if changed else None


def _update(connection: sa.Connection, row: sa.Row[Any], **values: Any) -> bool:
    """Change the row unless somebody started, resumed or harvested the run since it was read."""
    same = (
        (runs.c.id == row.id)
        & (runs.c.state == row.state)
        & (runs.c.attempts == row.attempts)
        & (runs.c.harvested == 0)
    )
    return connection.execute(runs.update().where(same).values(**values)).rowcount == 1


def _reason(folder: RunFolder) -> str | None:
    event = folder.last("state") or {}
    error = event.get("error")
    if not isinstance(error, dict) or "message" not in error:
        return None
    # A run says what it likes; PostgreSQL's texts have no U+0000.
    return str(error["message"]).replace("\0", "\N{REPLACEMENT CHARACTER}")


def _age_s(row: sa.Row[Any]) -> float:
    return time.time() - float(row.created_ms) / 1000


def _silence_s(row: sa.Row[Any], folder: RunFolder) -> float:
    process = folder.process()
    if process is not None and process.alive():
        return 0.0
    try:
        # Touched when a process is about to be started.
        return time.time() - folder.log.stat().st_mtime
    except OSError:
        return _age_s(row)
