"""`/v1/organization/projects/{project_id}/api_keys`. Creating one there is an extension of ours."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app import project_keys
from bessemer.app.keys import DEFAULT_SCOPES, NewKey
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.routes import Call, Deleted, ListShape, Route

PATH = "/v1/organization/projects/{project_id}/api_keys"
MAX_EXPIRY_S = 31_536_000


class _User(msgspec.Struct):
    id: str
    email: str
    name: str
    created_at: int
    role: str


class _Account(msgspec.Struct):
    id: str
    name: str
    created_at: int
    role: str


class OwnerShape(msgspec.Struct):
    type: Literal["user", "service_account"]
    user: _User | UnsetType = UNSET
    service_account: _Account | UnsetType = UNSET

    @classmethod
    def of(cls, owner: project_keys.Owner) -> OwnerShape:
        made_at = owner.created_ms // 1000
        if owner.email is None:
            account = _Account(owner.id, owner.name, made_at, owner.role)
            return cls("service_account", service_account=account)
        user = _User(owner.id, owner.email, owner.name, made_at, owner.role)
        return cls("user", user=user)


class KeyShape(msgspec.Struct):
    """OpenAI's key, with `scopes` and `expires_at` as extensions."""

    id: str
    name: str
    redacted_value: str
    created_at: int
    last_used_at: int | None
    owner: OwnerShape
    owner_project_access: Literal["active", "inactive"]
    scopes: tuple[str, ...]
    expires_at: int | None
    object: Literal["organization.project.api_key"] = "organization.project.api_key"

    @classmethod
    def of(cls, owned: project_keys.OwnedKey) -> KeyShape:
        key = owned.key
        return cls(
            key.id,
            key.name,
            key.hint,
            key.created_ms // 1000,
            seconds(key.used_ms),
            OwnerShape.of(owned.owner),
            "active" if owned.active else "inactive",
            key.scopes,
            seconds(key.expires_ms),
        )


class NewKeyShape(msgspec.Struct):
    """A key with its secret: the only answer that ever has it."""

    id: str
    name: str
    value: str
    created_at: int
    scopes: tuple[str, ...]
    expires_at: int | None
    object: Literal["organization.project.api_key"] = "organization.project.api_key"

    @classmethod
    def of(cls, key: NewKey) -> NewKeyShape:
        return cls(
            key.id,
            key.name,
            key.secret,
            key.created_ms // 1000,
            key.scopes,
            seconds(key.expires_ms),
        )


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    scopes: list[str] | None = None
    expires_in_seconds: int | None = None


def routes(platform: Platform) -> list[Route]:
    create_body = msgspec.json.Decoder(_Create)

    async def create(call: Call) -> None:
        """**Extension**: create a key of one's own: `name`, `scopes`, `expires_in_seconds`."""
        call.principal.require(project_keys.WRITE_SCOPE)
        body = await call.body(create_body)
        key = await call.work(
            project_keys.create,
            platform,
            call.principal,
            call.ids["project_id"],
            body.name,
            DEFAULT_SCOPES if body.scopes is None else body.scopes,
            check_expiry(body.expires_in_seconds),
        )
        await call.reply(NewKeyShape.of(key))

    async def list_all(call: Call) -> None:
        """The project's keys that have not ended, each with its owner."""
        access = call.query.choice("owner_project_access", ("active", "inactive", "any"))
        found, has_more = await call.work(
            project_keys.list_keys,
            platform,
            call.principal,
            call.ids["project_id"],
            call.query.page(),
            active={"active": True, "inactive": False}.get(access or "any"),
        )
        await call.reply(ListShape.of([KeyShape.of(one) for one in found], has_more))

    async def get(call: Call) -> None:
        """One key, without its secret, which nobody here knows."""
        found = await call.work(
            project_keys.get,
            platform,
            call.principal,
            call.ids["project_id"],
            call.ids["api_key_id"],
        )
        await call.reply(KeyShape.of(found))

    async def delete(call: Call) -> None:
        """End a key; it answers nobody within about a second."""
        project_id, key_id = call.ids["project_id"], call.ids["api_key_id"]
        await call.work(project_keys.delete, platform, call.principal, project_id, key_id)
        await call.reply(Deleted(key_id, "organization.project.api_key.deleted"))

    return [
        Route("POST", PATH, create),
        Route("GET", PATH, list_all, query=("limit", "after", "owner_project_access")),
        Route("GET", PATH + "/{api_key_id}", get),
        Route("DELETE", PATH + "/{api_key_id}", delete),
    ]


def check_expiry(expires_in_s: int | None) -> int | None:
    """Raises InvalidInput unless it is 1 second to 365 days, or never."""
    if expires_in_s is not None and not 1 <= expires_in_s <= MAX_EXPIRY_S:
        raise InvalidInput(
            f"'expires_in_seconds' is {expires_in_s}; it takes 1 to {MAX_EXPIRY_S:,}.",
            param="expires_in_seconds",
        )
    return expires_in_s


def seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
