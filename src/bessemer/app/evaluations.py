"""Evaluations: measure one or two models on a dataset's test split and say which is better.

`submit_eval` asks for a run, `evaluate` is that run's work in its own process, `read_report` reads
what it found. The base (the first model) is measured without and with examples in its prompt,
the other one without, both on unrelated text. An engine is started only for a model that has
something left to measure, one at a time, so that the memory of one model is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pydantic

from bessemer.app import jobs
from bessemer.app.datasets import NamedDataset
from bessemer.app.engine_process import EngineProcess, WorkerCommand
from bessemer.app.engines import LOADING_WAIT_S, worker_command
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.events import EventLog
from bessemer.core.principal import Principal
from bessemer.core.progress import Progress
from bessemer.core.protocols import Engine
from bessemer.core.recipes import dumps
from bessemer.core.runs import RunFolder, write_atomically
from bessemer.data import corpus
from bessemer.data.dataset import Dataset
from bessemer.evals.comparing import Measured, values_of
from bessemer.evals.exam import Exam, set_exam
from bessemer.evals.measuring import Measurement, MeasurementFolder, Subject, Task, measure
from bessemer.evals.recipe import EvalRecipe
from bessemer.evals.report import Report, item_rows, make_report
from bessemer.models.config import ModelConfig

# A face takes all it needs of an evaluation from here, the recipe too.
__all__ = ["EvalRecipe", "evaluate", "open_engine", "read_report", "submit_eval"]

OpenEngine = Callable[[Path, str, int], AbstractAsyncContextManager[Engine]]


def submit_eval(
    platform: Platform,
    principal: Principal,
    base: NamedModel,
    taught: NamedModel | None,
    dataset: NamedDataset,
    recipe: EvalRecipe | None = None,
    *,
    threads: int,
    name: str | None = None,
    reuse: RunFolder | None = None,
) -> RunFolder:
    """Queue an evaluation.

    Args:
        taught: the model to hold against the base; None measures the base alone.
        threads: of the engine.
        reuse: an earlier evaluation; what it measured of the same model with the same questions
            is not measured again.
    """
    recipe = recipe or EvalRecipe()
    candidates = [_candidate("base", base)]
    if taught is not None:
        candidates.append(_candidate("taught", taught))
    plan = {
        "candidates": candidates,
        "dataset": _named(dataset),
        "threads": threads,
        "reuse": None if reuse is None else str(reuse.path),
        **recipe.model_dump(),
    }
    name = name or f"{(taught or base).name}-eval"
    return jobs.submit(platform, principal, "eval", name, dumps(recipe), plan)


def make_recipe(**values: Any) -> EvalRecipe:
    """The dials of an evaluation; those not given keep their defaults.

    Raises:
        InvalidInput: a value that makes no sense.
    """
    try:
        return EvalRecipe(**values)
    except pydantic.ValidationError as fault:
        raise InvalidInput(f"this evaluation cannot be asked for: {fault}") from fault


def _candidate(label: str, model: NamedModel) -> dict[str, str]:
    return {"label": label, **_named(model)}


def _named(found: NamedModel | NamedDataset) -> dict[str, str]:
    return {"name": found.name, "digest": found.digest, "path": str(found.path)}


def read_report(run: RunFolder) -> Report:
    """What a finished evaluation found.

    Raises:
        NotFound: it has not finished; says how much of it was asked, which is no result.
    """
    path = run.output / "report.json"
    if path.is_file():
        return Report.from_json(path.read_bytes())
    seen = run.last("progress")
    so_far = (
        f"; {seen['done']} of {seen['total']} questions of its current stage are answered"
        if seen
        else ""
    )
    raise NotFound(
        f"evaluation {run.run_id} is {run.state()} and has no result{so_far}",
        next_step=f"bessemer runs {run.run_id}",
    )


@contextlib.asynccontextmanager
async def open_engine(
    path: Path, digest: str, threads: int, command: WorkerCommand = worker_command
) -> AsyncIterator[Engine]:
    """A worker process for the time of a `with`.

    Raises:
        EngineUnavailable: it cannot load the model; its last lines say why.
    """
    model = NamedModel(path.name, digest, path, Artifact(digest, "model", path.name, path, 0))
    with tempfile.TemporaryDirectory(prefix="bessemer-eval-") as folder:
        process = EngineProcess(model, Path(folder), threads, command)
        process.start()
        try:
            yield await process.client(LOADING_WAIT_S)
        finally:
            await process.close()


def evaluate(run: RunFolder, open_engine: OpenEngine = open_engine) -> None:
    """Do what the run's plan says; writes events, `checkpoints/` and `output/`.

    Each whole stage is kept in `checkpoints/`, so a run that goes on asks only what is left.
    """
    log = run.open_log()
    try:
        _run_apart(_evaluate(run, log, open_engine))
    finally:
        log.close()


async def _evaluate(run: RunFolder, log: EventLog, open_engine: OpenEngine) -> None:
    # 1. What will be asked, of whom.
    plan = run.plan()
    recipe = EvalRecipe(**{key: plan[key] for key in EvalRecipe.model_fields if key in plan})
    candidates: list[dict[str, str]] = plan["candidates"]
    exam = _set_exam(plan, candidates, recipe)
    sizes = [len(task.questions) for tasks in exam.tasks for task in tasks]
    log.write("plan", items=len(exam.items), stages=len(sizes), questions=sum(sizes))

    # 2. Ask, except what was asked before; keep each whole stage.
    earlier = [RunFolder(Path(plan["reuse"])).checkpoints] if plan.get("reuse") else []
    kept = MeasurementFolder(run.checkpoints, earlier)
    measured: list[Measured] = []
    for candidate, tasks in zip(candidates, exam.tasks, strict=True):
        found = {task.key: old for task in tasks if (old := kept.find(task)) is not None}
        missing = [task for task in tasks if task.key not in found]
        if missing:
            folder, threads = Path(candidate["path"]), int(plan["threads"])
            async with open_engine(folder, candidate["digest"], threads) as engine:
                for task in missing:
                    found[task.key] = await _measure(engine, task, recipe, log)
                    kept.keep(found[task.key])
        for task in tasks:
            measured.append(Measured(candidate["label"], found[task.key]))
            _tell_values(log, measured[-1], reused=task not in missing)

    # 3. Say what was found.
    report = make_report(
        measured,
        recipe,
        models=[_without_path(candidate) for candidate in candidates],
        dataset=_without_path(plan["dataset"]),
    )
    run.output.mkdir(exist_ok=True)
    rows = b"".join(msgspec.json.encode(row) + b"\n" for row in item_rows(exam.items, measured))
    write_atomically(run.output / "items.jsonl", rows)
    write_atomically(run.output / "report.json", report.to_json())
    log.write("result", sentences=report.sentences)


def _set_exam(
    plan: dict[str, Any], candidates: Sequence[dict[str, str]], recipe: EvalRecipe
) -> Exam:
    folders = [Path(candidate["path"]) for candidate in candidates]
    subjects = [
        Subject.load(candidate["label"], candidate["digest"], folder)
        for candidate, folder in zip(candidates, folders, strict=True)
    ]
    return set_exam(
        subjects,
        Dataset.open(Path(plan["dataset"]["path"])),
        corpus.topics() if recipe.unrelated_tokens else (),
        recipe,
        context_length=min(ModelConfig.from_folder(folder).context_length for folder in folders),
    )


async def _measure(engine: Engine, task: Task, recipe: EvalRecipe, log: EventLog) -> Measurement:
    progress = Progress(log.write, str(task), "questions", len(task.questions))
    found = await measure(engine, task, in_flight=recipe.in_flight, on_progress=progress.tell)
    progress.end()
    return found


def _tell_values(log: EventLog, measured: Measured, *, reused: bool) -> None:
    for value in values_of(measured):
        log.write(
            "measure",
            label=value.who,
            metric=value.metric,
            value=value.value,
            n=value.answered,
            of=value.asked,
            reused=reused,
        )


def _without_path(named: dict[str, str]) -> dict[str, str]:
    # A report may leave this machine; a digest means the same elsewhere, a path does not.
    return {key: value for key, value in named.items() if key != "path"}


def _run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` in a thread while this one waits.

    The request to stop is an exception raised wherever the main thread happens to be. Within an
    event loop's callback the loop would swallow it; here it always arrives, and cancels `work`.
    """
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def main() -> None:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        started.set()
        await work

    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(asyncio.run, main())
        try:
            future.result()
        except BaseException:
            if not future.done():
                started.wait()
                loop, task = running[0]
                assert task is not None
                with contextlib.suppress(RuntimeError):  # the loop ended just now
                    loop.call_soon_threadsafe(task.cancel)
            raise
