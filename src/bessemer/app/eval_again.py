"""The items of a run that was imported, to be used again: their file, or log, stayed at OpenAI.

    file = items_of(platform, principal, run, with_samples=False)     # a source {"type": "file_id"}

Each result says what its item was, and what was answered.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bessemer.app import eval_runs, files
from bessemer.app.eval_runs import EvalRun, Output
from bessemer.app.files import File
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal

PAGE = 100


def items_of(
    platform: Platform, principal: Principal, run: EvalRun, *, with_samples: bool
) -> tuple[File, int]:
    """The items of a run's results as a file of the API, and how many they are.

    Args:
        with_samples: each with what was answered, to be judged as it is.

    Raises:
        InvalidInput: the run has no results here.
    """
    outputs: list[Output] = []
    has_more = True
    while has_more:
        after = outputs[-1].id if outputs else None
        asked = PageRequest(PAGE, "asc", after)
        page, has_more = eval_runs.list_outputs(platform, principal, run.eval_id, run.id, asked)
        outputs += page
    if not outputs:
        raise InvalidInput(
            f"the items of {run.id} are not here: its source stayed at OpenAI, and it has no"
            " results that would tell them",
            next_step="bessemer evals import FILE, with its output items",
        )
    lines = [_line(one, with_samples) for one in sorted(outputs, key=lambda one: one.number)]
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    name = f"{run.id}.jsonl"
    return files.add_bytes(platform, principal, name, "evals", data), len(lines)


def _line(output: Output, with_samples: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"item": output.body["datasource_item"]}
    if with_samples:
        sample = msgspec.json.decode(output.body["sample"])
        line["sample"] = {"choices": [{"message": said} for said in sample["output"][:1]]}
    return line
