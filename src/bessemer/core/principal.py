"""Who asks, for which project, with which rights. Every use case takes one."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.core.errors import PermissionDenied


@dataclass(frozen=True)
class Principal:
    """The person or service behind a call.

    `scopes` are words such as `models:read`, `runs:write`, `chat`; `*` is all of them.
    """

    org_id: str
    project_id: str
    owner_id: str
    scopes: frozenset[str]
    key_id: str | None = None

    def require(self, scope: str) -> None:
        """Raise PermissionDenied unless this principal holds `scope`."""
        if "*" not in self.scopes and scope not in self.scopes:
            held = ", ".join(sorted(self.scopes)) or "none"
            raise PermissionDenied(
                f"this needs the scope {scope!r}; this key has: {held}",
                next_step=f"bessemer key create --scope {scope}",
            )
