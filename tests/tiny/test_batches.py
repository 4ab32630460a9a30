"""A batch by the command line, answered by a real server's real engine."""

from __future__ import annotations

import json
from pathlib import Path

from tests.gateway.batch_house import chat_line
from tests.polling import until
from tests.tiny.house import Server


def test_a_batch_of_two_models_is_answered_beside_what_is_asked_live(
    served: Server, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    models = [("tiny", "other")[n % 2] for n in range(12)]
    lines = [chat_line(str(n), model=model, max_tokens=8) for n, model in enumerate(models)]
    path.write_bytes(b"".join([*lines, chat_line("none", model="none")]))
    batch_id = served.house.done("batches", "create", str(path)).out.strip()
    live = served.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=8
    )
    assert live.usage is not None and live.usage.completion_tokens > 0

    def is_over() -> bool:
        told = served.house.done("batches", "show", batch_id, "--json").json
        return bool(told["status"] == "completed")

    until(is_over, "the batch is completed", 60)
    batch = served.house.done("batches", "show", batch_id, "--json").json
    assert (batch["total"], batch["completed"], batch["failed"]) == (13, 12, 1)
    output = served.house.done("files", "get", batch["output_file_id"]).out
    results = [json.loads(line) for line in output.splitlines()]
    assert [result["response"]["body"]["model"] for result in results] == models
    usages = [result["response"]["body"]["usage"] for result in results]
    assert batch["usage"]["completion_tokens"] == sum(u["completion_tokens"] for u in usages) > 0
    used = served.house.done("usage", "--by", "kind", "--json").json
    assert sum(row["requests"] for row in used if row["kind"] == "batch") == 12
