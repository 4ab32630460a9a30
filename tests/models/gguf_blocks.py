"""GGUF's tensor types decoded one value at a time, from the format's description (ggml-common.h).

Slow and plain on purpose: the import is compared with it, and it shares no code with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np


def decode(kind: str, data: bytes) -> list[float]:
    size_bytes, block = BLOCKS[kind]
    assert len(data) % size_bytes == 0, (kind, len(data))
    starts = range(0, len(data), size_bytes)
    return [value for start in starts for value in block(data[start : start + size_bytes])]


def random_blocks(kind: str, count: int, random: np.random.Generator) -> bytes:
    """Blocks of random bytes, with small finite scales where the scales stand."""
    size_bytes, _ = BLOCKS[kind]
    data = random.integers(0, 256, (count, size_bytes), dtype=np.uint8)
    for place in SCALES[kind]:
        scales = random.uniform(-2e-4, 2e-4, count).astype("<f2")
        data[:, place : place + 2] = scales.view(np.uint8).reshape(count, 2)
    return data.tobytes()


def half(data: bytes) -> float:
    return float(struct.unpack("<e", data)[0])


def f32(block: bytes) -> Iterator[float]:
    yield struct.unpack("<f", block)[0]


def f16(block: bytes) -> Iterator[float]:
    yield half(block)


def bf16(block: bytes) -> Iterator[float]:
    yield struct.unpack("<f", b"\0\0" + block)[0]


def q8_0(block: bytes) -> Iterator[float]:
    for q in struct.unpack("<32b", block[2:]):
        yield q * half(block[:2])


def q4_0(block: bytes) -> Iterator[float]:
    for nibble in nibbles(block[2:]):
        yield (nibble - 8) * half(block[:2])


def q4_1(block: bytes) -> Iterator[float]:
    for nibble in nibbles(block[4:]):
        yield nibble * half(block[:2]) + half(block[2:4])


def nibbles(data: bytes) -> list[int]:
    """All the low halves first, then all the high halves."""
    return [byte & 15 for byte in data] + [byte >> 4 for byte in data]


def q4_k(block: bytes) -> Iterator[float]:
    d, dmin, quants = half(block[:2]), half(block[2:4]), block[16:]
    for part in range(8):
        scale, minimum = six_bits(block[4:16], part)
        for place in range(32):
            byte = quants[32 * (part // 2) + place]
            q = byte >> 4 if part % 2 else byte & 15
            yield d * scale * q - dmin * minimum


def q5_k(block: bytes) -> Iterator[float]:
    d, dmin, high, quants = half(block[:2]), half(block[2:4]), block[16:48], block[48:]
    for part in range(8):
        scale, minimum = six_bits(block[4:16], part)
        for place in range(32):
            byte = quants[32 * (part // 2) + place]
            q = byte >> 4 if part % 2 else byte & 15
            q += 16 * (high[place] >> part & 1)
            yield d * scale * q - dmin * minimum


def six_bits(packed: bytes, part: int) -> tuple[int, int]:
    """Scale and minimum of one eighth: parts 4 to 7 have their two top bits with parts 0 to 3."""
    if part < 4:
        return packed[part] & 63, packed[part + 4] & 63
    low = packed[part + 4]
    return low & 15 | packed[part - 4] >> 6 << 4, low >> 4 | packed[part] >> 6 << 4


def q6_k(block: bytes) -> Iterator[float]:
    low, high, d = block[:128], block[128:192], half(block[208:])
    scales = struct.unpack("<16b", block[192:208])
    for index in range(256):
        side, within = divmod(index, 128)  # two sides of 128 values
        row, place = divmod(within, 32)  # four rows of 32: two in the low nibbles, two in the high
        byte = low[64 * side + 32 * (row % 2) + place]
        nibble = byte >> 4 if row >= 2 else byte & 15
        top = high[32 * side + place] >> 2 * row & 3
        yield d * scales[index // 16] * ((nibble | top << 4) - 32)


BLOCKS: dict[str, tuple[int, Callable[[bytes], Iterator[float]]]] = {
    "F32": (4, f32),
    "F16": (2, f16),
    "BF16": (2, bf16),
    "Q8_0": (34, q8_0),
    "Q4_0": (18, q4_0),
    "Q4_1": (20, q4_1),
    "Q4_K": (144, q4_k),
    "Q5_K": (176, q5_k),
    "Q6_K": (210, q6_k),
}
SCALES: dict[str, tuple[int, ...]] = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
