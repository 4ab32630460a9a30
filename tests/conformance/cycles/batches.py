"""Batches, and files that come in parts."""

from __future__ import annotations

import json
from typing import Any

import openai

from tests.conformance.cycle import Desk, cycle, gone, ids, refused, until

OVER = ("completed", "failed", "expired", "cancelled")


@cycle("POST /batches", "GET /batches", "GET /batches/{batch_id}")
async def batches(desk: Desk) -> None:
    here = desk.client.batches
    made = await _batch(desk, lines=3)
    done = await until(lambda: here.retrieve(made.id), lambda found: found.status in OVER)
    assert done.status == "completed" and done.request_counts.completed == 3
    text = (await desk.client.files.content(done.output_file_id)).text
    results = [json.loads(line) for line in text.splitlines()]
    assert sorted(result["custom_id"] for result in results) == ["0", "1", "2"]
    assert all(result["response"]["body"]["choices"] for result in results)
    assert made.id in await ids(here.list(limit=1))
    await gone(here.retrieve("batch_none"))


@cycle("POST /batches/{batch_id}/cancel")
async def batches_that_are_cancelled(desk: Desk) -> None:
    here = desk.client.batches
    made = await _batch(desk, lines=500)
    await until(lambda: here.retrieve(made.id), lambda found: found.status == "in_progress")
    await here.cancel(made.id)
    over = await until(lambda: here.retrieve(made.id), lambda found: found.status in OVER)
    assert over.status == "cancelled" and over.request_counts.completed < 500


@cycle("POST /uploads", "POST /uploads/{upload_id}/parts", "POST /uploads/{upload_id}/complete")
async def uploads(desk: Desk) -> None:
    here, parts = desk.client.uploads, (b"one, ", b"two")
    made = await _upload(desk, sum(map(len, parts)))
    sent = [(await here.parts.create(made.id, data=part)).id for part in parts]
    done = await here.complete(made.id, part_ids=sent)
    assert done.status == "completed"
    assert (await desk.client.files.content(done.file.id)).content == b"one, two"


@cycle("POST /uploads/{upload_id}/cancel")
async def uploads_that_are_cancelled(desk: Desk) -> None:
    made = await _upload(desk, 3)
    assert (await desk.client.uploads.cancel(made.id)).status == "cancelled"
    await refused(desk.client.uploads.parts.create(made.id, data=b"one"), openai.ConflictError)


async def _batch(desk: Desk, lines: int) -> Any:
    messages = [{"role": "user", "content": "Where is the key?"}]
    asked = {"model": desk.model, "messages": messages, "max_tokens": 8}
    text = "".join(
        json.dumps(
            {"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
        )
        + "\n"
        for n in range(lines)
    )
    file = await desk.client.files.create(file=("b.jsonl", text.encode()), purpose="batch")
    return await desk.client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


async def _upload(desk: Desk, size_bytes: int) -> Any:
    return await desk.client.uploads.create(
        filename="a.txt", purpose="user_data", bytes=size_bytes, mime_type="text/plain"
    )
