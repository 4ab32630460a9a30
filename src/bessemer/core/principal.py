"""Who asks, for which project, with which rights. Every use case takes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from bessemer.core.errors import PermissionDenied


class ModelRule(NamedTuple):
    """Which models a project may ask: only these, or all but these; by their names."""

    mode: Literal["allow_list", "deny_list"]
    names: frozenset[str]

    def allows(self, name: str) -> bool:
        return (name in self.names) is (self.mode == "allow_list")


@dataclass(frozen=True)
class Principal:
    """The person or service behind a call.

    `scopes` are words such as `models:read`, `runs:write`, `chat`; `*` is all of them. `models` is
    None where the project may ask every model it has.
    """

    org_id: str
    project_id: str
    owner_id: str
    scopes: frozenset[str]
    key_id: str | None = None
    models: ModelRule | None = None

    def holds(self, scope: str) -> bool:
        return scope in self.scopes or "*" in self.scopes

    def require(self, scope: str) -> None:
        """Raise PermissionDenied unless this principal holds `scope`."""
        if not self.holds(scope):
            held = ", ".join(sorted(self.scopes)) or "none"
            raise PermissionDenied(
                f"this needs the scope {scope!r}; this key has: {held}",
                next_step=f"bessemer key create --scope {scope}",
            )
