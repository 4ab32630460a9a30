"""`bessemer train`: a recipe in, a model out."""

from __future__ import annotations

from pathlib import Path

import click

from bessemer.cli.output import json_option, print_json


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a value.")
@click.option("--name", help="What the model that it makes will be called.")
@click.option("--threads", type=click.IntRange(1), help="Cores to use; by default all.")
@click.option("--resume", metavar="RUN", help="Go on with a run that died or was stopped.")
@click.option("--detach", is_flag=True, help="Return at once; the run goes on.")
@json_option
def command(
    recipe: Path | None,
    overrides: tuple[str, ...],
    name: str | None,
    threads: int | None,
    resume: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Train by a recipe, or resume a run.

    The run is a process of its own: Ctrl-C stops showing it, not running it. A resumed run goes
    on from its last checkpoint and ends with the same bits as one that was never stopped.

    \b
    Examples:
      bessemer train recipes/teach.toml
      bessemer train recipes/teach.toml --set minutes=10 --set lora.rank=32
      bessemer train --resume run_01jd3k5v8w2x4y6z8a0c2e4g6j
    """
    from bessemer.app import jobs
    from bessemer.app.machine import usable_cores
    from bessemer.app.platform import Platform
    from bessemer.app.training import load_recipe, submit_train
    from bessemer.cli.launching import start_and_follow

    if (recipe is None) == (resume is None):
        raise click.UsageError("give a recipe to start, or --resume RUN to go on")
    if resume and (overrides or name or threads):
        raise click.UsageError("a resumed run keeps its recipe, name and threads")
    with Platform.open() as platform:
        principal = platform.local_principal()
        if resume is not None:
            jobs.harvest(platform)
            run = jobs.resume(platform, principal, resume).folder
        else:
            assert recipe is not None
            run = submit_train(
                platform,
                principal,
                load_recipe(recipe, overrides),
                threads=threads or usable_cores(),
                name=name,
            )
        last = start_and_follow(platform, run, detach=detach, quiet=as_json)
        done = jobs.get_run(platform, principal, run.run_id)
    result = run.last("result") or {}
    if as_json:
        print_json({"run_id": run.run_id, "name": done.name, "state": done.state, **result})
    elif last is not None and (run.last("plan") or {}).get("objective") == "reward":
        click.echo(f"{done.name} scores answers now: {run.output / 'model'}")
    elif last is not None and done.kind == "train":
        click.echo(f"{done.name} is ready: bessemer chat {done.name}")
    elif last is not None:
        click.echo(f"{done.name} is done: bessemer runs {done.id}")
