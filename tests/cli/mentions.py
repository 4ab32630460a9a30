"""Every `bessemer ...` that the source says to a person, found by reading it.

Python is read by `ast`, so that a string made of several pieces is seen as one, with `{...}` for
what is filled in; pages and scripts are read as text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from bessemer.cli.main import VERBS, bessemer
from tests.cli.commands import why_not

_MENTION = re.compile(r"(?<![\w./-])bessemer[ ]+(?P<rest>(?:\"[^\"\n]*\"|[^`\n()<>;\"])+)")
_WORD = re.compile(r"\"[^\"]*\"|\S+")
_PROSE = re.compile(r"[a-z]+")
_PLACEHOLDER = re.compile(r"[A-Z_]{2,}|{\S+}")


class Mention(NamedTuple):
    """`words` follow `bessemer`; `alone`: it is a whole `next_step`, to be typed as it stands."""

    place: str
    words: tuple[str, ...]
    alone: bool


def mentions(folder: Path) -> Iterator[Mention]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".py":
            yield from _in_python(path)
        elif path.suffix in (".html", ".js") and "vendor" not in path.parts:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                yield from _in_text(line.replace("&lt;", "{x}"), f"{path.name}:{number}", False)


def fault_of(mention: Mention) -> str | None:
    """Why a person who types this is refused; None if not."""
    if mention.words[0] not in VERBS:
        known = mention.words[0] in ("VERB", "{x}", "--help")
        return None if known else f"there is no verb {mention.words[0]!r}"
    words, prose = _split(mention.words)
    if prose and len(words) == 1 and isinstance(_command(words[0]), click.Group):
        return f"{words[0]} has no command {prose[0]!r}"
    if len(prose) > 1 and _PLACEHOLDER.fullmatch(prose[1]):
        return f"{prose[0]!r} is no part of {' '.join(words)!r}"
    why = why_not(words)
    is_name_only = why is not None and ("Missing argument" in why or "only prints help" in why)
    return None if is_name_only and not mention.alone else why


def _split(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The words that are the command, and those of the sentence that goes on after it."""
    command = _command(words[0])
    taken, rest = [words[0]], list(words[1:])
    while isinstance(command, click.Group) and rest:
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return taken, rest
        command = found
        taken.append(rest.pop(0))
    values = {name: p for p in command.params if isinstance(p, click.Option) for name in p.opts}
    room = sum(1 for param in command.params if isinstance(param, click.Argument))
    while rest:
        option = values.get(rest[0])
        if rest[0].startswith("-"):
            if "{" in rest[0]:
                break  # which option it is, is known only when it is said
            takes_value = option is not None and not option.is_flag
            count = 2 if takes_value and "=" not in rest[0] else 1
        elif room and not _PROSE.fullmatch(rest[0]):
            room, count = room - 1, 1
        else:
            break
        taken += rest[:count]
        del rest[:count]
    return taken, rest


def _command(verb: str) -> click.Command:
    command = bessemer.get_command(click.Context(bessemer), verb)
    assert command is not None
    return command


def _in_python(path: Path) -> Iterator[Mention]:
    tree = ast.parse(path.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
              for part in ast.walk(node) if part is not node}  # fmt: skip
    steps = {id(word.value) for word in ast.walk(tree)
             if isinstance(word, ast.keyword) and word.arg == "next_step"}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        text = _text_of(node)
        if text is not None:
            assert isinstance(node, ast.expr)
            yield from _in_text(text, f"{path.name}:{node.lineno}", id(node) in steps)


def _text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{x}" for part in node.values
        )
    return None


def _in_text(text: str, place: str, is_step: bool) -> Iterator[Mention]:
    for found in _MENTION.finditer(text):
        words = _until_comma(_WORD.findall(found["rest"]))
        whole = found.start() == 0 and len(words) == len(text.split()) - 1
        yield Mention(place, tuple(words), alone=is_step and whole)


def _until_comma(words: list[str]) -> list[str]:
    taken = []
    for word in words:
        taken.append(word.rstrip(",.:'"))
        if word[-1] in ",.:'":
            break
    return taken
