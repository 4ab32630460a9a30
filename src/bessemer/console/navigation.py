"""The pages that every page leads to. A new one is a line here and a route in `pages.py`."""

from __future__ import annotations

from typing import Final, NamedTuple

from bessemer.core.principal import Principal


class Tab(NamedTuple):
    """A page in the navigation. All addresses below `path` are part of it.

    `scope` is what it takes to read the page; who lacks it is not led there.
    """

    name: str
    path: str
    scope: str

    def is_current(self, path: str) -> bool:
        return path == self.path or path.startswith(f"{self.path}/")


TABS: Final = (
    Tab("Chat", "/chat", "chat"),
    Tab("Runs", "/runs", "runs:read"),
    # What models are made of, and how good they are:
    Tab("Files", "/files", "files:read"),
    Tab("Fine-tuning", "/fine-tuning", "runs:read"),
    Tab("Evals", "/evals", "evals:read"),
    # Who may do what, and what it costs:
    Tab("Usage", "/usage", "org:read"),
    Tab("Keys", "/projects", "project:read"),
    Tab("Audit", "/audit", "org:read"),
)


def tabs_of(principal: Principal | None) -> list[Tab]:
    """Those that the signed-in person may read; none for nobody."""
    return [tab for tab in TABS if principal is not None and principal.holds(tab.scope)]
