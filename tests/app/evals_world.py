"""An eval, a run of it, and a runner over fake models; as a program, one that is to be killed.

python -m tests.app.evals_world HOME HOLD    does the open runs, and holds before answer HOLD
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bessemer.app import eval_definitions, eval_runs, eval_submission
from bessemer.app.eval_definitions import CustomData, Eval
from bessemer.app.eval_plans import EvalMessage, Plan
from bessemer.app.eval_runner import EvalRunner
from bessemer.app.eval_runs import EvalRun
from bessemer.app.eval_sources import FileContent, Row
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.text.criteria import Criterion, Part
from tests.fakes import FakeResponder, FakeServing

ME = Principal("org", "p1", "u1", frozenset({"evals:read", "evals:write", "chat"}), "key_1")
EQUAL = {
    "type": "string_check",
    "name": "equal",
    "input": "{{sample.output_text}}",
    "reference": "{{item.want}}",
    "operation": "eq",
}


def define(platform: Platform, *criteria: Mapping[str, Any]) -> Eval:
    return eval_definitions.add(
        platform,
        ME,
        CustomData(item_schema={}, include_sample_schema=True),
        msgspec.convert(list(criteria or (EQUAL,)), list[Criterion]),
    )


def submit(
    platform: Platform, definition: Eval, rows: Sequence[Row], model: str | None = "m"
) -> EvalRun:
    message = EvalMessage("user", Part("input_text", "{{item.ask}}"))
    plan = Plan(source=FileContent(list(rows)), model=model, messages=[message] if model else None)
    return eval_submission.submit(platform, ME, None, definition.id, plan, {})


def rows(count: int, want: str = "Hello, world") -> list[Row]:
    return [Row({"ask": f"number {n}", "want": want}) for n in range(count)]


async def finish_all(
    platform: Platform, serving: FakeServing, run_id: str, principal: Principal = ME
) -> EvalRun:
    """Let a runner do what is open, until this run has ended."""
    runner = EvalRunner(platform, serving, tick_s=0.01)
    await runner.start()
    try:
        async with asyncio.timeout(20):
            while run_id in eval_runs.open_runs(platform):
                await asyncio.sleep(0.01)
    finally:
        await runner.close()
    return the_run(platform, run_id, principal)


def the_run(platform: Platform, run_id: str, principal: Principal = ME) -> EvalRun:
    for definition in eval_definitions.list_evals(platform, principal, PageRequest())[0]:
        for run in eval_runs.list_runs(platform, principal, definition.id, PageRequest(100))[0]:
            if run.id == run_id:
                return run
    raise AssertionError(f"no run {run_id}")


class Counting(FakeResponder):
    """Says what it is asked on stdout, and holds for ever from answer number `hold` on."""

    def __init__(self, hold: int) -> None:
        super().__init__()
        self._hold = hold

    async def respond(self, request: Any) -> Any:
        if len(self.requests) >= self._hold:
            await asyncio.Event().wait()
        async for delta in super().respond(request):
            yield delta


async def _work(home: Path, hold: int) -> None:
    with Platform.open(Home(home)) as platform:
        runner = EvalRunner(platform, FakeServing({"m": Counting(hold)}), tick_s=0.01)
        await runner.start()
        print("going", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1]), int(sys.argv[2])))
