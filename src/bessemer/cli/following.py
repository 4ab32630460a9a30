"""Follow a run from its events: a progress bar with an ETA where a person looks, lines elsewhere.

The run does not notice. Ctrl-C stops following, never the run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

import click

from bessemer.app.epitaph import epitaph
from bessemer.cli.output import duration
from bessemer.core.errors import RunFailed
from bessemer.core.events import Event, read_events
from bessemer.core.runs import FINAL, RunFolder

POLL_S = 0.25
LINE_EVERY_S = 15.0
SILENCE_S = 2.0
# Events that are a line of their own, and metrics of an objective that stand beside the loss.
TOLD = frozenset({"resumed", "checkpoint_skipped", "skipped", "adaptation"})
HEADLINES = ("reward", "accuracy", "adapted_loss")


class Bar(Protocol):
    def update(self, text: str, done: float, total: float) -> None: ...

    def line(self, text: str) -> None: ...


def follow(run: RunFolder, *, quiet: bool = False) -> Event:
    """Show the run until it ends and return its last state event.

    Raises:
        RunFailed: it failed or died; the message is the run's own.
    """
    steps = 0
    with _bar(quiet) as bar:
        for event in _events(run):
            steps = event.get("steps", steps) if event["kind"] == "plan" else steps
            _show(event, bar, steps)
            if event["kind"] == "state" and event["state"] in FINAL:
                return _judge(run, event)
    fault = epitaph(run)
    said = f"{run.run_id} died: {fault.message} (see {run.log})"
    raise type(fault)(said, next_step=fault.next_step)


def _events(run: RunFolder) -> Iterator[Event]:
    """Events as they come; ends when the process is gone for good."""
    offset, dead_since = 0, None
    while True:
        found = read_events(run.events, offset)
        offset = found.offset
        yield from found.events
        if found.events or run.state() != "dead":
            dead_since = None
        elif dead_since is None:
            dead_since = time.monotonic()  # its last word may still be on its way
        elif time.monotonic() - dead_since > SILENCE_S:
            return
        time.sleep(POLL_S)


def _judge(run: RunFolder, event: Event) -> Event:
    if event["state"] == "succeeded":
        return event
    if event["state"] == "cancelled":
        raise RunFailed(
            f"{run.run_id} was cancelled", next_step=f"bessemer train --resume {run.run_id}"
        )
    error = event.get("error") or {}
    raise RunFailed(
        f"{run.run_id} failed: {error.get('message', 'it gave no reason')}",
        next_step=error.get("next_step") or f"read {run.log}",
    )


def _show(event: Event, bar: Bar, steps: int) -> None:
    kind = event["kind"]
    if kind == "plan":
        bar.line(_plan(event))
    elif kind == "step":
        bar.update(_step(event, steps), event["step"], steps)
    elif kind == "progress":
        eta = duration(event.get("eta_s") or 0)
        text = f"{event.get('stage', '')}  {event['done']}/{event['total']}  ETA {eta}"
        bar.update(text, event["done"], event["total"])
    elif kind == "validation":
        bar.line("  ".join(["validation", *_figures(event)]))
    elif kind in TOLD:
        bar.line("  ".join([kind.replace("_", " "), *_figures(event)]))
    elif kind in ("note", "warning"):
        bar.line(str(event.get("message", event)))


def _plan(event: Event) -> str:
    return "  ".join(["plan", *_figures(event)])


def _figures(event: Event) -> list[str]:
    shown = {k: v for k, v in event.items() if k not in ("t", "kind")}
    return [f"{key} {_number(value)}" for key, value in shown.items() if _is_plain(value)]


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _step(event: Event, steps: int) -> str:
    parts = [f"step {event['step']}/{steps}", f"loss {event['loss']:.3f}"]
    parts += [f"{name} {event[name]:.3f}" for name in HEADLINES if name in event]
    if "tokens_s" in event:
        parts.append(f"{event['tokens_s']:,.0f} tok/s")
    if event.get("mfu") is not None:
        parts.append(f"MFU {event['mfu']:.0%}")
    if event.get("eta_s") is not None:
        parts.append(f"ETA {duration(event['eta_s'])}")
    return "  ".join(parts)


def _bar(quiet: bool) -> Any:
    if quiet:
        return _Quiet()
    return _RichBar() if sys.stderr.isatty() else _Lines()


class _Quiet:
    """Says nothing."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, text: str, done: float, total: float) -> None:
        return

    def line(self, text: str) -> None:
        return


class _Lines(_Quiet):
    """For a log: a line now and then, and always the last of each stage."""

    def __init__(self) -> None:
        self._told = 0.0

    def update(self, text: str, done: float, total: float) -> None:
        now = time.monotonic()
        if done >= total or now - self._told > LINE_EVERY_S:
            self._told = now
            self.line(text)

    def line(self, text: str) -> None:
        click.echo(f"    {text}", err=True)


class _RichBar(_Quiet):
    """For a person: one bar that moves, lines above it that stay."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> _RichBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, text: str, done: float, total: float) -> None:
        self._progress.update(self._task, description=text, completed=done, total=total)

    def line(self, text: str) -> None:
        self._progress.console.print(f"    {text}", highlight=False, markup=False)
