"""Whose turn it is: the client that was served the least, whatever it asks for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.protocols import GenerateRequest
from bessemer.inference.fair_queue import FairQueue
from bessemer.inference.sequence import EngineSequence


def sequence(client: str, tokens: int = 10) -> EngineSequence:
    request = GenerateRequest(request_id="r", prompt_ids=[1] * tokens, max_tokens=4, client=client)
    return EngineSequence.for_tokens(request, lambda _kind, _body: None)


def served(queue: FairQueue, turns: int) -> list[str]:
    clients = []
    for _ in range(turns):
        taken = queue.pop()
        queue.charge(taken.client, len(taken.ids))
        clients.append(taken.client)
    return clients


def test_one_client_is_served_in_order() -> None:
    queue, asked = FairQueue(), [sequence("a") for _ in range(5)]
    for each in asked:
        queue.push(each)
    assert [queue.pop() for _ in range(5)] == asked
    assert queue.first() is None and len(queue) == 0


def test_clients_take_turns_by_tokens_not_by_requests() -> None:
    queue = FairQueue()
    for _ in range(40):
        queue.push(sequence("large", 30))
    for _ in range(40):
        queue.push(sequence("small", 10))
    counts = Counter(served(queue, 40))
    assert abs(counts["large"] - 10) <= 1 and abs(counts["small"] - 30) <= 1


def test_a_client_that_paused_gets_its_turn_and_no_more() -> None:
    queue = FairQueue()
    for _ in range(50):
        queue.push(sequence("busy"))
    served(queue, 30)
    for _ in range(20):
        queue.push(sequence("returned"))
    assert "returned" in served(queue, 2)
    assert abs(Counter(served(queue, 18))["returned"] - 9) <= 1


def test_who_lost_its_place_comes_first_in_its_line() -> None:
    queue, late, early = FairQueue(), sequence("a"), sequence("a")
    queue.push(late)
    queue.push_front(early)
    assert queue.pop() is early


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=60), st.data())
def test_nobody_is_lost_and_busy_clients_stay_level(
    asked: list[tuple[str, int]], data: Any
) -> None:
    queue, there, gone = FairQueue(), [], []
    for client, tokens in asked:
        there.append(sequence(client, tokens))
        queue.push(there[-1])
        if data.draw(st.booleans()):
            gone.append(queue.pop())
            queue.charge(gone[-1].client, len(gone[-1].ids))
    dropped = queue.drop(lambda each: len(each.ids) % 7 == 0)
    assert all(len(each.ids) % 7 == 0 for each in dropped)
    left = [queue.pop() for _ in range(len(queue))]
    assert sorted(map(id, (*gone, *dropped, *left))) == sorted(map(id, there))


def test_clients_that_left_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(500):
        queue.push(sequence(f"client-{number}"))
        served(queue, 1)
    assert len(queue._served) < 5
