"""`bessemer merge`: an adapter and its base become one model."""

from __future__ import annotations

import click

from bessemer.cli.output import json_option, print_json, short, size


@click.command()
@click.argument("base")
@click.argument("adapter")
@click.option("--name", help="What to call the merged model; by default both names.")
@json_option
def command(base: str, adapter: str, name: str | None, as_json: bool) -> None:
    """Merge an adapter into its base, as one model.

    BASE is a model's name or digest, or a folder's path. ADAPTER is a folder in PEFT's layout
    (adapter_config.json and adapter_model.safetensors), the id of a run that trained one, or an
    adapter's name. The sum is taken and stored in float32; the stored model names the digests of
    both. To serve an adapter it need not be merged.

    \b
    Examples:
      bessemer merge smollm2-135m-instruct ./my-adapter --name mine
      bessemer merge smollm2-135m-instruct run_01jd3k5v8w2x4y6z8a0c2e4g6j
    """
    from bessemer.app.merging import merge
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        found = merge(platform, platform.local_principal(), base, adapter, name=name)
    if as_json:
        from bessemer.core.artifacts import sidecar_facts

        print_json({**sidecar_facts(found.artifact), "name": found.name})
        return
    parents = " + ".join(short(digest) for digest in found.artifact.parents)
    click.echo(
        f"{found.name}  {short(found.digest)}  {size(found.artifact.size_bytes)}  from {parents}"
    )
