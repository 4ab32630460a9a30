"""`bessemer limits`: requests and tokens a minute."""

from __future__ import annotations

import click

from bessemer.cli.acting import acting, project_option
from bessemer.cli.output import json_option, print_json, print_rows

_model = click.option(
    "--model", default="*", show_default=True, help="For this model; `*` is all together."
)
_key = click.option("--key", help="Of this key of the project, beyond the project's own limits.")


@click.group()
def command() -> None:
    """Show, set or lift requests and tokens a minute.

    A limit is a bucket that holds a minute's worth and fills evenly. A request that does not fit
    gets 429 with the seconds to wait; running servers learn of a change within a second.
    """


@command.command(name="set")
@click.option("--requests", type=click.IntRange(0), help="At most so many requests a minute.")
@click.option("--tokens", type=click.IntRange(0), help="At most so many tokens a minute.")
@_model
@_key
@project_option
def set_limit(
    requests: int | None, tokens: int | None, model: str, key: str | None, project: str | None
) -> None:
    """Limit a project, or one of its keys.

    \b
    Examples:
      bessemer limits set --requests 60 --tokens 100000
      bessemer limits set --requests 10 --model smollm2-135m-instruct --project research
    """
    if requests is None and tokens is None:
        raise click.UsageError("give --requests, --tokens or both")
    _set(requests, tokens, model, key, project)
    click.echo(f"the limit of {key or 'the project'} for {model} is set")


@command.command()
@_model
@_key
@project_option
def lift(model: str, key: str | None, project: str | None) -> None:
    """Let any number be asked again."""
    from bessemer.app.limits import MOST_A_MINUTE

    _set(MOST_A_MINUTE, MOST_A_MINUTE, model, key, project)
    click.echo(f"the limit of {key or 'the project'} for {model} is lifted")


@command.command()
@project_option
@json_option
def show(project: str | None, as_json: bool) -> None:
    """Print the limits of a project, and of its keys."""
    from bessemer.app import limits

    with acting(project) as (platform, there):
        found = limits.list_set(platform, there)
    if as_json:
        print_json([one._asdict() for one in found])
        return
    rows = [
        (one.account.replace(":", " "), one.model, *map(_shown, (one.requests, one.tokens)))
        for one in found
    ]
    header = ("OF", "MODEL", "REQUESTS", "TOKENS")
    print_rows(header, rows, "no limits; bessemer limits set --requests 60")


def _set(
    requests: int | None, tokens: int | None, model: str, key: str | None, project: str | None
) -> None:
    from bessemer.app import limits

    with acting(project) as (platform, there):
        if key is None:
            limits.set_limit(
                platform, there, there.project_id, model, requests=requests, tokens=tokens
            )
        else:
            limits.set_key_limit(platform, there, key, model, requests=requests, tokens=tokens)


def _shown(most: int | None) -> str:
    return "any" if most is None else f"{most:,}"
