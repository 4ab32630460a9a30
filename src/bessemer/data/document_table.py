"""The Arrow table that says which document each token of a stream belongs to.

    id string   source string   licence string or null   offset int64   length int64

Rows are in the order of the stream: offsets rise, and each document begins where the one before
it ends. The file is memory-mapped; looking something up copies none of its columns.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bessemer.core.errors import IntegrityError

ROWS_A_BATCH = 65_536
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ]
)


class Entry(NamedTuple):
    """One document: where its tokens are in the stream, and where its text is from."""

    id: str
    source: str
    licence: str | None
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class TableWriter:
    """Writes the table, one batch of rows in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._rows: list[Entry] = []
        self._writer = pa.ipc.new_file(str(path), SCHEMA)

    def add(self, entry: Entry) -> None:
        self._rows.append(entry)
        self.count += 1
        if len(self._rows) == ROWS_A_BATCH:
            self._flush()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _fault: object, _trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
            ]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
            self._rows = []


class DocumentTable:
    """The table, opened for reading.

    Raises:
        IntegrityError: the file is not such a table.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowInvalid, OSError) as fault:
            raise IntegrityError(f"{path} is not an Arrow table: {fault}") from fault
        if self._table.schema != SCHEMA:
            raise IntegrityError(f"{path} has other columns: {self._table.schema.names}")
        chunks = self._table.column("offset").chunks
        self._offsets: list[NDArray[np.int64]] = [c.to_numpy(zero_copy_only=True) for c in chunks]
        self._firsts = np.array([chunk[0] for chunk in self._offsets], dtype=np.int64)
        self._numbers = np.cumsum([0, *map(len, self._offsets)])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, number: int) -> Entry:
        assert 0 <= number < len(self), (number, len(self))
        row: dict[str, Any] = self._table.slice(number, 1).to_pylist()[0]
        return Entry(**row)

    def at(self, token: int) -> int:
        """The number of the document that holds the token at this offset of the stream."""
        batch = int(np.searchsorted(self._firsts, token, side="right")) - 1
        within = np.searchsorted(self._offsets[batch], token, side="right") - 1
        return int(self._numbers[batch] + within)

    def starts(self, begin: int, end: int) -> NDArray[np.int64]:
        """Where documents begin within [begin, end), ascending."""
        first = max(0, int(np.searchsorted(self._firsts, begin, side="right")) - 1)
        last = int(np.searchsorted(self._firsts, end, side="left"))
        found = [np.zeros(0, dtype=np.int64)]
        for offsets in self._offsets[first:last]:
            low, high = np.searchsorted(offsets, (begin, end))
            found.append(offsets[low:high])
        return np.concatenate(found)

    def find(self, id_: str) -> int | None:
        """The number of the document with this id; None when there is none."""
        number = int(pc.index(self._table.column("id"), id_).as_py())
        return None if number < 0 else number

    def ids(self) -> list[str]:
        """Every id, in order: a copy."""
        found: list[str] = self._table.column("id").to_pylist()
        return found
