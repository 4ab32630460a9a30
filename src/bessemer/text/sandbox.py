"""The jinja2 environment chat templates run in: they come with a model, so they are not trusted.

They see plain JSON values and no attribute that leads to Python's insides, change nothing, load
nothing, and may not multiply strings or raise numbers without bound. They can still loop for
long: a template is data from a stranger, not a service.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LARGEST_PRODUCT = 1_000_000


class Sandbox(ImmutableSandboxedEnvironment):
    """What `transformers` offers templates, and no more."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        self.filters["tojson"] = _tojson
        self.globals = {
            "range": self.globals["range"],
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "dict": _new_dict,
            "namespace": _PublicNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        # jinja2 gives an undefined value, which prints as nothing; an attack must show.
        raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _check_product(operator: str, left: Any, right: Any) -> None:
    sequences = [value for value in (left, right) if isinstance(value, str | list | tuple)]
    counts = [value for value in (left, right) if isinstance(value, int)]
    too_long = sequences and counts and len(sequences[0]) * max(counts) > LARGEST_PRODUCT
    too_high = operator == "**" and any(abs(count) > 64 for count in counts)
    if too_long or too_high:
        raise SecurityError(f"the template asks for an excessive product ({operator})")


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks answers for others' tools; only text here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _PublicNamespace(Namespace):
    """jinja2's `namespace`, without names that Python itself gives a meaning."""

    def __init__(*args: Any, **values: Any) -> None:
        # No named `self`, so that `namespace(self=...)` works as it does in jinja2.
        self, rest = args[0], args[1:]
        values = dict(*rest, **values)
        for name in values:
            _check_public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


def _check_public(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}")


def _new_dict(*args: Any, **values: Any) -> dict[str, Any]:
    return dict(*args, **values)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML, which models have not seen.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
