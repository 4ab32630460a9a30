"""OpenAI's published specification (OpenAPI 3.1, API 2.3.0 of 2026-08-21, MIT), without its prose,
and the one question that tests ask of it: is this body what the operation answers?

    check("GET", "/v1/files", 200, body)
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

PREFIX = "/v1"


class Operation(NamedTuple):
    method: str
    path: str
    """The template, as `/files/{file_id}`."""


@cache
def specification() -> dict[str, Any]:
    raw = (Path(__file__).parent / "openai.json.gz").read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(raw), object_hook=_modern)
    _amend(found["components"]["schemas"])
    return found


def _amend(schemas: dict[str, Any]) -> None:
    """Where the specification forgets what its own prose and examples say."""
    # The messages of a stored completion have every role.
    role = schemas["ChatCompletionResponseMessage"]["properties"]["role"]
    role["enum"] = ["assistant", "user", "system", "developer", "tool", "function"]
    # Asked for with `encoding_format: base64`.
    vector = schemas["Embedding"]["properties"]
    vector["embedding"] = {"anyOf": [vector["embedding"], {"type": "string"}]}
    # Streams of completions have the same shape as whole ones, and have not ended before they do.
    choice = schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]
    choice["finish_reason"] = {"anyOf": [choice["finish_reason"], {"type": "null"}]}
    # A file may be sent for evals.
    schemas["OpenAIFile"]["properties"]["purpose"]["enum"].append("evals")
    # There are operations that pause and resume a job, and no word for what it is in between.
    schemas["FineTuningJob"]["properties"]["status"]["enum"].append("paused")


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI 3.0 said in its own words, and JSON Schema does not know: `nullable`, and an
    exclusive bound that is `true` beside the bound.
    """
    if schema.get("nullable") is True:
        rest = {key: value for key, value in schema.items() if key != "nullable"}
        return {"anyOf": [_modern(rest), {"type": "null"}]}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive) is True:
            schema[exclusive] = schema.pop(bound)
    return schema


@cache
def operations() -> list[Operation]:
    """Every operation once: the doubles for `?beta=true` are left out."""
    methods = ("get", "post", "delete", "put", "patch")
    return [
        Operation(method.upper(), path)
        for path, found in specification()["paths"].items()
        if "?" not in path
        for method in methods
        if method in found
    ]


def operation_of(method: str, url_path: str) -> Operation | None:
    """The operation that `/v1/files/file-1` is; literal parts go before named ones."""
    parts = unquote(url_path.removeprefix(PREFIX)).split("/")
    fitting = [
        operation
        for operation in operations()
        if operation.method == method and _fits(operation.path.split("/"), parts)
    ]
    return min(fitting, key=lambda operation: operation.path.count("{"), default=None)


def check(method: str, url_path: str, status: int, body: Any) -> None:
    """Raise AssertionError unless the specification allows this answer."""
    operation = operation_of(method, url_path)
    assert operation is not None, f"{method} {url_path} is not in the specification"
    faults = list(_faults(operation, status, body))
    assert not faults, f"{operation.method} {operation.path}: {'; '.join(faults)}"


def _faults(operation: Operation, status: int, body: Any) -> Iterator[str]:
    answers = specification()["paths"][operation.path][operation.method.lower()]["responses"]
    if status >= 400:
        schema: dict[str, Any] = {"$ref": "#/components/schemas/ErrorResponse"}
    elif str(status) not in answers:
        yield f"status {status}; the specification has {', '.join(answers)}"
        return
    else:
        content = answers[str(status)].get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
    fault = best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(body))
    if fault is not None:
        yield f"{fault.json_path}: {fault.message[:500]}"


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({**json.loads(schema), "components": specification()["components"]})


def _fits(template: list[str], parts: list[str]) -> bool:
    return len(template) == len(parts) and all(
        named.startswith("{") or named == part for named, part in zip(template, parts, strict=True)
    )
