"""What a run has told so far: its events folded into the facts a page shows.

Reads only the run's folder. Unknown kinds and missing fields are passed over, because a page must
also show a run of yesterday's version, or half a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.events import Event, read_events

LOSS_UNITS = {
    **dict.fromkeys(("pretrain", "sft", "distill", "reptile"), "nats per token"),
    **dict.fromkeys(("dpo", "reward"), "nats per pair"),
}
# Fields of step and validation events that are shown by names of their own, or not at all.
KNOWN = frozenset(
    {
        "t",
        "kind",
        "step",
        "loss",
        "bits_per_byte",
        "lr",
        "grad_norm",
        "tokens",
        "tokens_s",
        "mfu",
        "eta_s",
    }
)


class Figure(NamedTuple):
    """One measured value on a page. `form` names the filter that words it."""

    name: str
    value: Any
    form: str
    hint: str = ""


class Fault(NamedTuple):
    """What happened, and the next command if there is one."""

    message: str
    next_step: str | None


class Progress(NamedTuple):
    """`done` of `total`, in `unit`s, of `stage`. `total` None: it has not said yet."""

    done: int
    total: int | None
    unit: str
    stage: str = ""

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass
class Story:
    """The newest event of each kind, and how long the run has worked."""

    plan: Event = field(default_factory=dict)
    step: Event = field(default_factory=dict)
    progress_event: Event = field(default_factory=dict)
    result: Event = field(default_factory=dict)
    sample: Event = field(default_factory=dict)
    state: Event = field(default_factory=dict)
    validation: Event = field(default_factory=dict)
    worked_s: float = 0.0
    last_s: float | None = None

    @classmethod
    def read(cls, path: Path) -> Story:
        return cls.of(read_events(path).events)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Story:
        story = cls()
        for event in events:
            story._take(event)
        return story

    def _take(self, event: Event) -> None:
        match event.get("kind"):
            case "plan" | "step" | "validation" | "sample" | "result" | "state" as kind:
                setattr(self, kind, event)
            case "progress":
                self.progress_event = event
        if isinstance(moment := event.get("t"), (int, float)):
            # Between its last word and being queued or started again, it did not work.
            if self.last_s is not None and event.get("state") not in ("queued", "running"):
                self.worked_s += moment - self.last_s
            self.last_s = moment

    @property
    def error(self) -> Fault | None:
        """What a run that failed said last."""
        error = self.state.get("error")
        if isinstance(error, dict):
            return Fault(str(error.get("message", "it failed")), error.get("next_step"))
        return None if error is None else Fault(str(error), None)

    @property
    def progress(self) -> Progress | None:
        """How far it is, once it has said so."""
        told = self.progress_event
        if isinstance(done := told.get("done"), int):
            total, stage = told.get("total"), told.get("stage", "")
            unit = str(told.get("unit", "questions"))
            return Progress(done, total if isinstance(total, int) else None, unit, str(stage))
        done, total = self.step.get("step"), self.plan.get("steps")
        if isinstance(done, int):
            return Progress(done, total if isinstance(total, int) else None, "steps")
        return Progress(0, total, "steps") if isinstance(total, int) else None

    @property
    def eta_s(self) -> float | None:
        """Seconds left by the run's own reckoning, less what has passed since it said so."""
        newest = max(self.step, self.progress_event, key=lambda event: event.get("t", 0.0))
        eta, said_s = newest.get("eta_s"), newest.get("t", 0.0)
        # What it reckoned before it was paused says nothing of the time from its next start on.
        if not isinstance(eta, (int, float)) or said_s < self.state.get("t", 0.0):
            return None
        return max(0.0, float(eta) - (time.time() - float(newest.get("t", time.time()))))

    @property
    def loss_unit(self) -> str:
        """Of the objective's loss; empty where it has none."""
        return LOSS_UNITS.get(str(self.plan.get("objective", "sft")), "")

    def figures(self, *, held_out: bool = True) -> list[Figure]:
        """What is known, in the order a page shows it; nothing is made up for what is not.

        Args:
            held_out: whether the lines of its validation are none that it learns from.
        """
        step, plan, told, unit = self.step, self.plan, self.validation, self.loss_unit

        def between(what: str) -> str:
            return judged(what, held_out)

        found = [
            Figure("Training loss", step.get("loss"), "figure", unit),
            Figure(between("loss"), told.get("loss"), "figure", unit),
            Figure(between(""), told.get("bits_per_byte"), "figure", "bits per byte"),
            *_metrics(told, between),
            *_metrics(step, "Training {}".format),
            Figure("Speed", step.get("tokens_s"), "count", "tokens/s"),
            Figure("MFU", step.get("mfu"), "share", _peak(plan)),
            Figure("Learning rate", step.get("lr"), "setting"),
            Figure("Gradient norm", step.get("grad_norm"), "setting"),
            Figure("Trained", plan.get("trainable_parameters"), "count", "parameters"),
            Figure("Precision", plan.get("precision"), "setting"),
        ]
        return [figure for figure in found if figure.value is not None]


def judged(what: str, held_out: bool) -> str:
    """What is measured between the steps, by its name.

    >>> judged("loss", True), judged("loss", False), judged("", True), judged("", False)
    ('Validation loss', 'Loss on lines it learns', 'Validation', 'On lines it learns')
    """
    words = f"validation {what}" if held_out else f"{what} on lines it learns"
    words = words.strip()
    return words[:1].upper() + words[1:]


def _metrics(event: Event, called: Callable[[str], str]) -> list[Figure]:
    """What an objective tells besides its loss: accuracy, reward, the load of experts."""
    told = [(name, value) for name, value in event.items() if name not in KNOWN]
    return [
        Figure(called(name.replace("_", " ")), value, "figure")
        for name, value in told
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]


class Curves(NamedTuple):
    """Points `[step, loss]` of what was told after a byte offset."""

    offset: int
    train: list[tuple[int, float]]
    validation: list[tuple[int, float]]


def curves(path: Path, offset: int) -> Curves:
    """Loss by step, from byte `offset` of the events on. A chart asks again from `offset`."""
    events, offset = read_events(path, offset)
    return Curves(offset, _points(events, "step"), _points(events, "validation"))


def _points(events: Iterable[Event], kind: str) -> list[tuple[int, float]]:
    told = [(event.get("step"), event.get("loss")) for event in events if event.get("kind") == kind]
    return [
        (step, float(loss))
        for step, loss in told
        if isinstance(step, int) and isinstance(loss, (int, float))
    ]


def _peak(plan: Event) -> str:
    peak = plan.get("peak_gflops")
    return f"of {peak:,.0f} GFLOP/s" if isinstance(peak, (int, float)) else "of the machine's peak"
