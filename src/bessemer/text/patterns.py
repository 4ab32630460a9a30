"""Patterns that come from recipes and meet whatever a model says: RE2, never Python's `re`.

RE2 (through pyarrow) takes linear time whatever the pattern and the text; see decision 0006.
"""

from __future__ import annotations

from typing import Any

from bessemer.core.errors import InvalidInput


class Pattern:
    """An RE2 expression.

    Args:
        group: the one group that it must have; None for any or none.

    Raises:
        InvalidInput: RE2 cannot read it, or it lacks the group.
    """

    def __init__(self, expression: str, group: str | None = None) -> None:
        self._expression, self._group = expression, group
        try:
            self.group("") if group else self.matches("")
        except (ValueError, KeyError) as fault:
            raise InvalidInput(
                f"the pattern {expression!r} cannot be used: {fault}",
                next_step="write it as RE2 has it: no look-around, no back-references"
                + (f", one group (?P<{group}>...)" if group else ""),
            ) from None

    def matches(self, text: str) -> bool:
        """Whether it matches anywhere in a text."""
        import pyarrow.compute

        found = pyarrow.compute.match_substring_regex(_scalar(text), pattern=self._expression)
        return bool(found.as_py())

    def group(self, text: str) -> str | None:
        """What its group holds where it first matches."""
        import pyarrow.compute

        found = pyarrow.compute.extract_regex(_scalar(text), pattern=self._expression)
        found.type.field(self._group)  # KeyError: there is no such group
        return (found.as_py() or {}).get(self._group)


def _scalar(text: str) -> Any:
    import pyarrow

    return pyarrow.scalar(text.encode("utf-8", "replace").decode())
