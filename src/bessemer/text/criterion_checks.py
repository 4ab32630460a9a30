"""What a criterion that needs no model says of an answer: a score, and whether it passes.

    spaces = {"item": {"capital": "Paris"}, "sample": sample_of("It is Paris.")}
    grade(criterion, spaces)               # Grade(1.0, True)

Python is run in the sandbox (`core.sandbox`) with the standard library and those packages that it
imports of the ones that graders have (`grader_modules`).
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bessemer.core.errors import DataError
from bessemer.core.protocols import Message
from bessemer.core.sandbox import Limits, Outcome, run_python
from bessemer.text.criteria import PythonCheck, StringCheck, TextSimilarity
from bessemer.text.grader_modules import packages_of
from bessemer.text.placeholders import Placeholders
from bessemer.text.similarity import similarity

# What a measure may compare: two such texts take half a second.
MAX_COMPARED_CHARS = 100_000
# Less time than OpenAI's two minutes, which suits a machine that also serves.
PYTHON_LIMITS = Limits(wall_s=30.0, cpu_s=30, memory_bytes=1024 * 1024 * 1024)
_SHOWN_CHARS = 300

Spaces = Mapping[str, Any]


class Grade(NamedTuple):
    """A score and whether it passes; `note` is what the judge said."""

    score: float
    passed: bool
    note: Mapping[str, Any] | None = None


def sample_of(
    text: str, tool_calls: Sequence[Message] = (), finish_reason: str = "stop"
) -> dict[str, Any]:
    """The namespace `sample` of an answer. `output_json` is there where the text is JSON."""
    message: Message = {"role": "assistant", "content": text}
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    found = {"output_text": text, "output_tools": list(tool_calls), "choices": [choice]}
    return completed(found)


def completed(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The sample with what its other fields say already.

    `output_text` and `output_tools` are those of its first choice, and `output_json` is its text,
    where that is JSON. What it has stays as it is.
    """
    found = {**_first_message(sample), **sample}
    text = found.get("output_text")
    if "output_json" not in found and isinstance(text, str):
        # Where it is no JSON, who asks for it is told that it is not there.
        with contextlib.suppress(ValueError, RecursionError):
            found["output_json"] = json.loads(text, parse_constant=_no_constant)
    return found


def _first_message(sample: Mapping[str, Any]) -> dict[str, Any]:
    match sample.get("choices"):
        case [{"message": {**message}}, *_]:
            calls = {"output_tools": message["tool_calls"]} if message.get("tool_calls") else {}
            text = message.get("content") or ("" if calls else None)
            return {"output_text": text, **calls} if isinstance(text, str) else calls
    return {}


def grade(criterion: StringCheck | TextSimilarity | PythonCheck, spaces: Spaces) -> Grade:
    """Raises DataError: a value is not there, or the code gives no number; SandboxUnavailable."""
    match criterion:
        case StringCheck():
            return _check_string(criterion, spaces)
        case TextSimilarity():
            text, reference = compared(criterion, spaces)
            score = similarity(criterion.evaluation_metric, text, reference)
            return Grade(score, score >= criterion.pass_threshold)
        case PythonCheck():
            score = _run(criterion, spaces)
            return Grade(score, score >= criterion.threshold)


def compared(criterion: TextSimilarity, spaces: Spaces) -> tuple[str, str]:
    """Input and reference, filled in. Raises DataError where one is too long to compare."""
    texts = [Placeholders(part).fill(spaces) for part in (criterion.input, criterion.reference)]
    longest = max(map(len, texts))
    if longest > MAX_COMPARED_CHARS:
        raise DataError(
            f"a text of {longest:,} characters is too long for {criterion.evaluation_metric};"
            f" the limit is {MAX_COMPARED_CHARS:,}"
        )
    return texts[0], texts[1]


def _check_string(criterion: StringCheck, spaces: Spaces) -> Grade:
    text = Placeholders(criterion.input).fill(spaces)
    reference = Placeholders(criterion.reference).fill(spaces)
    match criterion.operation:
        case "eq":
            passed = text == reference
        case "ne":
            passed = text != reference
        case "like":
            passed = reference in text
        case "ilike":
            passed = reference.casefold() in text.casefold()
    return Grade(float(passed), passed)


def _run(criterion: PythonCheck, spaces: Spaces) -> float:
    word = secrets.token_hex(8)
    sample, item = spaces.get("sample", {}), spaces["item"]
    # As Python, not as JSON, whose import would take longer than most graders.
    given = repr((criterion.source, sample, item, word))
    packages = packages_of(criterion.source)
    outcome = run_python(_GRADER, stdin=given, limits=PYTHON_LIMITS, packages=packages)
    said = [line for line in outcome.stdout.splitlines() if line.startswith(word)]
    if outcome.status != "passed" or not said:
        raise DataError(f"the grader {criterion.name!r} {_ending(outcome)}")
    score = float(said[-1].split()[1])
    if not math.isfinite(score):
        raise DataError(f"the grader {criterion.name!r} gives {score}, which is no score")
    return score


def _ending(outcome: Outcome) -> str:
    if outcome.status not in ("passed", "failed"):
        return f"was ended at its limit of {outcome.status}, after {outcome.wall_s:.1f} s"
    last = outcome.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    return f"failed: {last[0][:_SHOWN_CHARS]}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# Runs inside. What the source prints goes to stderr, so that the score stands alone.
_GRADER = """
def main():
    import os, sys
    source, sample, item, word = eval(sys.stdin.read())
    told = os.dup(1)
    os.dup2(2, 1)
    names = {"__name__": "grader"}
    exec(compile(source, "grader.py", "exec"), names)
    if not callable(names.get("grade")):
        raise NameError("there is no function grade(sample, item)")
    score = names["grade"](sample, item)
    if isinstance(score, str) or score is None:
        raise TypeError(f"grade(sample, item) gave {score!r}, which is no number")
    os.write(told, f"{word} {float(score)!r}\\n".encode())

main()
"""
