"""`/v1/organization/projects/{project_id}/service_accounts`, and their keys."""

from __future__ import annotations

from typing import Literal

import msgspec

from bessemer.app import projects, service_accounts
from bessemer.app.keys import NewKey
from bessemer.app.platform import Platform
from bessemer.gateway.routes import Call, Deleted, ListShape, Route

PATH = "/v1/organization/projects/{project_id}/service_accounts"


class AccountShape(msgspec.Struct):
    id: str
    name: str
    role: service_accounts.AccountRole
    created_at: int
    object: Literal["organization.project.service_account"] = "organization.project.service_account"

    @classmethod
    def of(cls, account: service_accounts.ServiceAccount) -> AccountShape:
        return cls(account.id, account.name, account.role, account.created_ms // 1000)


class NewKeyShape(msgspec.Struct):
    """A key of an account, with its secret: the only answer that ever has it."""

    id: str
    name: str
    value: str
    created_at: int
    object: Literal["organization.project.service_account.api_key"] = (
        "organization.project.service_account.api_key"
    )

    @classmethod
    def of(cls, key: NewKey) -> NewKeyShape:
        return cls(key.id, key.name, key.secret, key.created_ms // 1000)


class NewAccountShape(msgspec.Struct):
    id: str
    name: str
    role: service_accounts.AccountRole
    created_at: int
    api_key: NewKeyShape | None
    object: Literal["organization.project.service_account"] = "organization.project.service_account"


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    create_service_account_only: bool | None = None


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    role: str | None = None


class _CreateKey(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    scopes: list[str] | None = None


def routes(platform: Platform) -> list[Route]:
    create_body = msgspec.json.Decoder(_Create)
    update_body = msgspec.json.Decoder(_Update)
    key_body = msgspec.json.Decoder(_CreateKey)

    async def create(call: Call) -> None:
        """Create an account with its first key, which is shown in this answer alone."""
        project_id = call.ids["project_id"]
        await call.work(projects.get_to_change, platform, call.principal, project_id)
        body = await call.body(create_body)
        made, key = await call.work(
            service_accounts.create,
            platform,
            call.principal,
            project_id,
            body.name,
            bare=body.create_service_account_only or False,
        )
        shown = None if key is None else NewKeyShape.of(key)
        await call.reply(
            NewAccountShape(made.id, made.name, made.role, made.created_ms // 1000, shown)
        )

    async def list_all(call: Call) -> None:
        """The project's service accounts."""
        found, has_more = await call.work(
            service_accounts.list_accounts,
            platform,
            call.principal,
            call.ids["project_id"],
            call.query.page(),
        )
        await call.reply(ListShape.of([AccountShape.of(one) for one in found], has_more))

    async def get(call: Call) -> None:
        """One service account."""
        account = await call.work(service_accounts.get, platform, call.principal, *_ids(call))
        await call.reply(AccountShape.of(account))

    async def update(call: Call) -> None:
        """Give an account another name or role."""
        await call.work(projects.get_to_change, platform, call.principal, call.ids["project_id"])
        body = await call.body(update_body)
        account = await call.work(
            service_accounts.update,
            platform,
            call.principal,
            *_ids(call),
            name=body.name,
            role=body.role,
        )
        await call.reply(AccountShape.of(account))

    async def delete(call: Call) -> None:
        """End an account and its keys."""
        await call.work(service_accounts.delete, platform, call.principal, *_ids(call))
        kind = "organization.project.service_account.deleted"
        await call.reply(Deleted(call.ids["service_account_id"], kind))

    async def create_key(call: Call) -> None:
        """Another key of an account: `name`, and `scopes` if it is not for all that it may."""
        await call.work(projects.get_to_change, platform, call.principal, call.ids["project_id"])
        body = await call.body(key_body)
        key = await call.work(
            service_accounts.create_key,
            platform,
            call.principal,
            *_ids(call),
            body.name,
            ("*",) if body.scopes is None else body.scopes,
        )
        await call.reply(NewKeyShape.of(key))

    one = PATH + "/{service_account_id}"
    return [
        Route("POST", PATH, create),
        Route("GET", PATH, list_all, query=("limit", "after")),
        Route("GET", one, get),
        Route("POST", one, update),
        Route("DELETE", one, delete),
        Route("POST", one + "/api_keys", create_key),
    ]


def _ids(call: Call) -> tuple[str, str]:
    return call.ids["project_id"], call.ids["service_account_id"]
