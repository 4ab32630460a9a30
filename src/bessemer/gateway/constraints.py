"""What an answer has to be: OpenAI's `response_format`, and vLLM's `structured_outputs`.

Here only the shape of what was sent is read. Whether a schema, an expression or a grammar can be
held to, the engine says; its fault comes back with the name of the field.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import MAX_CONSTRAINT_CHARS, Constraint
from bessemer.gateway.decoding import decode

# Rules of a grammar call each other, and following them takes stack (decision 0007).
MAX_PATTERN_CHARS = 1 << 15
MAX_CHOICES = 10_000

NOTHING = Raw(b"")

_string = msgspec.json.Decoder(str)

Pattern = Annotated[str, Meta(max_length=MAX_PATTERN_CHARS)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """`strict` changes nothing: a schema is always held to."""

    name: Name
    schema: Raw = NOTHING
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def constraint(self) -> Constraint | None:
        """Raises InvalidInput where the schema is missing, or has no place."""
        place = "response_format.json_schema"
        if self.type != "json_schema" and self.json_schema is not None:
            raise InvalidInput(
                f"'{place}' has no meaning with the type '{self.type}'.", param=place
            )
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Constraint("json_object", param="response_format")
        if self.json_schema is None:
            raise InvalidInput(f"Missing required parameter: '{place}'.", param=place)
        if not self.json_schema.schema:
            raise InvalidInput(
                f"Missing required parameter: '{place}.schema'.", param=f"{place}.schema"
            )
        return Constraint("json_schema", _text(self.json_schema.schema), "response_format")


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """Exactly one of them; `json` is a schema, or a string that holds one."""

    json: Raw = NOTHING
    regex: Pattern | None = None
    choice: Annotated[list[str], Meta(min_length=1, max_length=MAX_CHOICES)] | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None

    def constraint(self) -> Constraint | None:
        """Raises InvalidInput unless one thing is asked for."""
        param, found = "structured_outputs", list[Constraint]()
        if self.json and bytes(self.json) != b"null":
            found.append(Constraint("json_schema", _schema(self.json), param))
        if self.regex is not None:
            found.append(Constraint("regex", self.regex, param))
        if self.choice is not None:
            found.append(Constraint("choice", msgspec.json.encode(self.choice).decode(), param))
        if self.grammar is not None:
            found.append(Constraint("lark", self.grammar, param))
        if self.json_object:
            found.append(Constraint("json_object", param=param))
        if len(found) > 1:
            raise InvalidInput(
                "'structured_outputs' asks for more than one thing; an answer can be held to one"
                " of json, regex, choice, grammar and json_object.",
                param=param,
            )
        return found[0] if found else None


def constraint_of(*asked: ResponseFormat | StructuredOutputs | None) -> Constraint | None:
    """What the answer has to be, if anything. Raises InvalidInput for more than one thing."""
    found = [one for field in asked if field and (one := field.constraint())]
    if len(found) > 1:
        raise InvalidInput(
            f"'{found[0].param}' and '{found[1].param}' cannot be used together.",
            param=found[1].param,
        )
    if found and len(found[0].text) > MAX_CONSTRAINT_CHARS:
        raise InvalidInput(
            f"'{found[0].param}' has {len(found[0].text):,} characters; the limit is"
            f" {MAX_CONSTRAINT_CHARS:,}.",
            param=found[0].param,
        )
    return found[0] if found else None


def _schema(raw: Raw) -> str:
    """A schema's JSON, also out of a string that holds it."""
    text = _text(raw)
    return decode(_string, text.encode()) if text.startswith('"') else text


def _text(raw: Raw) -> str:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:  # what is taken raw was not looked into
        raise InvalidInput("The body is not valid UTF-8.") from None
