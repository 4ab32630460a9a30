"""`/v1/organization/admin_api_keys`."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app import admin_keys
from bessemer.app.keys import KeyInfo, NewKey
from bessemer.app.platform import Platform
from bessemer.app.project_keys import Owner
from bessemer.gateway.project_keys import check_expiry, seconds
from bessemer.gateway.query import PAGING
from bessemer.gateway.routes import Call, Deleted, ListShape, Route

PATH = "/v1/organization/admin_api_keys"


class _OwnerShape(msgspec.Struct):
    id: str
    name: str
    created_at: int
    role: str
    type: Literal["user", "service_account"]
    object: Literal["organization.user", "organization.service_account"]


class AdminKeyShape(msgspec.Struct):
    """`value`, the secret, is in the answer that creates the key and in no other."""

    id: str
    name: str
    redacted_value: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    owner: _OwnerShape
    value: str | UnsetType = UNSET
    object: Literal["organization.admin_api_key"] = "organization.admin_api_key"

    @classmethod
    def of(cls, key: KeyInfo | NewKey, owner: Owner) -> AdminKeyShape:
        return cls(
            key.id,
            key.name,
            key.hint,
            key.created_ms // 1000,
            seconds(key.expires_ms),
            seconds(key.used_ms) if isinstance(key, KeyInfo) else None,
            _owner(owner),
            key.secret if isinstance(key, NewKey) else UNSET,
        )


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    expires_in_seconds: int | None = None


def routes(platform: Platform) -> list[Route]:
    create_body = msgspec.json.Decoder(_Create)

    async def create(call: Call) -> None:
        """Create a key for the organization; its secret is shown in this answer alone."""
        call.principal.require("org:write")
        body = await call.body(create_body)
        made = await call.work(
            admin_keys.create,
            platform,
            call.principal,
            body.name,
            check_expiry(body.expires_in_seconds),
        )
        await call.reply(AdminKeyShape.of(made.key, made.owner))

    async def list_all(call: Call) -> None:
        """The organization's admin keys that have not ended."""
        asked = call.query.page(order="asc")
        found, has_more = await call.work(admin_keys.list_keys, platform, call.principal, asked)
        shapes = [AdminKeyShape.of(one.key, one.owner) for one in found]
        await call.reply(ListShape.of(shapes, has_more))

    async def get(call: Call) -> None:
        """One admin key."""
        found = await call.work(admin_keys.get, platform, call.principal, call.ids["key_id"])
        await call.reply(AdminKeyShape.of(found.key, found.owner))

    async def delete(call: Call) -> None:
        """End an admin key."""
        await call.work(admin_keys.delete, platform, call.principal, call.ids["key_id"])
        await call.reply(Deleted(call.ids["key_id"], "organization.admin_api_key.deleted"))

    return [
        Route("POST", PATH, create),
        Route("GET", PATH, list_all, query=PAGING),
        Route("GET", PATH + "/{key_id}", get),
        Route("DELETE", PATH + "/{key_id}", delete),
    ]


def _owner(owner: Owner) -> _OwnerShape:
    kind: Literal["user", "service_account"] = "service_account" if owner.email is None else "user"
    return _OwnerShape(
        owner.id,
        owner.name,
        owner.created_ms // 1000,
        owner.role,
        kind,
        "organization.user" if kind == "user" else "organization.service_account",
    )
