"""Files."""

from __future__ import annotations

from tests.conformance.cycle import Desk, cycle, gone, ids


@cycle(
    "POST /files",
    "GET /files",
    "GET /files/{file_id}",
    "GET /files/{file_id}/content",
    "DELETE /files/{file_id}",
)
async def files(desk: Desk) -> None:
    data = f"{desk.word}\n".encode() * 1000
    made = await desk.client.files.create(file=("a.txt", data), purpose="user_data")
    found = await desk.client.files.retrieve(made.id)
    assert (found.filename, found.bytes, found.purpose) == ("a.txt", len(data), "user_data")
    assert (await desk.client.files.content(made.id)).content == data
    assert made.id in await ids(desk.client.files.list(purpose="user_data"))
    await desk.client.files.delete(made.id)
    await gone(desk.client.files.retrieve(made.id))
    await gone(desk.client.files.content(made.id))
    assert made.id not in await ids(desk.client.files.list(purpose="user_data"))
