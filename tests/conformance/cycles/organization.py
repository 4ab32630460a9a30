"""Projects, their keys, service accounts and models, admin keys, and the audit trail."""

from __future__ import annotations

import openai

from tests.conformance.cycle import (
    Desk,
    cycle,
    every,
    gone,
    ids,
    until,
    until_let_in,
    until_refused,
)

PROJECTS = "/organization/projects"
PROJECT = PROJECTS + "/{project_id}"
ACCOUNTS = PROJECT + "/service_accounts"
ACCOUNT = ACCOUNTS + "/{service_account_id}"
KEYS = PROJECT + "/api_keys"
PERMISSIONS = PROJECT + "/model_permissions"
ADMIN_KEYS = "/organization/admin_api_keys"


@cycle(
    f"POST {PROJECTS}",
    f"GET {PROJECTS}",
    f"GET {PROJECT}",
    f"POST {PROJECT}",
    f"POST {PROJECT}/archive",
    "GET /organization/audit_logs",
)
async def projects(desk: Desk) -> None:
    organization = desk.client.admin.organization
    here = organization.projects
    made = await here.create(name=desk.word)
    assert (await here.retrieve(made.id)).name == desk.word
    await here.update(made.id, name=desk.word + " again")
    assert (await here.retrieve(made.id)).name == desk.word + " again"
    assert made.id in await ids(here.list(limit=1))
    await here.archive(made.id)
    assert (await here.retrieve(made.id)).status == "archived"
    assert made.id not in await ids(here.list())
    assert made.id in await ids(here.list(include_archived=True))
    told = await every(organization.audit_logs.list(project_ids=[made.id]))
    assert [event.type for event in told] == [
        "project.archived",
        "project.updated",
        "project.created",
    ]


@cycle(
    f"POST {ACCOUNTS}",
    f"GET {ACCOUNTS}",
    f"GET {ACCOUNT}",
    f"POST {ACCOUNT}",
    f"DELETE {ACCOUNT}",
    f"POST {ACCOUNT}/api_keys",
)
async def service_accounts(desk: Desk) -> None:
    here = desk.client.admin.organization.projects.service_accounts
    made = await here.create(desk.project, name=desk.word)
    find = {"project_id": desk.project}
    assert (await here.retrieve(made.id, **find)).name == desk.word
    assert made.id in await ids(here.list(desk.project))
    await here.update(made.id, **find, name=desk.word + " again")
    assert (await here.retrieve(made.id, **find)).name == desk.word + " again"
    more = await here.api_keys.create(made.id, **find, name="more")
    robot = desk.client_of(more.value)
    await until_let_in(robot.files.list)
    await here.delete(made.id, **find)
    await gone(here.retrieve(made.id, **find))
    await until_refused(robot.files.list, openai.AuthenticationError)


@cycle(f"GET {KEYS}", f"GET {KEYS}/{{api_key_id}}", f"DELETE {KEYS}/{{api_key_id}}")
async def project_keys(desk: Desk) -> None:
    here = desk.client.admin.organization.projects
    account = await here.service_accounts.create(desk.project, name=desk.word + " keys")
    key = account.api_key
    robot = desk.client_of(key.value)
    await until_let_in(robot.files.list)
    find = {"project_id": desk.project}
    found = await here.api_keys.retrieve(key.id, **find)
    assert found.owner.service_account.id == account.id
    assert key.value not in repr(found)
    assert key.id in await ids(here.api_keys.list(desk.project, limit=1))
    await here.api_keys.delete(key.id, **find)
    await gone(here.api_keys.retrieve(key.id, **find))
    await until_refused(robot.files.list, openai.AuthenticationError)


@cycle(f"GET {PERMISSIONS}", f"POST {PERMISSIONS}", f"DELETE {PERMISSIONS}")
async def model_permissions(desk: Desk) -> None:
    project, key = desk.customer()
    here = desk.client.admin.organization.projects.model_permissions
    program = desk.client_of(key)
    assert await ids(program.models.list()) == [desk.model]
    await gone(here.retrieve(project))
    await here.update(project, mode="deny_list", model_ids=[desk.model])
    found = await here.retrieve(project)
    assert (found.mode, found.model_ids) == ("deny_list", [desk.model])
    await until(lambda: ids(program.models.list()), lambda models: models == [])
    await here.delete(project)
    await gone(here.retrieve(project))
    await until(lambda: ids(program.models.list()), lambda models: models == [desk.model])


@cycle(
    f"POST {ADMIN_KEYS}",
    f"GET {ADMIN_KEYS}",
    f"GET {ADMIN_KEYS}/{{key_id}}",
    f"DELETE {ADMIN_KEYS}/{{key_id}}",
)
async def admin_keys(desk: Desk) -> None:
    here = desk.client.admin.organization.admin_api_keys
    made = await here.create(name=desk.word)
    assert made.value not in repr(await here.retrieve(made.id))
    assert made.id in await ids(here.list(limit=1))
    robot = desk.client_of(made.value).admin.organization
    await until_let_in(robot.projects.list)
    await here.delete(made.id)
    await gone(here.retrieve(made.id))
    assert made.id not in await ids(here.list())
    await until_refused(robot.projects.list, openai.AuthenticationError)
