"""What an answer says, and whether that is what was asked for.

    numbers   1,000 = 1000 = 1000.0, 1/2 = 0.5 = \\frac{1}{2}, $5 = 5
    texts     to the letter, or `folded`: without case and with white space as single spaces

Nothing here takes more than linear time in the length of the answer.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

LONGEST_NUMBER = 64  # characters; what is longer is compared as text

_DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9.])\.[0-9]+)"
_UNSIGNED = rf"{_DIGITS}(?:[eE][-+]?[0-9]{{1,3}})?(?:/[0-9]+)?"
_NUMBER = re.compile(rf"([-+]?)\$?({_UNSIGNED})\.?")
# A minus after a digit or a bracket is a difference, not a sign.
_NUMBER_WITHIN = re.compile(rf"(?:(?<![\w).])[-+])?\$?{_UNSIGNED}")
_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]{1,20})\}\{([0-9]{1,20})\}")
_PYTHON = ("", "py", "python", "python3")


def last_number(text: str) -> str | None:
    """The last number in a text, as it is written.

    >>> last_number("12 - 5 = 7, so 7 apples at $1,000.50.")
    '$1,000.50'
    """
    numbers = _NUMBER_WITHIN.findall(_plain(text))
    return numbers[-1] if numbers else None


def in_tag(text: str, tag: str) -> str | None:
    """What stands in the last <tag>...</tag>."""
    before, closing, _ = text.rpartition(f"</{tag}>")
    _, opening, inside = before.rpartition(f"<{tag}>")
    return inside if closing and opening else None


def in_box(text: str) -> str | None:
    """What stands in the last \\boxed{...}, braces within it included."""
    _, opening, after = text.rpartition("\\boxed{")
    depth = 1 if opening else 0
    for place, letter in enumerate(after if opening else ""):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return after[:place]
    return None


def code_in(text: str) -> str:
    """The last block of Python between fences, also one that was cut off; else the whole text."""
    found, label, block = text, None, list[str]()
    for line in text.splitlines():
        fence = line.strip()
        if label is None and fence.startswith("```"):
            label, block = fence[3:].strip().lower(), []
        elif fence == "```":
            found, label = _block(block, label, found), None
        elif label is not None:
            block.append(line)
    return _block(block, label, found)


def number_of(text: str) -> Fraction | None:
    """The number that a whole text is; None where it is none.

    >>> number_of(" $1,000.50 "), number_of("-1/2"), number_of("1/0"), number_of("about 3")
    (Fraction(2001, 2), Fraction(-1, 2), None, None)
    """
    text = _plain(text).strip()
    matched = _NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
    if matched is None:
        return None
    sign, digits = matched[1], matched[2].replace(",", "")
    above, _, below = digits.partition("/")
    if below and not int(below):
        return None
    number = Fraction(above) / int(below or 1)
    return -number if sign == "-" else number


def is_same(said: str, wanted: Any, *, folded: bool) -> bool:
    """Whether two answers are equal: as numbers where both are, else as text.

    Args:
        wanted: a string, a number, or a list of them of which any will do.
    """
    if isinstance(wanted, list):
        return any(is_same(said, one, folded=folded) for one in wanted)
    right = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
    number, right_number = number_of(said), number_of(right)
    if number is not None and right_number is not None:
        return number == right_number
    if folded:
        return _folded(said) == _folded(right)
    return said.strip() == right.strip()


def _plain(text: str) -> str:
    return _FRACTION.sub(r"\1/\2", text.replace("\N{MINUS SIGN}", "-"))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _block(lines: Iterable[str], label: str | None, otherwise: str) -> str:
    return textwrap.dedent("\n".join(lines)) if label in _PYTHON else otherwise
