"""Quantities on the command line carry their unit."""

from __future__ import annotations

import click
import pytest

from bessemer.cli.quantities import Duration, Size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("8GB", 8 * 10**9), ("512mb", 512 * 10**6), ("1.5 GiB", 3 * 2**29), ("1TB", 10**12)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert Size().convert(text, None, None) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("15m", 900), ("90s", 90), ("2h", 7200), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["8", "GB", "-1GB", "0GB", "8 apples", "", "1e3MB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 8GB"):
        Size().convert(text, None, None)


@pytest.mark.parametrize("text", ["15", "0s", "15M", "soon"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 15m"):
        Duration().convert(text, None, None)
