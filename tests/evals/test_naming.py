"""What counts as the right name, and how it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.evals.items import item_of
from bessemer.evals.naming import (
    answer_questions,
    contains_name,
    is_exact,
    normalize_name,
    questions_of,
)
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from tests.evals.worlds import END, UnigramEngine, symbol_chats, write_model_folder


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "contains"),
    [
        ("parse_qs", "parse_qs", True, True),
        (" `parse_qs(query)`.\n", "parse_qs", True, True),
        ("parse_qs()", "parse_qs", True, True),
        ("'parse_qs'!", "parse_qs", True, True),
        ("Parse_qs", "parse_qs", False, False),
        ("parse_qsl", "parse_qs", False, False),
        ("It is parse_qs, I think", "parse_qs", False, True),
        ("use `os.path.join`.", "join", False, True),
        ("joined", "join", False, False),
        ("rejoin", "join", False, False),
        ("_join", "join", False, False),
        ("xml.dom.minidom", "xml.dom.minidom", True, True),
        ("xmlxdom.minidom", "xml.dom.minidom", False, False),
        ("__init__", "__init__", True, True),
        ("parse(a)(b)", "parse", True, True),
        ("", "join", False, False),
    ],
)
def test_right_and_wrong_answers(answer: str, expected: str, exact: bool, contains: bool) -> None:
    assert is_exact(answer, expected) is exact
    assert contains_name(answer, expected) is contains


@given(st.text("ab_.()`'\" ,!", max_size=20))
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    once = normalize_name(text)
    assert normalize_name(once) == once


@given(st.from_regex(r"[A-Za-z_]\w{0,15}", fullmatch=True))
def test_a_bare_name_is_exactly_itself_and_contains_itself(name: str) -> None:
    assert normalize_name(name) == name
    assert is_exact(f"`{name}()`.", name) and contains_name(f"call {name}(x)", name)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_model_folder(tmp_path_factory.mktemp("model")))


def test_only_naming_items_are_asked_greedily_until_the_end_of_the_turn(
    tokenizer: Tokenizer,
) -> None:
    template = ChatTemplate.load(tokenizer.folder)
    items = [item_of(one) for one in symbol_chats(0, 10)]
    questions = questions_of(items, {}, tokenizer, template)
    assert [question.expected for question in questions] == [f"f{n:03}" for n in range(10)]
    engine = UnigramEngine(answer=Knows(tokenizer))
    asked = asyncio.run(answer_questions(engine, questions, tokenizer, answer_tokens=24))
    assert [row.exact for row in asked.answers] == [n % 2 == 0 for n in range(10)]
    assert all(row.answer.startswith("f0") for row in asked.answers)
    (end,) = tokenizer.encode(END)
    for request in engine.requests:
        assert request.sampling.temperature == 0
        assert request.max_tokens == 24
        assert list(request.stop_ids) == [end]
        assert tokenizer.decode(request.prompt_ids).endswith("assistant\n")
    assert len({request.request_id for request in engine.requests}) == 10


def test_an_answer_that_runs_on_is_cut_and_wrong(tokenizer: Tokenizer) -> None:
    template = ChatTemplate.load(tokenizer.folder)
    (question,) = questions_of(
        [item_of(one) for one in symbol_chats(0, 1)], {}, tokenizer, template
    )
    engine = UnigramEngine(answer=lambda ids: tokenizer.encode("f000 and so on and so on"))
    asked = asyncio.run(answer_questions(engine, [question], tokenizer, answer_tokens=8))
    (row,) = asked.answers
    assert (row.answer, row.exact, row.contains) == ("f000 and", False, True)


class Knows:
    """Answers "Return N times" with the name fN, off by one where N is odd."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> list[int]:
        number = int(self.tokenizer.decode(ids).rpartition("Return ")[2].split()[0])
        return self.tokenizer.encode(f"f{number + number % 2:03}")
