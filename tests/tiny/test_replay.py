"""`bessemer up --deterministic` and `bessemer replay`, as a person meets them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.cli.calling import say
from tests.tiny.house import House

HI: Any = [{"role": "user", "content": "Where does basice keep difogu?"}]


def test_what_a_busy_server_said_is_proved_after_it_has_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house.up("--model", "tiny", "--deterministic") as server:
        server.wait_ready("tiny")
        client = server.client()
        assert "their content included" in server.output()

        def ask(seed: int | None) -> Any:
            return client.chat.completions.with_raw_response.create(
                model="tiny", messages=HI, max_tokens=20, temperature=1.0, seed=seed, n=2
            )

        with ThreadPoolExecutor(12) as threads:
            replies = list(threads.map(ask, [7, None, *range(20), 7]))
        stopped = cut_short(client)
    answers = [reply.parse() for reply in replies]
    assert said(answers[0]) == said(answers[-1])
    assert answers[0].id.removeprefix("chatcmpl-") in replies[0].headers["x-request-id"]

    replayed = house.done("replay", replies[1].headers["x-request-id"], "--json").json
    assert [each["identical"] for each in replayed] == [True, True]
    assert replayed[0]["request_id"].endswith("-0")
    assert replayed[0]["digest"].startswith("sha256:")
    told = house.done("replay", stopped).out
    assert told.startswith("identical: ") and "threads 1" in told

    monkeypatch.setenv("BESSEMER_HOME", str(house.root))
    assert say("replay", stopped, "--forget").out == f"forgot 1 of {stopped}\n"
    gone = say("replay", stopped)
    assert gone.status == 1 and "is recorded here" in gone.err


def said(answer: Any) -> list[str]:
    return [choice.message.content for choice in answer.choices]


def cut_short(client: openai.OpenAI) -> str:
    """An answer that a stop string ends: the engine would have said more."""
    whole = client.completions.create(model="tiny", prompt="In the", max_tokens=40, temperature=0)
    stop = whole.choices[0].text[5:8]
    answer = client.completions.create(
        model="tiny", prompt="In the", max_tokens=40, temperature=0, stop=stop
    )
    assert whole.choices[0].text.startswith(answer.choices[0].text)
    assert answer.choices[0].finish_reason == "stop"
    return answer.id
