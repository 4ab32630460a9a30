"""A frame arrives whole, or the other side has gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.frames import MAX_FRAME_BYTES, encode_frame, read_frame

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


def read_all(data: bytes) -> list[Any]:
    async def read() -> list[Any]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        found = []
        while (message := await read_frame(reader)) is not None:
            found.append(message)
        return found

    return asyncio.run(read())


@given(st.lists(values.filter(lambda value: value is not None), max_size=4))
def test_frames_are_read_back_in_order(messages: list[Any]) -> None:
    assert read_all(b"".join(map(encode_frame, messages))) == messages


@given(st.integers(min_value=0, max_value=40))
def test_a_stream_that_ends_within_a_frame_ends_before_it(cut: int) -> None:
    first, second = encode_frame([1]), encode_frame({"op": "score", "ids": [1, 2, 3]})
    data = first + second[: cut % len(second)]
    assert read_all(data) == [[1]]


def test_a_length_only_a_broken_peer_sends_is_refused() -> None:
    with pytest.raises(ValueError, match="the limit is"):
        read_all((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
