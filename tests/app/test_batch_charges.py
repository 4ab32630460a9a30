"""What the lines of a batch cost: each once, with its result, whatever is tried or killed."""

from __future__ import annotations

import asyncio

from bessemer.app import batches
from bessemer.app.answerer import Answered, Posted
from bessemer.app.batch_charges import LineMeter, settle_open
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.principal import Principal
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Kind
from bessemer.ledger.ledger import Ledger
from bessemer.ledger.rate_limits import RateLimits
from tests.app.batching import Echo, done, going, line, run, submit
from tests.metered import charge, rows_of
from tests.polling import until_async

USED = Counts(prompt=2, cached=1, completion=2)


async def work(meter: Meter, owner: Principal, request_id: str, kind: Kind = "chat") -> None:
    """What an answer does to a meter, to its end."""
    tab = meter.open(owner, "m", kind, request_id).tab()
    await tab.expect("m", 3, 5)
    await tab.allowed(asyncio.sleep(0))
    tab.count(3, 1, 2)
    tab.close()


class Charging(Echo):
    """An `Echo` whose every try is metered."""

    async def answer(self, posted: Posted) -> Answered:
        assert posted.meter is not None
        await work(posted.meter, posted.principal, posted.request_id)
        return await super().answer(posted)


def test_only_the_try_that_is_a_lines_answer_is_charged(
    platform: Platform, owner: Principal
) -> None:
    charge(platform)
    lines = [line("busy", busy=2), line("wrong", status=404), line("a"), line("b")]
    batch = run(platform, Charging(), submit(platform, owner, lines))
    assert (batch.completed, batch.failed) == (3, 1)
    rows = rows_of(platform)
    assert [row.used for row in rows if row.state == "settled"] == [USED] * 3
    assert [row.reason for row in rows if row.state == "released"] == ["its line has no answer"] * 3
    assert {row.kind for row in rows} == {"batch"}


def test_what_a_killed_server_left_open_is_charged_by_its_results(
    platform: Platform, owner: Principal
) -> None:
    charge(platform)

    async def killed() -> None:
        meter = Meter.of(platform)
        for name in ("with a result", "without one"):
            of_line = LineMeter(meter)
            await work(of_line, owner, name)
            assert of_line.charges == {name: USED}, "nothing is charged yet"
        tab = meter.open(owner, "m", "chat", "live").tab()
        await tab.expect("m", 3, 5)
        await tab.allowed(asyncio.sleep(0))
        meter.close()

    asyncio.run(killed())
    assert {row.state for row in rows_of(platform)} == {"open"}
    for _ in range(2):  # the second server may be killed in the middle of it as well
        meter = Meter.of(platform)
        settle_open(platform, meter, {"with a result": USED})
        meter.close()
        rows = {row.id: row for row in rows_of(platform)}
        assert {name: row.state for name, row in rows.items()} == {
            "with a result": "settled", "without one": "released", "live": "open",
        }  # fmt: skip
        assert rows["with a result"].used == USED
        assert "asked again" in (rows["without one"].reason or "")


def test_canceled_work_is_never_charged(platform: Platform, owner: Principal) -> None:
    charge(platform)

    async def waive() -> None:
        meter = Meter.of(platform)
        of_line = LineMeter(meter)
        await work(of_line, owner, "one")
        of_line.waive("nobody wants it")
        of_line.charge()
        meter.close()

    asyncio.run(waive())
    (row,) = rows_of(platform)
    assert (row.state, row.reason, row.cost) == ("released", "nobody wants it", None)


class Held(Meter):
    """Does not say that its entries are on disk until `go`."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(Ledger(platform.db), RateLimits(platform.db))
        self.go, self.is_asked = asyncio.Event(), False

    async def flush(self) -> None:
        self.is_asked = True
        await self.go.wait()
        await super().flush()


def test_a_batch_is_not_over_before_its_last_charge_is_on_disk(
    platform: Platform, owner: Principal
) -> None:
    """Once it is over its log is gone, and nobody could know any more what to charge."""
    charge(platform)

    async def follow() -> None:
        meter = Held(platform)
        batch = submit(platform, owner, [line("a"), line("b")])
        async with going(platform, Charging(), meter=meter):
            await until_async(lambda: meter.is_asked, "every line has a result")
            assert batches.get(platform, owner, batch.id).status == "in_progress"
            meter.go.set()
            assert (await done(platform, batch)).status == "completed"

    asyncio.run(follow())
    assert [row.state for row in rows_of(platform)] == ["settled"] * 2
