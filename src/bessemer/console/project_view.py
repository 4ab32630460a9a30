"""What the page of a project shows, what its reader may change, and the calls that do the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bessemer.app import members, project_keys, service_accounts
from bessemer.app.keys import DEFAULT_SCOPES, SCOPES
from bessemer.app.members import Member
from bessemer.app.paging import PageRequest
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.app.project_keys import OwnedKey
from bessemer.app.projects import Project
from bessemer.app.service_accounts import ServiceAccount
from bessemer.console.copying import ApiCall
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal

LISTED = 100  # the most that one page of the API has
ROLES = ("owner", "member", "reader")
EXPIRIES = (30, 90, 365)  # days

_DAY_S = 86_400
_PROJECTS = "/v1/organization/projects"
_CLIENT = "admin.organization.projects"


@dataclass(frozen=True)
class ProjectView:
    """A project and who may come into it. `scopes` is what its reader may give to a key."""

    project: Project
    keys: Sequence[OwnedKey]
    more_keys: bool
    accounts: Sequence[ServiceAccount]
    more_accounts: bool
    members: Sequence[Member]
    more_members: bool
    scopes: Mapping[str, str]
    default_scopes: Sequence[str] = DEFAULT_SCOPES
    expiries: Sequence[int] = EXPIRIES

    @classmethod
    def read(
        cls, platform: Platform, principal: Principal, project: Project, query: Mapping[str, str]
    ) -> ProjectView:
        """As much of it as `principal` may read.

        Args:
            query: of the page's address: what each list goes on after.
        """
        asked = PageRequest(LISTED, after=query.get("after"))
        keys, more_keys = project_keys.list_keys(platform, principal, project.id, asked)
        asked = PageRequest(LISTED, "asc", query.get("after_account"))
        accounts, more_accounts = service_accounts.list_accounts(
            platform, principal, project.id, asked
        )
        asked = PageRequest(LISTED, "asc", query.get("after_person"))
        people, more_people = members.list_members(platform, principal, project.id, asked)
        scopes = {name: what for name, what in SCOPES.items() if principal.holds(name)}
        return cls(project, keys, more_keys, accounts, more_accounts, people, more_people, scopes)


class May(NamedTuple):
    """Which buttons a person gets; every use case asks again."""

    keys: bool
    people: bool
    archive: bool


def may_change(principal: Principal, project: Project) -> May:
    """In a project that `principal` acts in."""
    living = project.archived_ms is None
    organization = living and principal.holds("org:write")
    return May(
        keys=living and principal.holds("keys:write"),
        people=organization or (living and principal.holds("project:write")),
        archive=organization and project.id != PROJECT_ID,
    )


def days(text: str) -> float | None:
    """Seconds from the form's choice of days; None, which is for ever, where it is empty."""
    if not text:
        return None
    if text not in map(str, EXPIRIES):
        raise InvalidInput(f"a key expires after {EXPIRIES} days or never, not {text[:20]!r}")
    return float(text) * _DAY_S


def calls_of_list(principal: Principal) -> list[ApiCall]:
    if not principal.holds("org:read"):
        return []
    calls = [
        ApiCall(
            "List the projects",
            "GET",
            _PROJECTS,
            query={"limit": LISTED, "include_archived": True},
            python=f"{_CLIENT}.list",
            cli=["project", "list", "--archived", "--json"],
        )
    ]
    if principal.holds("org:write"):
        calls.append(
            ApiCall(
                "Create a project",
                "POST",
                _PROJECTS,
                body={"name": "research"},
                python=f"{_CLIENT}.create",
                cli=["project", "create", "research", "--json"],
            )
        )
    people = ApiCall(
        "List the people",
        "GET",
        "/v1/organization/users",
        query={"limit": LISTED},
        python="admin.organization.users.list",
        cli=["people", "list", "--json"],
    )
    return [*calls, people]


def calls_of_project(
    principal: Principal, project: Project, keys: Sequence[OwnedKey]
) -> list[ApiCall]:
    """What is listed and made on the page; the first of `keys` is the one that is revoked."""
    may, where = may_change(principal, project), ["--project", project.id, "--json"]
    living = project.archived_ms is None
    calls = [_list("keys", "api_keys", project, ["key", "list", *where] if living else None)]
    if may.keys:
        calls.append(_create_key(project, where))
        calls += [_revoke_key(project, owned.key.id, owned.key.name) for owned in keys[:1]]
    calls.append(_list("service accounts", "service_accounts", project, None))
    if may.people:
        calls.append(
            ApiCall(
                "Create a service account",
                "POST",
                f"{_PROJECTS}/{{project_id}}/service_accounts",
                ids=[project.id],
                body={"name": "nightly"},
                python=f"{_CLIENT}.service_accounts.create",
            )
        )
    people = ["people", "list", *where] if living else None
    calls.append(_list("people", "users", project, people))
    return calls


def _list(what: str, resource: str, project: Project, cli: Sequence[str] | None) -> ApiCall:
    return ApiCall(
        f"List the {what}",
        "GET",
        f"{_PROJECTS}/{{project_id}}/{resource}",
        ids=[project.id],
        query={"limit": LISTED},
        python=f"{_CLIENT}.{resource}.list",
        cli=cli,
    )


def _create_key(project: Project, where: Sequence[str]) -> ApiCall:
    scopes = [word for scope in DEFAULT_SCOPES for word in ("--scope", scope)]
    expiry_days = EXPIRIES[0]
    name = ["--name", "notebook", "--expires", f"{expiry_days}d"]
    return ApiCall(
        "Create a key",
        "POST",
        f"{_PROJECTS}/{{project_id}}/api_keys",
        ids=[project.id],
        body={
            "name": "notebook",
            "scopes": list(DEFAULT_SCOPES),
            "expires_in_seconds": expiry_days * _DAY_S,
        },
        cli=["key", "create", *name, *scopes, *where],
    )


def _revoke_key(project: Project, key_id: str, name: str) -> ApiCall:
    return ApiCall(
        f"Revoke the key {name}",
        "DELETE",
        f"{_PROJECTS}/{{project_id}}/api_keys/{{api_key_id}}",
        ids=[project.id, key_id],
        python=f"{_CLIENT}.api_keys.delete",
        cli=["key", "revoke", key_id, "--project", project.id],
    )
