"""`/v1/organization/invites`. No mail is sent: the answer that creates one has its token."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app import invites
from bessemer.app.keys import INVITE_SCOPE
from bessemer.app.platform import Platform
from bessemer.gateway.project_keys import NewKeyShape, seconds
from bessemer.gateway.routes import Call, Deleted, ListShape, Route
from bessemer.gateway.users import UserShape

PATH = "/v1/organization/invites"


class _Into(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    role: str


class InviteShape(msgspec.Struct):
    """`token`, an extension, is in the answer that creates the invite and in no other."""

    id: str
    email: str
    role: str
    status: invites.Status
    created_at: int
    expires_at: int
    accepted_at: int | None
    projects: list[_Into]
    token: str | UnsetType = UNSET
    object: Literal["organization.invite"] = "organization.invite"

    @classmethod
    def of(cls, invite: invites.Invite, token: str | UnsetType = UNSET) -> InviteShape:
        return cls(
            invite.id,
            invite.email,
            invite.role,
            invite.status,
            invite.created_ms // 1000,
            invite.expires_ms // 1000,
            seconds(invite.accepted_ms),
            [_Into(*project) for project in invite.projects],
            token,
        )


class AcceptedShape(msgspec.Struct):
    """Who came in, and their first key; its secret is shown in this answer alone."""

    user: UserShape
    api_key: NewKeyShape | None
    object: Literal["organization.invite.accepted"] = "organization.invite.accepted"


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    email: str
    role: str
    projects: list[_Into] | None = None


class _Accept(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None


def routes(platform: Platform) -> list[Route]:
    create_body = msgspec.json.Decoder(_Create)
    accept_body = msgspec.json.Decoder(_Accept)

    async def create(call: Call) -> None:
        """Invite a person: `email`, `role` (owner, reader), `projects`.

        The answer has a `token`, shown once, to hand over: no mail is sent.
        """
        call.principal.require(invites.WRITE_SCOPE)
        body = await call.body(create_body)
        into = body.projects
        chosen = None if into is None else [invites.Into(one.id, one.role) for one in into]
        made = await call.work(
            invites.create, platform, call.principal, body.email, body.role, chosen
        )
        await call.reply(InviteShape.of(made.invite, made.token))

    async def list_all(call: Call) -> None:
        """The organization's invites, whatever became of them."""
        found, has_more = await call.work(
            invites.list_invites, platform, call.principal, call.query.page()
        )
        await call.reply(ListShape.of([InviteShape.of(one) for one in found], has_more))

    async def get(call: Call) -> None:
        """One invite, without its token."""
        found = await call.work(invites.get, platform, call.principal, call.ids["invite_id"])
        await call.reply(InviteShape.of(found))

    async def delete(call: Call) -> None:
        """Take an invite back that nobody has accepted."""
        await call.work(invites.delete, platform, call.principal, call.ids["invite_id"])
        await call.reply(Deleted(call.ids["invite_id"], "organization.invite.deleted"))

    async def accept(call: Call) -> None:
        """**Extension**: come in, with the token as the key; answers the person's first key."""
        call.principal.require(INVITE_SCOPE)
        body = await call.body(accept_body)
        came = await call.work(invites.accept, platform, call.principal, body.name)
        key = None if came.key is None else NewKeyShape.of(came.key)
        await call.reply(AcceptedShape(UserShape.of(came.person), key))

    return [
        Route("POST", PATH, create),
        Route("GET", PATH, list_all, query=("limit", "after")),
        Route("POST", PATH + "/accept", accept),
        Route("GET", PATH + "/{invite_id}", get),
        Route("DELETE", PATH + "/{invite_id}", delete),
    ]
