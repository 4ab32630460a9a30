"""Texts with `{{ item.question }}` in them, as OpenAI's evals and graders write them.

    text = Placeholders("Is {{sample.output_text}} the capital of {{ item.countries[0].name }}?")
    text.fill({"item": {...}, "sample": {...}})

Only paths into the two namespaces are looked up; nothing is computed, and what was filled in is
not looked at again. Braces around anything that is no such path (JSON in a prompt) are text.

A path may go on into a text that is JSON, as a call's arguments are:
`{{sample.output_tools[0].function.arguments.city}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from bessemer.core.errors import DataError, InvalidInput

NAMESPACES = ("item", "sample")

_BRACES = re.compile(r"\{\{([^{}]*)\}\}")
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[\w-]+|\[\d{1,9}\]|\[\"[^\"\]]*\"\]|\['[^'\]]*'\])*")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]|\[[\"']([^\"'\]]*)[\"']\]")
_SHOWN = 20


class Place(NamedTuple):
    """One path: `sample.output_tools[0].function.name`."""

    text: str
    steps: tuple[str | int, ...]

    @property
    def namespace(self) -> str:
        return str(self.steps[0])

    def find(self, spaces: Mapping[str, Any]) -> Any:
        """The value. Raises DataError: it is not there, and what is."""
        found: Any = spaces
        for depth, step in enumerate(self.steps):
            try:
                found = _step_into(found, step)
            except (KeyError, IndexError, TypeError):
                where = "".join(map(_written, self.steps[:depth])).removeprefix(".")
                raise DataError(
                    f"{{{{{self.text}}}}} is not there: {where or 'nothing'} has {_names(found)}"
                ) from None
        return found


class Placeholders:
    """A text, read once.

    Args:
        allowed: the namespaces that will be there.

    Raises:
        InvalidInput: a path into another namespace, or one that cannot be read.
    """

    def __init__(self, text: str, allowed: tuple[str, ...] = NAMESPACES) -> None:
        self._parts: list[str | Place] = []
        end = 0
        for braces in _BRACES.finditer(text):
            place = _read(braces[1].strip(), allowed)
            if place is not None:
                self._parts += [text[end : braces.start()], place]
                end = braces.end()
        self._parts.append(text[end:])

    @property
    def places(self) -> list[Place]:
        return [part for part in self._parts if isinstance(part, Place)]

    def fill(self, spaces: Mapping[str, Any]) -> str:
        """The text with values in it: strings as they are, everything else as JSON.

        Raises:
            DataError: a value is not there.
        """
        return "".join(
            part if isinstance(part, str) else written(part.find(spaces)) for part in self._parts
        )


def place_of(path: str, allowed: tuple[str, ...] = NAMESPACES) -> Place:
    """A path without braces: `item.input_trajectory`. Raises InvalidInput."""
    place = _read(path.strip(), allowed)
    if place is None:
        raise InvalidInput(f"{path[:100]!r} is no path into {' or '.join(allowed)}")
    return place


def written(value: Any) -> str:
    """A value as it stands in a text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read(inner: str, allowed: tuple[str, ...]) -> Place | None:
    name = re.match(r"\w+", inner)
    if not _PATH.fullmatch(inner):
        if name is not None and name[0] in NAMESPACES:
            raise InvalidInput(
                f"{{{{{inner[:100]}}}}} cannot be read as a path",
                next_step="write it like {{item.question}} or {{item.answers[0].text}}",
            )
        return None
    assert name is not None
    if name[0] not in allowed:
        raise InvalidInput(
            f"{{{{{inner[:100]}}}}} is in no namespace that is there: {', '.join(allowed)}",
            next_step="write it like {{item.question}}",
        )
    steps: list[str | int] = [name[0]]
    for step in _STEP.finditer(inner, name.end()):
        key, index, quoted = step.groups()
        steps.append(int(index) if index is not None else key if key is not None else quoted)
    return Place(inner, tuple(steps))


def _step_into(found: Any, step: str | int) -> Any:
    if isinstance(found, str):
        found = _json_in(found)
    if isinstance(step, str) and not isinstance(found, Mapping):
        raise TypeError(step)
    if isinstance(step, int) and not isinstance(found, list | tuple):
        raise TypeError(step)
    return found[step]


def _json_in(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _written(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"


def _names(found: Any) -> str:
    if isinstance(found, Mapping):
        names = [str(name)[:100] for name in found]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return (", ".join(sorted(names)[:_SHOWN]) + more) or "no fields"
    if isinstance(found, list | tuple):
        return f"{len(found)} elements"
    return f"no parts, it is {type(found).__name__}"
