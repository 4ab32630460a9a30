"""What a fine-tuning job will take, before it is asked for: does it fit, how long, at what cost.

A plan does what the job will do, up to its first steps. The files are checked by the same rules,
"auto" becomes the same numbers, and a process of the train room opens the run and times some of its
steps (`train.planning`), with the answers that it samples and the grader that judges them. It is
worked out in the background, one at a time; nothing of it is kept but what is told here, and not
over the server's end.

    plan_id = plans.ask(principal, request)
    plans.get(principal, plan_id).plan       # None while it is worked out
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bessemer.app import files, fine_tuning, jobs, spending
from bessemer.app.adapters import NamedAdapter, find_served
from bessemer.app.fine_tuning import Request
from bessemer.app.fine_tuning_files import check_files, measure
from bessemer.app.fine_tuning_method import Method
from bessemer.app.fine_tuning_recipe import Measured, Start, settle
from bessemer.app.platform import Platform
from bessemer.app.supervisor import thread_budget
from bessemer.core.errors import BessemerError, InvalidInput, NotFound, OutOfMemory, RunFailed
from bessemer.core.ids import new_id
from bessemer.core.memory import measure as measure_memory
from bessemer.core.principal import Principal
from bessemer.core.recipes import dumps
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.given_splits import import_splits
from bessemer.ledger.cards import FREE
from bessemer.ledger.counts import Counts
from bessemer.models.config import ModelConfig

MOST_KEPT = 50
LIMIT_S = 15 * 60.0

Stage = Literal["waiting", "files", "tokens", "steps", "done"]
STAGES: tuple[Stage, ...] = ("waiting", "files", "tokens", "steps", "done")


class Cost(NamedTuple):
    """In micro-units of `currency`, for the tokens and the time of the device."""

    micro: int
    currency: str


Price = Callable[[Counts], Cost | None]


class Takes(NamedTuple):
    """Time, tokens and money.

    Attributes:
        step_s: seconds of a step.
        seconds: from its start to its end, without the time it waits for its turn.
        tokens: that will be trained on, each as often as it is.
        cost: None where the rate card in force has no price for it.
    """

    step_s: float
    seconds: float
    tokens: int
    cost: Cost | None


class Answers(NamedTuple):
    """The answers that a reinforcement job samples. How long they become is not known before.

    Attributes:
        sampled: in all, to learn from.
        tokens: of one, in the mean of those that were sampled while steps were timed.
        most_tokens: that one may have.
        at_most: what the job takes if each of them has.
    """

    sampled: int
    tokens: float
    most_tokens: int
    at_most: Takes


class Plan(NamedTuple):
    """What a job will take on this machine as it is now.

    Attributes:
        method: with numbers in place of "auto".
        lines, longest: of the training file, and the tokens of the longest line of all.
        needs_bytes, free_bytes: memory.
        takes: with answers as long as those that were sampled, if it samples any.
        answers: None of a job that learns from what is in its files.
        beside: the runs that were going while steps were timed, which made them slower.
    """

    method: Method
    lines: int
    longest: int
    steps: int
    trained: int
    parameters: int
    precision: str
    threads: int
    needs_bytes: int
    free_bytes: int
    takes: Takes
    answers: Answers | None
    beside: int

    @property
    def fits(self) -> bool:
        return self.needs_bytes <= self.free_bytes


@dataclass
class Planned:
    """A plan on its way. `job_id` is the job's that was made of it."""

    id: str
    principal: Principal
    request: Request
    stage: Stage = "waiting"
    plan: Plan | None = None
    fault: BessemerError | None = None
    job_id: str | None = None
    began_s: float = field(default_factory=time.time)
    starting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_open(self) -> bool:
        return self.plan is None and self.fault is None

    @property
    def too_large(self) -> bool:
        """Whether it does not fit, by what was measured or by how measuring ended."""
        return isinstance(self.fault, OutOfMemory) or (self.plan is not None and not self.plan.fits)


class Plans:
    """The plans of one server.

    Args:
        command: starts the process that times steps; its folder is appended.
    """

    def __init__(self, platform: Platform, command: jobs.Command = jobs.RUN_COMMAND) -> None:
        self._platform, self._command = platform, command
        self._known: dict[str, Planned] = {}
        self._turn = threading.Lock()

    def ask(self, principal: Principal, request: Request) -> str:
        """Begin to plan a job; the plan's id. Raises as `fine_tuning.create`."""
        method = fine_tuning.check(self._platform, principal, request).method
        planned = Planned(new_id("plan"), principal, request._replace(method=method))
        self._known[planned.id] = planned
        while len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]
        # A daemon: nobody waits for a plan when the server ends.
        work = threading.Thread(target=self._work, args=(planned,), name="plan", daemon=True)
        work.start()
        return planned.id

    def get(self, principal: Principal, plan_id: str) -> Planned:
        """Raises NotFound unless it is one of the principal's project."""
        principal.require(fine_tuning.READ_SCOPE)
        found = self._known.get(plan_id)
        if found is None or found.principal.project_id != principal.project_id:
            raise NotFound(
                f"there is no plan {plan_id[:100]!r}; plans end with the server that made them",
                next_step="plan the job again",
            )
        return found

    def start(self, principal: Principal, plan_id: str) -> str:
        """Ask for the job that was planned; its id. Doing it twice makes one job."""
        principal.require(fine_tuning.WRITE_SCOPE)
        planned = self.get(principal, plan_id)
        with planned.starting:
            if planned.job_id is None:
                job = fine_tuning.create(self._platform, principal, planned.request)
                planned.job_id = job.id
            return planned.job_id

    def _work(self, planned: Planned) -> None:
        try:
            with self._turn, tempfile.TemporaryDirectory(prefix="bessemer-plan-") as folder:
                planned.plan = _plan(self._platform, planned, Path(folder), self._command)
        except BessemerError as fault:
            planned.fault = fault
        except Exception as fault:
            planned.fault = RunFailed(f"{type(fault).__name__}: {fault}")
            raise
        finally:
            planned.stage = "done"


def _plan(platform: Platform, planned: Planned, folder: Path, command: jobs.Command) -> Plan:
    principal, request = planned.principal, planned.request
    # 1. The files, by the checks of the job.
    planned.stage = "files"
    train, validation = (
        None if file_id is None else files.get(platform, principal, file_id).path
        for file_id in (request.training_file, request.validation_file)
    )
    assert train is not None
    shape = check_files(request.method.type, train, validation)
    dataset = folder / "dataset"
    dataset.mkdir()
    import_splits(train, validation, dataset, shape)
    # 2. Its tokens, and the recipe.
    planned.stage = "tokens"
    served = find_served(platform, principal, request.model)
    base = served.base if isinstance(served, NamedAdapter) else served
    context_length = ModelConfig.from_folder(base.path).context_length
    measured = measure(
        dataset, request.method, base.path, context_length, train=train, validation=validation
    )
    adapter = str(served.path) if isinstance(served, NamedAdapter) else None
    start = Start(base.name, context_length, adapter)
    seed = request.seed or 0
    settled = settle(request.method, start, dataset.name, measured, seed=seed)
    # 3. Some of its steps.
    planned.stage = "steps"
    free_bytes = measure_memory().available
    beside = sum(run.state == "running" for run in jobs.list_runs(platform, principal))
    inputs: dict[str, Any] = {
        "model": {"name": base.name, "digest": base.digest, "path": str(base.path)},
        "datasets": {dataset.name: {"name": dataset.name, "digest": "", "path": str(dataset)}},
        "models": {},
        "threads": thread_budget(),
        "kind": "plan",
    }
    run = RunFolder.create(folder / "run", dumps(settled.recipe), inputs)
    told = _told_by(run, command)
    price = partial(_cost, platform, principal, base.name)
    recipe = settled.recipe
    return Plan(
        method=settled.method,
        lines=measured.lines,
        longest=measured.longest,
        steps=recipe.steps or 0,
        trained=told["trainable_parameters"],
        parameters=told["parameters"],
        precision=told["precision"],
        threads=told["threads"],
        needs_bytes=told["needs_bytes"],
        free_bytes=free_bytes,
        takes=_takes(recipe, measured, told, price),
        answers=_answers(recipe, measured, told, price),
        beside=beside,
    )


def _told_by(run: RunFolder, command: jobs.Command) -> dict[str, Any]:
    """What the measuring process says. It is gone when this returns."""
    with run.log.open("ab") as log:
        process = jobs.spawn(run, log, thread_budget(), command)
    try:
        process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"measuring took more than {LIMIT_S / 60:.0f} min") from None
    finally:
        process.kill()
        process.wait()
    told = run.last("measured")
    if told is not None:
        return told
    error = (run.last("state") or {}).get("error")
    if error is not None:
        kind = OutOfMemory if error.get("code") == OutOfMemory.code else RunFailed
        raise kind(error["message"], next_step=error.get("next_step"))
    raise OutOfMemory(
        f"the process that timed the first steps was ended from outside ({process.returncode}),"
        " most likely because the machine's memory was full",
        next_step="free some memory, or shorten the longest lines",
    )


def _answers(
    recipe: TrainRecipe, measured: Measured, told: dict[str, Any], price: Price
) -> Answers | None:
    if recipe.grpo is None:
        return None
    most = recipe.grpo.max_tokens
    judged = {**told["judged"], "answer_tokens": most}
    longest = {**told, **told["at_most"], "answer_tokens": most, "judged": judged}
    sampled = _seen(recipe) * recipe.grpo.group
    at_most = _takes(recipe, measured, longest, price)
    return Answers(sampled, told["answer_tokens"], most, at_most)


def _takes(recipe: TrainRecipe, measured: Measured, told: dict[str, Any], price: Price) -> Takes:
    seconds = _seconds(recipe, measured, told)
    used = _tokens(recipe, measured, told)._replace(device_ms=round(seconds * 1000))
    return Takes(told["step_s"], seconds, used.training, price(used))


def _seen(recipe: TrainRecipe) -> int:
    """Lines, each as often as it is."""
    return (recipe.steps or 0) * recipe.batch.rows


def _a_look(recipe: TrainRecipe, measured: Measured) -> int:
    """Lines that a validation judges."""
    return min(recipe.evaluation.rows, measured.judged)


def _judged(recipe: TrainRecipe, measured: Measured) -> int:
    """Lines that are judged before the first step and between steps, each as often as it is."""
    return _a_look(recipe, measured) * (1 + len(recipe.validated_steps))


def _seconds(recipe: TrainRecipe, measured: Measured, told: dict[str, Any]) -> float:
    """Opening, what is read before the first step, the steps, and the looks between them."""
    # DPO asks the reference about every pair once, without a gradient: as rows that are judged.
    before = 0
    if recipe.objective == "dpo":
        before = min(measured.lines, _seen(recipe)) + _a_look(recipe, measured)
    rows_s = (_judged(recipe, measured) + before) * told["judged_row_s"]
    return float(told["open_s"] + (recipe.steps or 0) * told["step_s"] + rows_s)


def _tokens(recipe: TrainRecipe, measured: Measured, told: dict[str, Any]) -> Counts:
    """As `run_metering` counts them: answers are written, and most of them trained on behind their
    prompts; those of validations are only judged."""
    read = measured.tokens * _seen(recipe) / measured.lines
    if recipe.grpo is None:
        return Counts(training=round(read))
    prompts = round(read * recipe.grpo.group)
    answers = round(_seen(recipe) * recipe.grpo.group * told["answer_tokens"])
    cached = round(prompts * told["cached_share"])
    looks, one = _judged(recipe, measured), told["judged"]
    asked, answered = (round(looks * one[each]) for each in ("prompt_tokens", "answer_tokens"))
    known = round(asked * one["cached_share"])
    return Counts(
        prompt=prompts - cached + asked - known,
        cached=cached + known,
        completion=answers + answered,
        training=prompts + answers,
    )


def _cost(platform: Platform, principal: Principal, base: str, used: Counts) -> Cost | None:
    if not principal.holds(spending.READ_SCOPE):
        return None
    card = spending.prices(platform, principal)
    if card.digest == FREE.digest:
        return None
    try:
        micro = card.cost_micro(base, used)
    except InvalidInput:  # no rate, or none for training
        return None
    return Cost(micro, card.currency)
