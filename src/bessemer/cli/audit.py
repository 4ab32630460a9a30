"""`bessemer audit`: the trail of changes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from bessemer.cli.output import json_option, print_json, print_rows

_DAY = click.DateTime(["%Y-%m-%d"])
_DAY_S = 86_400
_SHOWN_CHARS = 60


@click.command()
@click.option("--action", multiple=True, help="Only this: api_key.created, file.deleted, ...")
@click.option(
    "--target", multiple=True, help="Only what was done to this id (a model's: its name)."
)
@click.option("--project", multiple=True, help="Only in the project with this id.")
@click.option("--actor", multiple=True, help="Only by this person's or key's id, or e-mail.")
@click.option("--since", type=_DAY, help="Not before this day (UTC): 2026-11-27.")
@click.option("--until", type=_DAY, help="Not after this day (UTC).")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=50,
    show_default=True,
    help="At most so many.",
)
@json_option
def command(
    action: tuple[str, ...],
    target: tuple[str, ...],
    project: tuple[str, ...],
    actor: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """Say who changed what, when, and what it was before.

    Newest first. Every change of keys, people, roles, projects, files, names and runs is a row that
    nobody can change; prompts, answers and secrets are in none.

    \b
    Example:
      bessemer audit --action api_key.created --action api_key.deleted --json
    """
    from bessemer.app import audit
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform

    wanted = audit.Filter(
        actions=action,
        targets=target,
        project_ids=project,
        emails=[one for one in actor if "@" in one],
        actor_ids=[one for one in actor if "@" not in one],
        gte=None if since is None else _unix_s(since),
        lt=None if until is None else _unix_s(until) + _DAY_S,
    )
    with Platform.open() as platform:
        me = platform.local_principal()
        found, has_more = audit.list_events(platform, me, PageRequest(limit), wanted)
    if as_json:
        print_json([event._asdict() for event in found])
        return
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.created_ms / 1000)),
            event.email or event.actor_id,
            event.action,
            event.target,
            f"{_short(event.before)} -> {_short(event.after)}",
        )
        for event in found
    ]
    print_rows(("WHEN", "WHO", "WHAT", "TO", "BEFORE -> AFTER"), rows, "no changes")
    if has_more:
        click.echo(f"there are more than {limit}; ask for them with --limit", err=True)


def _unix_s(day: datetime) -> int:
    return int(day.replace(tzinfo=UTC).timestamp())


def _short(facts: Mapping[str, Any] | None) -> str:
    if not facts:
        return "-"
    return ", ".join(f"{name}={_cut(value)}" for name, value in facts.items())


def _cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
