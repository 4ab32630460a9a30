"""The table of verbs, their help, and what `bessemer --help` costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import bessemer.cli
from bessemer.cli.main import VERBS
from bessemer.cli.main import bessemer as door
from tests.cli.calling import say
from tests.cli.commands import Leaf, leaves, why_not

# Modules of the room that are not verbs.
PARTS = {"main", "acting", "output", "following", "launching", "quantities", "serving"} | {
    "text_file"
}
HELP_CPU_S = 0.150
TRIES = 5
LEAVES = list(leaves())


def _name(leaf: Leaf) -> str:
    return " ".join(leaf.words)


def test_the_table_lists_the_modules_of_the_room() -> None:
    folder = Path(bessemer.cli.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    assert set(VERBS) == modules - PARTS


@pytest.mark.parametrize("verb", VERBS)
def test_the_table_says_what_the_verbs_own_help_begins_with(verb: str) -> None:
    command = door.get_command(door.make_context("bessemer", [verb]), verb)
    assert command is not None
    assert command.help is not None
    first = " ".join(command.help.split("\n\n")[0].split())
    assert first == VERBS[verb]


@pytest.mark.parametrize("leaf", LEAVES, ids=_name)
def test_help_says_what_a_command_does_and_what_each_option_is(leaf: Leaf) -> None:
    said = say(*leaf.words, "--help")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"Usage: bessemer {' '.join(leaf.words)}")
    assert leaf.command.help
    options = [param for param in leaf.command.params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("leaf", LEAVES, ids=_name)
def test_examples_in_help_are_commands(leaf: Leaf) -> None:
    assert leaf.command.help is not None
    examples = [
        line.split()[1:]
        for line in leaf.command.help.splitlines()
        if line.startswith("  bessemer ")
    ]
    assert [(words, why) for words in examples if (why := why_not(words))] == []


def test_bessemer_help_costs_less_than_150_ms_of_cpu() -> None:
    least_s = min(_cpu_s("--help") for _ in range(TRIES))
    print(f"bessemer --help: {least_s * 1000:.0f} ms of CPU")
    assert least_s < HELP_CPU_S


def test_bessemer_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from bessemer.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'sqlalchemy', 'pydantic', 'rich', 'numpy', 'msgspec', 'uvicorn'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: bessemer" in done.stdout


def _cpu_s(*words: str) -> float:
    program = Path(sys.executable).with_name("bessemer")
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime
