"""`/v1/organization/projects/{project_id}/model_permissions`: which models a project may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bessemer.app import model_permissions, projects
from bessemer.app.platform import Platform
from bessemer.gateway.routes import Call, Route

PATH = "/v1/organization/projects/{project_id}/model_permissions"


class PermissionsShape(msgspec.Struct):
    mode: model_permissions.Mode
    model_ids: Sequence[str]
    object: Literal["project.model_permissions"] = "project.model_permissions"


class _Deleted(msgspec.Struct):
    object: Literal["project.model_permissions.deleted"] = "project.model_permissions.deleted"
    deleted: Literal[True] = True


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    mode: model_permissions.Mode
    model_ids: list[str]


def routes(platform: Platform) -> list[Route]:
    update_body = msgspec.json.Decoder(_Update)

    async def get(call: Call) -> None:
        """The project's list of models; 404 while it may ask every model."""
        found = await call.work(
            model_permissions.get, platform, call.principal, call.ids["project_id"]
        )
        await call.reply(PermissionsShape(*found))

    async def update(call: Call) -> None:
        """Let a project ask the models of a list only (`allow_list`), or all others."""
        project_id = call.ids["project_id"]
        await call.work(projects.get_to_change, platform, call.principal, project_id)
        body = await call.body(update_body)
        found = await call.work(
            model_permissions.set_to,
            platform,
            call.principal,
            project_id,
            body.mode,
            body.model_ids,
        )
        await call.reply(PermissionsShape(*found))

    async def delete(call: Call) -> None:
        """Let a project ask every model again."""
        await call.work(model_permissions.delete, platform, call.principal, call.ids["project_id"])
        await call.reply(_Deleted())

    return [
        Route("GET", PATH, get),
        Route("POST", PATH, update),
        Route("DELETE", PATH, delete),
    ]
