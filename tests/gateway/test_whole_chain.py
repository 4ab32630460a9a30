"""From the official client through keys, names, pool and socket to a worker process, and back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import openai
import pytest

from bessemer.app.engines import EnginePool, worker_command
from bessemer.app.keys import KeyRing, create_key, revoke_key
from bessemer.app.models import NamedModel, register
from bessemer.app.platform import Platform
from bessemer.app.pool_serving import PoolServing
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from bessemer.text.bpe import train_bpe
from tests.fake_worker import CONTEXT_LENGTH, DIE_ID
from tests.gateway.calling import running
from tests.polling import until
from tests.worker_process import SCRIPT


class Chain(NamedTuple):
    platform: Platform
    keyring: KeyRing
    client: openai.OpenAI
    key_id: str
    log: Path
    starts: Path

    def worker(self) -> int:
        """The process id of the worker that was started last."""
        return int(self.starts.read_text().split()[-1])


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A server over a home with one model, whose worker repeats its prompt."""
    folder = tmp_path_factory.mktemp("chain")
    log, starts = folder / "worker.log", folder / "starts"

    def command(model: NamedModel, socket: Path, threads: int) -> list[str]:
        native = worker_command(model, socket, threads)
        options = ["--log", str(log), "--most-running", "4", "--step-s", "0.005"]
        options += ["--starts", str(starts)]
        return [sys.executable, str(SCRIPT), *native[native.index("--model") :], *options]

    with Platform.open(Home(folder / "home")) as platform:
        _make_model(platform)
        key = create_key(platform, platform.local_principal(), "test", ["chat", "models:read"])
        pool = EnginePool(platform, 1, command=command)

        @contextlib.asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            yield
            await pool.close()

        keyring = KeyRing(platform)
        app = build(PoolServing(platform, pool), keyring)
        with (
            running(app, lifespan=lifespan()) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=key.secret, max_retries=0) as client,
        ):
            yield Chain(platform, keyring, client, key.id, log, starts)
        shutil.rmtree(platform.home.socket_dir())


def _make_model(platform: Platform) -> None:
    folder = platform.artifacts.workspace()
    tokenizer = train_bpe(map("".join, itertools.product(ascii_lowercase, repeat=3)), 900, folder)
    assert tokenizer.vocab_size > DIE_ID
    (folder / "config.json").write_text(json.dumps({"model_type": "fake"}))
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    artifact = platform.artifacts.put(folder, kind="model", name="tiny")
    register(platform, platform.local_principal(), "tiny", artifact)


def test_a_chat_and_its_counts(chain: Chain) -> None:
    answer = chain.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "word7 ü🙂"}],
        max_tokens=50,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 50
    assert answer.choices[0].finish_reason == "length"
    text = answer.choices[0].message.content or ""
    assert text.startswith("word7 ü🙂word7 ü🙂")


def test_a_stream_with_a_stop_string_cancels_in_the_worker(chain: Chain) -> None:
    before = _operations(chain).count("cancel")
    chunks = chain.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "one two "}],
        stop="two one",
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one "
    until(lambda: _operations(chain).count("cancel") == before + 1, "the worker is told")


def test_a_prompt_that_does_not_fit_names_both_numbers(chain: Chain) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        chain.client.completions.create(model="tiny", prompt=[5] * 300, max_tokens=10)
    assert found.value.code == "context_length_exceeded"
    assert f"{CONTEXT_LENGTH} tokens" in str(found.value)
    assert "300 tokens" in str(found.value)


def test_vectors_of_texts_and_one_that_does_not_fit(chain: Chain) -> None:
    found = chain.client.embeddings.create(model="tiny", input=["one", "two three"], dimensions=1)
    assert [item.embedding for item in found.data] == [[1.0], [1.0]]
    with pytest.raises(openai.BadRequestError) as refused:
        chain.client.embeddings.create(model="tiny", input=[[5], [5] * 300])
    assert refused.value.code == "context_length_exceeded"
    assert f"{CONTEXT_LENGTH} tokens; input[1] has 300" in str(refused.value)


def test_full_is_a_rate_limit_with_a_time_to_come_back(chain: Chain) -> None:
    with pytest.raises(openai.RateLimitError) as found:
        chain.client.completions.create(model="tiny", prompt=[5], n=20, max_tokens=100)
    assert int(found.value.response.headers["retry-after"]) == 2


def test_a_request_that_kills_is_tried_twice_told_so_and_not_to_come_again(chain: Chain) -> None:
    chain.client.completions.create(model="tiny", prompt=[5])
    before = len(chain.starts.read_text().split())
    patient = chain.client.with_options(max_retries=2)  # as the official client is by default
    with pytest.raises(openai.InternalServerError, match="died twice") as found:
        patient.completions.create(model="tiny", prompt=[5, DIE_ID])
    assert (found.value.status_code, found.value.code) == (503, "engine_died")
    assert "retry-after" not in found.value.response.headers
    assert chain.client.completions.create(model="tiny", prompt=[5]).choices[0].text
    assert len(chain.starts.read_text().split()) == before + 2


def test_a_whole_answer_outlives_the_death_of_its_engine(chain: Chain) -> None:
    before = _operations(chain).count("generate")
    ask = partial(chain.client.completions.create, model="tiny", prompt=[5], max_tokens=100)
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(ask) for _ in range(3)]
        vector = threads.submit(chain.client.embeddings.create, model="tiny", input="word")
        until(lambda: _operations(chain).count("generate") == before + 3, "they are under way")
        os.kill(chain.worker(), signal.SIGKILL)
        assert [answer.result().usage.completion_tokens for answer in answers] == [100] * 3
        assert vector.result().data[0].embedding == [1.0, 0.0]


def test_the_engine_that_dies_in_a_stream_is_seen_by_the_client(chain: Chain) -> None:
    stream = chain.client.completions.create(model="tiny", prompt=[5], max_tokens=200, stream=True)
    next(iter(stream))
    os.kill(chain.worker(), signal.SIGKILL)
    with pytest.raises(openai.APIError, match="engine stopped while it worked on this") as found:
        list(stream)
    assert found.value.code == "engine_died"


def test_a_revoked_key_opens_nothing_any_more(chain: Chain) -> None:
    owner = chain.platform.local_principal()
    key = create_key(chain.platform, owner, "short-lived", ["models:read"])
    chain.keyring.refresh()
    other = chain.client.with_options(api_key=key.secret)
    assert [model.id for model in other.models.list()] == ["tiny"]
    revoke_key(chain.platform, owner, key.id)
    chain.keyring.refresh()
    with pytest.raises(openai.AuthenticationError):
        other.models.list()


def _operations(chain: Chain) -> list[str]:
    return [json.loads(line)["op"] for line in chain.log.read_text().splitlines()]
