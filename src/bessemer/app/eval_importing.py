"""Evals, runs and results that were exported from OpenAI, taken as if they had been made here.

    found = import_objects(platform, principal, eval_exports.read_objects(paths))
    found.notes            # what could not be taken, and what has to be known

Objects are those of OpenAI's API (`eval`, `eval.run`, `eval.run.output_item`), in any order. Each
keeps its date, and its old id in its metadata; what was imported before is not imported again, so
that results can follow their definitions later. An imported run is a record: it is shown and
compared, and to do it again is a new run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa

from bessemer.app import eval_definitions, eval_runs
from bessemer.app.catalog import SENTENCE_MODEL
from bessemer.app.eval_definitions import (
    MAX_METADATA,
    CustomData,
    DataConfig,
    Eval,
    LogsData,
    StoredCompletionsData,
    labels_of,
)
from bessemer.app.eval_exports import KINDS, Json, fault_of, said
from bessemer.app.eval_imported_results import made_ms, output_of, tally_of, usage_of
from bessemer.app.eval_runs import Fault, State
from bessemer.app.eval_schema import ItemSchema
from bessemer.app.eval_tally import Tally
from bessemer.app.platform import Platform
from bessemer.app.tables import eval_outputs, evals
from bessemer.app.tables import eval_runs as runs_table
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.text.criteria import (
    Criterion,
    LabelModel,
    PythonCheck,
    ScoreModel,
    TextSimilarity,
    checked,
)
from bessemer.text.grader_modules import require_modules

ORIGIN = "openai_id"
_ENDED: tuple[State, ...] = ("completed", "canceled", "failed")
_NAMED = re.compile(r"(.*)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.DOTALL)

T = TypeVar("T")


class Imported(NamedTuple):
    """New ids by old ones, how many results were taken, and what there is to say about it."""

    evals: dict[str, str]
    runs: dict[str, str]
    outputs: int
    notes: list[str]


def import_objects(platform: Platform, principal: Principal, objects: Iterator[Json]) -> Imported:
    """Take them. What cannot be taken is told in the notes, and the rest is."""
    principal.require(eval_definitions.WRITE_SCOPE)
    by_kind: dict[str, list[Json]] = {kind: [] for kind in KINDS}
    taken = Imported({}, {}, 0, [])
    for sent in objects:
        found = said(sent)
        if (fault := fault_of(found)) is not None:
            taken.notes.append(f"{found.get('id')} could not be taken: {fault}")
            continue
        by_kind[found["object"]].append(found)
    known = _known(platform, principal)
    for found in by_kind["eval"]:
        _take_eval(platform, principal, found, known, taken)
    results: dict[str, list[Json]] = {}
    for found in by_kind["eval.run.output_item"]:
        results.setdefault(str(found.get("run_id")), []).append(found)
    for found in by_kind["eval.run"]:
        _take_run(platform, principal, found, known, taken)
    outputs = sum(
        _take_results(platform, principal, run_id, found, known, taken)
        for run_id, found in results.items()
    )
    return taken._replace(outputs=outputs)


class _Known(NamedTuple):
    """What is here already: new ids by old ones."""

    evals: dict[str, str]
    runs: dict[str, tuple[str, str]]


def _known(platform: Platform, principal: Principal) -> _Known:
    found = _Known({}, {})
    with platform.db.read() as connection:
        mine = evals.c.project_id == principal.project_id
        for row in connection.execute(sa.select(evals.c.id, evals.c.metadata).where(mine)):
            if (old := json.loads(row.metadata).get(ORIGIN)) is not None:
                found.evals[old] = row.id
        table = runs_table.c
        mine = table.project_id == principal.project_id
        query = sa.select(table.id, table.eval_id, table.metadata).where(mine)
        for run in connection.execute(query):
            if (old := json.loads(run.metadata).get(ORIGIN)) is not None:
                found.runs[old] = (run.eval_id, run.id)
    return found


def _take_eval(
    platform: Platform, principal: Principal, sent: Json, known: _Known, taken: Imported
) -> None:
    old = str(sent.get("id"))
    if old in known.evals:
        taken.notes.append(f"{old} is here already, as {known.evals[old]}")
        return
    try:
        config = _usable(_config(sent.get("data_source_config") or {}), old, taken.notes)
        criteria = list(_criteria(old, sent.get("testing_criteria") or [], taken.notes))
        if not criteria:
            raise InvalidInput("none of its criteria can be judged here")
        made = eval_definitions.keep(
            platform,
            principal,
            config,
            criteria,
            name=sent.get("name"),
            metadata=_metadata(old, sent, taken.notes),
            created_ms=made_ms(sent),
        )
    except InvalidInput as fault:
        taken.notes.append(f"{old} could not be taken: {fault.message}")
        return
    known.evals[old] = taken.evals[old] = made.id


def _config(sent: Json) -> DataConfig:
    kind = sent.get("type")
    metadata = sent.get("metadata") or None
    if kind == "logs":
        return LogsData(metadata)
    if kind == "stored_completions":
        return StoredCompletionsData(metadata)
    if kind != "custom":
        raise InvalidInput(f"its data source is of the type {kind!r}")
    if "item_schema" in sent:
        return _converted(dict(sent), CustomData)
    properties = (sent.get("schema") or {}).get("properties") or {}
    return CustomData(
        item_schema=properties.get("item") or {}, include_sample_schema="sample" in properties
    )


def _usable(config: DataConfig, old: str, notes: list[str]) -> DataConfig:
    """With a schema that asks for nothing, where its own asks for what cannot be held to here."""
    if not isinstance(config, CustomData):
        return config
    try:
        ItemSchema(config.item_schema)
    except InvalidInput as fault:
        notes.append(f"{old}: items are taken as they come, for {fault.message}")
        return msgspec.structs.replace(config, item_schema={})
    return config


def _criteria(old: str, sent: Sequence[Json], notes: list[str]) -> Iterator[Criterion]:
    for one in sent:
        fields = {key: value for key, value in one.items() if key != "id"}
        name = fields.get("name")
        how = dict(fields.get("sampling_params") or {})
        if (effort := how.pop("reasoning_effort", "none")) != "none":
            fields["sampling_params"] = how
            notes.append(
                f"{old}: {name!r} was judged with the reasoning effort {effort!r}; models here have"
                " no dial for it"
            )
        try:
            read: Criterion = _converted(fields, Criterion)
            criterion = checked(read)
        except InvalidInput as fault:
            notes.append(f"{old}: the criterion {name!r} could not be taken: {fault.message}")
            continue
        match criterion:
            case ScoreModel() | LabelModel():
                notes.append(
                    f"{old}: {name!r} is judged by {criterion.model!r}, which has to be served here"
                    " by that name to run it again (bessemer targets)"
                )
            case PythonCheck():
                try:
                    require_modules(criterion.source, f"{name}.source")
                except InvalidInput as fault:
                    notes.append(f"{old}: it can be run once that is mended: {fault.message}")
            case TextSimilarity(evaluation_metric="cosine"):
                notes.append(f"{old}: the vectors of {name!r} come from {SENTENCE_MODEL} here")
        yield criterion


def _converted(value: Any, kind: type[T] | Any) -> T:
    try:
        found: T = msgspec.convert(value, kind)
    except msgspec.ValidationError as fault:
        raise InvalidInput(str(fault)) from None
    return found


def _metadata(old: str, sent: Json, notes: list[str]) -> dict[str, str]:
    found = {str(key): str(value) for key, value in (sent.get("metadata") or {}).items()}
    if len(found) >= MAX_METADATA:
        notes.append(f"{old}: its id is not kept, since its metadata has {len(found)} pairs")
        return found
    return {**found, ORIGIN: old}


def _take_run(
    platform: Platform, principal: Principal, sent: Json, known: _Known, taken: Imported
) -> None:
    old, old_eval = str(sent.get("id")), str(sent.get("eval_id"))
    if old in known.runs:
        taken.notes.append(f"{old} is here already, as {known.runs[old][1]}")
        return
    if old_eval not in known.evals:
        taken.notes.append(f"{old} could not be taken: its eval {old_eval} is not here")
        return
    definition = eval_definitions.get(platform, principal, known.evals[old_eval])
    counts = sent.get("result_counts") or {}
    told = sent.get("status")
    state: State = "canceled"
    error = sent.get("error") or {}
    fault = Fault(str(error.get("code") or ""), str(error.get("message") or ""))
    if told in _ENDED:
        state = told
    else:
        fault = Fault("imported", f"it was {told} when it was exported")
    made = eval_runs.add(
        platform,
        principal,
        definition.id,
        None,
        sent.get("data_source") or {},
        total=int(counts.get("total") or 0),
        name=sent.get("name"),
        model=str(sent.get("model") or ""),
        metadata=_metadata(old, sent, taken.notes),
        state=state,
        created_ms=made_ms(sent),
    )
    tally = tally_of(sent, definition.labels, lambda names: _labels(names, definition))
    _keep(platform, made.id, tally, fault)
    known.runs[old] = (definition.id, made.id)
    taken.runs[old] = made.id


def _keep(platform: Platform, run_id: str, tally: Tally, fault: Fault) -> None:
    values = {"tally": msgspec.json.encode(tally).decode()}
    if fault.message:
        values["error"] = msgspec.json.encode(fault).decode()
    with platform.db.write() as connection:
        connection.execute(runs_table.update().where(runs_table.c.id == run_id).values(values))


def _take_results(
    platform: Platform,
    principal: Principal,
    old_run: str,
    sent: Sequence[Json],
    known: _Known,
    taken: Imported,
) -> int:
    if old_run not in known.runs:
        taken.notes.append(
            f"{len(sent)} results could not be taken: their run {old_run} is not here"
        )
        return 0
    eval_id, run_id = known.runs[old_run]
    definition = eval_definitions.get(platform, principal, eval_id)
    count = again = 0
    with platform.db.write() as connection:
        this = runs_table.c.id == run_id
        row = connection.execute(sa.select(runs_table).where(this).with_for_update()).one()
        numbers = sa.select(eval_outputs.c.number).where(eval_outputs.c.run_id == run_id)
        there = set(connection.execute(numbers).scalars())
        if not there:
            # From here on what its results add up to counts, not what the run said of itself.
            used = usage_of(msgspec.json.decode(row.tally, type=Tally))
            tally = msgspec.json.encode(used).decode()
            connection.execute(runs_table.update().where(this).values(tally=tally))
        for one in sent:
            output = output_of(one, definition.labels, lambda names: _labels(names, definition))
            if output is None:
                taken.notes.append(f"{one.get('id')} could not be taken: it has no item or number")
            elif output.number in there:
                again += 1
            else:
                there.add(output.number)
                row = connection.execute(sa.select(runs_table).where(this)).one()
                eval_runs.insert_output(connection, row, output)
                count += 1
    if again:
        taken.notes.append(f"{again} results of {old_run} are here already")
    total = max(row.total, len(there))
    if row.total > len(there):
        taken.notes.append(
            f"{old_run} had {total} items, and the results of {total - len(there)} are not here:"
            " the run is partial until they are imported"
        )
    return count


def _labels(names: Sequence[str], definition: Eval) -> list[str]:
    """What OpenAI calls criteria (`NAME-uuid`) by their labels here."""
    bare = [found[1] if (found := _NAMED.fullmatch(name)) else name for name in names]
    return [
        label if label in definition.labels else name
        for label, name in zip(labels_of(bare), bare, strict=True)
    ]
