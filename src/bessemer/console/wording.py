"""Numbers and times as a person reads them. All take what an event may hold, `None` included."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from markupsafe import Markup, escape

ABSENT = "–"


def count(value: object) -> str:
    """
    >>> count(134515008)
    '134,515,008'
    """
    return f"{value:,.0f}" if isinstance(value, (int, float)) else _other(value)


def figure(value: object, digits: int = 4) -> str:
    """A measured number to `digits` significant digits; trailing zeros are digits too.

    >>> figure(2.5), figure(0.000123456), figure(1234.5), figure(0.0), figure("nan")
    ('2.500', '0.0001235', '1,234', '0', 'nan')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _other(value)
    if value == 0 or isinstance(value, int) or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}"


def setting(value: object) -> str:
    """A number somebody chose, or a small one, without needless zeros.

    >>> setting(0.003), setting(0.00003), setting(0.8), setting("bf16")
    ('0.003', '0.00003', '0.8', 'bf16')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _other(value)
    text = f"{value:.3g}"
    return f"{value:.9f}".rstrip("0").rstrip(".") if "e-" in text else text


def share(value: object) -> str:
    """
    >>> share(0.4312)
    '43%'
    """
    return f"{value:.0%}" if isinstance(value, (int, float)) else _other(value)


def size(value: object) -> str:
    """Bytes, in the unit that leaves one to three digits before the point.

    >>> size(0), size(999), size(20_480), size(512 * 1024 * 1024)
    ('0 bytes', '999 bytes', '20.5 kB', '536.9 MB')
    """
    if not isinstance(value, (int, float)):
        return _other(value)
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= bytes_:
            return f"{value / bytes_:.1f} {unit}"
    return f"{value:.0f} byte" + ("" if value == 1 else "s")


def duration(seconds: object) -> str:
    """
    >>> duration(7.2), duration(150), duration(7260), duration(180000)
    ('7 s', '2 min 30 s', '2 h 1 min', '2 d 2 h')
    """
    if not isinstance(seconds, (int, float)):
        return _other(seconds)
    whole = max(0, round(seconds))
    for unit, size, smaller, step in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            rest = whole % size // step
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    if whole >= 60:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole} s"


def ago(unix_s: float) -> str:
    """How long since, in one unit: `3 min ago`."""
    past_s = max(0.0, time.time() - unix_s)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if past_s >= size:
            return f"{past_s // size:.0f} {unit} ago"
    return "just now"


def moment(unix_s: float) -> str:
    """ISO 8601 in UTC, for `<time datetime>`.

    >>> moment(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(unix_s: float) -> str:
    """The time of day in UTC.

    >>> clock(3723)
    '01:02:03'
    """
    return datetime.fromtimestamp(unix_s, UTC).strftime("%H:%M:%S")


def day(unix_s: float) -> str:
    """The day in UTC.

    >>> day(0)
    '1970-01-01'
    """
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")


def breakable(name: str) -> Markup:
    """A name that a narrow page may break after its separators, before it breaks a word.

    >>> print(breakable("ft:a&b:c_d"))
    ft:<wbr>a&amp;b:<wbr>c_<wbr>d
    """
    return Markup(re.sub(r"(?<=\w)([:_/@.])(?=\w)", r"\1<wbr>", str(escape(name))))


def short_digest(digest: object) -> str:
    """
    >>> short_digest("sha256:" + "ab" * 32)
    'sha256:abababababab'
    """
    return str(digest)[:19] if digest else ABSENT


def _other(value: object) -> str:
    return ABSENT if value is None else str(value)
