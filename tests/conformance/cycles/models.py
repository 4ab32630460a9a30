"""What asks a model: models, chats, completions, embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from tests.conformance.cycle import Desk, cycle, every, gone, ids

MESSAGES: list[Any] = [{"role": "user", "content": "Where does Ada keep the key?"}]


@cycle("GET /models", "GET /models/{model}")
async def models(desk: Desk) -> None:
    assert desk.model in await ids(desk.client.models.list())
    assert (await desk.client.models.retrieve(desk.model)).id == desk.model
    await gone(desk.client.models.retrieve("no-such-model"))


@cycle("POST /chat/completions")
async def chat(desk: Desk) -> None:
    ask = desk.client.chat.completions.create
    asked: Any = {"model": desk.model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = await ask(**asked)
    assert whole.choices[0].message.content
    assert whole.choices[0].finish_reason in ("length", "stop")
    assert 0 < whole.usage.completion_tokens <= 8
    chunks = await every(ask(**asked, stream=True, stream_options={"include_usage": True}))
    told = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(told) > 2
    assert "".join(told) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    biased = await ask(**asked, logit_bias={"70": 100})
    assert biased.choices[0].message.content != whole.choices[0].message.content


@cycle("POST /completions")
async def completions(desk: Desk) -> None:
    ask = desk.client.completions.create
    asked: Any = {"model": desk.model, "prompt": "In the", "max_tokens": 6, "temperature": 0}
    whole = await ask(**asked)
    assert whole.choices[0].text
    echoed = await ask(**asked, echo=True)
    assert echoed.choices[0].text == "In the" + whole.choices[0].text
    chunks = await every(ask(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


@cycle("POST /embeddings")
async def embeddings(desk: Desk) -> None:
    async def vectors(*texts: str, encoding: str) -> list[Any]:
        found = await desk.client.embeddings.create(
            model=desk.model, input=list(texts), encoding_format=encoding
        )
        return [one.embedding for one in found.data]

    first, second, again = await vectors("a box", "the key", "a box", encoding="float")
    assert first == pytest.approx(again, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-3)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    (packed,) = await vectors("a box", encoding="base64")
    # Asked for base64, the client leaves it to its caller.
    assert struct.unpack(f"<{len(first)}f", base64.b64decode(packed)) == pytest.approx(
        first, abs=1e-3
    )
