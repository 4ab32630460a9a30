"""Frames on a stream: four bytes of big-endian length, then msgpack.

The engine worker and its client speak these over a Unix socket, one frame per engine step.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

MAX_FRAME_BYTES = 256 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def encode_frame(message: Any) -> bytes:
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> Any | None:
    """The next message, or None when the other side has gone.

    Raises:
        ValueError: a length beyond 256 MiB, which only a broken peer sends.
    """
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {size:,} bytes; the limit is {MAX_FRAME_BYTES:,}")
        return _decoder.decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
