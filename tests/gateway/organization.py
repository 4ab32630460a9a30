"""An organization with two projects, and a key of everybody who should and should not come in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bessemer.access.roles import PROJECT_SCOPES
from bessemer.app import admin_keys, members, people, projects, service_accounts
from bessemer.app.keys import KeyRing, NewKey, create_key
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeServing
from tests.gateway.calling import Answer, acall
from tests.specification import check, operation_of

OURS = ("/v1/organization/", "/v1/projects/")


@dataclass
class World:
    """`first` and `second` are projects; the keys are secrets.

    `mine` is an owner's of the first project, `admin` the organization's, `reader` of somebody who
    reads the first project, `others` everything in the second project.
    """

    platform: Platform
    ring: KeyRing
    app: ASGIApp
    owner: Principal
    first: projects.Project
    second: projects.Project
    mine: str = field(repr=False)
    admin: str = field(repr=False)
    reader: str = field(repr=False)
    others: str = field(repr=False)
    expired: str = field(repr=False)

    def ask(self, method: str, path: str, body: object = None, *, key: str | None = None) -> Answer:
        """One call, as the organization unless by another key; what the organization's endpoints
        answer is held to OpenAI's specification, but for extensions.
        """
        self.ring.refresh()
        answer = asyncio.run(
            acall(self.app, path, body, method=method, key=self.admin if key is None else key)
        )
        path = path.partition("?")[0]
        if path.startswith(OURS) and operation_of(method, path) is not None:
            check(method, path, answer.status, answer.json())
        return answer

    def get(self, path: str, *, key: str | None = None) -> Any:
        """The body of a GET that has to succeed."""
        answer = self.ask("GET", path, key=key)
        assert answer.status == 200, answer.body
        return answer.json()

    def post(self, path: str, body: object = None, *, key: str | None = None) -> Any:
        answer = self.ask("POST", path, body, key=key)
        assert answer.status == 200, answer.body
        return answer.json()

    def delete(self, path: str, *, key: str | None = None) -> Any:
        answer = self.ask("DELETE", path, key=key)
        assert answer.status == 200, answer.body
        return answer.json()


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    with Platform.open(Home(folder / "home")) as platform:
        owner = platform.local_principal()
        first = projects.create(platform, owner, "first")
        second = projects.create(platform, owner, "second")
        here = replace(owner, project_id=first.id)
        reads = people.add(platform, owner, "reader@example.org", "reader")
        members.add(platform, owner, first.id, reads.id, "reader")
        made = {
            "mine": create_key(platform, here, "mine", ["*"]),
            "expired": create_key(platform, here, "old", ["*"], expires_in_s=-1),
            "reader": create_key(platform, replace(here, owner_id=reads.id), "reader", READS),
            "admin": admin_keys.create(platform, owner, "admin").key,
            "others": _owner_of(platform, owner, second),
        }
        secrets = {name: key.secret for name, key in made.items()}
        ring = KeyRing(platform)
        app = build(FakeServing({}), ring, routes=resource_routes(platform))
        yield World(platform, ring, app, owner, first, second, **secrets)


READS = [scope for scope in PROJECT_SCOPES if scope.endswith(":read")]


def _owner_of(platform: Platform, owner: Principal, project: projects.Project) -> NewKey:
    made = service_accounts.create(platform, owner, project.id, "robot")
    service_accounts.update(platform, owner, project.id, made.account.id, role="owner")
    assert made.key is not None
    return made.key
