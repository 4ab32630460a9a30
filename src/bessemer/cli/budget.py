"""`bessemer budget`: what may be spent."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import cast

import click

from bessemer.cli.output import json_option, print_json, print_rows

_scope = click.option(
    "--for", "scope", type=click.Choice(["project", "org"]), default="project", show_default=True,
    help="Whose it is.",
)  # fmt: skip
_period = click.option(
    "--per", "period", type=click.Choice(["month", "total"]), default="month", show_default=True,
    help="A calendar month (UTC), or for ever.",
)  # fmt: skip


class Amount(click.ParamType[int]):
    """Whole micro-units, from an amount like 12.50; never through a float."""

    name = "amount"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            micro = Decimal(str(value)) * 1_000_000
            exact = micro.is_finite() and micro >= 0 and micro == micro.to_integral_value()
        except InvalidOperation:
            exact = False
        if not exact:
            self.fail(f"{value!r} is not an amount; write 25 or 12.50", param, ctx)
        return int(micro)


@click.group()
def command() -> None:
    """Show, set or lift what may be spent.

    What is spent and what running requests hold never pass a budget together; a request that does
    not fit is refused before any of it is computed.
    """


@command.command(name="set")
@click.argument("amount", type=Amount())
@_scope
@_period
def set_budget(amount: int, scope: str, period: str) -> None:
    """Let at most AMOUNT be spent, from the next request on."""
    _set(scope, period, amount)
    click.echo(f"the {period} budget of the {scope} is set")


@command.command()
@_scope
@_period
def lift(scope: str, period: str) -> None:
    """Let any amount be spent again."""
    _set(scope, period, None)
    click.echo(f"the {period} budget of the {scope} is lifted")


@command.command()
@json_option
def show(as_json: bool) -> None:
    """Print budgets and what is left of them."""
    from bessemer.app import spending
    from bessemer.app.platform import Platform
    from bessemer.app.usage import money

    with Platform.open() as platform:
        found = spending.list_budgets(platform, platform.local_principal())
    if as_json:
        rows = [{**budget._asdict(), "balance": budget.balance._asdict()} for budget in found]
        print_json(rows)
        return
    table = [
        (b.scope, b.period, money(b.limit_micro), money(b.balance.settled_micro),
         money(b.balance.held_micro), money(b.limit_micro - sum(b.balance)))
        for b in found
    ]  # fmt: skip
    header = ("FOR", "PER", "LIMIT", "SPENT", "HELD", "LEFT")
    print_rows(header, table, "no budgets; bessemer budget set 25")


def _set(scope: str, period: str, limit_micro: int | None) -> None:
    from bessemer.app import spending
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        spending.set_budget(
            platform,
            platform.local_principal(),
            cast("spending.Scope", scope),
            cast("spending.Period", period),
            limit_micro,
        )
