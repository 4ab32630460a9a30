"""Training is paid for: reserved when its run starts, settled when that start has ended.

A run that is killed and goes on has several starts, and a charge for each, by the run's id with the
start's number. What each used is read from what the run said of itself, so it is the same whenever
it is read, and the ledger makes a charge once however often it is asked to.

Device time is all the time in which the run's processes spoke, lost work included. Tokens are those
of each step once: a step that is taken again after a kill is not charged again, nor are the
answers that GRPO samples again, to learn from or to validate the step. Those are `rollout`
requests, priced as prompts and completions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from bessemer.app.platform import Platform
from bessemer.core.errors import BessemerError, Conflict, NotFound
from bessemer.core.events import Event
from bessemer.core.principal import Principal
from bessemer.core.recipes import load
from bessemer.core.runs import RunFolder
from bessemer.core.tables import runs
from bessemer.core.train_recipe import TrainRecipe
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Kind
from bessemer.ledger.ledger import Ledger
from bessemer.ledger.tables import reservations

SERVER = "server"

_log = logging.getLogger(__name__)


class Start(NamedTuple):
    """What one process of a run used, and what it sampled."""

    training: Counts
    rollouts: Counts


def reserve(platform: Platform, folder: RunFolder) -> None:
    """Hold what the next start may cost: its minutes, or the tokens of its steps, sampled too.

    Raises:
        BudgetExceeded: it does not fit a budget.
        InvalidInput: the rate card has no price for training this model.
    """
    owner = _owner(platform, folder)
    if owner is None:
        return
    resolved = folder.path / "resolved.toml"
    recipe = load(resolved if resolved.exists() else folder.recipe, TrainRecipe).recipe
    with Ledger(platform.db) as ledger:
        request_id = _name(platform, folder, len(starts(folder.read())) + 1)
        try:
            ledger.reserve(owner, request_id, _model(folder), "training", _most(recipe)).result()
        except Conflict:
            _log.info("%s is reserved already, by a process that never began", request_id)


def _most(recipe: TrainRecipe) -> Counts:
    """Of answers that are sampled, each as long as allowed: it shares a row with its prompt.

    A run that is given in minutes has no number of steps yet: its time is held, and no tokens.
    """
    if recipe.steps is None:
        return Counts(device_ms=round(recipe.minutes * 60_000))
    tokens = recipe.steps * recipe.tokens_per_step
    if recipe.grpo is None:
        return Counts(training=tokens)
    answers = recipe.batch.rows * recipe.grpo.group
    # Several steps may learn from the same answers; those of a validation are only judged.
    sampled = math.ceil(recipe.steps / recipe.grpo.updates) * answers
    sampled += (1 + len(recipe.validated_steps)) * recipe.evaluation.rows
    row = recipe.batch.sequence_length
    written = sampled * recipe.grpo.max_tokens
    return Counts(
        prompt=sampled * row - written, completion=written, training=recipe.steps * answers * row
    )


def settle(platform: Platform, folder: RunFolder) -> None:
    """Charge every start that has ended; that of a process which never began is released.

    Call it when no process runs the run. Doing it again changes nothing.
    """
    owner = _owner(platform, folder)
    if owner is None:
        return
    found, model = starts(folder.read()), _model(folder)
    with Ledger(platform.db) as ledger:
        for number, start in enumerate(found, 1):
            request_id = _name(platform, folder, number)
            _charge(ledger, owner, request_id, model, "training", start.training)
            if start.rollouts.tokens:
                name = f"{request_id}.rollouts"
                _charge(ledger, owner, name, model, "rollout", start.rollouts)
        try:
            unused = _name(platform, folder, len(found) + 1)
            ledger.release(unused, SERVER, "its process never began").result()
        except NotFound:
            pass  # mostly nothing was reserved beyond what began


def starts(events: Iterable[Event]) -> list[Start]:
    """What each process used, by its own words, in order.

    >>> starts([
    ...     {"t": 1.0, "kind": "state", "state": "running"},
    ...     {"t": 2.0, "kind": "step", "step": 1, "tokens": 8},
    ...     {"t": 2.5, "kind": "state", "state": "running"},
    ...     {"t": 3.5, "kind": "step", "step": 1, "tokens": 8},
    ... ])[1].training.device_ms
    1000
    """
    found: list[Start] = []
    begin_s, goes_on, step, batch, validated = 0.0, False, 0, -1, -1
    judged: Event | None = None
    for event in events:
        if event["kind"] == "state" and event.get("state") == "running":
            found.append(Start(Counts(), Counts()))
            begin_s, goes_on, judged = float(event["t"]), True, None
            continue
        if not goes_on or (event["kind"] == "state" and event.get("state") == "queued"):
            goes_on = False  # what comes until it runs again was said by others
            continue
        training, rollouts = found[-1]
        device_ms = max(training.device_ms, round((float(event["t"]) - begin_s) * 1000))
        training = training._replace(device_ms=device_ms)
        if event["kind"] == "step" and event["step"] > step:
            step = event["step"]
            training = training._replace(training=training.training + event.get("tokens", 0))
        if event["kind"] == "rollouts" and event["batch"] > batch:
            batch = event["batch"]
            rollouts = _with(rollouts, event)
        if event["kind"] == "judged":  # for the validation that is told next
            judged = event
        if event["kind"] == "validation" and judged is not None and event["step"] > validated:
            validated = event["step"]
            rollouts = _with(rollouts, judged)
        found[-1] = Start(training, rollouts)
        goes_on = event["kind"] != "state"
    return found


def _name(platform: Platform, folder: RunFolder, number: int) -> str:
    """The request of a start. One that was released, since its process never began, or by a person,
    is over; who begins after all is another."""
    name, rows = f"{folder.run_id}.{number}", reservations.c
    with platform.db.read() as connection:
        while connection.scalar(sa.select(rows.state).where(rows.id == name)) == "released":
            name += ".again"
    return name


def _with(before: Counts, event: Event) -> Counts:
    cached = event.get("cached_tokens", 0)
    return before._replace(
        prompt=before.prompt + event.get("prompt_tokens", 0) - cached,
        cached=before.cached + cached,
        completion=before.completion + event.get("tokens", 0),
    )


def _charge(
    ledger: Ledger, owner: Principal, request_id: str, model: str, kind: Kind, used: Counts
) -> None:
    try:
        try:
            ledger.settle(request_id, used).result()
        except NotFound:
            # What is free always fits, and what was used is charged whole: the work is done.
            ledger.reserve(owner, request_id, model, kind, Counts()).result()
            ledger.settle(request_id, used).result()
    except BessemerError as fault:
        _log.error("%s is not settled: %s", request_id, fault)


def _owner(platform: Platform, folder: RunFolder) -> Principal | None:
    """Who asked for the run; None where it trains nothing."""
    with platform.db.read() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.id == folder.run_id)).first()
    if row is None or row.kind != "train":
        return None
    return Principal(row.org_id, row.project_id, row.owner_id, frozenset())


def _model(folder: RunFolder) -> str:
    """The base whose rate it is, or of a network that begins with nothing its own name."""
    plan = folder.plan()
    return str((plan.get("model") or {}).get("name") or plan["name"])
