"""Time-ordered identifiers: `run_01jd3k...`, a prefix and a 128-bit number.

Sorting the text sorts by the time of creation, and within one process strictly by the order of
creation, so a primary key doubles as a cursor. The layout is ULID's (48 bits of Unix
milliseconds, 80 random bits, Crockford base 32), in lower case.
"""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0


def new_id(prefix: str, made_ms: int | None = None) -> str:
    """A new identifier such as `run_01jd3k5v8w2x4y6z8a0c2e4g6j`.

    A prefix that ends with `-` stays as it is: `file-01jd...`, for the kinds OpenAI spells so.

    Args:
        made_ms: when the object was made, if that is not now; then ids of the same millisecond have
            no order.

    >>> new_id("run") < new_id("run")
    True
    """
    global _last
    if made_ms is not None:
        return _spelled(prefix, made_ms << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS))
    with _lock:
        fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        # A clock that stands still or steps back must not break the order.
        _last = fresh if fresh > _last else _last + 1
        number = _last
    return _spelled(prefix, number)


def _spelled(prefix: str, number: int) -> str:
    return f"{prefix}{'' if prefix.endswith('-') else '_'}{_base32(number)}"


def created_ms(identifier: str) -> int:
    """Unix milliseconds at which `identifier` was made.

    Raises:
        ValueError: if it is not one of ours.
    """
    text = identifier[-26:]
    if len(text) != 26 or identifier[-27:-26] not in ("_", "-"):
        raise ValueError(f"not an identifier: {identifier!r}")
    number = 0
    for char in text:
        number = number << 5 | _ALPHABET.index(char)
    return number >> _RANDOM_BITS


def kind_of(identifier: str) -> str | None:
    """`file-` or `run_`, which an identifier of ours begins with; None for any other text."""
    try:
        created_ms(identifier)
    except ValueError:
        return None
    return identifier[:-26]


def _base32(number: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
