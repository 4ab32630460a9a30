"""`bessemer data`: datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bessemer.cli.output import json_option, print_json, print_rows, short, size

BUILT = ("python-docs", "python-docs-preferences", "arithmetic", "python-puzzles")


@click.group()
def command() -> None:
    """Build, import, check and list datasets."""


@command.command()
@click.argument("dataset", type=click.Choice(BUILT), default=BUILT[0])
@json_option
def build(dataset: str, as_json: bool) -> None:
    """Make a dataset here, without fetching anything.

    From this Python's own documentation: python-docs has two kinds of chats, describe a symbol, and
    name the symbol that a text describes; python-docs-preferences has pairs, the right answer and
    the one about another symbol. To learn from rewards: arithmetic has sums and word problems with
    their answers, python-puzzles small functions to write with their unit tests.
    """
    from bessemer.app.datasets import BUILDERS
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        found = BUILDERS[dataset](platform, platform.local_principal())
    _print(found, as_json)


@command.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="What to call it; by default the file's name.")
@click.option("--licence", help="SPDX expression of the data's licence.")
@json_option
def import_(file: Path, name: str | None, licence: str | None, as_json: bool) -> None:
    """Check and import chats, preferences or prompts in OpenAI's formats, one object a line.

    Which of them it is shows in the first line. Duplicates are removed, and the rest is split into
    train, validation and test by hash.
    """
    from bessemer.app.datasets import import_file
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        found = import_file(
            platform, platform.local_principal(), file, name or file.stem, licence=licence
        )
    _print(found, as_json)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> int:
    """Say every line that is wrong, and why; exit status 1 if any is.

    FILE has chats, preferences or prompts, as for `bessemer data import`.
    """
    from bessemer.app.datasets import check_file

    report = check_file(file)
    if as_json:
        counts = {report.shape.name: report.examples, "messages": report.messages}
        counts |= {"answers": report.answers, "more_faults": report.more_faults}
        faults = [fault._asdict() for fault in report.faults]
        print_json({"path": report.path, "kind": report.shape.name, **counts, "faults": faults})
    else:
        for fault in report.faults:
            click.echo(str(fault))
        if report.more_faults:
            click.echo(f"and {report.more_faults:,} more")
        answers = f", {report.answers:,} answers to learn from" if report.answers else ""
        click.echo(
            f"{report.examples:,} good {report.shape.name}, {report.messages:,} messages{answers}"
        )
    return 1 if report.faults else 0


@command.command()
@click.argument("source")
@click.option("--tokenizer", required=True, help="Model whose tokenizer to use, or its folder.")
@click.option("--name", required=True, help="What to call the dataset.")
@click.option("--licence", help="SPDX expression for documents that do not state their own.")
@json_option
def tokenize(source: str, tokenizer: str, name: str, licence: str | None, as_json: bool) -> None:
    """Turn texts into token shards to pretrain on.

    SOURCE is python-stdlib, a folder of text files, or a file of JSON lines: {"text": ...}, where
    "id" and "licence" may stand too. Documents are split into train, validation and test by hash.
    """
    from bessemer.app.platform import Platform
    from bessemer.app.tokens import tokenize_source

    with Platform.open() as platform:
        found = tokenize_source(
            platform, platform.local_principal(), source, tokenizer, name, licence=licence
        )
    _print(found, as_json)


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the datasets that have names here."""
    from bessemer.app.datasets import list_datasets
    from bessemer.app.platform import Platform
    from bessemer.core.artifacts import sidecar_facts

    with Platform.open() as platform:
        found = list_datasets(platform, platform.local_principal())
    if as_json:
        print_json([{**sidecar_facts(data.artifact), "name": data.name} for data in found])
        return
    rows = [
        (d.name, short(d.digest), size(d.artifact.size_bytes), d.artifact.licence or "not stated")
        for d in found
    ]
    print_rows(("NAME", "DIGEST", "SIZE", "LICENCE"), rows, "no datasets yet; bessemer data build")


@command.command()
@click.argument("run")
@click.argument("document")
@json_option
def seen(run: str, document: str, as_json: bool) -> None:
    """Say which steps of a training run saw a document, and which will.

    DOCUMENT is its id in the run's data: a path, a line's id, or what a dataset's index.jsonl
    calls the document that chats were made from.
    """
    from dataclasses import asdict

    from bessemer.app.platform import Platform
    from bessemer.app.seen import ranges, seen

    with Platform.open() as platform:
        found = seen(platform, platform.local_principal(), run, document)
    if as_json:
        print_json(asdict(found))
        return
    for by in found.by:
        click.echo(f"{by.task} on {by.dataset}: {_who(by)}")
        if not by.pieces:
            continue
        click.echo(f"  {by.epochs:.2f} epochs in {found.steps:,} steps; now at {found.last_step:,}")
        for what in ("taken", "left_out", "to_come"):
            steps = getattr(by, what)
            if what == "left_out" and not steps:
                continue
            stretches = ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in ranges(steps))
            click.echo(
                f"  {what.replace('_', ' '):<8} {len(steps):>6,} steps  {stretches}".rstrip()
            )


def _who(by: Any) -> str:
    if by.tokens is not None:
        if by.split != "train":
            return f"in its {by.split} split, which no step learns from"
        return f"{by.tokens:,} tokens"
    held_out = "" if by.split in ("train", "") else f"; they are in the {by.split} split"
    why = "longer than a row, or without a teacher's answer"
    too_long = f"; {by.too_long:,} are left out ({why})" if by.too_long else ""
    return f"{by.pieces:,} pieces of it are learned from{held_out}{too_long}"


def _print(found: Any, as_json: bool) -> None:
    from bessemer.app.datasets import describe
    from bessemer.core.artifacts import sidecar_facts

    info = describe(found)
    if as_json:
        print_json({**sidecar_facts(found.artifact), "name": found.name, "info": info})
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in info["counts"].items())
    if "tokens" in info:
        counts += f"  {sum(info['tokens'].values()):,} tokens"
    click.echo(
        f"{found.name}  {short(found.digest)}  {counts}"
        f"  licence {found.artifact.licence or 'not stated'}"
    )
