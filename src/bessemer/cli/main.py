"""The command line's door: finds the verb, runs it, and turns errors into words.

A verb's module is imported when the verb is called and not before, so that `bessemer --help`
costs what click costs.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from bessemer.core.errors import BessemerError

# verb -> what `bessemer --help` says of it; the verb's module is `bessemer.cli.<verb>`.
VERBS = {
    "demo": "From nothing to a taught, measured and served model, in minutes.",
    "up": "Start the server: API, console, engines, job queue.",
    "pull": "Bring a model in, by its name, from a path or from a hub.",
    "export": "Write a model to one file for another engine.",
    "models": "List the models that have names here.",
    "merge": "Merge an adapter into its base, as one model.",
    "quantize": "Store a model in 8 or 4 bits, as a model of its own.",
    "data": "Build, import, check and list datasets.",
    "train": "Train by a recipe, or resume a run.",
    "eval": "Measure one model, or say whether another is better.",
    "evals": "Bring evals in, run them, and compare their runs.",
    "check": "Compare what is served with what was trained.",
    "replay": "Compute a recorded answer again and compare every bit.",
    "chat": "Talk to a model in the terminal.",
    "runs": "List runs; show, follow or cancel one.",
    "files": "List, add, read and delete files of the API.",
    "batches": "Answer the requests of a file in the background.",
    "targets": "Let other servers answer by names here.",
    "usage": "What was used and what it cost; close what a crash left open.",
    "prices": "Show or set what tokens cost.",
    "budget": "Show, set or lift what may be spent.",
    "limits": "Show, set or lift requests and tokens a minute.",
    "key": "Create, list and revoke API keys.",
    "project": "Create, list, rename and archive projects.",
    "people": "Let people in, give them roles, take them out.",
    "audit": "Say who changed what, when, and what it was before.",
    "login": "Print a new one-time URL for the console.",
    "explain": "Print each value of a recipe, where it comes from and why.",
    "doctor": "Say what this machine has and what will work on it.",
    "version": "Print the version.",
}


# What the system says no to for a reason that a person can see and change: no traceback for it.
_PEOPLES_FAULTS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR}
    | {errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP}
)


class Verbs(click.Group):
    """Click's group over the table above."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"bessemer.cli.{name}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no verb {args[0]!r}{_suggestion(args[0])}", ctx)
        return super().resolve_command(ctx, args)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
def bessemer() -> None:
    """Train models, run them, and answer for them.

    Everything is in one home folder: $BESSEMER_HOME, or ~/.local/share/bessemer.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb named on the command line (or in `arguments`) and exit with its status.

    0: done; 1: it could not be done, or a check found faults; 2: the command line is wrong.
    """
    try:
        _refuse_undecodable(sys.argv[1:] if arguments is None else arguments)
        status = bessemer.main(arguments, prog_name="bessemer", standalone_mode=False)
    except BessemerError as fault:
        _complain(str(fault))
        sys.exit(1)
    except click.ClickException as fault:
        fault.show()
        sys.exit(fault.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        sys.exit(130)
    except OSError as fault:
        if fault.errno not in _PEOPLES_FAULTS:
            raise
        _complain(f"{fault.strerror}: {fault.filename}")
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    """Python keeps bytes that are no text as surrogates, which no database and no JSON takes."""
    for argument in arguments:
        if (raw := os.fsencode(argument)).decode("utf-8", "replace") != argument:
            raise click.UsageError(f"an argument is not UTF-8: {raw!r}")


def _complain(text: str) -> None:
    click.echo(click.style("error: ", fg="red", bold=True, reset=True) + text, err=True)


def _suggestion(verb: str) -> str:
    import difflib

    close = difflib.get_close_matches(verb, VERBS, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; bessemer --help lists them"
