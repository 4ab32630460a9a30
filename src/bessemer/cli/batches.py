"""`bessemer batches`: many requests of a file, answered in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bessemer.cli.output import ago, json_option, print_facts, print_json, print_rows


@click.group()
def command() -> None:
    """Answer the requests of a file in the background.

    Each line of the file is a request with an id of its own. The server (`bessemer up`) answers
    them beside what it is asked meanwhile, and goes on after a restart.

    \b
    Example:
      bessemer batches create questions.jsonl
      bessemer batches list
      bessemer files get file-01jd3k5v8w2x4y6z8a0c2e4g6j -o answers.jsonl
    """


@command.command()
@click.argument("file")
@click.option(
    "--endpoint",
    default="/v1/chat/completions",
    show_default=True,
    help="What every line asks: /v1/chat/completions, /v1/completions, /v1/embeddings or"
    " /v1/responses.",
)
@json_option
def create(file: str, endpoint: str, as_json: bool) -> None:
    """Begin a batch of FILE: a path, or the id of a file.

    A file of the API needs the purpose batch. A line of it is, for example:

    \b
      {"custom_id": "q-1", "method": "POST", "url": "/v1/chat/completions",
       "body": {"model": "smollm2-135m-instruct",
                "messages": [{"role": "user", "content": "Hi"}]}}

    on one line. With a fault in any of them nothing is asked, and `bessemer batches show` names
    each of them.

    \b
    Example:
      bessemer batches create questions.jsonl
    """
    from bessemer.app import batches
    from bessemer.app.platform import Platform
    from bessemer.cli.files import add_path
    from bessemer.core.errors import NotFound

    with Platform.open() as platform:
        path = Path(file)
        if not path.is_file() and not file.startswith("file-"):
            raise NotFound(
                f"{file} is neither a file here nor the id of one", next_step="bessemer files list"
            )
        input_id = add_path(platform, path, "batch").id if path.is_file() else file
        batch = batches.create(platform, platform.local_principal(), input_id, endpoint)
    if as_json:
        print_json(_facts(batch))
        return
    click.echo(batch.id)
    click.echo(f"bessemer up works on it; bessemer batches show {batch.id}", err=True)


@command.command(name="list")
@json_option
def list_batches(as_json: bool) -> None:
    """List the newest batches."""
    from bessemer.app import batches
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        principal = platform.local_principal()
        found, _ = batches.list_batches(platform, principal, PageRequest(limit=100))
    if as_json:
        print_json([_facts(batch) for batch in found])
        return
    rows = [(b.id, b.status, _progress(b), ago(b.created_ms), b.endpoint) for b in found]
    empty = "no batches yet; bessemer batches create FILE"
    print_rows(("ID", "STATUS", "DONE", "MADE", "ENDPOINT"), rows, empty)


@command.command()
@click.argument("batch_id")
@json_option
def show(batch_id: str, as_json: bool) -> None:
    """Say how far a batch is, and where its results are.

    Of one that failed, what is wrong with each line.
    """
    from bessemer.app import batches
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        batch = batches.get(platform, platform.local_principal(), batch_id)
    _print(batch, as_json)


@command.command()
@click.argument("batch_id")
@json_option
def cancel(batch_id: str, as_json: bool) -> None:
    """Ask for no more of a batch; what was finished is kept."""
    from bessemer.app import batches
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        batch = batches.cancel(platform, platform.local_principal(), batch_id)
    _print(batch, as_json)


def _print(batch: Any, as_json: bool) -> None:
    if as_json:
        print_json(_facts(batch))
        return
    used = batch.usage
    told = [
        ("batch", batch.id),
        ("status", batch.status),
        ("endpoint", batch.endpoint),
        ("model", batch.model or "-"),
        ("done", f"{_progress(batch)}, {batch.failed:,} of them with an error"),
        ("tokens", f"{used.prompt_tokens:,} read, {used.completion_tokens:,} written"),
        ("input", batch.input_file_id),
    ]
    for name, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
        if file_id is not None:
            told.append((name, f"bessemer files get {file_id}"))
    print_facts(told)
    for fault in batch.faults:
        where = "" if fault.line is None else f"line {fault.line}: "
        click.echo(f"{where}{fault.message}")


def _progress(batch: Any) -> str:
    return f"{batch.completed + batch.failed:,}/{batch.total:,}"


def _facts(batch: Any) -> dict[str, Any]:
    import msgspec

    return {
        "id": batch.id,
        "status": batch.status,
        "endpoint": batch.endpoint,
        "model": batch.model,
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "usage": msgspec.to_builtins(batch.usage),
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "errors": msgspec.to_builtins(batch.faults),
        "metadata": batch.metadata,
        "created_ms": batch.created_ms,
        "expires_ms": batch.expires_ms,
        "reached_ms": dict(batch.moments),
    }
