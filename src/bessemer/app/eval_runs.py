"""Runs of an eval as rows: asked for, counted, canceled, listed. `eval_runner` does them.

A run's outputs and the tally of them are written in one transaction, and there is never more than
one output for an item. So what a killed server leaves is exact: the next one goes on with the items
that have no output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec
import sqlalchemy as sa

from bessemer.app import audit, eval_definitions
from bessemer.app.eval_definitions import READ_SCOPE, WRITE_SCOPE
from bessemer.app.eval_plans import Plan
from bessemer.app.eval_tally import Tally, Verdict
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.tables import eval_outputs, eval_runs
from bessemer.core.database import now_ms
from bessemer.core.errors import Conflict, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

State = Literal["queued", "in_progress", "completed", "canceled", "failed"]
STATES: tuple[State, ...] = ("queued", "in_progress", "completed", "canceled", "failed")
OPEN: tuple[State, ...] = ("queued", "in_progress")


class Fault(msgspec.Struct, frozen=True):
    """What went wrong, as OpenAI's API tells it; both empty where nothing did."""

    code: str = ""
    message: str = ""


class EvalRun(NamedTuple):
    """A row of `eval_runs`. `model` is empty where nothing is sampled."""

    id: str
    eval_id: str
    name: str
    model: str
    state: State
    principal: Principal
    data_source: msgspec.Raw
    plan: Plan | None
    metadata: Mapping[str, str]
    total: int
    tally: Tally
    error: Fault
    created_ms: int
    ended_ms: int | None


class Output(NamedTuple):
    """A row of `eval_outputs`. `body` is JSON: `datasource_item`, `sample` and `results`."""

    id: str
    eval_id: str
    run_id: str
    number: int
    state: Verdict
    item_sha256: str
    verdicts: Mapping[str, bool]
    body: Mapping[str, msgspec.Raw]
    created_ms: int


class NewOutput(NamedTuple):
    """What became of one item, to be recorded; `part` is what it adds to the tally."""

    number: int
    item_sha256: str
    state: Verdict
    verdicts: Mapping[str, bool]
    body: bytes
    part: Tally
    created_ms: int | None = None  # None is now


def add(
    platform: Platform,
    principal: Principal,
    eval_id: str,
    plan: Plan | None,
    data_source: Any,
    *,
    total: int,
    name: str | None = None,
    model: str = "",
    metadata: Mapping[str, str] | None = None,
    state: State = "queued",
    created_ms: int | None = None,
) -> EvalRun:
    """Keep a run to be done: its items are checked already (`eval_plans.submit`).

    Args:
        created_ms: when it was made, if that was elsewhere and before.
    """
    definition = eval_definitions.get(platform, principal, eval_id, scope=WRITE_SCOPE)
    run_id = new_id("evalrun", created_ms)
    row = {
        "id": run_id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms() if created_ms is None else created_ms,
        "eval_id": definition.id,
        "name": name or model or run_id,
        "model": model,
        "state": state,
        "principal": _json(_Who.of(principal)),
        "data_source": _json(data_source),
        "plan": _json(plan),
        "metadata": _json(dict(metadata or {})),
        "total": total,
        "tally": _json(Tally()),
    }
    with platform.db.write() as connection:
        connection.execute(eval_runs.insert().values(row))
        facts = {field: row[field] for field in ("eval_id", "name", "model", "total", "state")}
        audit.record(connection, principal, "eval_run.created", run_id, after=facts)
        return _run(_row(connection, run_id))


def get(
    platform: Platform,
    principal: Principal,
    eval_id: str,
    run_id: str,
    *,
    scope: str = READ_SCOPE,
) -> EvalRun:
    """One run of an eval of the principal's project. Raises NotFound."""
    principal.require(scope)
    with platform.db.read() as connection:
        mine = _mine(principal, eval_id) & (eval_runs.c.id == run_id)
        row = connection.execute(sa.select(eval_runs).where(mine)).first()
    if row is None:
        raise NotFound(
            f"No such eval run: {run_id[:100]}",
            param="run_id",
            next_step=f"GET /v1/evals/{eval_id[:100]}/runs, or bessemer evals show EVAL",
        )
    return _run(row)


def list_runs(
    platform: Platform,
    principal: Principal,
    eval_id: str,
    asked: PageRequest,
    state: State | None = None,
) -> tuple[list[EvalRun], bool]:
    """A page of an eval's runs, and whether there are more."""
    eval_definitions.get(platform, principal, eval_id)
    where = _mine(principal, eval_id)
    if state is not None:
        where &= eval_runs.c.state == state
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, eval_runs, where, asked)
    return [_run(row) for row in rows], has_more


def cancel(platform: Platform, principal: Principal, eval_id: str, run_id: str) -> EvalRun:
    """Stop a run. What is judged stays; nothing more is counted once this returns.

    Raises:
        Conflict: it has ended already.
    """
    run = get(platform, principal, eval_id, run_id, scope=WRITE_SCOPE)
    if not finish(platform, run_id, "canceled", by=principal):
        state = get(platform, principal, eval_id, run_id, scope=WRITE_SCOPE).state
        raise Conflict(
            f"the run {run_id} is {state}; only one that goes on can be canceled",
            param="run_id",
            next_step=f"GET /v1/evals/{eval_id}/runs/{run_id} tells its results",
        )
    return get(platform, principal, eval_id, run.id, scope=WRITE_SCOPE)


def delete(platform: Platform, principal: Principal, eval_id: str, run_id: str) -> None:
    """Forget a run and its outputs; one that goes on ends."""
    run = get(platform, principal, eval_id, run_id, scope=WRITE_SCOPE)
    facts = {"eval_id": run.eval_id, "name": run.name, "state": run.state}
    with platform.db.write() as connection:
        connection.execute(eval_outputs.delete().where(eval_outputs.c.run_id == run_id))
        connection.execute(eval_runs.delete().where(eval_runs.c.id == run_id))
        audit.record(connection, principal, "eval_run.deleted", run_id, before=facts)


def list_outputs(
    platform: Platform,
    principal: Principal,
    eval_id: str,
    run_id: str,
    asked: PageRequest,
    state: Verdict | None = None,
) -> tuple[list[Output], bool]:
    """A page of what became of a run's items, in the order in which it was recorded."""
    get(platform, principal, eval_id, run_id)
    where = eval_outputs.c.run_id == run_id
    if state is not None:
        where &= eval_outputs.c.state == state
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, eval_outputs, where, asked)
    return [_output(row) for row in rows], has_more


def get_output(
    platform: Platform, principal: Principal, eval_id: str, run_id: str, output_id: str
) -> Output:
    """What became of one item. Raises NotFound."""
    get(platform, principal, eval_id, run_id)
    with platform.db.read() as connection:
        mine = (eval_outputs.c.run_id == run_id) & (eval_outputs.c.id == output_id)
        row = connection.execute(sa.select(eval_outputs).where(mine)).first()
    if row is None:
        raise NotFound(f"No such output item: {output_id[:100]}", param="output_item_id")
    return _output(row)


# What the runner does to rows. It acts for the server, so there is no principal to ask.


def open_runs(platform: Platform) -> list[str]:
    """The ids of all runs that are not done, oldest first."""
    query = sa.select(eval_runs.c.id).where(eval_runs.c.state.in_(OPEN)).order_by(eval_runs.c.id)
    with platform.db.read() as connection:
        return list(connection.execute(query).scalars())


def begin(platform: Platform, run_id: str) -> tuple[EvalRun, set[int]] | None:
    """Mark a run as going; it and the items that have an output. None if it is no more open."""
    with platform.db.write() as connection:
        still = (eval_runs.c.id == run_id) & eval_runs.c.state.in_(OPEN)
        going = connection.execute(eval_runs.update().where(still).values(state="in_progress"))
        if not going.rowcount:
            return None
        run = _run(_row(connection, run_id))
        numbers = sa.select(eval_outputs.c.number).where(eval_outputs.c.run_id == run_id)
        return run, set(connection.execute(numbers).scalars())


def record(platform: Platform, run_id: str, output: NewOutput) -> bool:
    """Keep an output and count it; False, and nothing is kept, if the run is no more going."""
    with platform.db.write() as connection:
        query = sa.select(eval_runs).where(eval_runs.c.id == run_id).with_for_update()
        row = connection.execute(query).first()
        if row is None or row.state not in OPEN:
            return False
        insert_output(connection, row, output)
        return True


def insert_output(connection: sa.Connection, row: sa.Row[Any], output: NewOutput) -> None:
    """An output of the run in `row`, within a transaction that holds that row."""
    kept = {
        "id": new_id("outputitem"),
        "org_id": row.org_id,
        "project_id": row.project_id,
        "owner_id": row.owner_id,
        "created_ms": now_ms() if output.created_ms is None else output.created_ms,
        "eval_id": row.eval_id,
        "run_id": row.id,
        "number": output.number,
        "item_sha256": output.item_sha256,
        "state": output.state,
        "verdicts": _json(output.verdicts),
        "output": output.body.decode(),
    }
    connection.execute(eval_outputs.insert().values(kept))
    tally = msgspec.json.decode(row.tally, type=Tally) + output.part
    this = eval_runs.c.id == row.id
    connection.execute(eval_runs.update().where(this).values(tally=_json(tally)))


def finish(
    platform: Platform,
    run_id: str,
    state: State,
    error: Fault | None = None,
    *,
    by: Principal | None = None,
) -> bool:
    """End a run that goes on; False if it had ended.

    Args:
        by: who canceled it.
    """
    still = (eval_runs.c.id == run_id) & eval_runs.c.state.in_(OPEN)
    ended = {"state": state, "ended_ms": now_ms(), "error": _json(error) if error else None}
    with platform.db.write() as connection:
        done = connection.execute(eval_runs.update().where(still).values(ended)).rowcount == 1
        if done and by is not None:
            audit.record(connection, by, "eval_run.cancelled", run_id)
    return done


def verdicts_of(
    platform: Platform, run_id: str
) -> list[tuple[str, int, str, Verdict, dict[str, bool]]]:
    """Of every output its id, number, item's digest, state and what each criterion said."""
    table = eval_outputs.c
    columns = (table.id, table.number, table.item_sha256, table.state, table.verdicts)
    query = sa.select(*columns).where(table.run_id == run_id).order_by(table.number)
    with platform.db.read() as connection:
        return [
            (row[0], row[1], row[2], cast(Verdict, row[3]), msgspec.json.decode(row[4]))
            for row in connection.execute(query)
        ]


class _Who(msgspec.Struct):
    """A principal as a row keeps it: the run samples in its name."""

    org_id: str
    project_id: str
    owner_id: str
    scopes: Sequence[str]
    key_id: str | None = None

    @classmethod
    def of(cls, one: Principal) -> _Who:
        return cls(one.org_id, one.project_id, one.owner_id, sorted(one.scopes), one.key_id)

    def principal(self) -> Principal:
        scopes = frozenset(self.scopes)
        return Principal(self.org_id, self.project_id, self.owner_id, scopes, self.key_id)


def _mine(principal: Principal, eval_id: str) -> sa.ColumnElement[bool]:
    mine = eval_runs.c.project_id == principal.project_id
    return mine & (eval_runs.c.eval_id == eval_id)


def _row(connection: sa.Connection, run_id: str) -> sa.Row[Any]:
    return connection.execute(sa.select(eval_runs).where(eval_runs.c.id == run_id)).one()


_plan_decoder = msgspec.json.Decoder(Plan | None)
_body_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _run(row: sa.Row[Any]) -> EvalRun:
    return EvalRun(
        row.id,
        row.eval_id,
        row.name,
        row.model,
        row.state,
        msgspec.json.decode(row.principal, type=_Who).principal(),
        msgspec.Raw(row.data_source.encode()),
        _plan_decoder.decode(row.plan),
        msgspec.json.decode(row.metadata),
        row.total,
        msgspec.json.decode(row.tally, type=Tally),
        Fault() if row.error is None else msgspec.json.decode(row.error, type=Fault),
        row.created_ms,
        row.ended_ms,
    )


def _output(row: sa.Row[Any]) -> Output:
    return Output(
        row.id,
        row.eval_id,
        row.run_id,
        row.number,
        row.state,
        row.item_sha256,
        msgspec.json.decode(row.verdicts),
        _body_decoder.decode(row.output),
        row.created_ms,
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
