"""OpenAI's published specification by the names of its schemas, for bodies and events."""

from __future__ import annotations

import functools
from typing import Any

import jsonschema

from tests.specification import specification


def check(name: str, body: Any) -> None:
    """Fail unless `body` is what the specification calls `name`."""
    faults = [
        f"{list(fault.absolute_path)}: {fault.message}"
        for fault in _validator(name).iter_errors(body)
    ]
    assert not faults, (name, faults, body)


@functools.cache
def _validator(name: str) -> Any:
    schema = {
        "$ref": f"#/components/schemas/{name}",
        "components": specification()["components"],
    }
    return jsonschema.Draft202012Validator(schema)
