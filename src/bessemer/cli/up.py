"""`bessemer up`: the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bessemer.cli.quantities import Duration, Size

if TYPE_CHECKING:
    from bessemer.app.quantizing import Wanted


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, help="Port to listen on; 0 takes a free one."
)
@click.option("--model", "names", multiple=True, help="Load this model at once; may be repeated.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "int4", "q8_0", "q4_0", "auto"]),
    help="Load them in 8 or 4 bits, as models of their own (MODEL-int8), made on first use. auto"
    " measures for two seconds; q8_0 and q4_0 are computed by OpenVINO.",
)
@click.option("--threads", type=click.IntRange(1), help="Cores of an engine; by default all.")
@click.option(
    "--memory",
    type=Size(),
    help="Memory of all models together, as 8GB; by default 80% of what is free now.",
)
@click.option(
    "--sleep-after",
    type=Duration(),
    help="Unload a model that nobody asked for so long, as 15m; by default never.",
)
@click.option(
    "--allow-host", "hosts", multiple=True, help="Another name browsers may use for this server."
)
@click.option(
    "--guesses",
    default="ngram",
    show_default=True,
    help="Who guesses tokens ahead: off, ngram, or a smaller MODEL with the same vocabulary.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="Answers depend on model and request alone, and are recorded for bessemer replay.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where engines compute. CUDA has only been tested with stand-ins on CPUs so far.",
)
def command(
    host: str,
    port: int,
    names: tuple[str, ...],
    precision: Wanted | None,
    threads: int | None,
    memory: int | None,
    sleep_after: float | None,
    hosts: tuple[str, ...],
    guesses: str,
    deterministic: bool,
    device: str,
) -> None:
    """Start the server: API, console, engines, job queue.

    It listens on this machine alone unless told otherwise. Every model with a name here is
    served, and every adapter; the default model is loaded at once, the others when they are first
    asked for. What does not fit into memory beside the others puts the model to sleep that was idle
    the longest. A name goes on meaning what it meant: with --precision int8 clients ask for
    MODEL-int8, and MODEL is served beside it as it is. Ctrl-C stops the server; runs go on, and the
    next `bessemer up` finds them.
    """
    from bessemer.app.engine_memory import default_budget
    from bessemer.app.machine import usable_cores
    from bessemer.app.platform import Platform
    from bessemer.app.recording import KEPT_DAYS, MOST_ANSWERS
    from bessemer.cli.output import size
    from bessemer.cli.serving import Service, guesses_of, models_to_load

    if deterministic and guesses not in ("off", "ngram"):
        raise click.UsageError("--deterministic guesses nothing ahead: leave out --guesses")

    with Platform.open() as platform, platform.home.lock():
        preload = models_to_load(platform, names, precision, say=click.echo)
        memory = memory or default_budget()
        service = Service(
            platform,
            host=host,
            port=port,
            threads=threads or usable_cores(),
            memory_bytes=memory,
            sleep_after_s=sleep_after,
            preload=preload,
            hosts=hosts,
            guesses=guesses_of(platform, guesses),
            deterministic=deterministic,
            device=device,
            started=_welcome,
        )
        if deterministic:
            click.echo(
                f"deterministic: the newest {MOST_ANSWERS:,} requests and answers are kept for"
                f" {KEPT_DAYS} days, their content included; bessemer replay proves them"
            )
        click.echo(f"models may have {size(memory)} of memory")
        if not preload:
            click.echo("no models yet: in another terminal, bessemer pull")
        for model in preload:
            click.echo(f"loading {model.name}")
        service.run()
    click.echo("stopped")


def _welcome(url: str, login: str) -> None:
    click.echo(f"API      {url}/v1   (bessemer key create makes a key)")
    click.echo(f"console  {login}   (good once; bessemer login prints another)")
    click.echo("Ctrl-C stops the server")
