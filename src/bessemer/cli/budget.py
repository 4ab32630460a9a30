"""`bessemer budget`: what may be spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from bessemer.cli.acting import acting, project_option
from bessemer.cli.output import json_option, print_json, print_rows

if TYPE_CHECKING:
    from bessemer.app.platform import Platform
    from bessemer.app.spend_alerts import SpendAlert
    from bessemer.core.principal import Principal

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
        from bessemer.app.spending import micro_units
        from bessemer.core.errors import InvalidInput

        if isinstance(value, int):
            return value
        try:
            return micro_units(str(value))
        except InvalidInput as fault:
            self.fail(fault.message, param, ctx)


@click.group()
def command() -> None:
    """Show, set or lift what may be spent.

    What is spent and what running requests hold never pass a budget together; a request that does
    not fit is refused before any of it is computed. An alert is said once a month, in the server's
    log and in `bessemer budget alerts`.
    """


@command.command(name="set")
@click.argument("amount", type=Amount())
@_scope
@_period
@project_option
def set_budget(amount: int, scope: str, period: str, project: str | None) -> None:
    """Let at most AMOUNT be spent, from the next request on."""
    _set(scope, period, project, amount)
    click.echo(f"the {period} budget of the {scope} is set")


@command.command()
@_scope
@_period
@project_option
def lift(scope: str, period: str, project: str | None) -> None:
    """Let any amount be spent again."""
    _set(scope, period, project, None)
    click.echo(f"the {period} budget of the {scope} is lifted")


@command.command()
@project_option
@json_option
def show(project: str | None, as_json: bool) -> None:
    """Print budgets and what is left of them."""
    from bessemer.app import spending
    from bessemer.app.usage import money

    with acting(project) as (platform, there):
        found = spending.list_budgets(platform, there)
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


@command.command()
@click.argument("amount", type=Amount())
@_scope
@project_option
@json_option
def alert(amount: int, scope: str, project: str | None, as_json: bool) -> None:
    """Say once a month when AMOUNT was spent in it."""
    from bessemer.app import spend_alerts
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        me, of = _owner_of_alerts(platform, scope, project)
        made = spend_alerts.create(platform, me, of, amount, spend_alerts.Channel([]))
    if as_json:
        print_json(_alert_facts(made))
        return
    click.echo(f"{made.id} is set; bessemer budget alerts says when it was reached")


@command.command()
@_scope
@project_option
@json_option
def alerts(scope: str, project: str | None, as_json: bool) -> None:
    """List alerts, and when each was reached."""
    from bessemer.app import spend_alerts
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform
    from bessemer.app.usage import money

    with Platform.open() as platform:
        me, of = _owner_of_alerts(platform, scope, project)
        found, _ = spend_alerts.list_alerts(platform, me, of, PageRequest(limit=1_000))
    if as_json:
        print_json([_alert_facts(one) for one in found])
        return
    table = [
        (one.id, money(one.threshold_micro),
         ", ".join(f"{said.month} at {money(said.settled_micro)}" for said in one.fired) or "never")
        for one in found
    ]  # fmt: skip
    print_rows(("ID", "THRESHOLD", "REACHED"), table, "no alerts; bessemer budget alert 20")


@command.command()
@click.argument("alert_id")
@_scope
@project_option
def forget(alert_id: str, scope: str, project: str | None) -> None:
    """Take an alert away."""
    from bessemer.app import spend_alerts
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        me, of = _owner_of_alerts(platform, scope, project)
        spend_alerts.delete(platform, me, of, alert_id)
    click.echo(f"{alert_id} is gone")


def _owner_of_alerts(
    platform: Platform, scope: str, project: str | None
) -> tuple[Principal, str | None]:
    """Who asks, and the project's id, or None for the organization."""
    from bessemer.app.projects import acting_in

    me = platform.local_principal()
    return me, acting_in(platform, me, project).project_id if scope == "project" else None


def _alert_facts(alert: SpendAlert) -> dict[str, object]:
    fired = [said._asdict() for said in alert.fired]
    return {"id": alert.id, "threshold_micro": alert.threshold_micro, "fired": fired}


def _set(scope: str, period: str, project: str | None, limit_micro: int | None) -> None:
    from bessemer.app import spending

    with acting(project) as (platform, there):
        spending.set_budget(
            platform,
            there,
            cast("spending.Scope", scope),
            cast("spending.Period", period),
            limit_micro,
        )
