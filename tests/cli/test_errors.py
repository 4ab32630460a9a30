"""What a person meets who asks for what cannot be: the reason, the next command, no traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.calling import PROGRAM, REPOSITORY, say

TEACH = str(REPOSITORY / "recipes" / "teach.toml")


@pytest.mark.parametrize(
    ("words", "message", "next_step"),
    [
        (["eval", "none"], "there is no model 'none'", "bessemer pull"),
        (["eval", "none", "--data", "x"], "there is no model 'none'", "bessemer pull"),
        (["chat", "none", "-m", "Hi"], "there is no model 'none'", "bessemer pull"),
        (["chat", "./none", "-m", "Hi"], "is not a model folder", "bessemer pull"),
        (["up", "--model", "none"], "there is no model 'none'", "bessemer pull"),
        (["pull", "none"], "neither a known model", "bessemer pull"),
        (["pull", "hf:model"], "is no address of a model", "hf:OWNER/NAME"),
        (["runs", "run_0"], "there is no run 'run_0'", "bessemer runs"),
        (["runs", "run_0", "--cancel"], "there is no run 'run_0'", "bessemer runs"),
        (["train", "--resume", "run_0"], "there is no run 'run_0'", "bessemer runs"),
        (["train", TEACH], "there is no model", "bessemer pull"),
        (["train", "none.toml"], "cannot read none.toml: No such file", "ls recipes/"),
        (["explain", "none.toml"], "cannot read none.toml: No such file", "ls recipes/"),
        (["key", "revoke", "key_0"], "there is no key 'key_0'", "bessemer key list"),
        (["key", "create", "--scope", "all"], "all", "chat"),
        (["login"], "no server runs on", "bessemer up"),
        (["data", "check", "none.jsonl"], "cannot read none.jsonl", "name a file"),
        (["batches", "create", "none.jsonl"], "none.jsonl is neither a file here", "files list"),
        (["batches", "show", "batch_0"], "No such Batch object: batch_0", "bessemer batches list"),
        (["files", "get", "file-0"], "No such File object: file-0", "bessemer files list"),
        (["evals", "show", "eval_0"], "No such eval: eval_0", "bessemer evals list"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_an_error_says_what_happened_and_what_to_do(
    words: list[str], message: str, next_step: str
) -> None:
    said = say(*words)
    assert (said.status, said.out) == (1, "")
    first, *rest = said.err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert rest[-1].startswith("  next: ")
    assert next_step in rest[-1]
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rnk=8", "did you mean 'lora.rank'?"),
        ("learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
        ("lora.rank=none", "lora.rank"),
        ("lora.rank", "is not of the form a.b=value"),
        ("model.depth=4", "sft starts from a model"),
    ],
)
@pytest.mark.parametrize("verb", ["explain", "train"])
def test_a_wrong_override_is_refused_by_name(verb: str, override: str, message: str) -> None:
    said = say(verb, TEACH, "--set", override)
    assert (said.status, said.out) == (1, "")
    assert message in said.err


def test_an_unknown_key_in_a_recipe_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(Path(TEACH).read_text() + "\n[optimiser]\nlearning_rate = 1.0\n")
    said = say("train", str(recipe))
    assert said.status == 1
    assert "optimiser: there is no such key; did you mean 'optimizer" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modles"], "there is no verb 'modles'; did you mean 'models'?"),
        (["frobnicate"], "bessemer --help lists them"),
        (["data", "biuld"], "'build'"),
        (["models", "--jsn"], "'--json'"),
        (["train"], "--resume RUN"),
        (["runs", "--follow"], "bessemer runs RUN --follow"),
        (["chat", "--json"], "--message"),
        (["eval"], "MODEL"),
        (["up", "--port", "http"], "'http'"),
        (["audit", "--limit", "9" * 30], "9 is not in the range"),
        (["usage", "unsettled", "--older", "9" * 30], "9 is not in the range"),
        (["usage", "settle", "req_0", "--prompt", "9" * 30], "9 is not in the range"),
        (["chat", "none", "-m", "Hi", "--seed", "9" * 30], "9 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_says_what_is_right(words: list[str], message: str) -> None:
    said = say(*words)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("Usage: bessemer")
    assert message in said.err


@pytest.mark.parametrize("verb", [["key", "revoke"], ["project", "create"], ["audit", "--actor"]])
def test_an_argument_that_is_no_text_is_refused(verb: list[str]) -> None:
    said = say(*verb, "caf\udce9")
    assert (said.status, said.out) == (2, "")
    assert said.err == "Error: an argument is not UTF-8: b'caf\\xe9'\n"


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        (["prices", "set"], 2),
        (["check", "logprobs", "none", "--text"], 2),
        (["explain"], 1),
        (["train"], 1),
        (["evals", "import"], 1),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_file_that_is_no_text_is_refused_by_its_name(
    verb: list[str], status: int, tmp_path: Path
) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes(b"caf\xe9")
    said = say(*verb, str(file))
    assert (said.status, said.out) == (status, "")
    assert "latin.toml" in said.err and "UTF-8" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("verb", [["prices", "set"], ["explain"], ["train"]])
def test_a_file_that_is_nested_too_deeply_is_refused(verb: list[str], tmp_path: Path) -> None:
    file = tmp_path / "deep.toml"
    file.write_text(f"a = {'[' * 5000}{']' * 5000}")
    said = say(*verb, str(file))
    assert (said.status, said.out) == (1, "")
    assert "deep.toml is not TOML: maximum recursion depth" in said.err


def test_a_path_that_leads_nowhere_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    added = say("files", "add", str(tmp_path / "a.jsonl"), "--purpose", "batch").out.strip()
    there = tmp_path / "none" / "b.jsonl"
    assert say("files", "get", added, "-o", str(there)).err == (
        f"error: No such file or directory: {there}\n"
    )
    assert "error: File name too long: aaa" in say("batches", "create", "a" * 5000).err


def test_a_home_that_cannot_be_made_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "file" / "home"))
    said = say("models")
    assert (said.status, said.out) == (1, "")
    assert said.err == f"error: Not a directory: {tmp_path / 'file' / 'home'}\n"


@pytest.mark.parametrize("words", [["--help"], ["explain", TEACH], ["version", "--json"]])
def test_a_reader_that_has_gone_meets_silence(words: list[str], home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen([*PROGRAM, *words], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert err == b""
