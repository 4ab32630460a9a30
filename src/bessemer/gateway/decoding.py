"""A JSON body to a Struct, with every fault as a 400 that names the field."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from bessemer.core.errors import InvalidInput
from bessemer.gateway.failures import UnknownParameter

Body = TypeVar("Body")

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)
_FIELD = re.compile(r"(?:unknown|required) field `(?P<field>.*?)`", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[Body], raw: bytes) -> Body:
    """Raises InvalidInput or UnknownParameter: what is wrong, and in which field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as fault:
        raise _explain(str(fault)) from None
    except UnicodeDecodeError:
        raise InvalidInput("The body is not valid UTF-8.") from None
    except msgspec.DecodeError as fault:
        raise InvalidInput(f"We could not parse the JSON body of your request: {fault}.") from None
    except RecursionError:
        raise InvalidInput("The JSON body is nested too deeply.") from None


def convert(value: object, kind: type[Body], place: str) -> Body:
    """A part of a body that was decoded as it is. Raises as `decode`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as fault:
        raise _explain(str(fault), place) from None
    except RecursionError:
        raise InvalidInput("The JSON body is nested too deeply.") from None


def _explain(fault: str, part: str = "") -> InvalidInput:
    """`part` is where the value was that `fault` is about."""
    place = _PLACE.search(fault)
    # `[...]` is some value of a mapping.
    path = place["path"].replace("[...]", "") if place else ""
    path = f"{part}.{path}" if part and path and path[0] != "[" else part + path
    what = fault[: place.start()] if place else fault
    field = _FIELD.search(what)
    if field is not None:
        param = f"{path}.{field['field']}" if path else field["field"]
        if "unknown" in what:
            return UnknownParameter(param[:200])
        return InvalidInput(f"Missing required parameter: '{param}'.", param=param)
    where = f" for '{path}'" if path else ""
    return InvalidInput(f"Invalid value{where}: {what}.", param=path or None)
