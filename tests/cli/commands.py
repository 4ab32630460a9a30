"""Whether a command line that somebody wrote down would be understood; nothing is run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

from bessemer.cli.main import bessemer


class Leaf(NamedTuple):
    """A command that does something, and the words that reach it."""

    words: tuple[str, ...]
    command: click.Command


def leaves(group: click.Group = bessemer, words: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every command below `group`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*words, name))
        else:
            yield Leaf((*words, name), command)


def why_not(words: Sequence[str]) -> str | None:
    """Why `bessemer WORDS...` would be refused; None if it would be run."""
    command: click.Command = bessemer
    # Its own settings: a command remembers the help option of the first context it meets.
    context = click.Context(bessemer, info_name="bessemer", **bessemer.context_settings)
    rest = list(words)
    while isinstance(command, click.Group):
        if not rest and command.invoke_without_command:
            break
        if not rest or rest[0] in ("--help", "-h"):
            return None if rest else f"{' '.join(words) or 'bessemer'} only prints help"
        if command.invoke_without_command and rest[0].startswith("-"):
            break
        found = command.get_command(context, rest[0])
        if found is None:
            return f"{command.name} has no command {rest[0]!r}"
        command, context = found, click.Context(found, info_name=rest.pop(0), parent=context)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            command.make_context(context.info_name, rest, parent=context.parent)
    except click.exceptions.Exit:
        return None  # it prints help
    except click.ClickException as fault:
        return fault.format_message()
    return None
