"""Chat completions that are kept."""

from __future__ import annotations

from typing import Any

from tests.conformance.cycle import Desk, cycle, every, gone, ids

MESSAGES: list[Any] = [{"role": "developer", "content": "Be brief."},
                       {"role": "user", "content": "Where is the key?"}]  # fmt: skip


@cycle(
    "GET /chat/completions",
    "GET /chat/completions/{completion_id}",
    "POST /chat/completions/{completion_id}",
    "DELETE /chat/completions/{completion_id}",
    "GET /chat/completions/{completion_id}/messages",
)
async def stored_completions(desk: Desk) -> None:
    kept = desk.client.chat.completions
    made = await kept.create(
        model=desk.model,
        messages=MESSAGES,
        max_tokens=4,
        store=True,
        metadata={"run": desk.word},
    )
    found = await kept.retrieve(made.id)
    assert found.choices[0].message.content == made.choices[0].message.content
    said = await every(kept.messages.list(made.id))
    assert [(one.role, one.content) for one in said] == [
        (m["role"], m["content"]) for m in MESSAGES
    ]
    await kept.update(made.id, metadata={"run": desk.word, "seen": "yes"})
    assert (await kept.retrieve(made.id)).metadata == {"run": desk.word, "seen": "yes"}
    mine = {"run": desk.word, "seen": "yes"}
    assert await ids(kept.list(metadata=mine)) == [made.id]
    await kept.delete(made.id)
    await gone(kept.retrieve(made.id))
    assert await ids(kept.list(metadata=mine)) == []
