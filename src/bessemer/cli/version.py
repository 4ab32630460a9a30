"""`bessemer version`."""

from __future__ import annotations

import click

from bessemer import __version__
from bessemer.cli.output import json_option, print_json


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        click.echo(f"bessemer {__version__}")
