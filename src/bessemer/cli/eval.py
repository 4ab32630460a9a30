"""`bessemer eval`: is it better?"""

from __future__ import annotations

import click

from bessemer.cli.output import json_option, print_json


@click.command()
@click.argument("model")
@click.argument("other", required=False)
@click.option("--data", "dataset", default="python-docs", show_default=True, help="Test documents.")
@click.option("--items", type=click.IntRange(1), default=None, help="Test chats to ask.")
@click.option(
    "--shots", type=click.IntRange(0), default=None, help="Examples in the base's prompt."
)
@click.option("--threads", type=click.IntRange(1), help="Cores to use; by default all.")
@click.option("--detach", is_flag=True, help="Return at once; the run goes on.")
@json_option
def command(
    model: str,
    other: str | None,
    dataset: str,
    items: int | None,
    shots: int | None,
    threads: int | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Measure one model, or say whether another is better.

    MODEL is the base, OTHER is held against it. Both answer the same held-out questions. Each
    difference has a 95% interval (paired bootstrap) and a plain sentence: better, worse, or
    cannot tell. MODEL is also measured with examples in its prompt, so that learning a format is
    not sold as learning.

    \b
    Example:
      bessemer eval smollm2-135m-instruct smollm2-135m-instruct-python-docs
    """
    from bessemer.app.datasets import find_dataset
    from bessemer.app.evaluations import make_recipe, read_report, submit_eval
    from bessemer.app.machine import usable_cores
    from bessemer.app.models import find_model_local
    from bessemer.app.platform import Platform
    from bessemer.cli.launching import start_and_follow

    chosen = {k: v for k, v in (("items", items), ("shots", shots)) if v is not None}
    with Platform.open() as platform:
        principal = platform.local_principal()
        run = submit_eval(
            platform,
            principal,
            find_model_local(platform, principal, model),
            find_model_local(platform, principal, other) if other else None,
            find_dataset(platform, principal, dataset),
            make_recipe(**chosen),
            threads=threads or usable_cores(),
        )
        if start_and_follow(platform, run, detach=detach, quiet=as_json) is None:
            if as_json:
                print_json({"run_id": run.run_id, "state": run.state()})
            return
    report = read_report(run)
    if as_json:
        click.echo(report.to_json())
        return
    for sentence in report.sentences:
        click.echo(sentence)
    click.echo(f"every question and answer: {run.output / 'items.jsonl'}", err=True)
