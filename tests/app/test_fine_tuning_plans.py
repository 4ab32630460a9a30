"""What a job will take: planned with a real, tiny model, and how planning ends otherwise."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bessemer.app import files, fine_tuning, names, spending
from bessemer.app.fine_tuning import Request
from bessemer.app.fine_tuning_method import (
    Dpo,
    DpoHyperparameters,
    Hyperparameters,
    Method,
    Reinforcement,
    ReinforcementHyperparameters,
    Supervised,
)
from bessemer.app.fine_tuning_plans import Planned, Plans
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.core.errors import BessemerError, InvalidInput, NotFound, PermissionDenied
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from tests.polling import until
from tests.tiny import world

SUPERVISED = Method(type="supervised")
LETTERS = {
    "type": "python",
    "name": "letters",
    "source": "def grade(sample, item):\n"
    "    return min(1, sample['output_text'].count(item['wanted']) / 5)\n",
}
CARD = """
currency = "eur"
[[rates]]
model = "tiny"
prompt = 0
completion = 0
device_hour = 3_600_000
training = 2_000_000
"""
MEASURED = {
    "open_s": 3.0, "step_s": 0.5, "judged_row_s": 0.1, "needs_bytes": 10**9, "precision": "fp32",
    "threads": 1, "trainable_parameters": 7, "parameters": 70,
}  # fmt: skip


SAMPLED = MEASURED | {
    "answer_tokens": 24.0, "cached_share": 0.25,
    "judged": {"answer_tokens": 10.0, "prompt_tokens": 6.0, "cached_share": 0.5},
    "at_most": {"step_s": 2.0, "judged_row_s": 0.4},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def platform(tmp_path: Path, tiny_folder: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as platform:
        folder = platform.artifacts.workspace()
        shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
        stored = platform.artifacts.put(folder, kind="model", name="tiny")
        names.bind(platform, platform.local_principal(), "model", "tiny", stored.digest)
        yield platform


def keep(platform: Platform, *lines: Any) -> str:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    me = platform.local_principal()
    return files.add_bytes(platform, me, "lines.jsonl", "fine-tune", data).id


def telling(folder: Path, code: str) -> tuple[str, ...]:
    """A command in place of the process of the train room."""
    script = folder / "told.py"
    begin = "import sys; from pathlib import Path; from bessemer.core.runs import RunFolder\n"
    script.write_text(begin + "run = RunFolder(Path(sys.argv[1]))\n" + textwrap.dedent(code))
    return (sys.executable, str(script))


def planned(platform: Platform, plans: Plans, method: Method, *lines: Any) -> Planned:
    me = platform.local_principal()
    plan_id = plans.ask(me, Request("tiny", keep(platform, *lines), method))
    until(lambda: not plans.get(me, plan_id).is_open, "the plan is there", 60)
    return plans.get(me, plan_id)


def test_a_plan_times_real_steps_of_these_lines(platform: Platform) -> None:
    found = planned(platform, Plans(platform), SUPERVISED, *world.chats(12))
    assert found.fault is None, found.fault
    plan = found.plan
    assert plan is not None and plan.fits
    # "auto": 100 examples in all, 4 in a step.
    assert (plan.lines, plan.steps) == (12, 8 * 12 // 4)
    assert plan.method.section.hyperparameters.n_epochs == 8
    assert 0 < plan.takes.step_s < plan.takes.seconds < 120
    assert 50e6 < plan.needs_bytes < 4e9 and 0 < plan.trained < plan.parameters
    assert plan.takes.cost is None, "no price was set"
    assert list(platform.home.runs.iterdir()) == []


def test_seconds_are_the_opening_the_steps_and_every_look(
    platform: Platform, tmp_path: Path
) -> None:
    me = platform.local_principal()
    spending.set_prices(platform, me, CARD, "the card")
    command = telling(tmp_path, f"run.open_log().write('measured', **{MEASURED})")
    plan = planned(platform, Plans(platform, command), SUPERVISED, *world.chats(10)).plan
    assert plan is not None
    # 10 epochs of 10 lines in batches of 4; 10 looks at 10 lines besides the first.
    assert plan.steps == 25
    assert plan.takes.seconds == pytest.approx(3.0 + 25 * 0.5 + 10 * 11 * 0.1)
    assert plan.takes.cost is not None and plan.takes.cost.currency == "eur"
    assert plan.takes.tokens == pytest.approx(10 * plan.longest * 10, rel=0.3)
    assert plan.takes.cost.micro == pytest.approx(plan.takes.seconds * 1000 + 2 * plan.takes.tokens)


@pytest.mark.parametrize(("lines", "held_out", "a_look"), [(10, 30, 30), (30, 4, 4), (30, 0, 16)])
def test_a_look_is_at_the_lines_there_are_to_judge_it_on(
    platform: Platform, tmp_path: Path, lines: int, held_out: int, a_look: int
) -> None:
    command = telling(tmp_path, f"run.open_log().write('measured', **{MEASURED})")
    me, plans = platform.local_principal(), Plans(platform, command)
    numbers = Hyperparameters(n_epochs=1, batch_size=1)
    method = Method(type="supervised", supervised=Supervised(numbers))
    train = keep(platform, *world.chats(lines))
    validation = keep(platform, *world.chats(held_out)) if held_out else None
    plan_id = plans.ask(me, Request("tiny", train, method, validation_file=validation))
    until(lambda: not plans.get(me, plan_id).is_open, "the plan is there", 60)
    plan = plans.get(me, plan_id).plan
    assert plan is not None and plan.steps == lines
    assert plan.takes.seconds == pytest.approx(3.0 + lines * 0.5 + 2 * a_look * 0.1)


def test_dpo_asks_the_reference_before_the_first_step(platform: Platform, tmp_path: Path) -> None:
    command = telling(tmp_path, f"run.open_log().write('measured', **{MEASURED})")
    method = Method(type="dpo", dpo=Dpo(DpoHyperparameters(n_epochs=1, batch_size=2)))
    pairs = [
        {
            "input": {"messages": chat["messages"][:-1]},
            "preferred_output": chat["messages"][-1:],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for chat in world.chats(20)
    ]
    plan = planned(platform, Plans(platform, command), method, *pairs).plan
    assert plan is not None and plan.steps == 10
    assert plan.takes.seconds == pytest.approx(3.0 + 10 * 0.5 + (16 * 2 + 20 + 16) * 0.1)


def reinforcement(grader: dict[str, Any] = LETTERS, **dials: Any) -> Method:
    numbers = ReinforcementHyperparameters(**dials)
    return Method(type="reinforcement", reinforcement=Reinforcement(
        grader=grader, hyperparameters=numbers))  # fmt: skip


def prompts(count: int) -> list[Any]:
    return [{"messages": chat["messages"][:1], "wanted": "e"} for chat in world.chats(count)]


@pytest.mark.slow
def test_a_reinforcement_plan_samples_and_judges_real_answers(platform: Platform) -> None:
    found = planned(platform, Plans(platform), reinforcement(n_epochs=2), *prompts(8))
    assert found.fault is None, found.fault
    plan = found.plan
    assert plan is not None and plan.fits and plan.answers is not None
    assert (plan.lines, plan.steps, plan.answers.sampled) == (8, 4, 2 * 8 * 8)
    answers = plan.answers
    assert 1 <= answers.tokens <= answers.most_tokens <= 128
    assert 0 < plan.takes.step_s <= answers.at_most.step_s
    assert plan.takes.seconds <= answers.at_most.seconds < 300
    assert plan.takes.tokens <= answers.at_most.tokens
    assert 50e6 < plan.needs_bytes < 4e9
    assert list(platform.home.runs.iterdir()) == []


def test_a_reinforcement_job_pays_for_its_answers_and_for_learning_from_them(
    platform: Platform, tmp_path: Path
) -> None:
    me = platform.local_principal()
    card = CARD.replace("prompt = 0", "prompt = 4_000_000\ncached = 1_000_000")
    spending.set_prices(platform, me, card.replace("completion = 0", "completion = 8_000_000"), "c")
    command = telling(tmp_path, f"run.open_log().write('measured', **{SAMPLED})")
    method = reinforcement(n_epochs=1, batch_size=2, compute_multiplier=0.5)
    plan = planned(platform, Plans(platform, command), method, *prompts(8)).plan
    assert plan is not None and plan.answers is not None and plan.takes.cost is not None
    # 4 steps of 2 prompts with 4 answers each; 1 look at 8 prompts besides the first.
    assert (plan.steps, plan.answers.sampled, plan.answers.tokens) == (4, 32, 24.0)
    assert plan.takes.seconds == pytest.approx(3.0 + 4 * 0.5 + 2 * 8 * 0.1)
    read, written = plan.takes.tokens - 32 * 24, 32 * 24
    assert 4 * 8 <= read <= 4 * 8 * plan.longest
    micro = plan.takes.seconds * 1000 + 2 * (read + written) + 8 * written
    micro += 16 * (10 * 8 + 3 * 4 + 3 * 1)  # the 16 that are only judged
    assert plan.takes.cost.micro == pytest.approx(micro + read * (0.75 * 4 + 0.25 * 1), abs=8)
    at_most = plan.answers.at_most
    assert at_most.seconds == pytest.approx(3.0 + 4 * 2.0 + 2 * 8 * 0.4)
    assert at_most.tokens == read + 32 * plan.answers.most_tokens
    longest = plan.answers.most_tokens
    micro = at_most.seconds * 1000 + 2 * at_most.tokens + 8 * longest * (32 + 16)
    micro += read * (0.75 * 4 + 0.25 * 1) + 16 * 3 * (4 + 1)
    assert at_most.cost is not None and at_most.cost.micro == pytest.approx(micro, abs=8)


def test_a_line_without_what_the_grader_reads_is_named(platform: Platform) -> None:
    grader = {
        "type": "string_check", "name": "right", "operation": "eq",
        "input": "{{sample.output_text}}", "reference": "{{item.answer}}",
    }  # fmt: skip
    lines = [{**prompts(1)[0], "answer": "7"}, *prompts(1)]
    found = planned(platform, Plans(platform), reinforcement(grader), *lines)
    assert found.fault is not None and found.fault.param == "training_file"
    assert "line 2" in found.fault.message and "answer" in found.fault.message


def test_a_broken_line_is_named_before_there_is_a_job(platform: Platform) -> None:
    found = planned(platform, Plans(platform), SUPERVISED, *world.chats(1), {"messages": []})
    assert found.fault is not None and "line 2: messages is empty" in found.fault.message
    assert found.fault.param == "training_file" and not found.too_large
    assert fine_tuning.list_jobs(platform, platform.local_principal(), PageRequest()) == ([], False)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "memory was full"),
        (
            "run.open_log().write('state', state='failed', error={'code': 'out_of_memory',"
            " 'message': 'needs 9 GB; 1 GB are free', 'next_step': 'shorter lines'})",
            "needs 9 GB; 1 GB are free",
        ),
    ],
)
def test_what_does_not_fit_says_so(
    platform: Platform, tmp_path: Path, code: str, said: str
) -> None:
    found = planned(platform, Plans(platform, telling(tmp_path, code)), SUPERVISED, *world.chats(2))
    assert found.too_large and found.fault is not None and said in found.fault.message


@pytest.mark.parametrize("kind", ["supervised", "reinforcement"])
def test_more_than_is_free_does_not_fit(platform: Platform, tmp_path: Path, kind: str) -> None:
    told = {**SAMPLED, "needs_bytes": 10**15}
    command = telling(tmp_path, f"run.open_log().write('measured', **{told})")
    method, lines = (
        (SUPERVISED, world.chats(2)) if kind == "supervised" else (reinforcement(), prompts(2))
    )
    found = planned(platform, Plans(platform, command), method, *lines)
    assert found.too_large and found.plan is not None and not found.plan.fits


def test_a_plan_becomes_one_job_however_often_it_is_started(
    platform: Platform, tmp_path: Path
) -> None:
    command = telling(tmp_path, f"run.open_log().write('measured', **{MEASURED})")
    plans, me = Plans(platform, command), platform.local_principal()
    plan_id = planned(platform, plans, SUPERVISED, *world.chats(2)).id
    assert plans.start(me, plan_id) == plans.start(me, plan_id)
    jobs, _ = fine_tuning.list_jobs(platform, me, PageRequest())
    assert len(jobs) == 1


def test_plans_are_of_their_project_and_of_those_who_may(platform: Platform) -> None:
    plans, me = Plans(platform, (sys.executable, "-c", "")), platform.local_principal()
    request = Request("tiny", keep(platform, *world.chats(1)), SUPERVISED)
    plan_id = plans.ask(me, request)
    other = Principal("org", "p2", "u2", frozenset({"*"}))
    reader = Principal(me.org_id, me.project_id, "u3", frozenset({"runs:read"}))
    with pytest.raises(NotFound):
        plans.get(other, plan_id)
    with pytest.raises(InvalidInput, match="there is no model"):
        plans.ask(other, request)
    with pytest.raises(PermissionDenied):
        plans.start(reader, plan_id)
    with pytest.raises(PermissionDenied):
        plans.ask(reader, request)
    assert plans.get(reader, plan_id).id == plan_id


@pytest.mark.parametrize(
    "request_",
    [
        Request("nobody", "", SUPERVISED),
        Request("tiny", "", SUPERVISED, suffix="a/b"),
        Request(
            "tiny", "",
            Method(type="reinforcement", reinforcement=Reinforcement(grader={
                "type": "score_model", "name": "n", "model": "tiny",
                "input": [{"role": "user", "content": "{{sample.output_text}}"}]})),
        ),
        Request(
            "tiny", "",
            Method(type="reinforcement", reinforcement=Reinforcement(grader={"type": "nothing"})),
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_once(platform: Platform, request_: Request) -> None:
    file_id = keep(platform, *world.chats(1))
    with pytest.raises(BessemerError) as refused:
        Plans(platform).ask(platform.local_principal(), request_._replace(training_file=file_id))
    assert isinstance(refused.value, InvalidInput)
