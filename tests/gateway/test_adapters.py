"""From the official client to a real engine: many adapters in one worker, each answer its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import openai
import pytest

from bessemer.app.adapters import pull_adapter
from bessemer.app.engines import EnginePool, worker_command
from bessemer.app.keys import KeyRing, create_key
from bessemer.app.merging import merge
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.app.pool_serving import PoolServing
from bessemer.app.pull import pull
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from tests.gateway.calling import running
from tests.inference.adapting import write_adapter
from tests.tiny.world import write_model

NAMES = ("x", "y", "z")


class Chain(NamedTuple):
    url: str
    key: str
    starts: list[str]
    adapters: dict[str, str]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A server of `tiny`, three adapters of it, and `x` merged. Engines compute in float64."""
    folder = tmp_path_factory.mktemp("adapters")
    starts: list[str] = []

    def command(model: NamedModel, socket: Path, threads: int) -> list[str]:
        starts.append(model.name)
        return [*worker_command(model, socket, threads), "--precision", "fp64"]

    with Platform.open(Home(folder / "home")) as platform:
        owner = platform.local_principal()
        base = write_model(folder / "tiny")
        pull(platform, owner, str(base))
        adapters = {}
        for rank, name in enumerate(NAMES, 2):
            made = write_adapter(base, folder / name, rank=rank, seed=rank)
            adapters[name] = pull_adapter(platform, owner, made, "tiny").digest
        merge(platform, owner, "tiny", "x", name="merged")
        key = create_key(platform, owner, "test", ["chat", "models:read"])
        pool = EnginePool(platform, 1, command=command)

        @contextlib.asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            yield
            await pool.close()

        app = build(PoolServing(platform, pool), KeyRing(platform))
        with running(app, lifespan=lifespan()) as server:
            yield Chain(f"{server.url}/v1", key.secret, starts, adapters)
        platform.home.socket_dir().rmdir()


class Answer(NamedTuple):
    chat: str | None
    text: str
    logprobs: list[float]
    vector: list[float]
    fingerprint: str | None

    def same(self, other: Answer) -> bool:
        """To rounding: requests are batched as they come."""
        return (
            self[:2] == other[:2]
            and self.logprobs == pytest.approx(other.logprobs, abs=1e-5)
            and self.vector == pytest.approx(other.vector, abs=1e-6)
        )


async def asked_at_once(chain: Chain, *names: str) -> list[Answer]:
    """Of each name a chat, a completion and a vector, all at the same time."""
    async with openai.AsyncOpenAI(base_url=chain.url, api_key=chain.key, max_retries=0) as client:

        async def ask(name: str) -> Answer:
            chat, text, vector = await asyncio.gather(
                client.chat.completions.create(
                    model=name,
                    messages=[{"role": "user", "content": "Where is it?"}],
                    temperature=0,
                    max_tokens=12,
                ),
                client.completions.create(
                    model=name, prompt="It is", temperature=0, max_tokens=12, logprobs=1
                ),
                client.embeddings.create(model=name, input="a box"),
            )
            logprobs = text.choices[0].logprobs
            assert logprobs is not None and logprobs.token_logprobs is not None
            assert (chat.model, text.model) == (name, name)
            return Answer(
                chat.choices[0].message.content,
                text.choices[0].text,
                [value or 0.0 for value in logprobs.token_logprobs],
                vector.data[0].embedding,
                chat.system_fingerprint,
            )

        return list(await asyncio.gather(*(ask(name) for name in names)))


async def test_each_answer_is_its_own_adapters_and_one_worker_gives_them_all(chain: Chain) -> None:
    names = ("x", "tiny", "y", "z", chain.adapters["x"])
    x, tiny, y, z, by_digest = await asked_at_once(chain, *names)
    assert chain.starts == ["tiny"]
    assert x.same(by_digest)
    assert not any(one.same(other) for one, other in itertools.combinations((x, tiny, y, z), 2))
    (merged,) = await asked_at_once(chain, "merged")
    assert chain.starts == ["tiny", "merged"]
    assert x.same(merged)


async def test_fingerprints_tell_adapters_apart_and_the_list_names_their_base(chain: Chain) -> None:
    prints = [answer.fingerprint for answer in await asked_at_once(chain, *NAMES, "tiny")]
    assert len(set(prints)) == 4
    async with openai.AsyncOpenAI(base_url=chain.url, api_key=chain.key) as client:
        listed = {m.id: getattr(m, "parent", None) async for m in client.models.list()}
        assert listed == {"merged": None, "tiny": None, "x": "tiny", "y": "tiny", "z": "tiny"}
        with pytest.raises(openai.NotFoundError, match="`w` does not exist"):
            await client.completions.create(model="w", prompt="It is")
