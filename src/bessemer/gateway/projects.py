"""`/v1/organization/projects`: create, list, get, rename, archive."""

from __future__ import annotations

from typing import Literal

import msgspec

from bessemer.app import projects
from bessemer.app.platform import Platform
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.routes import Call, ListShape, Route

PATH = "/v1/organization/projects"


class ProjectShape(msgspec.Struct):
    id: str
    name: str
    created_at: int
    archived_at: int | None
    status: Literal["active", "archived"]
    object: Literal["organization.project"] = "organization.project"

    @classmethod
    def of(cls, project: projects.Project) -> ProjectShape:
        ended = project.archived_ms
        return cls(
            project.id,
            project.name,
            project.created_ms // 1000,
            None if ended is None else ended // 1000,
            "active" if ended is None else "archived",
        )


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    residency: str | None = None
    external_key_id: str | None = None


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    external_key_id: str | None = None


def routes(platform: Platform) -> list[Route]:
    create_body = msgspec.json.Decoder(_Create)
    update_body = msgspec.json.Decoder(_Update)

    async def create(call: Call) -> None:
        """Create a project: `name`."""
        call.principal.require(projects.WRITE_SCOPE)
        body = await call.body(create_body)
        _refuse_elsewhere(body)
        made = await call.work(projects.create, platform, call.principal, body.name)
        await call.reply(ProjectShape.of(made))

    async def list_all(call: Call) -> None:
        """The organization's projects; with `include_archived=true`, those that ended as well."""
        found, has_more = await call.work(
            projects.list_projects,
            platform,
            call.principal,
            call.query.page(),
            archived=call.query.truth("include_archived") or False,
        )
        await call.reply(ListShape.of([ProjectShape.of(one) for one in found], has_more))

    async def get(call: Call) -> None:
        """One project."""
        found = await call.work(projects.get, platform, call.principal, call.ids["project_id"])
        await call.reply(ProjectShape.of(found))

    async def update(call: Call) -> None:
        """Rename a project."""
        project_id = call.ids["project_id"]
        found = await call.work(projects.get_to_change, platform, call.principal, project_id)
        body = await call.body(update_body)
        _refuse_elsewhere(body)
        if body.name is not None:
            found = await call.work(
                projects.rename, platform, call.principal, project_id, body.name
            )
        await call.reply(ProjectShape.of(found))

    async def archive(call: Call) -> None:
        """End a project: its keys answer nobody from then on. Nothing is deleted."""
        ended = await call.work(projects.archive, platform, call.principal, call.ids["project_id"])
        await call.reply(ProjectShape.of(ended))

    return [
        Route("POST", PATH, create),
        Route("GET", PATH, list_all, query=("limit", "after", "include_archived")),
        Route("GET", PATH + "/{project_id}", get),
        Route("POST", PATH + "/{project_id}", update),
        Route("POST", PATH + "/{project_id}/archive", archive),
    ]


def _refuse_elsewhere(body: _Create | _Update) -> None:
    """Everything is stored on this machine, under its own keys."""
    for name in ("residency", "external_key_id"):
        if getattr(body, name, None) is not None:
            raise UnsupportedParameter(name)
