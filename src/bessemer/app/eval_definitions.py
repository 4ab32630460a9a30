"""Evals of a project: what their items look like, and by which criteria answers are judged.

A definition never changes but for its name and metadata, so that runs of one eval stay
comparable. Runs are `eval_runs`' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from bessemer.app import audit
from bessemer.app.eval_schema import ItemSchema
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.tables import eval_outputs, eval_runs, evals
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.text import grader_modules
from bessemer.text.criteria import Criterion as Criterion  # a face takes it from here
from bessemer.text.criteria import PythonCheck, checked

READ_SCOPE, WRITE_SCOPE = "evals:read", "evals:write"
MAX_CRITERIA = 100
MAX_METADATA = 16

Metadata = Annotated[
    dict[
        Annotated[str, Meta(max_length=64)],
        Annotated[str, Meta(max_length=512)],
    ],
    Meta(max_length=MAX_METADATA),
]
OrderBy = Literal["created_at", "updated_at"]


class _Config(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    pass


class CustomData(_Config, tag="custom"):
    """Items of any shape; with `include_sample_schema` lines without sampling bring a `sample`."""

    item_schema: dict[str, Any]
    include_sample_schema: bool | None = None


class LogsData(_Config, tag="logs"):
    """What was answered and stored here, by its metadata."""

    metadata: dict[str, str] | None = None


class StoredCompletionsData(_Config, tag="stored_completions"):
    """`logs` by its older name."""

    metadata: dict[str, str] | None = None


DataConfig = CustomData | LogsData | StoredCompletionsData


class Eval(NamedTuple):
    """A row of `evals`. `labels` are the names of its criteria, made different where two agree."""

    id: str
    name: str
    config: DataConfig
    criteria: Sequence[Criterion]
    metadata: Mapping[str, str]
    created_ms: int
    updated_ms: int

    @property
    def labels(self) -> list[str]:
        return labels_of([criterion.name for criterion in self.criteria])


def labels_of(names: Sequence[str]) -> list[str]:
    """
    >>> labels_of(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    found: list[str] = []
    for name in names:
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name} ({number})"
        found.append(label)
    return found


def add(
    platform: Platform,
    principal: Principal,
    config: DataConfig,
    criteria: Sequence[Criterion],
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Eval:
    """Keep an eval that can be run here.

    Raises:
        InvalidInput: a schema or a criterion that makes no sense, naming its field.
    """
    principal.require(WRITE_SCOPE)
    kept = [checked(one, f"testing_criteria[{i}]") for i, one in enumerate(criteria)]
    require_modules(kept)
    return keep(platform, principal, config, kept, name=name, metadata=metadata)


def require_modules(criteria: Sequence[Criterion]) -> None:
    """Raises InvalidInput where the Python of one imports what is not there."""
    for i, criterion in enumerate(criteria):
        if isinstance(criterion, PythonCheck):
            grader_modules.require_modules(criterion.source, f"testing_criteria[{i}].source")


def keep(
    platform: Platform,
    principal: Principal,
    config: DataConfig,
    criteria: Sequence[Criterion],
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
    created_ms: int | None = None,
) -> Eval:
    """Keep an eval, also one whose Python cannot be run here: `add`, and what was made elsewhere.

    Args:
        created_ms: when it was made, if that was elsewhere and before.

    Raises:
        InvalidInput: a schema or a criterion that makes no sense, naming its field.
    """
    principal.require(WRITE_SCOPE)
    if not 1 <= len(criteria) <= MAX_CRITERIA:
        raise InvalidInput(
            f"an eval has 1 to {MAX_CRITERIA} criteria, not {len(criteria)}",
            param="testing_criteria",
        )
    if isinstance(config, CustomData):
        ItemSchema(config.item_schema)
    judged = [checked(one, f"testing_criteria[{i}]") for i, one in enumerate(criteria)]
    now, eval_id = now_ms(), new_id("eval", created_ms)
    row = {
        "id": eval_id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now if created_ms is None else created_ms,
        "updated_ms": now,
        "name": name or f"Eval of {', '.join(one.name for one in judged)}"[:200],
        "config": _json(config),
        "criteria": _json(judged),
        "metadata": _json(dict(metadata or {})),
    }
    with platform.db.write() as connection:
        connection.execute(evals.insert().values(row))
        facts = {"name": row["name"], "criteria": labels_of([one.name for one in judged])}
        audit.record(connection, principal, "eval.created", eval_id, after=facts)
        return _eval(connection.execute(sa.select(evals).where(evals.c.id == eval_id)).one())


def get(platform: Platform, principal: Principal, eval_id: str, *, scope: str = READ_SCOPE) -> Eval:
    """One eval of the principal's project. Raises NotFound."""
    principal.require(scope)
    with platform.db.read() as connection:
        mine = (evals.c.project_id == principal.project_id) & (evals.c.id == eval_id)
        row = connection.execute(sa.select(evals).where(mine)).first()
    if row is None:
        raise NotFound(
            f"No such eval: {eval_id[:100]}",
            param="eval_id",
            next_step="GET /v1/evals, or bessemer evals list",
        )
    return _eval(row)


def list_evals(
    platform: Platform,
    principal: Principal,
    asked: PageRequest,
    order_by: OrderBy = "created_at",
) -> tuple[list[Eval], bool]:
    """A page of the project's evals, and whether there are more."""
    principal.require(READ_SCOPE)
    mine = evals.c.project_id == principal.project_id
    with platform.db.read() as connection:
        if order_by == "created_at":
            rows, has_more = read_page(connection, evals, mine, asked)
        else:
            rows, has_more = _by_update(connection, mine, asked)
    return [_eval(row) for row in rows], has_more


def update(
    platform: Platform,
    principal: Principal,
    eval_id: str,
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Eval:
    """Rename an eval or give it other metadata; None leaves them."""
    before = get(platform, principal, eval_id, scope=WRITE_SCOPE)
    changed: dict[str, Any] = {"updated_ms": now_ms()}
    if name is not None:
        changed["name"] = name
    if metadata is not None:
        changed["metadata"] = _json(dict(metadata))
    with platform.db.write() as connection:
        connection.execute(evals.update().where(evals.c.id == eval_id).values(changed))
        after = _eval(connection.execute(sa.select(evals).where(evals.c.id == eval_id)).one())
        facts = (_facts(before), _facts(after))
        audit.record(connection, principal, "eval.updated", eval_id, *facts)
    return after


def delete(platform: Platform, principal: Principal, eval_id: str) -> None:
    """Forget an eval, its runs and their results. A run that goes on ends."""
    before = _facts(get(platform, principal, eval_id, scope=WRITE_SCOPE))
    with platform.db.write() as connection:
        for table in (eval_outputs, eval_runs):
            connection.execute(table.delete().where(table.c.eval_id == eval_id))
        connection.execute(evals.delete().where(evals.c.id == eval_id))
        audit.record(connection, principal, "eval.deleted", eval_id, before=before)


def _facts(found: Eval) -> audit.Facts:
    return {"name": found.name, "metadata": dict(found.metadata)}


def _by_update(
    connection: sa.Connection, mine: sa.ColumnElement[bool], asked: PageRequest
) -> tuple[Sequence[sa.Row[Any]], bool]:
    # Not `read_page`: ids sort by creation, so here the cursor is a pair.
    key = sa.tuple_(evals.c.updated_ms, evals.c.id)
    query = sa.select(evals).where(mine)
    if asked.after is not None:
        found = connection.execute(query.where(evals.c.id == asked.after)).first()
        if found is None:
            raise InvalidInput(f"there is no {asked.after[:100]!r} in this list", param="after")
        at = sa.tuple_(sa.literal(found.updated_ms), sa.literal(found.id))
        query = query.where(key < at if asked.order == "desc" else key > at)
    columns = (evals.c.updated_ms, evals.c.id)
    ordered = [c.desc() if asked.order == "desc" else c.asc() for c in columns]
    rows = connection.execute(query.order_by(*ordered).limit(asked.limit + 1)).all()
    return rows[: asked.limit], len(rows) > asked.limit


_config_decoder = msgspec.json.Decoder(DataConfig)
_criteria_decoder = msgspec.json.Decoder(list[Criterion])


def _eval(row: sa.Row[Any]) -> Eval:
    return Eval(
        row.id,
        row.name,
        _config_decoder.decode(row.config),
        _criteria_decoder.decode(row.criteria),
        msgspec.json.decode(row.metadata),
        row.created_ms,
        row.updated_ms,
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
