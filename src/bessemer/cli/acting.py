"""Verbs that act in one project: the option that names it, and the house opened for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bessemer.app.platform import Platform
    from bessemer.core.home import Home
    from bessemer.core.principal import Principal

_LEARNED_S = 1.2  # a server reads once a second what changed

project_option = click.option(
    "--project", help="A project's name or id, in place of the default project."
)


@contextlib.contextmanager
def acting(project: str | None) -> Iterator[tuple[Platform, Principal]]:
    """The platform, and whoever sits at this machine, in that project or the default one.

    Raises:
        NotFound: there is no such project.
    """
    from bessemer.app.platform import Platform
    from bessemer.app.projects import acting_in

    with Platform.open() as platform:
        yield platform, acting_in(platform, platform.local_principal(), project)


def wait_for_server(home: Home) -> None:
    """Until a running server knows a new secret, so that the next line of a script can use it."""
    if home.is_locked():
        time.sleep(_LEARNED_S)
