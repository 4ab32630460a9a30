"""`bessemer explain`: every value of a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from bessemer.cli.output import json_option, print_json, print_rows


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a value.")
@json_option
def command(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print each value of a recipe, where it comes from and why."""
    from bessemer.app.training import explain_recipe

    lines = explain_recipe(recipe, overrides)
    if as_json:
        print_json([line._asdict() for line in lines])
    else:
        print_rows(("KEY", "VALUE", "FROM", "WHAT IT IS"), lines, "")
