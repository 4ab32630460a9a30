"""What a plan says a fine-tuning job will take, beside what the job then takes.

    python benchmarks/fine_tuning_plans.py [FOLDER] [--only METHOD]

FOLDER is a model as Hugging Face has it, by default the default model. Planned and trained in a
home of its own, one job after the other, with nothing else on the machine. Memory taken is the most
that a process of it had. Each token that is trained on, read or written costs a millionth of a
dollar here, and time nothing. Of reinforcement, whose answers have no length beforehand, the most
that the plan allows for is told as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from fine_tuning_jobs import chats, message, pairs

from bessemer.app import files, fine_tuning, names, spending
from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.fine_tuning import FINAL, Request
from bessemer.app.fine_tuning_desk import FineTuningDesk
from bessemer.app.fine_tuning_method import (
    Method,
    Reinforcement,
    ReinforcementHyperparameters,
)
from bessemer.app.fine_tuning_plans import Planned, Plans
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.app.supervisor import Supervisor
from bessemer.core.home import Home

SUMS = [
    {"messages": [message("user", f"What is {n} + {n + 3}?")], "answer": str(2 * n + 3)}
    for n in range(12)
]
LIKE = {
    "type": "text_similarity",
    "name": "like",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
ONCE = ReinforcementHyperparameters(n_epochs=1)
CARD = """
currency = "usd"
[[rates]]
model = "base"
prompt = 1_000_000
cached = 1_000_000
completion = 1_000_000
training = 1_000_000
device_hour = 0
"""
JOBS: list[tuple[Method, list[Any]]] = [
    (Method(type="supervised"), chats(50)),
    (Method(type="dpo"), pairs(10)),
    (Method(type="reinforcement", reinforcement=Reinforcement(grader=LIKE, hyperparameters=ONCE)),
     SUMS),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", choices=[method.type for method, _ in JOBS])
    asked = parser.parse_args()
    source = asked.folder or default_folder()
    with tempfile.TemporaryDirectory() as home, Platform.open(Home(Path(home))) as platform:
        copy = platform.artifacts.workspace()
        shutil.copytree(source, copy, dirs_exist_ok=True)
        stored = platform.artifacts.put(copy, kind="model", name="base")
        names.bind(platform, platform.local_principal(), "model", "base", stored.digest)
        spending.set_prices(platform, platform.local_principal(), CARD, "the card")
        spending.set_budget(platform, platform.local_principal(), "project", "total", 10**9)
        for method, lines in JOBS:
            if asked.only in (None, method.type):
                compare(platform, method, lines)


def default_folder() -> Path:
    with Platform.open() as platform:
        return pull(platform, platform.local_principal(), DEFAULT_MODEL).path


def compare(platform: Platform, method: Method, lines: list[Any]) -> None:
    me, plans = platform.local_principal(), Plans(platform)
    data = "\n".join(map(json.dumps, lines)).encode()
    file = files.add_bytes(platform, me, "lines.jsonl", "fine-tune", data)
    began_s = time.monotonic()
    plan_id = plans.ask(me, Request("base", file.id, method))
    while plans.get(me, plan_id).is_open:
        time.sleep(0.05)
    planning_s = time.monotonic() - began_s
    planned: Planned = plans.get(me, plan_id)
    plan = planned.plan
    assert plan is not None and plan.takes.cost is not None, planned.fault
    before = spent(platform)
    job_id = plans.start(me, plan_id)
    began_s = time.monotonic()
    peak_bytes = asyncio.run(work(platform, job_id))
    took_s = time.monotonic() - began_s
    trained = fine_tuning.get(platform, me, job_id).trained_tokens
    most, most_cost = "", ""
    if plan.answers and plan.answers.at_most.cost:
        most = f" (at most {plan.answers.at_most.seconds:.1f} s)"
        most_cost = f" (at most {plan.answers.at_most.cost.micro / 1e6:.4f})"
    print(
        f"{method.type:13} {len(lines):3} lines  planned in {planning_s:4.1f} s:"
        f" {plan.takes.seconds:5.1f} s{most}, {plan.needs_bytes / 1e9:.2f} GB,"
        f" {plan.takes.tokens:,} tokens, {plan.takes.cost.micro / 1e6:.4f} usd{most_cost}"
        f"   taken: {took_s:5.1f} s, {peak_bytes / 1e9:.2f} GB, {trained:,} tokens,"
        f" {(spent(platform) - before) / 1e6:.4f} usd",
        flush=True,
    )


def spent(platform: Platform) -> int:
    """By all jobs so far, in micro-units."""
    me = platform.local_principal()
    found = spending.get_budget(platform, me, "project", "total", me.project_id)
    return found.balance.settled_micro


async def work(platform: Platform, job_id: str) -> int:
    """Do the job; the most bytes that a process of it had."""
    desk, supervisor = FineTuningDesk(platform), Supervisor(platform)
    done, peaks = threading.Event(), [0]
    watcher = threading.Thread(target=watch, args=(done, peaks))
    watcher.start()
    await desk.start()
    await supervisor.start()
    me = platform.local_principal()
    while (job := fine_tuning.get(platform, me, job_id)).status not in FINAL:
        await asyncio.sleep(0.1)
    assert job.status == "succeeded", job.error
    await desk.close()
    await supervisor.close()
    done.set()
    watcher.join()
    return max(peaks)


def watch(done: threading.Event, peaks: list[int]) -> None:
    me = psutil.Process()
    while not done.wait(0.05):
        for child in me.children(recursive=True):
            try:
                peaks.append(child.memory_info().rss)
            except psutil.NoSuchProcess:
                continue


if __name__ == "__main__":
    main()
