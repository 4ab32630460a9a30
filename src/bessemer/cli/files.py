"""`bessemer files`: what was uploaded, and what batches wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bessemer.cli.output import ago, json_option, print_json, print_rows, size

_CHUNK_BYTES = 1 << 20


@click.group()
def command() -> None:
    """List, add, read and delete files of the API."""


@command.command(name="list")
@click.option("--purpose", help="Only those for this: batch, batch_output, fine-tune, ...")
@json_option
def list_files(purpose: str | None, as_json: bool) -> None:
    """List files, newest first."""
    from bessemer.app import files
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        asked = PageRequest(limit=10_000)
        found, _ = files.list_files(platform, platform.local_principal(), asked, purpose)
    if as_json:
        print_json([facts(file) for file in found])
        return
    rows = [(f.id, f.purpose, size(f.bytes), ago(f.created_ms), f.filename) for f in found]
    empty = "no files yet; bessemer files add FILE --purpose batch"
    if purpose is not None:
        empty = f"no files with the purpose {purpose!r}"
    print_rows(("ID", "PURPOSE", "SIZE", "MADE", "NAME"), rows, empty)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--purpose", required=True, help="What it is for: batch, fine-tune, evals, ...")
@json_option
def add(file: Path, purpose: str, as_json: bool) -> None:
    """Add a file of this machine, of up to 8 GiB.

    \b
    Example:
      bessemer files add questions.jsonl --purpose batch
    """
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        added = add_path(platform, file, purpose)
    if as_json:
        print_json(facts(added))
        return
    click.echo(added.id)


@command.command()
@click.argument("file_id")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write it there."
)
@json_option
def get(file_id: str, output: Path | None, as_json: bool) -> None:
    """Print a file, or say what is known of it with --json.

    \b
    Example:
      bessemer files get file-01jd3k5v8w2x4y6z8a0c2e4g6j -o answers.jsonl
    """
    import shutil

    from bessemer.app import files
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        found = files.get(platform, platform.local_principal(), file_id)
        if as_json:
            print_json(facts(found))
        elif output is not None:
            shutil.copyfile(found.path, output)
        else:
            with found.path.open("rb") as source:
                shutil.copyfileobj(source, sys.stdout.buffer)


@command.command()
@click.argument("file_id")
def delete(file_id: str) -> None:
    """Forget a file and its bytes."""
    from bessemer.app import files
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        files.delete(platform, platform.local_principal(), file_id)
    click.echo(f"{file_id} is deleted")


def add_path(platform: Any, path: Path, purpose: Any) -> Any:
    """A copy of the file at `path` as a file of the API."""
    from bessemer.app import files
    from bessemer.app.uploads import MAX_UPLOAD_BYTES
    from bessemer.core.errors import NotFound

    if not path.is_file():
        raise NotFound(f"there is no file at {path}")
    files.check_name(path.name, purpose)
    with path.open("rb") as source, files.writer(platform, MAX_UPLOAD_BYTES) as written:
        while chunk := source.read(_CHUNK_BYTES):
            written.write(chunk)
        return files.add(platform, platform.local_principal(), path.name, purpose, written)


def facts(file: Any) -> dict[str, Any]:
    return {
        "id": file.id,
        "filename": file.filename,
        "purpose": file.purpose,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "created_ms": file.created_ms,
        "expires_ms": file.expires_ms,
    }
