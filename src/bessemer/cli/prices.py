"""`bessemer prices`: the rate card."""

from __future__ import annotations

from pathlib import Path

import click

from bessemer.cli.output import json_option, print_json, print_rows
from bessemer.cli.text_file import TextFile


@click.group()
def command() -> None:
    """Show or set what tokens cost.

    Without prices everything is free, and counted. A request keeps the prices that were in force
    when it began.
    """


@command.command(name="set")
@click.argument("file", type=TextFile())
def set_prices(file: Path) -> None:
    """Put the rate card in FILE in force; servers notice with the next request.

    \b
    Example of a card, in whole micro-units for a million tokens:
      currency = "usd"
      [[rates]]
      model = "*"
      prompt = 150_000
      completion = 600_000
      training = 3_000_000
    """
    from bessemer.app import spending
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        who = platform.local_principal()
        card = spending.set_prices(platform, who, file.read_text(encoding="utf-8"), str(file))
    click.echo(f"{card.digest[:19]} is in force: {len(card.rates)} rates in {card.currency}")


@command.command()
@json_option
def show(as_json: bool) -> None:
    """Print the rate card in force."""
    from bessemer.app import spending
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        card = spending.prices(platform, platform.local_principal())
    if as_json:
        print_json({"digest": card.digest, **card.model_dump(exclude_none=True)})
        return
    columns = ("prompt", "cached", "completion", "reasoning", "training", "device_hour")
    rows = [
        (rate.model, *("" if (price := getattr(rate, name)) is None else f"{price:,}"
                       for name in columns))
        for rate in card.rates
    ]  # fmt: skip
    click.echo(f"{card.digest[:19]}, {card.currency} micro-units for a million tokens, or an hour")
    print_rows(("MODEL", *(name.upper() for name in columns)), rows, "no rates")
