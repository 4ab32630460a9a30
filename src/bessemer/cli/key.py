"""`bessemer key`: API keys."""

from __future__ import annotations

import click

from bessemer.cli.acting import acting, project_option, wait_for_server
from bessemer.cli.output import ago, json_option, print_json, print_rows
from bessemer.cli.quantities import Duration


@click.group()
def command() -> None:
    """Create, list and revoke API keys."""


@command.command()
@click.option("--name", default="cli", show_default=True, help="What it is for.")
@click.option(
    "--scope",
    multiple=True,
    help="A right; may be repeated; * is all. Default: chat, models:read. A wrong one lists them.",
)
@click.option(
    "--expires", type=Duration(), help="How long it is valid: 12h, 30d. Default: for ever."
)
@project_option
@click.option("--admin", is_flag=True, help="For the organization, and for nothing in a project.")
@json_option
def create(
    name: str,
    scope: tuple[str, ...],
    expires: float | None,
    project: str | None,
    admin: bool,
    as_json: bool,
) -> None:
    """Make a key. Its secret is shown once and stored only as a hash.

    \b
    Examples:
      bessemer key create --name laptop --scope chat --scope models:read --expires 30d
      bessemer key create --name nightly --scope "*" --project research
      bessemer key create --name terraform --admin --expires 365d
    """
    from bessemer.app import admin_keys, keys

    if admin and (scope or project):
        raise click.UsageError("--admin has its own scopes and belongs to no project")
    with acting(project) as (platform, there):
        if admin:
            key = admin_keys.create(platform, platform.local_principal(), name, expires).key
        else:
            scopes = scope or keys.DEFAULT_SCOPES
            key = keys.create_key(platform, there, name, scopes, expires_in_s=expires)
        wait_for_server(platform.home)
    if as_json:
        shown = ("id", "name", "secret", "scopes", "project_id", "expires_ms")
        print_json({field: getattr(key, field) for field in shown})
        return
    click.echo(key.secret)
    until = "" if key.expires_ms is None else f", {ends(key.expires_ms)}"
    click.echo(f"{key.id}, for {', '.join(key.scopes)}{until}; it is not shown again", err=True)


@command.command(name="list")
@project_option
@json_option
def list_keys(project: str | None, as_json: bool) -> None:
    """List keys, newest first; the secrets are not known to anybody but their owners."""
    from dataclasses import asdict

    from bessemer.app import keys

    with acting(project) as (platform, there):
        found = keys.list_keys(platform, there)
    if as_json:
        print_json([asdict(key) for key in found])
        return
    rows = [
        (
            key.id,
            key.name,
            key.hint,
            " ".join(key.scopes),
            "never" if key.used_ms is None else ago(key.used_ms),
            "revoked" if key.revoked_ms else ends(key.expires_ms),
            ago(key.created_ms),
        )
        for key in found
    ]
    header = ("ID", "NAME", "SECRET", "SCOPES", "USED", "ENDS", "MADE")
    print_rows(header, rows, "no keys yet; bessemer key create")


@command.command()
@click.argument("key_id")
@project_option
def revoke(key_id: str, project: str | None) -> None:
    """End a key; servers notice within a second."""
    from bessemer.app import keys

    with acting(project) as (platform, there):
        key = keys.revoke_key(platform, there, key_id)
    click.echo(f"{key.id} ({key.name}) is revoked")


def ends(expires_ms: int | None) -> str:
    """`never`, `expired`, or the day."""
    import time

    if expires_ms is None:
        return "never"
    if expires_ms <= time.time() * 1000:
        return "expired"
    return time.strftime("until %Y-%m-%d", time.gmtime(expires_ms / 1000))
