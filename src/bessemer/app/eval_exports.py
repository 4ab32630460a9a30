"""Files of what was exported from OpenAI's Evals API, read as its objects, whoever wrote them how.

    for found in read_objects(paths): ...       # each an eval, a run, or an output item

A file holds one object or many, one a line or not, in arrays, the API's lists, or objects of
somebody's own (`{"eval": ..., "runs": [...]}`). What the official client's `model_dump` writes is
read like the API's own words: its field `schema_`, and null where nothing was said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bessemer.core.errors import DataError

KINDS = ("eval", "eval.run", "eval.run.output_item")
Json = Mapping[str, Any]

_SPACE = re.compile(r"[\s,]*")
# Half of a character, which a model's cut answer may end with, is no text.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# What is somebody's own data, whose nulls mean something.
_DATA = ("item", "sample", "datasource_item", "schema", "parameters", "metadata")
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _Schema(Struct, frozen=True):
    properties: dict[str, dict[str, Any]] = {}


class _DataSourceConfig(Struct, frozen=True):
    schema: _Schema = _Schema()
    metadata: dict[str, Any] = {}


class _Criterion(Struct, frozen=True):
    sampling_params: dict[str, Any] = {}


class _Eval(Struct, frozen=True):
    """The form of what is read of an object; the rest of it may be anything."""

    id: str
    data_source_config: _DataSourceConfig = _DataSourceConfig()
    testing_criteria: list[_Criterion] = []
    name: str = ""
    metadata: dict[str, Any] = {}


class _Verdicts(Struct, frozen=True):
    total: _Count = 0
    passed: _Count = 0
    failed: _Count = 0
    errored: _Count = 0


class _ModelUse(Struct, frozen=True):
    invocation_count: _Count = 0
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    cached_tokens: _Count = 0


class _Run(Struct, frozen=True):
    id: str
    eval_id: str
    data_source: dict[str, Any] = {}
    error: dict[str, Any] = {}
    result_counts: _Verdicts = _Verdicts()
    per_testing_criteria_results: list[_Verdicts] = []
    per_model_usage: list[_ModelUse] = []
    name: str = ""
    metadata: dict[str, Any] = {}


class _Sample(Struct, frozen=True):
    input: list[Any] | None = None
    output: list[Any] | None = None


class _Result(Struct, frozen=True):
    run_id: str
    datasource_item_id: _Count | None = None
    results: list[Any] = []
    sample: _Sample = _Sample()


_FORMS: dict[str, type[Struct]] = {"eval": _Eval, "eval.run": _Run, "eval.run.output_item": _Result}
_OWN_NAMES = {"schema_": "schema", "run_model_name": "model_name"}


def read_objects(paths: Sequence[Path]) -> Iterator[Json]:
    """The objects of files, in their order.

    Raises:
        DataError: a file holds something else, naming its line.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is not a file")
        count = 0
        for line, value in _values(path):
            count += _is_empty_list(value)
            for found in _objects(value, path, line):
                count += 1
                yield found
        if not count:
            raise _nothing(path, f"none of {', '.join(KINDS)}", 1)


def said(value: Any) -> Any:
    """An object of the API without its nulls; those within somebody's own data stay."""
    if isinstance(value, list):
        return [said(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    renamed = {_OWN_NAMES.get(key, key): one for key, one in value.items()}
    return {
        key: one if key in _DATA else said(one) for key, one in renamed.items() if one is not None
    }


def fault_of(found: Json) -> str | None:
    """Why an object that was `said` cannot be read, if it is not in the API's form."""
    try:
        msgspec.convert(found, _FORMS[found["object"]])
    except msgspec.ValidationError as fault:
        return str(fault)
    return None


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """Each JSON value and the line that it begins in."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(f"{path.name} is no UTF-8: {fault}") from None
    decoder, place, line = json.JSONDecoder(), 0, 1
    while True:
        begin = _end_of_space(text, place)
        line += text.count("\n", place, begin)
        if begin == len(text):
            return
        try:
            value, place = decoder.raw_decode(text, begin)
        except json.JSONDecodeError as fault:
            raise DataError(f"{path.name} is no JSON: {fault}", line=fault.lineno) from None
        except RecursionError:
            raise DataError(f"{path.name} is nested too deeply", line=line) from None
        yield line, _whole(value) if _HALF.search(text, begin, place) else value
        line += text.count("\n", begin, place)


def _end_of_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None, "it matches nothing, too"
    return found.end()


def _whole(value: Any) -> Any:
    """The same with a question mark for each half of a character."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _objects(found: Any, path: Path, line: int) -> Iterator[Json]:
    if isinstance(found, list):
        for one in found:
            yield from _objects(one, path, line)
        return
    kind = found.get("object") if isinstance(found, dict) else type(found).__name__
    inside: list[Any] = []
    if kind in KINDS:
        yield found
        # Scripts put what belongs to an object into it.
        inside = [found.get(key) for key in ("runs", "output_items")]
    elif kind in (None, "list"):
        inside = list(found.values())
    else:
        raise _nothing(path, f"{str(kind)[:100]!r}, which is none of {', '.join(KINDS)}", line)
    for one in inside:
        if isinstance(one, dict | list):
            yield from _objects(one, path, line)


def _is_empty_list(value: Any) -> bool:
    """As of an eval without runs, which is no fault."""
    return value == [] or (isinstance(value, dict) and value.get("object") == "list")


def _nothing(path: Path, what: str, line: int) -> DataError:
    return DataError(
        f"{path.name} holds {what}",
        line=line,
        next_step="export them with OpenAI's API: GET /v1/evals/ID, its runs, their items",
    )
