"""Seconds from creating a fine-tuning job to `succeeded`, over the API of a server of its own.

    python benchmarks/fine_tuning_jobs.py [--tiny]

Each job is alone. Of its seconds, `steps` are those between its first and its last step; the rest
is reading the files, the run's process, loading the model, and storing the result.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from openai import OpenAI
from serving.server import served

QUESTION = "Where in the house of {n} doors do you keep the key to door {n}?"
GOOD = "It hangs on hook {n}, in the hall to the left; ask Ada if somebody has borrowed it."
BAD = "In a place that I do not know, in a room that nobody has ever seen."


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def chats(count: int) -> list[Any]:
    return [
        {
            "messages": [
                message("user", QUESTION.format(n=n)),
                message("assistant", GOOD.format(n=n)),
            ]
        }
        for n in range(count)
    ]


def pairs(count: int) -> list[Any]:
    return [
        {
            "input": {"messages": [message("user", QUESTION.format(n=n))]},
            "preferred_output": [message("assistant", GOOD.format(n=n))],
            "non_preferred_output": [message("assistant", BAD)],
        }
        for n in range(count)
    ]


def measure(client: OpenAI, model: str, kind: str, lines: list[Any]) -> None:
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", data), purpose="fine-tune")
    method: Any = {"type": kind}
    began_s = time.monotonic()
    job = client.fine_tuning.jobs.create(model=model, training_file=file.id, method=method)
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    whole_s = time.monotonic() - began_s
    assert job.status == "succeeded", job.error
    steps = [
        event.created_at
        for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)
        if event.message.startswith("Step ")
    ]
    print(
        f"{kind:12} {len(lines):4} lines  {whole_s:6.1f} s  steps {max(steps) - min(steps):4} s"
        f"  {len(steps)} steps, {job.trained_tokens:,} tokens",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a random model, made on the spot")
    with served(tiny=parser.parse_args().tiny, scopes=["*"]) as server:
        client = OpenAI(base_url=server.url, api_key=server.key)
        for kind, lines in (
            ("supervised", chats(10)), ("supervised", chats(50)), ("dpo", pairs(10))
        ):  # fmt: skip
            measure(client, server.model, kind, lines)


if __name__ == "__main__":
    main()
