"""`bessemer quantize`: a model in 8 or 4 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bessemer.cli.output import json_option, print_json, short, size

if TYPE_CHECKING:
    from bessemer.app.quantizing import Quantized, Wanted


@click.command()
@click.argument("model")
@click.option(
    "--to",
    type=click.Choice(["int8", "int4", "q8_0", "q4_0", "auto"]),
    default="auto",
    show_default=True,
    help="auto measures this machine for two seconds. q8_0 and q4_0 are for OpenVINO.",
)
@click.option(
    "--requests",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="How many are answered at a time; auto measures with so many.",
)
@click.option("--name", help="What to call it; by default MODEL and the precision, as MODEL-int8.")
@json_option
def command(model: str, to: Wanted, requests: int, name: str | None, as_json: bool) -> None:
    """Store a model in 8 or 4 bits, as a model of its own.

    MODEL is a name, a digest or a folder's path. The layers' matrices become codes with scales;
    embedding, head and norms stay bfloat16. The new model names its parent, is measured by
    bessemer eval like any other, and is what its name serves. int8 opens in transformers and vLLM
    as well (compressed-tensors). q8_0 and q4_0 are GGUF files, which bessemer up serves by OpenVINO
    (pip install "bessemer[openvino]") and nothing else here reads.

    \b
    Examples:
      bessemer quantize smollm2-135m-instruct
      bessemer quantize taught --to int8 --name taught-small
    """
    from bessemer.app.platform import Platform
    from bessemer.app.quantizing import quantize

    with Platform.open() as platform:
        made = quantize(
            platform, platform.local_principal(), model, to, requests=requests, name=name
        )
    if as_json:
        print_json(_facts(made))
        return
    for precision, token_s in made.speeds.items():
        click.echo(f"{precision}  {1e3 * token_s:.2f} ms of products a token")
    if made.model is None:
        click.echo(f"{model} as it is ({made.precision}) is fastest here; nothing was made")
        return
    name, artifact = made.model.name, made.model.artifact
    parents = ", ".join(short(digest) for digest in artifact.parents)
    click.echo(f"{name}  {short(artifact.digest)}  {size(artifact.size_bytes)}  from {parents}")


def _facts(made: Quantized) -> dict[str, object]:
    from bessemer.core.artifacts import sidecar_facts

    facts = {} if made.model is None else sidecar_facts(made.model.artifact)
    named = {} if made.model is None else {"name": made.model.name}
    return {**facts, **named, "precision": made.precision, "token_s": made.speeds}
