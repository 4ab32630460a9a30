"""What a fine-tuning job says of files that it cannot learn from; nothing of a run is begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.app import files, jobs
from bessemer.app.datasets import list_datasets
from bessemer.core.errors import DataError
from bessemer.data.importing import import_examples
from tests.gateway.calling import call
from tests.gateway.tuning_shop import JOBS, ME, Shop, shop, tiny_folder
from tests.tiny import world

__all__ = ["shop", "tiny_folder"]  # fixtures


def test_a_fault_in_a_file_names_its_line_before_anything_is_trained(shop: Shop) -> None:
    lines: list[Any] = [*world.chats(3), {"messages": [{"role": "user"}]}, {"text": "x"}]
    job = shop.until(shop.create(lines), "failed")
    assert (job["error"]["code"], job["error"]["param"]) == (
        "invalid_training_file",
        "training_file",
    )
    assert "line 4: " in job["error"]["message"]
    assert "line 5: " in job["error"]["message"]
    assert list(shop.platform.home.runs.iterdir()) == []
    (last, *_) = call(shop.app, f"{JOBS}/{job['id']}/events", method="GET").json()["data"]
    assert (last["level"], last["message"]) == ("error", job["error"]["message"])


def test_every_fault_is_told_or_counted_and_no_run_is_begun(shop: Shop, tmp_path: Path) -> None:
    good = b"".join(json.dumps(chat).encode() + b"\n" for chat in world.chats(2))
    data = good + b"{\n" * 18 + b"\n" + b"\xff\n" * 7 + good
    file_id = files.add_bytes(shop.platform, ME, "lines.jsonl", "fine-tune", data).id
    job = shop.until(call(shop.app, JOBS, {"model": "tiny", "training_file": file_id}).json(),
                     "failed")  # fmt: skip
    told = job["error"]["message"].splitlines()
    assert told[0] == f"{file_id} has 25 faults:"
    numbers = [int(line.split()[1].rstrip(":")) for line in told[1:-1]]
    assert numbers == [*range(3, 21), 22, 23] and told[-1].strip() == "and 5 more"
    assert "not JSON" in told[1] and "not UTF-8" in told[20]
    (last, *_) = call(shop.app, f"{JOBS}/{job['id']}/events", method="GET").json()["data"]
    assert (last["level"], last["message"]) == ("error", job["error"]["message"])
    # Nothing was begun: no run, no dataset, no adapter, nothing charged.
    assert jobs.list_runs(shop.platform, ME) == []
    assert list(shop.platform.home.runs.iterdir()) == []
    assert list_datasets(shop.platform, ME) == []
    assert job["trained_tokens"] is None and job["fine_tuned_model"] is None
    # `bessemer data import` says the same of the same file.
    path = tmp_path / file_id
    path.write_bytes(data)
    with pytest.raises(DataError) as fault:
        import_examples(path, tmp_path / "made")
    assert fault.value.message == job["error"]["message"]


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_lines_that_the_model_cannot_read_are_told_by_their_number(shop: Shop, param: str) -> None:
    lines = world.chats(30)
    for chat in lines[4:26]:
        chat["messages"][1]["content"] = "red " * 1000
    # Blank lines count as lines, and as nothing else.
    data = b"\n\n" + b"".join(json.dumps(chat).encode() + b"\n" for chat in lines)
    bad = files.add_bytes(shop.platform, ME, "lines.jsonl", "fine-tune", data).id
    fields = {"model": "tiny", "training_file": shop.upload(world.chats(4)), param: bad}
    job = shop.until(call(shop.app, JOBS, fields).json(), "failed")
    assert (job["error"]["code"], job["error"]["param"]) == (f"invalid_{param}", param)
    told = job["error"]["message"].splitlines()
    assert told[0] == f"{bad} has 22 faults:" and told[-1].strip() == "and 2 more"
    assert told[1].strip().startswith("line 7: has ") and told[20].strip().startswith("line 26: ")
    assert jobs.list_runs(shop.platform, ME) == []


def test_a_file_of_another_kind_and_one_too_long_fail_the_job(shop: Shop) -> None:
    long = world.chats(2)
    long[1]["messages"][1]["content"] = "red " * 1000
    pair = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello"}],
        "non_preferred_output": [{"role": "assistant", "content": "What"}],
    }
    for lines, wanted in (([pair], "chats are needed"), (long, "line 2: has")):
        job = shop.until(shop.create(lines), "failed")
        assert wanted in job["error"]["message"]
    good = shop.upload(world.chats(2))
    bad = shop.upload([{"no": "chat"}])
    fields = {"model": "tiny", "training_file": good, "validation_file": bad}
    job = shop.until(call(shop.app, JOBS, fields).json(), "failed")
    assert job["error"]["code"] == "invalid_validation_file"
