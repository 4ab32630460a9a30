"""Events folded into facts."""

from __future__ import annotations

import doctest
import time

from bessemer.console import wording
from bessemer.console.story import Story


def test_the_newest_telling_counts() -> None:
    story = Story.of(
        [
            {"t": 1.0, "kind": "plan", "steps": 4},
            {"t": 2.0, "kind": "step", "step": 3, "loss": 2.0},
            {"t": 3.0, "kind": "step", "step": 2, "loss": 1.5},
        ]
    )
    assert story.progress is not None
    assert (story.progress.done, story.progress.total, story.progress.share) == (2, 4, 0.5)


def test_time_between_death_and_resume_is_not_work() -> None:
    story = Story.of(
        [
            {"t": 0.0, "kind": "state", "state": "running"},
            {"t": 10.0, "kind": "step", "step": 1},
            {"t": 5000.0, "kind": "state", "state": "queued"},
            {"t": 9000.0, "kind": "state", "state": "running"},
            {"t": 9005.0, "kind": "state", "state": "succeeded"},
        ]
    )
    assert story.worked_s == 15.0


def test_what_is_left_shrinks_while_nothing_is_said() -> None:
    event = {"t": time.time() - 10, "kind": "step", "step": 1, "eta_s": 60.0}
    left = Story.of([event]).eta_s
    assert left is not None and 49 < left <= 50


def test_what_was_reckoned_before_a_pause_is_not_what_is_left() -> None:
    step = {"t": 5.0, "kind": "step", "step": 1, "eta_s": 60.0}
    running = {"t": 900.0, "kind": "state", "state": "running"}
    assert Story.of([step, running]).eta_s is None


def test_a_resumed_run_has_no_old_error() -> None:
    failed = {"t": 1.0, "kind": "state", "state": "failed", "error": {"message": "m"}}
    assert Story.of([failed]).error is not None
    assert Story.of([failed, {"t": 2.0, "kind": "state", "state": "running"}]).error is None


def test_nothing_is_made_up() -> None:
    story = Story.of([])
    assert (story.progress, story.eta_s, story.error, story.figures()) == (None, None, None, [])


def test_wording_does_what_its_examples_say() -> None:
    assert doctest.testmod(wording).failed == 0
    assert wording.ago(time.time() - 200) == "3 min ago"


def test_an_objectives_own_metrics_are_figures_and_the_loss_has_its_unit() -> None:
    story = Story.of(
        [
            {"t": 1.0, "kind": "plan", "steps": 4, "objective": "dpo", "measure": "accuracy"},
            {"t": 2.0, "kind": "validation", "step": 0, "loss": 0.7, "accuracy": 0.5},
            {"t": 3.0, "kind": "step", "step": 1, "loss": 0.6, "chosen_reward": 0.1, "lr": 1e-3},
        ]
    )
    shown = {figure.name: (figure.value, figure.hint) for figure in story.figures()}
    assert shown["Training loss"] == (0.6, "nats per pair")
    assert shown["Validation accuracy"] == (0.5, "")
    assert shown["Training chosen reward"] == (0.1, "")
    assert "Training lr" not in shown
