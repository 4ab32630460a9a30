"""`bessemer login`: another one-time URL for the console of a server that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bessemer.core.errors import Conflict

if TYPE_CHECKING:
    from bessemer.core.home import Home


@click.command()
@click.option("--as", "person", help="Let in this person, by id or e-mail, in place of yourself.")
def command(person: str | None) -> None:
    """Print a new one-time URL for the console.

    It is good for one browser and 15 minutes. The server must be running on this home. Whoever
    opens it is who it was printed for: with --as a person with no more rights than their roles
    give, which the pages read again at each request.

    \b
    Example:
      bessemer login --as ada@example.org
    """
    from bessemer.console.sessions import login_url, token_folder
    from bessemer.core.home import Home

    home = Home.find()
    holder = home.lock_holder() if home.is_locked() else {}
    if "url" not in holder:
        raise Conflict(f"no server runs on {home.root}", next_step="bessemer up")
    person_id = None if person is None else _find(home, person)
    click.echo(login_url(str(holder["url"]), token_folder(home), person_id))


def _find(home: Home, person: str) -> str:
    from bessemer.app import people
    from bessemer.app.platform import Platform

    with Platform.open(home) as platform:
        return people.find(platform, platform.local_principal(), person).id
