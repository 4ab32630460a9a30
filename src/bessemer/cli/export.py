"""`bessemer export`: take a model out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bessemer.cli.output import json_option, print_json, short, size

if TYPE_CHECKING:
    from bessemer.app.exporting import GgufPrecision


@click.command()
@click.argument("model")
@click.option("--gguf", "_form", flag_value="gguf", required=True, help="As one llama.cpp file.")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "q8_0", "q4_0"]),
    default="bf16",
    show_default=True,
    help="Type of the matrices.",
)
@click.option("--output", type=Path, help="By default MODEL-PRECISION.gguf, here.")
@json_option
def command(
    model: str, _form: str, precision: GgufPrecision, output: Path | None, as_json: bool
) -> None:
    """Write a model to one file for another engine.

    MODEL is a name, a digest or a folder's path. The file carries weights, tokenizer and chat
    template, and the digest of the model it was made from; llama.cpp and what is built on it open
    it, and so does bessemer pull.

    \b
    Examples:
      bessemer export taught --gguf
      bessemer export taught --gguf --precision q8_0 --output taught.gguf
    """
    from bessemer.app.exporting import export_gguf
    from bessemer.app.platform import Platform

    with Platform.open() as platform, _bar(shown=not as_json and sys.stderr.isatty()) as progress:
        made = export_gguf(
            platform,
            platform.local_principal(),
            model,
            precision,
            output=output,
            progress=progress,
        )
    if as_json:
        print_json({**made._asdict(), "path": str(made.path)})
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in made.tensors.items())
    click.echo(f"{made.path}  {short(made.digest)}  {size(made.size_bytes)}  tensors: {kinds}")


@contextlib.contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    if not shown:
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(bar_width=24), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("writing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
