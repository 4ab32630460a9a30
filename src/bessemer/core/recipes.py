"""Recipes: TOML into frozen pydantic models, nothing ignored, every value explained.

A recipe class is a pydantic model with `extra="forbid"`; each field's description says what it
is. `load` reads a file, applies `--set a.b=value` overrides and validates; an unknown key is an
error with a suggestion. `explain` says of each value where it came from.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args

import pydantic
import tomli_w

from bessemer.core.errors import RecipeError

# The numbers that most fields are.
Positive = Annotated[int, pydantic.Field(ge=1)]
Above = Annotated[float, pydantic.Field(gt=0)]
NotBelow = Annotated[float, pydantic.Field(ge=0)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Source = Literal["recipe", "--set", "default"]


class Frozen(pydantic.BaseModel):
    """The base of every recipe and every section of one."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=False)


R = TypeVar("R", bound=Frozen)


class Loaded(NamedTuple, Generic[R]):
    """A recipe, and for each dotted key where its value came from."""

    recipe: R
    sources: dict[str, Source]


class Line(NamedTuple):
    """One row of `bessemer explain`."""

    key: str
    value: str
    source: Source
    why: str


def load(path: Path, kind: type[R], overrides: Sequence[str] = ()) -> Loaded[R]:
    """Read a recipe file.

    Raises:
        RecipeError: naming the file, the key and what was expected.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise RecipeError(
            f"cannot read {path}: {fault.strerror}", next_step="ls recipes/"
        ) from fault
    except UnicodeDecodeError as fault:
        raise RecipeError(
            f"{path} is not UTF-8: byte {fault.start + 1}", next_step="ls recipes/"
        ) from fault
    return loads(text, kind, overrides, where=str(path))


def loads(
    text: str, kind: type[R], overrides: Sequence[str] = (), where: str = "recipe"
) -> Loaded[R]:
    """`load` for text."""
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        raise RecipeError(f"{where} is not TOML: {fault}") from fault
    sources: dict[str, Source] = {key: "recipe" for key, _ in _leaves(tree)}
    for override in overrides:
        key, value = _parse_override(override)
        _refuse_unknown(key, kind)
        _assign(tree, key, value)
        sources[key] = "--set"
    try:
        recipe = kind.model_validate(tree)
    except pydantic.ValidationError as fault:
        # Explaining a file that is wrong would only say this again.
        right = where if overrides else "recipes/teach.toml"
        raise RecipeError(
            _describe(fault, kind, where), next_step=f"bessemer explain {right}"
        ) from fault
    every = {key: sources.get(key, "default") for key, _ in _leaves(recipe.model_dump())}
    return Loaded(recipe, every)


def dumps(recipe: Frozen) -> str:
    """The recipe as TOML. TOML has no null: a field that is None is left out."""
    return tomli_w.dumps(_without_none(recipe.model_dump(mode="json")))


def explain(loaded: Loaded[Any]) -> list[Line]:
    """Each value of the recipe, where it came from, and what it is."""
    described = dict(_descriptions(type(loaded.recipe), sections=True))
    return [
        Line(key, _show(value), loaded.sources.get(key, "default"), described.get(_plain(key), ""))
        for key, value in _leaves(loaded.recipe.model_dump())
    ]


def known_keys(kind: type[Frozen]) -> list[str]:
    """Every dotted key a recipe of this kind may have."""
    return list(dict.fromkeys(key for key, _ in _descriptions(kind)))


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text!r} is not of the form a.b=value")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()  # a bare word is a string


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        tree = _step_into(tree, section)
        if not isinstance(tree, dict | list):
            raise RecipeError(f"--set {key}: {section!r} is a value, not a section")
    tree[leaf] = value


def _step_into(tree: Any, section: str) -> Any:
    """The section of this name, or the table of this number: `mixture.0.weight`."""
    if isinstance(tree, dict):
        return tree.setdefault(section, {})
    if not section.isdigit() or int(section) >= len(tree):
        raise RecipeError(f"--set: there are {len(tree)} tables, numbered from 0; got {section!r}")
    return tree[int(section)]


def _plain(key: str) -> str:
    """`mixture.0.weight` is described as `mixture.weight`."""
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _refuse_unknown(key: str, kind: type[Frozen]) -> None:
    known = known_keys(kind)
    key = _plain(key)
    if key in known or any(name.startswith(f"{key}.") for name in known):
        return
    raise RecipeError(f"--set {key}: there is no such key{_suggest(key, known)}")


def _suggest(key: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not close:
        # The right leaf in the wrong section is the commonest slip.
        leaf = key.rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == leaf][:1]
    return f"; did you mean {close[0]!r}?" if close else ""


def _describe(fault: pydantic.ValidationError, kind: type[Frozen], where: str) -> str:
    lines = []
    for error in fault.errors():
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            lines.append(f"{key}: there is no such key{_suggest(key, known_keys(kind))}")
        elif error["type"] == "missing":
            lines.append(f"{key}: is missing")
        else:
            lines.append(f"{key}: {error['msg']} (got {error['input']!r})")
    return f"{where}: " + "; ".join(lines)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            tables = {str(number): table for number, table in enumerate(value)}
            yield from _leaves(tables, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _descriptions(
    kind: type[pydantic.BaseModel], prefix: str = "", *, sections: bool = False
) -> Iterable[tuple[str, str]]:
    for name, field in kind.model_fields.items():
        inner = sections_of(field.annotation)
        if sections or not inner:
            yield f"{prefix}{name}", field.description or ""
        for section in inner:
            yield from _descriptions(section, f"{prefix}{name}.", sections=sections)


def sections_of(annotation: Any) -> list[type[pydantic.BaseModel]]:
    """The sections that a field may hold: none for a value, several where a table has kinds."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_of(part)]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
