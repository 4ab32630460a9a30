"""What was used and cost, and what may be: usage, costs, limits, alerts."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import openai
import pytest

from tests.conformance.cycle import Desk, cycle, every, gone, ids, refused
from tests.conformance.home import CENTS_A_TOKEN

HOUR_S = 3600
MONTH: Any = {"currency": "USD", "interval": "month"}
MAIL: Any = {"type": "email", "recipients": ["ada@example.org"]}
PROJECT = "/organization/projects/{project_id}"
PROJECT_ALERTS = PROJECT + "/spend_alerts"
ALERTS = "/organization/spend_alerts"
MANY = 10**9


class Program(NamedTuple):
    """It asks the model, in a project of its own."""

    project: str
    client: Any
    model: str

    async def chat(self, tokens: int = 4) -> Any:
        messages = [{"role": "user", "content": "Where is the key?"}]
        return await self.client.chat.completions.create(
            model=self.model, messages=messages, max_tokens=tokens
        )


@cycle(
    "GET /organization/usage/completions",
    "GET /organization/usage/embeddings",
    "GET /organization/costs",
)
async def usage_and_costs(desk: Desk) -> None:
    program = _program(desk)
    answers = [await program.chat() for _ in range(2)]
    vectors = await program.client.embeddings.create(model=desk.model, input="a box")
    asked: Any = {
        "start_time": int(time.time()) - HOUR_S,
        "project_ids": [program.project],
    }
    here = desk.client.admin.organization.usage
    (chats,) = await _results(here.completions(**asked))
    assert chats.num_model_requests == 2
    assert chats.input_tokens == sum(answer.usage.prompt_tokens for answer in answers)
    assert chats.output_tokens == sum(answer.usage.completion_tokens for answer in answers)
    (embedded,) = await _results(here.embeddings(**asked))
    assert embedded.input_tokens == vectors.usage.prompt_tokens
    (cost,) = await _results(here.costs(**asked))
    assert cost.amount.value == pytest.approx(chats.output_tokens * CENTS_A_TOKEN / 100)


@cycle(f"GET {PROJECT}/rate_limits", f"POST {PROJECT}/rate_limits/{{rate_limit_id}}")
async def rate_limits(desk: Desk) -> None:
    program = _program(desk)
    here = desk.client.admin.organization.projects.rate_limits
    await program.chat()
    await here.update_rate_limit("rl-*", project_id=program.project, max_requests_per_1_minute=1)
    listed = await every(here.list_rate_limits(program.project))
    assert [one.max_requests_per_1_minute for one in listed if one.id == "rl-*"] == [1]

    async def twice() -> None:
        await program.chat()
        await program.chat()

    await refused(twice(), openai.RateLimitError)


@cycle(f"GET {PROJECT}/spend_limit", f"POST {PROJECT}/spend_limit", f"DELETE {PROJECT}/spend_limit")
async def project_spend_limit(desk: Desk) -> None:
    program = _program(desk)
    here = desk.client.admin.organization.projects.spend_limit
    await gone(here.retrieve(program.project))
    await here.update(program.project, threshold_amount=2, **MONTH)
    assert (await here.retrieve(program.project)).threshold_amount == 2
    await refused(program.chat(tokens=4), openai.RateLimitError)
    await here.delete(program.project)
    await gone(here.retrieve(program.project))
    await program.chat(tokens=4)


@cycle(
    "GET /organization/spend_limit",
    "POST /organization/spend_limit",
    "DELETE /organization/spend_limit",
)
async def spend_limit(desk: Desk) -> None:
    here = desk.client.admin.organization.spend_limit
    async with desk.alone:
        await gone(here.retrieve())
        await here.update(threshold_amount=MANY, **MONTH)
        assert (await here.retrieve()).threshold_amount == MANY
        await here.delete()
        await gone(here.retrieve())


@cycle(
    f"POST {PROJECT_ALERTS}",
    f"GET {PROJECT_ALERTS}",
    f"GET {PROJECT_ALERTS}/{{alert_id}}",
    f"POST {PROJECT_ALERTS}/{{alert_id}}",
    f"DELETE {PROJECT_ALERTS}/{{alert_id}}",
)
async def project_spend_alerts(desk: Desk) -> None:
    program = _program(desk)
    here = desk.client.admin.organization.projects.spend_alerts
    where: Any = {"project_id": program.project}
    asked: Any = {"notification_channel": MAIL, **MONTH}
    made = await here.create(program.project, threshold_amount=MANY, **asked)
    assert (await here.retrieve(made.id, **where)).threshold_amount == MANY
    await here.update(made.id, threshold_amount=MANY + 1, **where, **asked)
    assert (await here.retrieve(made.id, **where)).threshold_amount == MANY + 1
    assert await ids(here.list(program.project)) == [made.id]
    await here.delete(made.id, **where)
    await gone(here.retrieve(made.id, **where))
    assert await ids(here.list(program.project)) == []


@cycle(
    f"POST {ALERTS}",
    f"GET {ALERTS}",
    f"GET {ALERTS}/{{alert_id}}",
    f"POST {ALERTS}/{{alert_id}}",
    f"DELETE {ALERTS}/{{alert_id}}",
)
async def spend_alerts(desk: Desk) -> None:
    here = desk.client.admin.organization.spend_alerts
    asked: Any = {"notification_channel": MAIL, **MONTH}
    made = await here.create(threshold_amount=MANY, **asked)
    assert (await here.retrieve(made.id)).threshold_amount == MANY
    await here.update(made.id, threshold_amount=MANY + 1, **asked)
    assert (await here.retrieve(made.id)).threshold_amount == MANY + 1
    assert made.id in await ids(here.list())
    await here.delete(made.id)
    await gone(here.retrieve(made.id))
    assert made.id not in await ids(here.list())


def _program(desk: Desk) -> Program:
    project, key = desk.customer()
    return Program(project, desk.client_of(key), desk.model)


async def _results(page: Any) -> list[Any]:
    return [result for bucket in (await page).data for result in bucket.results]
