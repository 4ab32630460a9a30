"""Where the items of a run come from: the request itself, a file, and answers that were stored.

A source is read twice, once when the run is asked for, to check every line against the eval's
schema, and once when it is done; never all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app import eval_stored, files
from bessemer.app.eval_definitions import CustomData, Eval
from bessemer.app.eval_schema import ItemSchema
from bessemer.app.eval_stored import Chosen, StoredCompletions, StoredResponses
from bessemer.app.platform import Platform
from bessemer.core.errors import DataError, InvalidInput
from bessemer.core.principal import Principal
from bessemer.text.criteria import places_of

PARAM = "data_source.source"


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One line: an item, and with `jsonl` runs the sample that is to be judged."""

    item: dict[str, Any]
    sample: dict[str, Any] | UnsetType = UNSET


class _Source(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    pass


class FileContent(_Source, tag="file_content"):
    content: list[Row]


class FileId(_Source, tag="file_id"):
    id: str


Source = FileContent | FileId | StoredCompletions | StoredResponses | Chosen


class Line(NamedTuple):
    """An item of a run; `number` counts items from 0, `at` lines from 1."""

    number: int
    at: int
    item: dict[str, Any]
    sample: dict[str, Any] | None


def read(platform: Platform, principal: Principal, source: Source) -> Iterator[Line]:
    """The items, one at a time.

    Raises:
        NotFound: there is no such file.
        DataError: a line is no JSON object with an item, naming it.
    """
    match source:
        case FileContent():
            for number, row in enumerate(source.content):
                yield _line(number, number + 1, row)
        case FileId():
            yield from _file_lines(platform, principal, source.id)
        case Chosen():
            for answer in eval_stored.read(platform, principal, source):
                yield Line(answer.number, answer.number + 1, answer.item, answer.sample)
        case StoredCompletions() | StoredResponses():
            raise AssertionError("a filter is no list of items: `chosen` comes first")


def chosen(
    platform: Platform, principal: Principal, definition: Eval, source: Source, *, sampled: bool
) -> Source:
    """The source with what is stored now in the place of a filter, so that it stays the same.

    Raises:
        InvalidInput: no stored answer matches, or too many.
    """
    if not isinstance(source, StoredCompletions | StoredResponses):
        return source
    config = definition.config
    having = None if isinstance(config, CustomData) else config.metadata
    return eval_stored.choose(platform, principal, source, sampled=sampled, having=having)


def check(
    platform: Platform, principal: Principal, definition: Eval, source: Source, *, sampled: bool
) -> int:
    """Read every line against the eval's schema; how many there are.

    Args:
        sampled: answers will be sampled, so lines bring none.

    Raises:
        DataError: a line does not follow it, naming line and fault.
        InvalidInput: there is no line.
    """
    schema = None
    if isinstance(definition.config, CustomData):
        schema = ItemSchema(definition.config.item_schema)
    reader = None if sampled else _reads_sample(definition)
    count = 0
    for line in read(platform, principal, source):
        count += 1
        _check_line(line, schema, reader, sampled=sampled)
    if not count:
        raise InvalidInput("there is no item to evaluate", param=PARAM)
    return count


def _check_line(
    line: Line, schema: ItemSchema | None, reader: str | None, *, sampled: bool
) -> None:
    if schema is not None and (fault := schema.fault(line.item)) is not None:
        raise DataError(f"the item does not follow the schema: {fault}", line=line.at, param=PARAM)
    if sampled and line.sample is not None:
        raise DataError(
            "it has a 'sample', and this run makes its own",
            line=line.at,
            param=PARAM,
            next_step="leave the samples out, or judge them with the data source 'jsonl'",
        )
    if reader is not None and line.sample is None:
        raise DataError(
            f"it has no 'sample', which the criterion {reader!r} judges",
            line=line.at,
            param=PARAM,
            next_step='add "sample": {"output_text": ...} to every line, or sample with a model',
        )


def _reads_sample(definition: Eval) -> str | None:
    """A criterion that reads the sample; also any, where the eval says that there is one."""
    config = definition.config
    if isinstance(config, CustomData) and config.include_sample_schema:
        return definition.criteria[0].name
    readers = (
        criterion.name
        for criterion in definition.criteria
        if any(place.namespace == "sample" for place in places_of(criterion))
    )
    return next(readers, None)


_decoder = msgspec.json.Decoder(Row)


def _file_lines(platform: Platform, principal: Principal, file_id: str) -> Iterator[Line]:
    file = files.get(platform, principal, file_id)
    number = 0
    with file.path.open("rb") as lines:
        for at, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            try:
                row = _decoder.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
                raise DataError(
                    f"{file.filename}: {fault}",
                    line=at,
                    param=PARAM,
                    next_step='each line is {"item": {...}}, with "sample": {...} if it has one',
                ) from None
            yield _line(number, at, row)
            number += 1


def _line(number: int, at: int, row: Row) -> Line:
    return Line(number, at, row.item, None if row.sample is UNSET else row.sample)
