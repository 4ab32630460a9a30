"""One tree of errors: each has its status and code, and a code finds its class again."""

from __future__ import annotations

import pytest

from bessemer.core import errors
from bessemer.core.errors import BessemerError, Busy, DataError, NotFound, by_code
from bessemer.core.principal import Principal


def tree(root: type[BessemerError] = BessemerError) -> list[type[BessemerError]]:
    """The classes of core; other rooms hang theirs below them."""
    children = [c for c in root.__subclasses__() if c.__module__ == errors.__name__]
    return [root, *(found for child in children for found in tree(child))]


@pytest.mark.parametrize("cls", tree(), ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_a_code_of_its_own_and_a_line_in_the_tree(
    cls: type[BessemerError],
) -> None:
    assert 400 <= cls.status < 600
    assert [other for other in tree() if other.code == cls.code] == [cls]
    assert by_code(cls.code) is cls
    assert errors.__doc__ is not None and cls.__name__ in errors.__doc__


def test_an_unknown_code_is_the_root() -> None:
    assert by_code("from_the_future") is BessemerError


def test_an_error_shows_what_to_do_next() -> None:
    assert str(NotFound("no model 'x'")) == "no model 'x'"
    shown = str(NotFound("no model 'x'", next_step="bessemer pull x"))
    assert shown == "no model 'x'\n  next: bessemer pull x"


def test_facts_are_kept_for_machines() -> None:
    assert Busy("full", retry_after_s=2.0, waiting=7).facts == {"waiting": 7}
    assert DataError("not JSON", line=3).message == "line 3: not JSON"


def test_a_principal_without_the_scope_is_told_which_it_lacks() -> None:
    one = Principal("o", "p", "w", frozenset({"chat"}))
    one.require("chat")
    Principal("o", "p", "w", frozenset({"*"})).require("anything")
    with pytest.raises(errors.PermissionDenied, match=r"'runs:write'; this key has: chat"):
        one.require("runs:write")
