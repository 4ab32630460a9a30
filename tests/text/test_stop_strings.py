"""An answer ends at the first stop string, however the text is divided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.text.stop_strings import StopStrings

few_letters = st.text("ab\n", max_size=5)
stop_lists = st.lists(few_letters.filter(bool), max_size=4)
chunk_lists = st.lists(few_letters, max_size=12)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    """Look at the whole text at once."""
    hits = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    return (text[: min(hits)[1]], True) if hits else (text, False)


def run(chunks: list[str], stops: list[str]) -> tuple[str, bool]:
    machine = StopStrings(stops)
    released = [machine.push(chunk) for chunk in chunks]
    text = "".join(part.text for part in released) + machine.flush()
    return text, any(part.stopped for part in released)


@given(chunk_lists, stop_lists)
def test_equals_a_search_of_the_whole_text(chunks: list[str], stops: list[str]) -> None:
    assert run(chunks, stops) == naive("".join(chunks), stops)


@given(chunk_lists, stop_lists)
def test_no_part_of_a_stop_string_is_ever_sent(chunks: list[str], stops: list[str]) -> None:
    machine, sent, seen = StopStrings(stops), "", ""
    for chunk in chunks:
        seen += chunk
        sent += machine.push(chunk).text
        assert naive(seen, stops)[0].startswith(sent)


@given(chunk_lists, stop_lists)
def test_nothing_is_held_that_could_be_sent(chunks: list[str], stops: list[str]) -> None:
    machine, sent, seen = StopStrings(stops), "", ""
    for chunk in chunks:
        seen += chunk
        sent += machine.push(chunk).text
        held = naive(seen, stops)[0][len(sent) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_text_after_the_stop_is_dropped() -> None:
    machine = StopStrings(["\n\n"])
    assert machine.push("one\n") == ("one", False)
    assert machine.push("\ntwo") == ("", True)
    assert machine.push("three") == ("", True)
    assert machine.flush() == ""


def test_what_turned_out_harmless_is_sent_late_not_lost() -> None:
    machine = StopStrings(["END"])
    assert machine.push("E") == ("", False)
    assert machine.push("N") == ("", False)
    assert machine.push("E") == ("EN", False)
    assert machine.flush() == "E"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        StopStrings(["a", ""])
