"""One run as the templates read it: the row, the folder, and what its events add up to.

Words only: which figures there are is `story`'s, how numbers are written is `wording`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.app.jobs import Run
from bessemer.console import wording
from bessemer.console.report import Report, read_report
from bessemer.console.story import Story, judged

LIVE = frozenset({"queued", "running"})
RESUMABLE = frozenset({"dead", "failed", "cancelled"})
LOG_TAIL_BYTES = 6_000

WORDS: dict[str, Callable[[object], str]] = {
    "figure": wording.figure,
    "setting": wording.setting,
    "count": wording.count,
    "share": wording.share,
    "duration": wording.duration,
}


class Shown(NamedTuple):
    """A figure in words."""

    name: str
    shown: str
    hint: str


class RunView:
    """One run as the templates read it: the row, the folder, and what the events add up to."""

    def __init__(self, run: Run, story: Story) -> None:
        self._run = run
        self.story = story
        self.run_id, self.kind, self.name, self.state = run.id, run.kind, run.name, run.state
        self.created_s = run.created_ms / 1000
        self.is_live = run.state in LIVE
        self.may_cancel = self.is_live
        self.may_resume = run.state in RESUMABLE

    @property
    def has_curves(self) -> bool:
        return self.kind != "eval"

    @property
    def note(self) -> str | None:
        """What the platform knows and the run itself could not say."""
        return self._run.note

    @property
    def progress_text(self) -> str:
        """`23 of 49 steps · 1 min 2 s left`."""
        progress = self.story.progress
        if self.state == "succeeded":
            return self._finished_text
        if progress is None:
            return "waiting" if self.state == "queued" else ""
        stage = f"{progress.stage} · " if progress.stage else ""
        of = f" of {progress.total:,}" if progress.total else ""
        text = f"{stage}{progress.done:,}{of} {progress.unit}"
        if self.state == "running" and self.story.eta_s is not None:
            whose = " of this stage" if stage else ""
            text += f" · {wording.duration(self.story.eta_s)} left{whose}"
        return text

    @property
    def _finished_text(self) -> str:
        steps = self.story.step.get("step")
        took = wording.duration(self.story.worked_s)
        return f"took {took}" if steps is None else f"{wording.count(steps)} steps in {took}"

    @property
    def news(self) -> str:
        """The one thing to know of it in a list."""
        if self.story.error:
            return self.story.error.message
        sentences = self.story.result.get("sentences")
        if isinstance(sentences, list) and sentences:
            return str(sentences[0])
        validation = self.story.validation
        measure = str(self.story.plan.get("measure", "loss"))
        if measure in validation and measure not in ("loss", "bits_per_byte"):
            return f"{self._judged(measure)} {wording.figure(validation[measure])}"
        if "bits_per_byte" in validation:
            return f"{wording.figure(validation['bits_per_byte'])} bits per byte"
        if "loss" in validation:
            return f"{self._judged('loss')} {wording.figure(validation['loss'])}"
        if "loss" in self.story.step:
            return f"training loss {wording.figure(self.story.step['loss'])}"
        return self.note or ""

    @property
    def figures(self) -> list[Shown]:
        return [
            Shown(item.name, WORDS[item.form](item.value), item.hint)
            for item in self.story.figures(held_out=self.is_held_out)
        ]

    @property
    def is_held_out(self) -> bool:
        """Whether what is measured between steps is no line that is learned as well."""
        return bool(self._plan.get("held_out", True))

    def _judged(self, measure: str) -> str:
        words = judged(measure.replace("_", " "), self.is_held_out)
        return words[:1].lower() + words[1:]

    @property
    def outcome(self) -> list[tuple[str, str]]:
        """The result event, whatever is in it; the measure before and after as one line."""
        result = {k: v for k, v in self.story.result.items() if v is not None}
        told = []
        if {"measure", "before", "after"} <= result.keys():
            before, after = (wording.figure(result.pop(key)) for key in ("before", "after"))
            measure = self._judged(str(result.pop("measure")))
            told.append((measure, f"{before} before, {after} after"))
        hidden = {"t", "kind", "sentences"}
        rest = [(k.replace("_", " "), _plainly(v)) for k, v in result.items() if k not in hidden]
        return told + rest

    @cached_property
    def report(self) -> Report | None:
        return read_report(self._run.folder.output / "report.json")

    @property
    def recipe(self) -> str:
        """With what was derived at the start, once the run has written that down."""
        folder = self._run.folder
        resolved = _text(folder.path / "resolved.toml")
        return resolved or _text(folder.recipe) or "There is no recipe in this run's folder."

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """What the plan names: models and datasets with their digests."""
        return [
            (key.replace("_", " "), f"{value.get('name', '')} {value['digest']}".strip())
            for key, value in self._plan.items()
            if isinstance(value, dict) and value.get("digest")
        ]

    @cached_property
    def _plan(self) -> dict[str, Any]:
        folder = self._run.folder
        return folder.plan() if (folder.path / "plan.json").exists() else {}

    @property
    def log_tail(self) -> str:
        """The last whole lines of the process's output."""
        path = self._run.folder.log
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LOG_TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return text if size <= LOG_TAIL_BYTES else text.partition("\n")[2]


def _plainly(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plainly(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plainly, value))
    return wording.figure(value)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
