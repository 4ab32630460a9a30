"""What a role lets a key do at most. Nothing is stored here.

A role is given for the whole organization or for one project, to a person, a group or a service
account. All that somebody was given, taken together, is the bound of their keys:

    effective({"*"}, scopes_of("reader", everywhere=False))     # what a reader may read

A custom role is a named set of scopes, and bounds in the same way.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, get_args

from bessemer.access.keys import SCOPES
from bessemer.core.errors import InvalidInput

Role = Literal["owner", "member", "reader"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

EVERYTHING: Final = frozenset({"*"})
ORG_SCOPES: Final = frozenset({"org:read", "org:write"})
PROJECT_SCOPES: Final = frozenset(SCOPES) - EVERYTHING - ORG_SCOPES

# Only its owners change who may come into a project.
_OWNERS_ONLY = frozenset({"keys:write", "project:write"})

_IN_PROJECT: dict[Role, frozenset[str]] = {
    "owner": PROJECT_SCOPES,
    "member": PROJECT_SCOPES - _OWNERS_ONLY,
    "reader": frozenset(scope for scope in PROJECT_SCOPES if scope.endswith(":read")),
}

# OpenAI's ordinary person is a `reader` of the organization, who works in the projects that let
# them in and learns nothing of the others: there, too, only owners list users, projects and keys.
# A `member` here works in all of them.
_EVERYWHERE: dict[Role, frozenset[str]] = {
    "owner": EVERYTHING,
    "member": _IN_PROJECT["member"] | {"org:read"},
    "reader": frozenset(),
}


def scopes_of(role: Role, *, everywhere: bool) -> frozenset[str]:
    """The most that a key may do for who has `role`: in one project, or in the organization."""
    return (_EVERYWHERE if everywhere else _IN_PROJECT)[role]


def effective(scopes: frozenset[str], bound: frozenset[str]) -> frozenset[str]:
    """What a key with these scopes may do, now that its owner is bound so.

    >>> sorted(effective(frozenset({"chat", "org:write"}), frozenset({"chat", "files:read"})))
    ['chat']
    """
    if "*" in bound:
        return scopes
    return bound if "*" in scopes else scopes & bound


def check_role(role: str, among: Collection[str] = ROLES) -> Role:
    """Raises InvalidInput unless `role` is one of them."""
    for known in ROLES:
        if role == known and role in among:
            return known
    raise InvalidInput(
        f"there is no role {role[:100]!r} here",
        next_step=f"choose from: {', '.join(among)}",
        param="role",
    )
