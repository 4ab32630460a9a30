"""The JSON Schema that an eval's items must follow, and what is wrong with one that does not.

Schemas come from whoever writes evals, so nothing in them may reach out or run for long: `$ref`
stays within the schema, and patterns are RE2's (decision 0006), never Python's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bessemer.core.errors import InvalidInput
from bessemer.text.patterns import Pattern

_PLACES_OF_NAMES = ("properties", "$defs", "definitions", "dependentSchemas")
_SHOWN = 300


class ItemSchema:
    """A schema, ready to check items.

    Raises:
        InvalidInput: it is no schema, or has what cannot be held to here.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import Draft202012Validator, extend, validator_for
        from referencing import Registry

        try:
            for part in _parts(schema):
                _check_part(part)
            kind = validator_for(schema, default=Draft202012Validator)
            kind.check_schema(schema)
        except SchemaError as fault:
            raise _wrong(f"{fault.message[:_SHOWN]} (at {fault.json_path})") from None
        except RecursionError:
            raise _wrong("it is nested too deeply") from None
        # An empty registry: the library's own would fetch what a `$ref` names.
        self._validator = extend(kind, {"pattern": _pattern})(schema, registry=Registry())

    def fault(self, item: Any) -> str | None:
        """What is wrong with an item and where, or None.

        Raises:
            InvalidInput: a reference within the schema leads nowhere.
        """
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            found = best_match(self._validator.iter_errors(item))
        except Unresolvable as fault:
            raise _wrong(f"a reference leads nowhere: {fault}"[:_SHOWN]) from None
        except RecursionError:
            return "it, or its schema, is nested too deeply"
        if found is None:
            return None
        return f"{found.message[:_SHOWN]} (at {found.json_path})"


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a schema that is not a table of names."""
    left: list[tuple[Any, bool]] = [(schema, False)]
    while left:
        found, is_table = left.pop()
        if isinstance(found, Mapping):
            if not is_table:
                yield found
            left += [(v, not is_table and k in _PLACES_OF_NAMES) for k, v in found.items()]
        elif isinstance(found, list):
            left += [(inner, False) for inner in found]


def _check_part(part: Mapping[str, Any]) -> None:
    for word in ("$ref", "$dynamicRef"):
        if not str(part.get(word, "#")).startswith("#"):
            raise _wrong(f"{word} {str(part[word])[:100]!r} leads out of the schema")
    if isinstance(part.get("patternProperties"), Mapping):
        raise _wrong("'patternProperties' cannot be held to here")
    if isinstance(part.get("pattern"), str):
        Pattern(part["pattern"])


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Exception]:
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not Pattern(pattern).matches(instance):
        yield ValidationError(f"{instance[:100]!r} does not match {pattern[:100]!r}")


def _wrong(why: str) -> InvalidInput:
    return InvalidInput(
        f"the schema of the items cannot be used: {why}", param="data_source_config.item_schema"
    )
