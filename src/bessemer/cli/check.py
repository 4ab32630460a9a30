"""`bessemer check`: does what is served equal what was trained?"""

from __future__ import annotations

from pathlib import Path

import click

from bessemer.cli.output import json_option, print_json, print_rows
from bessemer.cli.text_file import TextFile


@click.group()
def command() -> None:
    """Compare what is served with what was trained."""


@command.command()
@click.argument("model")
@click.option("--text", type=TextFile(), help="Cut prompts from it.")
@click.option(
    "--prompts", type=click.IntRange(1, 32), default=4, help="How many.", show_default=True
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 512),
    default=32,
    help="Longest answer to each.",
    show_default=True,
)
@json_option
def logprobs(model: str, text: Path | None, prompts: int, tokens: int, as_json: bool) -> int:
    """Compare trainer forward, engine prefill and engine decode of a model.

    Prints the gap of their log-probabilities, in nats a token, in fp32 and bf16. Exit status 1 if
    a mean gap is beyond its bound (0.0001 in fp32, 0.1 in bf16).

    \b
    Example:
      bessemer check logprobs smollm2-135m-instruct
    """
    from dataclasses import asdict

    from bessemer.app.checking import BOUNDS, check_logprobs
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        gaps = list(
            check_logprobs(
                platform,
                platform.local_principal(),
                model,
                text=None if text is None else text.read_text(encoding="utf-8"),
                prompts=prompts,
                tokens=tokens,
            )
        )
    if as_json:
        print_json([{**asdict(gap), "within_bound": gap.within_bound} for gap in gaps])
    else:
        header = ["precision", "compared", "tokens", "mean", "largest", "perplexities", ""]
        rows = [
            [
                gap.precision,
                gap.pair,
                str(gap.tokens),
                f"{gap.mean_nats:.2e}",
                f"{gap.largest_nats:.2e}",
                f"{gap.perplexities[0]:.4f} / {gap.perplexities[1]:.4f}",
                "ok" if gap.within_bound else f"beyond {BOUNDS[gap.precision]}",
            ]
            for gap in gaps
        ]
        print_rows(header, rows, "nothing was compared")
    return 0 if all(gap.within_bound for gap in gaps) else 1
