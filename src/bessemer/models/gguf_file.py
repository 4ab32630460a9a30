"""A GGUF file opened with care: bounds checked, header values of the kind they should be.

Reads structure only; what the values mean for a decoder is `gguf_import`'s business. The `gguf`
package maps the file and slices it: beyond the end a slice is short or empty and not an error,
so that a cut-off or changed header could be read as a shorter one, or for a very long time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

from bessemer.core.errors import IntegrityError

# Real vocabularies have some hundred thousand tokens; each element costs Python objects.
MAX_ARRAY_LENGTH = 4_000_000


def open_gguf(path: Path) -> GGUFReader:
    """The mapped file, its header parsed and every tensor within its bounds.

    Raises:
        IntegrityError: not a GGUF file, cut off, or its header contradicts itself.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise IntegrityError(f"{path} is not a GGUF file (it begins with {magic!r})")
    try:
        with np.errstate(all="ignore"):  # counts from a changed header may overflow
            return _BoundedReader(path)
    except Exception as fault:  # the reader indexes a memory map and fails in every way there is
        raise IntegrityError(
            f"{path} is not a whole GGUF file ({path.stat().st_size:,} bytes): {fault}",
            next_step="fetch it again; it was probably cut off or changed",
        ) from fault


class _BoundedReader(GGUFReader):
    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        offset, end = int(offset), int(offset) + np.dtype(dtype).itemsize * int(count)
        if offset < 0 or end > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data):,}, before byte {end:,}")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            length = int(self._get(orig_offs + 4, np.uint64)[0])
            if length > MAX_ARRAY_LENGTH:
                raise ValueError(f"an array of {length:,} values in the header")
        return super()._get_field_parts(orig_offs, raw_type)


class Facts:
    """The file's key-value header. Every getter raises IntegrityError for the wrong kind."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self._fields = reader.fields
        self._file = path.name

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self._value(key, default)
        return value if value is None else self._checked(key, value, str)

    def integer(self, key: str, default: int | None = None) -> int | None:
        value = self._value(key, default)
        return value if value is None else self._checked(key, value, int)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above zero; an error where there is none and no default."""
        value: int = self._needed(key, self.integer(key, default))
        if value < 1:
            raise IntegrityError(f"{self._file} says {key} = {value}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._needed(key, self._value(key, default))
        return float(self._checked(key, value, int | float))

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._checked(key, self._value(key, default), int))

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty where there is none."""
        values: list[str] = self._list(key, str)
        return values

    def integers(self, key: str) -> list[int]:
        values: list[int] = self._list(key, int)
        return values

    def _value(self, key: str, default: Any) -> Any:
        field = self._fields.get(key)
        try:
            return default if field is None else field.contents()
        except (ValueError, IndexError) as fault:
            raise IntegrityError(f"{self._file}: {key} cannot be read: {fault}") from fault

    def _needed(self, key: str, value: Any) -> Any:
        if value is None:
            raise IntegrityError(f"{self._file} has no {key!r} in its header")
        return value

    def _checked(self, key: str, value: Any, kind: Any) -> Any:
        if not isinstance(value, kind):
            raise IntegrityError(
                f"{self._file}: {key} is a {type(value).__name__}, where {_name(kind)} was expected"
            )
        return value

    def _list(self, key: str, kind: type) -> Any:
        values = self._checked(key, self._value(key, []), list)
        for value in values:
            self._checked(key, value, kind)
        return values


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
