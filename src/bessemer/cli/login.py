"""`bessemer login`: another one-time URL for the console of a server that runs."""

from __future__ import annotations

import click

from bessemer.core.errors import Conflict


@click.command()
def command() -> None:
    """Print a new one-time URL for the console.

    It is good for one browser and 15 minutes. The server must be running on this home.
    """
    from bessemer.console.sessions import login_url, token_folder
    from bessemer.core.home import Home

    home = Home.find()
    holder = home.lock_holder() if home.is_locked() else {}
    if "url" not in holder:
        raise Conflict(f"no server runs on {home.root}", next_step="bessemer up")
    click.echo(login_url(str(holder["url"]), token_folder(home)))
