"""`bessemer usage`: what was used and what it cost."""

from __future__ import annotations

import time
from typing import Any

import click

from bessemer.cli.output import ago, json_option, print_json, print_rows

_DAY_MS = 86_400_000
_TOKENS = click.IntRange(0, 10**9)


@click.group(invoke_without_command=True)
@click.option("--days", type=click.IntRange(1, 1400), default=30, show_default=True,
              help="How far back, today included (UTC).")  # fmt: skip
@click.option(
    "--by", type=click.Choice(["model", "key", "kind", "user", "project"]), multiple=True,
    help="Put together by; may be repeated. Default: model and key.",
)  # fmt: skip
@json_option
@click.pass_context
def command(ctx: click.Context, days: int, by: tuple[str, ...], as_json: bool) -> None:
    """What was used and what it cost; close what a crash left open.

    Alone it prints a table by day, model and key. Without prices (bessemer prices set) everything
    costs nothing and is counted all the same.
    """
    if ctx.invoked_subcommand is None:
        _show(days, by or ("model", "key"), as_json)


def _show(days: int, by: tuple[str, ...], as_json: bool) -> None:
    from bessemer.app import usage
    from bessemer.app.platform import Platform

    now_ms = int(time.time() * 1000)
    start_ms = now_ms - now_ms % _DAY_MS - (days - 1) * _DAY_MS
    with Platform.open() as platform:
        who = platform.local_principal()
        query = usage.UsageQuery(who.org_id, start_ms, now_ms + 1, "day", by)  # type: ignore[arg-type]
        found = usage.read_usage(platform, who, query)
    sums = [(_day(bucket.start_ms), one) for bucket in found for one in bucket.sums]
    if as_json:
        print_json([_as_json(day, by, one) for day, one in sums])
        return
    rows = [
        (day, *(value or "none" for value in one.group), f"{one.requests:,}",
         *(f"{count:,}" for count in one.counts[:4]), usage.money(one.cost_micro))
        for day, one in sums
    ]  # fmt: skip
    header = ("DAY", *(name.upper() for name in by), "REQUESTS", "PROMPT", "CACHED", "COMPLETION",
              "REASONING", "COST")  # fmt: skip
    print_rows(header, rows, f"nothing was used in {days} days")


def _as_json(day: str, by: tuple[str, ...], one: Any) -> dict[str, Any]:
    named = dict(zip(by, one.group, strict=True))
    counts = one.counts._asdict()
    return {
        "day": day, **named, "requests": one.requests, **counts, "cost_micro": one.cost_micro
    }  # fmt: skip


def _day(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))


@command.command()
@click.option("--older", "older_s", type=click.IntRange(0, 10**9), default=0,
              help="Only those this many seconds old; a server has some in flight.")  # fmt: skip
@json_option
def unsettled(older_s: int, as_json: bool) -> None:
    """List requests that are reserved and neither settled nor released.

    While a server runs these are in flight; after a crash they are what it left. What they hold is
    held until somebody settles or releases them: nobody else knows what became of them.
    """
    from bessemer.app import usage
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        before_ms = int((time.time() - older_s) * 1000) + 1
        found = usage.list_unsettled(platform, platform.local_principal(), before_ms)
    if as_json:
        print_json([row._asdict() for row in found])
        return
    rows = [
        (row.id, row.kind, row.model, row.key_id or "none", usage.money(row.reserved_micro),
         ago(row.created_ms))
        for row in found
    ]  # fmt: skip
    print_rows(("ID", "KIND", "MODEL", "KEY", "HELD", "MADE"), rows, "nothing is unsettled")


@command.command()
@click.argument("request_id")
@click.option("--prompt", type=_TOKENS, default=0, help="Tokens read and computed.")
@click.option("--cached", type=_TOKENS, default=0, help="Tokens read from the cache.")
@click.option("--completion", type=_TOKENS, default=0, help="Tokens written.")
@click.option("--reasoning", type=_TOKENS, default=0, help="Tokens written and not shown.")
def settle(request_id: str, prompt: int, cached: int, completion: int, reasoning: int) -> None:
    """Charge a request that a crash left open, by counts that you know."""
    from bessemer.app import usage
    from bessemer.app.platform import Platform

    used = usage.Counts(prompt, cached, completion, reasoning)
    with Platform.open() as platform:
        charge = usage.settle(platform, platform.local_principal(), request_id, used)
    click.echo(f"{request_id} is settled: {usage.money(charge.cost_micro)}")


@command.command()
@click.argument("request_id")
@click.option("--reason", required=True, help="Why, for whoever reads the ledger later.")
def release(request_id: str, reason: str) -> None:
    """Charge nothing for a request that a crash left open."""
    from bessemer.app import usage
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        row = usage.release(platform, platform.local_principal(), request_id, reason)
    click.echo(f"{row.id} is released; {usage.money(row.reserved_micro)} is held no more")
