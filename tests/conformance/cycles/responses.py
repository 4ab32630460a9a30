"""Responses: whole, streamed, in the background, counted before they are asked for."""

from __future__ import annotations

from typing import Any

from tests.conformance.cycle import Desk, cycle, every, gone, until

TRIES = 40


@cycle(
    "POST /responses",
    "GET /responses/{response_id}",
    "DELETE /responses/{response_id}",
    "GET /responses/{response_id}/input_items",
    "POST /responses/input_tokens",
)
async def responses(desk: Desk) -> None:
    here = desk.client.responses
    asked: Any = {"model": desk.model, "input": "Where is the key?"}
    made = await here.create(**asked, max_output_tokens=16, temperature=0)
    found = await here.retrieve(made.id)
    assert found.output_text == made.output_text
    assert (await here.input_tokens.count(**asked)).input_tokens == made.usage.input_tokens
    (item,) = await every(here.input_items.list(made.id))
    assert item.content[0].text == asked["input"]

    events = await every(here.create(**asked, max_output_tokens=16, temperature=0, stream=True))
    assert events[0].type == "response.created"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        made.output_text
    )
    streamed = events[-1].response.id
    assert (await here.retrieve(streamed)).output_text == made.output_text

    on_top = await here.create(**asked, max_output_tokens=16, previous_response_id=made.id)
    assert on_top.usage.input_tokens > made.usage.input_tokens
    for one in (made.id, streamed):
        await here.delete(one)
        await gone(here.retrieve(one))
    await gone(here.create(**asked, previous_response_id=made.id))


@cycle("GET /responses/{response_id}", "POST /responses/{response_id}/cancel")
async def background_responses(desk: Desk) -> None:
    here = desk.client.responses
    asked: Any = {"model": desk.model, "input": "Where is the key?", "background": True}
    events = await every(here.create(**asked, max_output_tokens=16, stream=True))
    again = await every(here.retrieve(events[0].response.id, stream=True))
    assert [event.type for event in again] == [event.type for event in events]

    # One that is over before it can be stopped proves nothing, so another is asked for.
    for _ in range(TRIES):
        one = await here.create(**asked, max_output_tokens=200)
        await here.cancel(one.id)
        ended = await until(
            lambda one=one: here.retrieve(one.id),  # type: ignore[misc]
            lambda found: found.status not in ("queued", "in_progress"),
        )
        if ended.status == "cancelled":
            break
    assert ended.status == "cancelled"
