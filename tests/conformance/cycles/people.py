"""People: invited, in projects, with roles."""

from __future__ import annotations

from typing import Any

from tests.conformance.cycle import Desk, cycle, gone, ids, until_let_in

INVITES = "/organization/invites"
USERS = "/organization/users"
MEMBERS = "/organization/projects/{project_id}/users"


@cycle(
    f"POST {INVITES}",
    f"GET {INVITES}",
    f"GET {INVITES}/{{invite_id}}",
    f"DELETE {INVITES}/{{invite_id}}",
)
async def invites(desk: Desk) -> None:
    here = desk.client.admin.organization.invites
    made = await here.create(email=f"{desk.word}-out@example.org", role="reader")
    assert (await here.retrieve(made.id)).status == "pending"
    assert made.id in await ids(here.list(limit=1))
    await here.delete(made.id)
    await gone(here.retrieve(made.id))
    accepted = await here.create(email=f"{desk.word}-in@example.org", role="reader")
    person = await _come_in(desk, accepted)
    assert (await here.retrieve(accepted.id)).status == "accepted"
    assert person in await ids(desk.client.admin.organization.users.list())


@cycle(
    f"GET {USERS}",
    f"GET {USERS}/{{user_id}}",
    f"POST {USERS}/{{user_id}}",
    f"DELETE {USERS}/{{user_id}}",
)
async def users(desk: Desk) -> None:
    here = desk.client.admin.organization.users
    person, email = await _person(desk, "user")
    assert (await here.retrieve(person)).role == "reader"
    await here.update(person, role="member")
    assert (await here.retrieve(person)).role == "member"
    assert await ids(here.list(emails=[email])) == [person]
    await here.delete(person)
    await gone(here.retrieve(person))
    assert await ids(here.list(emails=[email])) == []


@cycle(
    f"GET {MEMBERS}",
    f"POST {MEMBERS}",
    f"GET {MEMBERS}/{{user_id}}",
    f"POST {MEMBERS}/{{user_id}}",
    f"DELETE {MEMBERS}/{{user_id}}",
)
async def project_users(desk: Desk) -> None:
    projects = desk.client.admin.organization.projects
    project, here = (await projects.create(name=desk.word)).id, projects.users
    person, _ = await _person(desk, "member")
    await here.create(project, user_id=person, role="member")
    find: Any = {"project_id": project}
    assert (await here.retrieve(person, **find)).role == "member"
    await here.update(person, **find, role="owner")
    assert (await here.retrieve(person, **find)).role == "owner"
    assert await ids(here.list(project)) == [person]
    await here.delete(person, **find)
    await gone(here.retrieve(person, **find))
    assert await ids(here.list(project)) == []
    await projects.archive(project)


async def _person(desk: Desk, word: str) -> tuple[str, str]:
    """A new reader of the organization: their id and email."""
    email = f"{desk.word}-{word}@example.org"
    made = await desk.client.admin.organization.invites.create(email=email, role="reader")
    return await _come_in(desk, made), email


async def _come_in(desk: Desk, invite: Any) -> str:
    """Accept an invite with its token, an extension of ours."""
    client = desk.client_of(invite.to_dict()["token"])
    path, body = "/organization/invites/accept", {"name": "Ada"}
    came = await until_let_in(lambda: client.post(path, body=body, cast_to=object))
    return str(came["user"]["id"])
