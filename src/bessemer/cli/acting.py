"""Verbs that act in one project: the option that names it, and the house opened for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bessemer.app.platform import Platform
    from bessemer.core.principal import Principal

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
