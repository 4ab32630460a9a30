"""`/v1/organization/users`, and those of one project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app import members, people, projects
from bessemer.app.platform import OWNER_ID, Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.routes import Call, Deleted, ListShape, Route

PATH = "/v1/organization/users"
PROJECT_PATH = "/v1/organization/projects/{project_id}/users"


class _InProject(msgspec.Struct):
    id: str
    name: str
    role: str


class _ProjectsOf(msgspec.Struct):
    data: list[_InProject]
    object: Literal["list"] = "list"


class UserShape(msgspec.Struct):
    """`projects` only where one user is asked for."""

    id: str
    name: str
    email: str
    role: str
    added_at: int
    is_default: bool
    projects: _ProjectsOf | UnsetType = UNSET
    is_service_account: Literal[False] = False
    object: Literal["organization.user"] = "organization.user"

    @classmethod
    def of(
        cls, person: people.Person, inside: Sequence[people.InProject] | None = None
    ) -> UserShape:
        listed = UNSET if inside is None else _ProjectsOf([_InProject(*one) for one in inside])
        return cls(
            person.id,
            person.name,
            person.email,
            person.role,
            person.created_ms // 1000,
            person.id == OWNER_ID,
            listed,
        )


class ProjectUserShape(msgspec.Struct):
    id: str
    name: str
    email: str
    role: str
    added_at: int
    object: Literal["organization.project.user"] = "organization.project.user"

    @classmethod
    def of(cls, member: members.Member) -> ProjectUserShape:
        person = member.person
        return cls(person.id, person.name, person.email, member.role, member.added_ms // 1000)


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    role: str | None = None
    role_id: str | None = None
    technical_level: str | None = None
    developer_persona: str | None = None


class _Add(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    user_id: str | None = None
    email: str | None = None


class _ChangeInProject(msgspec.Struct, forbid_unknown_fields=True):
    role: str | None = None


def routes(platform: Platform) -> list[Route]:
    return [*_of_organization(platform), *_of_project(platform)]


def _of_organization(platform: Platform) -> list[Route]:
    change_body = msgspec.json.Decoder(_Change)

    async def list_all(call: Call) -> None:
        """The organization's people; `emails` asks for some."""
        emails = call.query.many("emails")
        found, has_more = await call.work(
            people.list_people, platform, call.principal, call.query.page(), emails
        )
        await call.reply(ListShape.of([UserShape.of(one) for one in found], has_more))

    async def get(call: Call) -> None:
        """One person, and the projects they were let into."""
        person = await call.work(people.get, platform, call.principal, call.ids["user_id"])
        inside = await call.work(people.projects_of, platform, call.principal, person.id)
        await call.reply(UserShape.of(person, inside))

    async def update(call: Call) -> None:
        """Give a person another role: owner, member or reader."""
        call.principal.require(people.WRITE_SCOPE)
        body = await call.body(change_body)
        for name in ("technical_level", "developer_persona"):
            if getattr(body, name) is not None:
                raise UnsupportedParameter(name)
        role = _one_role(body)
        if role is None:
            person = await call.work(people.get, platform, call.principal, call.ids["user_id"])
        else:
            person = await call.work(
                people.set_role, platform, call.principal, call.ids["user_id"], role
            )
        await call.reply(UserShape.of(person))

    async def delete(call: Call) -> None:
        """Take a person out, with their keys; what they made stays."""
        await call.work(people.remove, platform, call.principal, call.ids["user_id"])
        await call.reply(Deleted(call.ids["user_id"], "organization.user.deleted"))

    return [
        Route("GET", PATH, list_all, query=("limit", "after", "emails")),
        Route("GET", PATH + "/{user_id}", get),
        Route("POST", PATH + "/{user_id}", update),
        Route("DELETE", PATH + "/{user_id}", delete),
    ]


def _of_project(platform: Platform) -> list[Route]:
    add_body = msgspec.json.Decoder(_Add)
    change_body = msgspec.json.Decoder(_ChangeInProject)

    async def list_all(call: Call) -> None:
        """Who was let into the project; owners and members of the organization are in all."""
        found, has_more = await call.work(
            members.list_members,
            platform,
            call.principal,
            call.ids["project_id"],
            call.query.page(),
        )
        await call.reply(ListShape.of([ProjectUserShape.of(one) for one in found], has_more))

    async def add(call: Call) -> None:
        """Let a person of the organization in, by `user_id` or `email`, as a `role`."""
        project_id = call.ids["project_id"]
        await call.work(projects.get_to_change, platform, call.principal, project_id)
        body = await call.body(add_body)
        if (body.user_id is None) is (body.email is None):
            raise InvalidInput("Give one of 'user_id' and 'email'.", param="user_id")
        member = await call.work(
            members.add,
            platform,
            call.principal,
            project_id,
            body.user_id or body.email or "",
            body.role,
        )
        await call.reply(ProjectUserShape.of(member))

    async def get(call: Call) -> None:
        """One of them."""
        member = await call.work(
            members.get, platform, call.principal, call.ids["project_id"], call.ids["user_id"]
        )
        await call.reply(ProjectUserShape.of(member))

    async def update(call: Call) -> None:
        """Give one of them another role in the project."""
        where = call.ids["project_id"], call.ids["user_id"]
        await call.work(projects.get_to_change, platform, call.principal, where[0])
        body = await call.body(change_body)
        if body.role is None:
            member = await call.work(members.get, platform, call.principal, *where)
        else:
            member = await call.work(members.set_role, platform, call.principal, *where, body.role)
        await call.reply(ProjectUserShape.of(member))

    async def remove(call: Call) -> None:
        """Take one of them off the project's list."""
        project_id, user_id = call.ids["project_id"], call.ids["user_id"]
        await call.work(members.remove, platform, call.principal, project_id, user_id)
        await call.reply(Deleted(user_id, "organization.project.user.deleted"))

    return [
        Route("GET", PROJECT_PATH, list_all, query=("limit", "after")),
        Route("POST", PROJECT_PATH, add),
        Route("GET", PROJECT_PATH + "/{user_id}", get),
        Route("POST", PROJECT_PATH + "/{user_id}", update),
        Route("DELETE", PROJECT_PATH + "/{user_id}", remove),
    ]


def _one_role(body: _Change) -> str | None:
    if body.role is not None and body.role_id is not None:
        raise InvalidInput("Give one of 'role' and 'role_id'.", param="role_id")
    return body.role if body.role_id is None else body.role_id.removeprefix("role_")
