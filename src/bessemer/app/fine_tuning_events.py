"""What a job tells of itself, in OpenAI's events: the row's part, and the run's `events.jsonl`.

The list only grows, so an event's number is its id and a cursor: what a row says first, then what
the run says in its own order, then the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bessemer.app.fine_tuning import FINAL, Job, get, run_folder
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.core.events import Event
from bessemer.core.principal import Principal

Level = Literal["info", "warn", "error"]

# What a step or validation says beside these is a metric of its objective, and told as it is.
_OF_THE_LOOP = frozenset(
    ("t", "kind", "step", "loss", "lr", "grad_norm", "tokens", "tokens_s", "mfu", "eta_s")
)


class JobEvent(NamedTuple):
    id: str
    created_s: int
    level: Level
    message: str
    data: Mapping[str, Any] | None = None

    @property
    def is_metrics(self) -> bool:
        return self.data is not None


def list_events(
    platform: Platform, principal: Principal, job_id: str, asked: PageRequest
) -> tuple[list[JobEvent], bool]:
    """A page of a job's events, newest first, and whether there are more.

    Raises:
        InvalidInput: the cursor names no event of the job.
    """
    newest_first = all_events(platform, get(platform, principal, job_id))[::-1]
    begin = 0
    if asked.after is not None:
        ids = [event.id for event in newest_first]
        if asked.after not in ids:
            raise no_such_event(asked.after)
        begin = ids.index(asked.after) + 1
    end = begin + asked.limit
    return newest_first[begin:end], end < len(newest_first)


def all_events(platform: Platform, job: Job) -> list[JobEvent]:
    """Every event so far, oldest first."""
    told = [(job.created_ms // 1000, _Told(f"Created fine-tuning job: {job.id}"))]
    folder = run_folder(platform, job)
    if folder is not None and job.status != "validating_files":
        told += _in_words(folder.read(), job.validation_file is not None)
    if job.status in FINAL and job.finished_ms is not None:
        end_s = job.finished_ms // 1000
        told += [(end_s, ending) for ending in _endings(job)]
    stem = job.id.removeprefix("ftjob-")
    return [
        JobEvent(f"ftevent-{stem}-{number:06d}", t, each.level, each.message, each.data)
        for number, (t, each) in enumerate(told)
    ]


def no_such_event(cursor: str) -> InvalidInput:
    return InvalidInput(f"there is no {cursor[:100]!r} in this list", param="after")


def train_metrics(event: Event) -> dict[str, float]:
    """What a `step` event measured."""
    return {"step": event["step"], "train_loss": event["loss"], **_others(event, "train")}


def valid_metrics(event: Event) -> dict[str, float]:
    """What a `validation` event measured, on lines that are not learned from."""
    return {"step": event["step"], "valid_loss": event["loss"], **_others(event, "valid")}


class _Told(NamedTuple):
    message: str
    level: Level = "info"
    data: Mapping[str, Any] | None = None


def _in_words(events: Sequence[Event], validated: bool) -> list[tuple[int, _Told]]:
    steps = next((event["steps"] for event in events if event["kind"] == "plan"), 0)
    told = []
    for event in events:
        words = _WORDS.get(event["kind"])
        if words is not None and (validated or event["kind"] != "validation"):
            told += [(int(event["t"]), each) for each in words(event, steps)]
    return told


def _state(event: Event, _steps: int) -> Iterator[_Told]:
    match event["state"]:
        case "running":
            yield _Told("The run's process has begun.")
        case "queued":
            yield _Told("The run waits for its turn again.")
        case "cancelled":
            yield _Told("The run has stopped after a checkpoint.")


def _plan(event: Event, steps: int) -> Iterator[_Told]:
    yield _Told(
        f"Files validated. {steps} steps with {event['trainable_parameters']:,} trained weights"
        f" beside {event['parameters']:,}, computed in {event['precision']} by"
        f" {event['threads']} threads."
    )


def _step(event: Event, steps: int) -> Iterator[_Told]:
    message = f"Step {event['step']}/{steps}: training loss={event['loss']:.4f}"
    yield _Told(message, data={**train_metrics(event), "total_steps": steps})


def _validation(event: Event, steps: int) -> Iterator[_Told]:
    message = f"Step {event['step']}/{steps}: validation loss={event['loss']:.4f}"
    yield _Told(message, data={**valid_metrics(event), "total_steps": steps})


def _snapshot(event: Event, _steps: int) -> Iterator[_Told]:
    yield _Told(f"Checkpoint created at step {event['step']}")


def _resumed(event: Event, _steps: int) -> Iterator[_Told]:
    yield _Told(f"The run goes on from the checkpoint of step {event['step']}.")


def _skipped(event: Event, _steps: int) -> Iterator[_Told]:
    yield _Told(f"Step {event['step']} was left out: its {event['what']}.", "warn")


def _note(event: Event, _steps: int) -> Iterator[_Told]:
    yield _Told(str(event["message"]), "warn")


_WORDS: Mapping[str, Callable[[Event, int], Iterator[_Told]]] = {
    "state": _state, "plan": _plan, "step": _step, "validation": _validation,
    "snapshot": _snapshot, "resumed": _resumed, "skipped": _skipped, "note": _note,
}  # fmt: skip


def _endings(job: Job) -> Iterator[_Told]:
    match job.status:
        case "succeeded":
            yield _Told(f"New fine-tuned model created: {job.model_name}")
            yield _Told("The job has successfully completed")
        case "failed":
            yield _Told(job.error.message if job.error else "The job has failed", "error")
        case "cancelled":
            yield _Told("The job was cancelled")


def _others(event: Event, of: str) -> dict[str, float]:
    return {
        f"{of}_{name.replace('/', '_')}": value
        for name, value in event.items()
        if name not in _OF_THE_LOOP and isinstance(value, int | float)
    }
