"""`bessemer key`: API keys."""

from __future__ import annotations

import click

from bessemer.cli.output import ago, json_option, print_json, print_rows


@click.group()
def command() -> None:
    """Create, list and revoke API keys."""


@command.command()
@click.option("--name", default="cli", show_default=True, help="What it is for.")
@click.option(
    "--scope", multiple=True, help="A right; may be repeated. Default: chat, models:read."
)
@json_option
def create(name: str, scope: tuple[str, ...], as_json: bool) -> None:
    """Make a key. Its secret is shown once and stored only as a hash."""
    from bessemer.app import keys
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        scopes = scope or keys.DEFAULT_SCOPES
        key = keys.create_key(platform, platform.local_principal(), name, scopes)
    if as_json:
        print_json({"id": key.id, "name": key.name, "secret": key.secret, "scopes": key.scopes})
        return
    click.echo(key.secret)
    click.echo(f"{key.id}, for {', '.join(key.scopes)}; it is not shown again", err=True)


@command.command(name="list")
@json_option
def list_keys(as_json: bool) -> None:
    """List keys, newest first; the secrets are not known to anybody but their owners."""
    from dataclasses import asdict

    from bessemer.app import keys
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        found = keys.list_keys(platform, platform.local_principal())
    if as_json:
        print_json([asdict(key) for key in found])
        return
    rows = [
        (
            key.id,
            key.name,
            key.hint,
            " ".join(key.scopes),
            "revoked" if key.revoked_ms else ago(key.created_ms),
        )
        for key in found
    ]
    print_rows(("ID", "NAME", "SECRET", "SCOPES", "MADE"), rows, "no keys yet; bessemer key create")


@command.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """End a key; servers notice within a second."""
    from bessemer.app import keys
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        key = keys.revoke_key(platform, platform.local_principal(), key_id)
    click.echo(f"{key.id} ({key.name}) is revoked")
