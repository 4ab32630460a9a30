"""Training is charged once for what it did, also when it is killed and goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.app import jobs, spending
from bessemer.app.platform import Platform
from bessemer.app.run_metering import settle, starts
from bessemer.core.events import Event
from bessemer.core.principal import Principal
from bessemer.core.runs import RunFolder
from bessemer.ledger.counts import Counts
from tests.app.run_kinds import COMMAND
from tests.metered import rows_of
from tests.polling import until

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = (RECIPES / "teach.toml").read_text()
PRICES = """
currency = "usd"
[[rates]]
model = "mine"
prompt = 1_000_000
completion = 2_000_000
training = 3_000_000
device_hour = 0
"""


def submit(platform: Platform, owner: Principal, *, waits: bool = False) -> RunFolder:
    return jobs.submit(platform, owner, "train", "mine", RECIPE, {"waits": waits})


def run_to_its_end(platform: Platform, folder: RunFolder) -> None:
    child = jobs.start_detached(platform, folder, command=COMMAND)
    assert child is not None and child.wait(60) == 0, folder.log.read_text()


def test_a_run_is_charged_for_its_tokens_time_and_answers(
    platform: Platform, owner: Principal
) -> None:
    spending.set_prices(platform, owner, PRICES, "prices")
    folder = submit(platform, owner)
    run_to_its_end(platform, folder)
    (held,) = rows_of(platform)
    assert (held.id, held.state, held.kind) == (f"{folder.run_id}.1", "open", "training")
    jobs.harvest(platform)
    training, rollouts = rows_of(platform)
    assert training.used is not None and training.used.training == 400
    assert training.used.device_ms > 0 and training.cost == 1200
    # Four batches to learn from, three that were only judged.
    used = Counts(prompt=4 * 15 + 3 * 2, cached=4 * 5 + 3 * 8, completion=4 * 30 + 3 * 3)
    assert rollouts.used == used
    assert (rollouts.kind, rollouts.model, rollouts.cost) == ("rollout", "mine", 66 + 44 + 258)
    before = rows_of(platform)
    settle(platform, folder)
    assert jobs.harvest(platform) == [] and rows_of(platform) == before


def test_a_run_that_is_killed_and_goes_on_is_charged_for_each_step_once(
    platform: Platform, owner: Principal
) -> None:
    spending.set_prices(platform, owner, PRICES, "prices")
    folder = submit(platform, owner, waits=True)
    child = jobs.start_detached(platform, folder, command=COMMAND)
    assert child is not None
    until(lambda: (folder.last("step") or {"step": 0})["step"] == 2, "it took two steps")
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    jobs.harvest(platform)
    assert [row.used.training for row in rows_of(platform) if row.used] == [200, 0]
    jobs.resume(platform, owner, folder.run_id)
    run_to_its_end(platform, folder)
    jobs.harvest(platform)
    rows = rows_of(platform)
    assert {row.state for row in rows} == {"settled"} and len(rows) == 4
    used = [row.used for row in rows if row.used]
    assert sum(one.training for one in used) == 400, "the second step was taken twice"
    assert sum(one.completion for one in used) == 129, "the second one was validated twice"


def test_a_run_that_does_not_fit_the_budget_never_starts(
    platform: Platform, owner: Principal
) -> None:
    spending.set_prices(platform, owner, PRICES.replace("hour = 0", "hour = 60_000_000"), "prices")
    spending.set_budget(platform, owner, "project", "month", 1_000)
    folder = submit(platform, owner)
    assert jobs.start_detached(platform, folder, command=COMMAND) is None
    jobs.harvest(platform)
    run = jobs.get_run(platform, owner, folder.run_id)
    assert run.state == "failed" and "0.001 is left of the month budget" in (run.note or "")
    assert rows_of(platform) == [] and not (folder.path / "began").exists()


@pytest.mark.parametrize("left", [-1, 0])
@pytest.mark.parametrize(("updates", "times"), [(1, 5), (2, 3), (9, 1)])
def test_answers_that_may_be_sampled_have_to_fit_the_budget_too(
    platform: Platform, owner: Principal, left: int, updates: int, times: int
) -> None:
    recipe = (RECIPES / "grpo.toml").read_text().replace("minutes = 8", "minutes = 8\nsteps = 5")
    recipe = recipe.replace("[grpo]", f"[grpo]\nupdates = {updates}")
    # 5 steps, 6 prompts each, 8 answers to each of up to 32 tokens; 256 tokens with their prompt.
    # 64 prompts are judged before the first step and two times more.
    answers = times * 6 * 8 + 3 * 64
    written = answers * 32
    most = 1 * (answers * 256 - written) + 2 * written + 3 * 5 * 6 * 8 * 256
    spending.set_prices(platform, owner, PRICES, "prices")
    spending.set_budget(platform, owner, "project", "month", most + left)
    folder = jobs.submit(platform, owner, "train", "mine", recipe, {})
    child = jobs.start_detached(platform, folder, command=("true",))
    assert (child is None) == (left < 0)
    if child is not None:
        child.wait(60)


def test_a_start_that_never_began_holds_nothing_and_the_next_one_is_charged(
    platform: Platform, owner: Principal
) -> None:
    spending.set_prices(platform, owner, PRICES, "prices")
    folder = submit(platform, owner)
    mute = jobs.start_detached(platform, folder, command=("true",))
    assert mute is not None and mute.wait(60) == 0
    jobs.mark_dead(platform, folder.run_id, "it said nothing")
    assert [row.state for row in rows_of(platform)] == ["released"]
    jobs.resume(platform, owner, folder.run_id)
    run_to_its_end(platform, folder)
    jobs.harvest(platform)
    settled = [row for row in rows_of(platform) if row.state == "settled"]
    assert [row.used.training for row in settled if row.used] == [400, 0]
    assert {row.state for row in rows_of(platform)} == {"settled", "released"}


def test_a_card_without_a_price_for_training_trains_nothing(
    platform: Platform, owner: Principal
) -> None:
    card = 'currency = "usd"\n[[rates]]\nmodel = "*"\nprompt = 1\ncompletion = 1'
    spending.set_prices(platform, owner, card, "prices")
    folder = submit(platform, owner)
    assert jobs.start_detached(platform, folder, command=COMMAND) is None
    assert "has no price for training" in (folder.last("state") or {})["error"]["message"]


@pytest.mark.parametrize("kind", ["nothing", "fail"])
def test_what_trains_nothing_is_not_charged(
    platform: Platform, owner: Principal, kind: str
) -> None:
    folder = jobs.submit(platform, owner, kind, "mine", "", {})
    child = jobs.start_detached(platform, folder, command=COMMAND)
    assert child is not None
    child.wait(60)
    jobs.harvest(platform)
    assert rows_of(platform) == []


def test_answers_to_a_validation_that_was_never_told_are_charged_with_the_next() -> None:
    running = {"t": 0.0, "kind": "state", "state": "running"}
    judged = {"t": 1.0, "kind": "judged", "tokens": 7, "prompt_tokens": 5, "cached_tokens": 1}
    told = {"t": 2.0, "kind": "validation", "step": 0}
    first, second = starts([running, judged, running, judged, told])
    assert first.rollouts == Counts()
    assert second.rollouts == Counts(prompt=4, cached=1, completion=7)
    *_, third = starts([running, judged, told, running, judged, told])
    assert third.rollouts == Counts()


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=8))
def test_whenever_it_is_killed_each_step_is_counted_once(lives: list[tuple[int, bool]]) -> None:
    """Each life goes on from some earlier step; a life that ended never changes any more."""
    events: list[Event] = []
    done = 0
    for steps, speaks in lives:
        before = starts(events)
        events.append({"t": float(len(events)), "kind": "state", "state": "running"})
        for step in range(max(0, done - 2), done + steps):
            tokens = 10 + step
            events.append({"t": float(len(events)), "kind": "step", "step": step + 1,
                           "tokens": tokens})  # fmt: skip
        done += steps
        if speaks:
            events.append({"t": float(len(events)), "kind": "state", "state": "cancelled"})
        events.append({"t": float(len(events)) + 99, "kind": "state", "state": "queued"})
        assert starts(events)[:-1] == before
    found = starts(events)
    assert sum(one.training.training for one in found) == sum(10 + step for step in range(done))
    assert sum(one.training.device_ms for one in found) < 1000 * len(events)
