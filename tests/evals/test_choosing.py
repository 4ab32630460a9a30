"""Which chats are asked, and which examples come first."""

from __future__ import annotations

import random

import pytest

from bessemer.core.errors import InvalidInput
from bessemer.data.chats import Chat
from bessemer.evals.items import choose_items, item_of
from bessemer.evals.shots import after_shots, choose_shots
from tests.evals.worlds import chat, symbol_chats


def test_the_order_of_the_file_does_not_matter() -> None:
    chats = symbol_chats(0, 50)
    shuffled = random.Random(1).sample(chats, len(chats))
    assert choose_items(chats, 20, seed=0) == choose_items(shuffled, 20, seed=0)


def test_another_seed_chooses_others() -> None:
    chats = symbol_chats(0, 50)
    assert choose_items(chats, 20, seed=0) != choose_items(chats, 20, seed=1)


def test_a_smaller_choice_is_the_beginning_of_a_larger_one() -> None:
    chats = symbol_chats(0, 50)
    assert choose_items(chats, 40, seed=0)[:15] == choose_items(chats, 15, seed=0)


def test_kinds_are_even_and_a_short_one_is_filled_up_by_the_other() -> None:
    even = choose_items(symbol_chats(0, 50), 40, seed=0)
    assert [item.kind for item in even].count("name") == 20
    chats = [one for one in symbol_chats(0, 50) if one.kind == "name"][:3]
    chats += [one for one in symbol_chats(0, 50) if one.kind == "describe"]
    uneven = choose_items(chats, 40, seed=0)
    assert len(uneven) == 40
    assert [item.kind for item in uneven].count("name") == 3


def test_the_same_chat_twice_is_one_item() -> None:
    one = chat("q", "a")
    assert len(choose_items([one, one], 10, seed=0)) == 1


def test_items_of_one_symbol_share_a_cluster_and_chats_without_one_have_their_own() -> None:
    describe, name = (item_of(one) for one in symbol_chats(7, 8))
    assert describe.cluster == name.cluster == "mod.f007"
    plain, other = item_of(chat("q", "a")), item_of(chat("q", "b"))
    assert plain.kind == "chat"
    assert plain.cluster != other.cluster


def test_an_empty_test_split_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="test split is empty") as caught:
        choose_items([], 10, seed=0)
    assert caught.value.next_step


def test_shots_are_of_the_kind_and_each_of_another_symbol() -> None:
    train = symbol_chats(0, 40)
    shots = choose_shots(train, "name", 6, seed=0)
    questions = [turn["content"] for turn in shots if turn["role"] == "user"]
    assert len(set(questions)) == 6
    assert all(question.startswith("Which function") for question in questions)


def test_shots_are_the_same_whatever_the_order_and_are_no_longer_than_the_median() -> None:
    train = symbol_chats(0, 40)
    shots = choose_shots(train, "describe", 6, seed=0)
    assert shots == choose_shots(train[::-1], "describe", 6, seed=0)
    lengths = sorted(_length(one) for one in train if one.kind == "describe")
    turns = list(zip(shots[::2], shots[1::2], strict=True))
    assert all(len(q["content"]) + len(a["content"]) <= lengths[20] for q, a in turns)


def test_too_few_examples_are_an_error_with_the_number_there_is() -> None:
    with pytest.raises(InvalidInput, match="3 chats of kind 'name'") as caught:
        choose_shots(symbol_chats(0, 3), "name", 6, seed=0)
    assert caught.value.next_step == "measure with --set shots=3"


def test_answers_of_examples_weigh_nothing_and_the_system_message_stays_first() -> None:
    shots = choose_shots(symbol_chats(0, 10), "name", 2, seed=0)
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    messages = after_shots(shots, asked)
    assert [message["role"] for message in messages] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert [m["weight"] for m in messages if m["role"] == "assistant"] == [0, 0]


def _length(one: Chat) -> int:
    return sum(len(message["content"]) for message in one.messages)
