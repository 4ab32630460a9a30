"""`bessemer models`: what has a name here."""

from __future__ import annotations

import click

from bessemer.cli.output import json_option, print_json, print_rows, short, size


@click.command()
@json_option
@click.option("--verify", is_flag=True, help="Read every byte again and compare the digests.")
def command(as_json: bool, verify: bool) -> None:
    """List the models that have names here.

    Adapters come after them, each with its base. A name points at a digest; training under a name
    that is taken moves the name.
    """
    from bessemer.app.adapters import NamedAdapter, Served, list_adapters
    from bessemer.app.models import list_models
    from bessemer.app.platform import Platform
    from bessemer.core.artifacts import sidecar_facts

    with Platform.open() as platform:
        principal = platform.local_principal()
        found: list[Served] = [
            *list_models(platform, principal),
            *list_adapters(platform, principal),
        ]
        if verify:
            for model in found:
                platform.artifacts.verify(model.digest)
    if as_json:
        # The name is the model's; the artifact was first stored under another one, perhaps.
        print_json([{**sidecar_facts(model.artifact), "name": model.name} for model in found])
        return
    rows = [
        (
            m.name,
            short(m.digest),
            size(m.artifact.size_bytes),
            m.artifact.licence or "not stated",
            f"adapter of {m.base.name}" if isinstance(m, NamedAdapter) else "model",
        )
        for m in found
    ]
    header = ("NAME", "DIGEST", "SIZE", "LICENCE", "WHAT")
    print_rows(header, rows, "no models yet; bessemer pull")
    if verify and found:
        click.echo(f"all {len(found)} are what was stored")
