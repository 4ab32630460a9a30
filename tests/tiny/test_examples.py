"""The examples do what they say, as they are, against a real server and a real run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.cli.calling import REPOSITORY, Said
from tests.polling import until
from tests.tiny.house import Server

EXAMPLES = REPOSITORY / "examples"
# Not one thing, but everything one after the other.
WHOLE_LIVES = ("move_in",)


def run_example(name: str, *words: str, limit_s: float = 120, **settings: str) -> Said:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_can_be_read_at_a_glance(path: Path) -> None:
    most = 260 if path.stem in WHOLE_LIVES else 40
    assert 10 <= len(path.read_text().splitlines()) <= most


def test_chat_with_openai_streams_an_answer_and_its_usage(served: Server) -> None:
    said = run_example(
        "chat_with_openai.py",
        "Where does basice keep difogu?",
        BESSEMER_URL=served.url,
        BESSEMER_KEY=served.house.key,
        MODEL="tiny",
    )
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[-1].endswith(" tokens]")


def test_taught_or_not_shows_two_answers(served: Server) -> None:
    said = run_example(
        "taught_or_not.py",
        BESSEMER_URL=served.url,
        BESSEMER_KEY=served.house.key,
        BASE="tiny",
        TAUGHT="other",
    )
    assert (said.status, said.err) == (0, "")
    assert "\ntiny:\n" in said.out
    assert "\nother:\n" in said.out


def test_evaluate_prints_pass_rates_of_two_models(served: Server) -> None:
    scopes = [
        word for scope in ("chat", "evals:read", "evals:write") for word in ("--scope", scope)
    ]
    key = served.house.done("key", "create", "--json", *scopes).json["secret"]
    client = openai.OpenAI(base_url=served.url, api_key=key, max_retries=0)
    until(lambda: _may_ask(client), "the server knows the new key", 10)
    said = run_example(
        "evaluate.py",
        BESSEMER_URL=served.url,
        BESSEMER_KEY=key,
        BASE="tiny",
        TAUGHT="other",
    )
    assert (said.status, said.err) == (0, "")
    for model in ("tiny", "other"):
        assert re.search(rf"^{model}: is short: \d of 3$", said.out, re.MULTILINE)
        assert f"{model}: Complete: " in said.out


def _may_ask(client: openai.OpenAI) -> bool:
    try:
        client.evals.list()
    except openai.AuthenticationError:
        return False
    return True


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ('{"t": 4, "kind": "state", "state": "succeeded"}', 0),
        ('{"t": 4, "kind": "state", "state": "failed", "error": {"message": "no disk"}}', 1),
    ],
)
def test_watch_a_run_tells_what_a_run_tells(last: str, status: int, tmp_path: Path) -> None:
    lines = [
        '{"t": 1, "kind": "state", "state": "running"}',
        '{"t": 2, "kind": "step", "step": 1, "loss": 2.5, "eta_s": 3.0}',
        '{"t": 3, "kind": "validation", "step": 1, "loss": 2.25}',
        last,
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    said = run_example("watch_a_run.py", str(tmp_path))
    assert (said.status, said.err) == (status, "")
    assert "step 1  loss 2.500  ETA 3 s" in said.out
    assert "validation at step 1: loss 2.250" in said.out
    assert said.out.splitlines()[-1].strip() in ("succeeded", "failed no disk")
