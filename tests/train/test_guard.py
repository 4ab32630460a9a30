"""Steps that are not fit: stopped with the checkpoint named, or left out without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.errors import RunFailed
from bessemer.core.train_sections import GuardSection
from bessemer.train.guard import Guard
from bessemer.train.loop import train
from tests.train.test_loop import events, same_bits
from tests.train.tiny import make_run

NAN = float("nan")


def guard(**section: object) -> Guard:
    return Guard(GuardSection(**{"window": 8, **section}))  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (1.0, NAN), (float("inf"), 1.0)])
def test_what_is_not_finite_is_a_fault_with_its_numbers(loss: float, norm: float) -> None:
    fault = guard().judge(loss, norm)
    assert fault is not None
    assert fault.action == "stop"
    assert str(loss) in fault.what and str(norm) in fault.what


def test_a_spike_is_judged_by_median_and_deviation_and_forgotten() -> None:
    judge = guard(on_spike="skip", spike_factor=4.0)
    for loss in (2.0, 2.1, 1.9, 2.0):
        assert judge.judge(loss, 1.0) is None
    fault = judge.judge(2.5, 1.0)
    assert fault is not None and fault.action == "skip"
    assert "loss 2.5 where the last 4 steps had 2" in fault.what
    assert list(judge.recent) == [2.0, 2.1, 1.9, 2.0]
    assert judge.judge(2.05, 1.0) is None


@given(losses=st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_spikes_are_not_looked_for_unless_asked(losses: list[float]) -> None:
    judge = guard()
    assert all(judge.judge(loss, 1.0) is None for loss in [*losses, 1e9])


def test_too_many_in_a_row_stop_the_run_and_one_good_step_forgives() -> None:
    judge = guard(on_nan="skip", most_skips=2)
    for _ in range(2):
        judge.judge(NAN, 1.0)
    judge.judge(1.0, 1.0)
    judge.judge(NAN, 1.0)
    judge.judge(NAN, 1.0)
    with pytest.raises(RunFailed, match="3 batches in a row"):
        judge.judge(NAN, 1.0)


@given(
    before=st.lists(st.floats(1, 3), min_size=0, max_size=20),
    after=st.lists(st.floats(1, 6), min_size=1, max_size=20),
)
def test_a_resumed_guard_decides_alike(before: list[float], after: list[float]) -> None:
    straight = guard(on_spike="skip", most_skips=100)
    for loss in before:
        straight.judge(loss, 1.0)
    resumed = guard(on_spike="skip", most_skips=100)
    resumed.load(list(straight.recent), straight.skipped)
    assert [straight.judge(x, 1.0) for x in after] == [resumed.judge(x, 1.0) for x in after]


def test_a_run_that_blows_up_names_its_checkpoint(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", "steps=50", "optimizer.learning_rate=1e30", "checkpoints.every_s=1e-6"
    )
    with pytest.raises(RunFailed, match=r"step \d+ has loss .*the checkpoint of step \d+") as said:
        train(run)
    assert "guard.on_nan=skip" in str(said.value.next_step)


def test_batches_are_left_out_said_and_the_run_resumes_alike(tmp_path: Path) -> None:
    # So strict a bound that ordinary batches are above it now and then.
    overrides = (
        "steps=40", "guard.on_spike=skip", "guard.spike_factor=0.5", "guard.window=8",
        "guard.most_skips=40", "checkpoints.every_s=0.000001", "evaluation.times=1",
    )  # fmt: skip
    straight, torn = (make_run(tmp_path / name, *overrides) for name in ("straight", "torn"))
    train(straight)
    skipped = [event["step"] for event in events(straight, "skipped")]
    assert 0 < len(skipped) < 40
    assert "the bound is" in events(straight, "skipped")[0]["what"]
    assert [event["step"] for event in events(straight, "step")] == list(range(1, 41))
    train(torn)
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")
    assert same_bits(straight, torn)


def test_a_batch_left_out_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    """No batch is fit (each gradient overflows), so the model is the base to the bit."""
    run = make_run(
        tmp_path / "run", "steps=4", "guard.on_nan=skip", "optimizer.learning_rate=1e30",
        "schedule.warmup_steps=0", "evaluation.times=1",
    )  # fmt: skip
    train(run)
    assert [event["step"] for event in events(run, "skipped")] == [2, 3, 4]
    once = make_run(
        tmp_path / "once", "steps=1", "optimizer.learning_rate=1e30",
        "schedule.warmup_steps=0", "schedule.final_fraction=1.0", "evaluation.times=1",
    )  # fmt: skip
    train(once)
    assert len(events(once, "step")) == 1
