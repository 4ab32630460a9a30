"""`bessemer up --precision q8_0`: OpenVINO behind the API as any engine, in its own process.

Over a fake of the library always, and over the library where it is installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.polling import until
from tests.tiny.house import House, Server

FAKES = Path(__file__).parents[1] / "fake_openvino"
HI: Any = [{"role": "user", "content": "Where does basice keep difogu?"}]
NAME = "tiny-q8_0"
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino_genai") is None,
    reason="openvino-genai is not installed: only its fake is served",
)


def ask(client: openai.OpenAI, **more: Any) -> str:
    asked = {"temperature": 0, "max_tokens": 16, **more}
    answer = client.chat.completions.create(model=NAME, messages=HI, **asked)
    return str(answer.choices[0].message.content)


def running(server: Server) -> float:
    text = httpx2.get(f"{server.url.removesuffix('/v1')}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("bessemer_engine_running{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("library", ["fake", pytest.param("real", marks=needs_openvino)])
def test_a_model_in_q8_0_is_served_as_any_other(
    library: str, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "fake":
        monkeypatch.setenv("PYTHONPATH", str(FAKES), prepend=":")
        monkeypatch.setenv("FAKE_OPENVINO_STEP_S", "0.01")
    options = ("--model", "tiny", "--precision", "q8_0", "--sleep-after", "2s")
    with house.up(*options) as server:
        assert f"making {NAME}, once" in server.output()
        client = server.client()
        said = ask(client)
        assert said

        chunks = list(
            client.chat.completions.create(
                model=NAME, messages=HI, temperature=0, max_tokens=16, stream=True
            )
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == said
        assert len(chunks) > 4
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")

        left = client.chat.completions.create(
            model=NAME, messages=HI, max_tokens=200, stream=True, seed=1
        )
        next(left)
        left.close()
        until(lambda: not running(server), "what its client left ends in the engine")

        with pytest.raises(openai.BadRequestError, match="no constraint for this request"):
            ask(client, response_format={"type": "json_object"})
        with pytest.raises(openai.BadRequestError, match="tells no hidden states"):
            client.embeddings.create(model=NAME, input="hello")
        assert {model.id for model in client.models.list()} == {"tiny", "other", NAME}

        server.engine(NAME).kill()
        assert ask(client) == said
        until(lambda: server.state(NAME) == "sleeping", "it is put to sleep")
        assert ask(client) == said
