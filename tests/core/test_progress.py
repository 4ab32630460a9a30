"""How far, of how many, how long still: told now and then, and at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bessemer.core.progress import TELL_EVERY_S, Progress


class Told(list[dict[str, Any]]):
    def __call__(self, kind: str, **facts: Any) -> None:
        assert kind == "progress"
        self.append(facts)


def ticks(seconds: float) -> Iterator[float]:
    now_s = 0.0
    while True:
        yield now_s
        now_s += seconds


def test_it_counts_up_to_the_total_with_the_time_that_is_left() -> None:
    told, clock = Told(), ticks(1.0)
    progress = Progress(told, "answers", "questions", 4, clock=lambda: next(clock))
    for done in range(1, 5):
        progress.tell(done)
    progress.end()
    assert [(each["done"], each["total"], each["eta_s"]) for each in told] == [
        (1, 4, 3.0), (2, 4, 2.0), (3, 4, 1.0), (4, 4, 0.0), (4, 4, 0.0),
    ]  # fmt: skip
    assert {(each["stage"], each["unit"]) for each in told} == {("answers", "questions")}


def test_it_is_told_now_and_then_only() -> None:
    told, clock = Told(), ticks(TELL_EVERY_S / 4)
    progress = Progress(told, "answers", "questions", 1000, clock=lambda: next(clock))
    for done in range(1, 401):
        progress.tell(done)
    assert [each["done"] for each in told] == list(range(1, 401, 4))


def test_work_that_has_so_much_time_only_is_expected_to_stop_then() -> None:
    told, clock = Told(), ticks(1.0)
    progress = Progress(
        told, "reference", "rows", 1002, judged=2, limit_s=10.0, clock=lambda: next(clock)
    )
    for done in range(1, 7):
        progress.tell(done)
    # Two at one a second are needed; then there are ten seconds more, at one a second.
    assert [each["total"] for each in told] == [12] * 6
    assert [each["eta_s"] for each in told] == pytest.approx([11, 10, 9, 8, 7, 6])
