"""`multipart/form-data`: small fields by name, and one file that streams to disk as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from bessemer.core.errors import InvalidInput
from bessemer.gateway.exchange import Exchange

_MOST_FIELDS = 100
_MOST_FIELD_BYTES = 64 * 1024
_TO_DISK_BYTES = 1 << 20


class Sink(Protocol):
    """Where the file goes: `app.files.Writer`."""

    def write(self, data: bytes) -> None: ...


class Form:
    """What was sent, so far. `filename` is None while there was no file."""

    def __init__(self, file_field: str) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._file_field = file_field
        self._header = bytearray()
        self._headers: dict[str, bytes] = {}
        self._name, self._is_file = "", False
        self._value = bytearray()
        self._pending = bytearray()
        self._ended = False

    def text(self, name: str) -> str:
        """Raises InvalidInput where it is missing."""
        if name not in self.fields:
            raise InvalidInput(f"Missing required parameter: '{name}'.", param=name)
        return self.fields[name]

    def take_pending(self) -> bytes:
        data = bytes(self._pending)
        self._pending.clear()
        return data

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    @property
    def ended(self) -> bool:
        return self._ended

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def _begin(self) -> None:
        self._headers, self._value = {}, bytearray()
        self._header = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._headers[self._header.decode("latin-1").lower()] = b""

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        name = self._header.decode("latin-1").lower()
        self._headers[name] = self._headers.get(name, b"") + data[start:end]

    def _header_end(self) -> None:
        self._header = bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = _utf8(options.get(b"name", b""), "a field's name")
        self._is_file = b"filename" in options
        if self._is_file:
            if self._name != self._file_field:
                raise InvalidInput(f"'{self._name[:100]}' is no file here.", param=self._name)
            if self.filename is not None:
                raise InvalidInput("There is more than one file.", param=self._name)
            self.filename = _utf8(options[b"filename"], "the file's name")
        elif self._name in self.fields:
            raise InvalidInput(f"'{self._name[:100]}' is given twice.", param=self._name)
        elif len(self.fields) >= _MOST_FIELDS:
            raise InvalidInput(f"There are more than {_MOST_FIELDS} fields.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pending += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > _MOST_FIELD_BYTES:
            raise InvalidInput(
                f"'{self._name[:100]}' has more than {_MOST_FIELD_BYTES:,} bytes.", param=self._name
            )

    def _part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = _utf8(bytes(self._value), f"'{self._name[:100]}'")

    def _end(self) -> None:
        self._ended = True


async def read_form(exchange: Exchange, sink: Sink, file_field: str = "file") -> Form:
    """Read the body; the file's bytes go to `sink` in a thread, a megabyte at a time.

    Raises:
        InvalidInput: it is no form, or a broken one, or the file is missing.
        PayloadTooLarge: as the sink says.
    """
    form = Form(file_field)
    parser = form.parser(_boundary(exchange))
    async for chunk in exchange.chunks():
        _feed(lambda data=chunk: parser.write(data))  # type: ignore[misc]
        if form.pending_bytes >= _TO_DISK_BYTES:
            await asyncio.to_thread(sink.write, form.take_pending())
    _feed(parser.finalize)
    if not form.ended:
        raise InvalidInput("The form ends in the middle of a part.")
    await asyncio.to_thread(sink.write, form.take_pending())
    if form.filename is None:
        raise InvalidInput(f"Missing required parameter: '{file_field}'.", param=file_field)
    return form


def _boundary(exchange: Exchange) -> bytes:
    kind, options = parse_options_header((exchange.header(b"content-type") or "").encode("latin-1"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidInput(
            f"The body's Content-Type is {kind[:100].decode('latin-1')!r}; this needs"
            " 'multipart/form-data' with a boundary."
        )
    return options[b"boundary"]


def _feed(step: Callable[[], object]) -> None:
    try:
        step()
    except MultipartParseError as fault:
        raise InvalidInput(f"The form cannot be read: {fault}.") from None


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} is not valid UTF-8.") from None
