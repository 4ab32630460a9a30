"""The query of a URL: every way to write a list and a mapping, and nothing that is ignored."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bessemer.core.errors import InvalidInput
from bessemer.gateway.query import Query

NAMES = ("limit", "models", "metadata")


def query(raw: bytes) -> Query:
    return Query(raw, NAMES)


@pytest.mark.parametrize(
    "raw",
    [b"models=a&models=b", b"models=a,b", b"models[]=a&models[]=b", b"models[0]=a&models[1]=b"],
)
def test_a_list_is_read_however_it_is_written(raw: bytes) -> None:
    assert query(raw).many("models") == ["a", "b"]


def test_a_mapping_may_have_numbers_for_keys() -> None:
    assert query(b"metadata[0]=a&metadata[b]=c").mapping("metadata") == {"0": "a", "b": "c"}
    assert query(b"metadata=null").is_null("metadata")
    assert not query(b"metadata[null]=null").is_null("metadata")


@pytest.mark.parametrize(
    ("raw", "read", "param"),
    [
        (b"models[x]=a", lambda found: found.many("models"), "models[x]"),
        (b"limit[x]=5", lambda found: found.whole("limit", 1, 9), "limit[x]"),
        (b"limit=5&limit[0]=6", lambda found: found.whole("limit", 1, 9), "limit"),
        (b"metadata=a", lambda found: found.mapping("metadata"), "metadata"),
        (b"metadata[]=a", lambda found: found.mapping("metadata"), "metadata"),
        (b"metadata[a]=1&metadata[a]=2", lambda found: found, "metadata"),
        (b"colour=red", lambda found: found, "colour"),
    ],
)
def test_what_is_not_read_is_refused(
    raw: bytes, read: Callable[[Query], object], param: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(query(raw))
    assert refused.value.param == param
