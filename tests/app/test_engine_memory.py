"""One budget for all engines: who sleeps, who waits, who is refused, and that nobody starves.

Each model here needs 1.5 GB of a budget of 2 GB: 0.4 and 0.6 loaded, 0.5 of KV cache. One fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bessemer.app.engine_memory import KV_BYTES, default_budget, kv_limit, reckon
from bessemer.app.engines import EnginePool, worker_command
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import EngineLoading, ModelTooLarge
from bessemer.core.memory import measure
from tests.app.test_engines import FakeCommand, generate, ready, starts
from tests.app.test_engines import model as sized
from tests.models.bert_folder import write_bert
from tests.polling import until_async
from tests.tiny.world import write_model

GB = 10**9


def model(fill: str) -> NamedModel:
    return sized(fill, fill, 400_000_000)


A, B, C = map(model, "abc")


def pooled(
    platform: Platform,
    test: Callable[[EnginePool], Awaitable[None]],
    *options: str,
    **settings: Any,
) -> None:
    settings = {"memory_bytes": 2 * GB} | settings

    async def run() -> None:
        pool = EnginePool(platform, 1, command=FakeCommand(*options), **settings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(pool.close)
            await asyncio.wait_for(test(pool), 60)

    asyncio.run(run())


def states(pool: EnginePool) -> dict[str, str]:
    return {row["name"]: row["state"] for row in pool.status()}


def test_what_does_not_fit_puts_the_longest_idle_one_to_sleep(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        await ready(pool, A)
        await ready(pool, B)
        await generate(pool.engine(A), [1])
        await ready(pool, C)
        assert states(pool) == {"a": "ready", "b": "sleeping", "c": "ready"}
        assert await generate(pool.engine(B), [4]) == [4, 4, 4]
        assert states(pool) == {"a": "sleeping", "b": "ready", "c": "ready"}
        assert pool.held_bytes == 4 * GB

    pooled(platform, test, memory_bytes=4 * GB)


def test_who_answers_is_never_put_to_sleep(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        long = asyncio.create_task(generate(pool.engine(A), [7], 100))
        await until_async(lambda: states(pool) == {"a": "ready"}, "it is loaded")
        short = asyncio.create_task(generate(pool.engine(B), [8], 2))
        assert await long == [7] * 100
        assert await short == [8] * 2
        assert states(pool) == {"a": "sleeping", "b": "ready"}

    pooled(platform, test, "--step-s", "0.01", patience_s=0.1)


def test_a_load_without_a_gap_keeps_nobody_out_forever(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        stop = asyncio.Event()

        async def hammer() -> int:
            asked = 0
            while not stop.is_set():
                assert len(await generate(pool.engine(A), [5], 20)) == 20
                asked += 1
            return asked

        hammers = [asyncio.create_task(hammer()) for _ in range(4)]
        await until_async(lambda: states(pool).get("a") == "ready", "it is under load")
        assert await generate(pool.engine(B), [8], 2) == [8] * 2
        stop.set()
        # Who was under way ended, and who waited meanwhile was let in again.
        assert min(await asyncio.gather(*hammers)) >= 1

    pooled(platform, test, "--step-s", "0.01", patience_s=0.3)


def test_models_that_compete_all_answer_in_turns(platform: Platform, tmp_path: Path) -> None:
    async def test(pool: EnginePool) -> None:
        names = [A, B, C] * 8
        random.Random(3).shuffle(names)
        asked = [generate(pool.engine(one), [n], 5) for n, one in enumerate(names)]
        answers = await asyncio.gather(*asked)
        assert answers == [[n] * 5 for n in range(24)]
        # All that waited for a model are answered while it is there.
        assert len(starts(tmp_path)) <= 6
        assert sorted(states(pool).values()) == ["ready", "sleeping", "sleeping"]

    pooled(platform, test, "--step-s", "0.01", "--starts", str(tmp_path / "starts"))


def test_no_room_in_time_says_who_has_it(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        long = asyncio.create_task(generate(pool.engine(A), [7], 200))
        await until_async(lambda: states(pool) == {"a": "ready"}, "it is loaded")
        with pytest.raises(EngineLoading, match=r"b needs 1\.50 GB.*1\.50 GB of 2\.00 GB are held"):
            await generate(pool.engine(B), [8])
        assert await generate(pool.engine(A), [9], 1) == [9]  # it was not told to leave for good
        long.cancel()

    pooled(platform, test, "--step-s", "0.02", patience_s=0.1, wait_s=1.0)


def test_a_model_that_can_never_fit_is_refused_with_the_numbers(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        await ready(pool, A)
        large = sized("large", "f", 3 * GB)
        with pytest.raises(ModelTooLarge) as found:
            await generate(pool.engine(large), [1])
        assert found.value.message == (
            "large needs 5.40 GB (4.90 GB loaded, 0.50 GB of KV cache);"
            " all models together may have 2.00 GB"
        )
        with pytest.raises(ModelTooLarge):
            pool.load(large)
        assert states(pool) == {"a": "ready", "large": "stopped"}  # nobody was sent out for it

    pooled(platform, test)


def test_what_is_loaded_at_once_does_not_send_another_out(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(pool: EnginePool) -> None:
        pool.load(A)
        with caplog.at_level(logging.WARNING):
            pool.load(B)
        assert states(pool) == {"a": "loading", "b": "stopped"}
        assert "b is not loaded: it needs 1.50 GB" in caplog.text

    pooled(platform, test)


def test_an_idle_model_falls_asleep_and_wakes_when_it_is_asked(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        long = asyncio.create_task(generate(pool.engine(B), [7], 60))
        await ready(pool, A)
        await asyncio.sleep(0.2)
        await pool.rest()
        assert states(pool) == {"a": "sleeping", "b": "ready"}
        assert pool.held_bytes == pool.engine(B).need.total
        assert await generate(pool.engine(A), [3], 1) == [3]
        assert await long == [7] * 60

    options = {"sleep_after_s": 0.1, "memory_bytes": None}
    pooled(platform, test, "--step-s", "0.02", **options)


def test_a_draft_model_takes_its_part_of_the_budget(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        with pytest.raises(ModelTooLarge, match=r"a needs 2\.15 GB \(1\.15 GB loaded"):
            await generate(pool.engine(A), [1])

    pooled(platform, test, draft=sized("draft", "d", 100_000_000))


def test_what_is_measured_replaces_what_was_reckoned(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        assert pool.engine(A).need.process == 1 * GB
        await ready(pool, A)
        assert pool.engine(A).need.process == 700_000_000
        await ready(pool, B)
        await ready(pool, A)  # both fit now
        assert states(pool) == {"a": "ready", "b": "ready"}
        assert pool.held_bytes == 2 * (700_000_000 + 737_500_000)

    pooled(platform, test, "--memory-bytes", "700000000", memory_bytes=2_950_000_000)


def test_a_request_that_gave_up_while_a_model_left_harms_nobody(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        await ready(pool, A)
        asking = asyncio.create_task(generate(pool.engine(B), [1]))
        await until_async(lambda: states(pool)["a"] == "sleeping", "it is being put to sleep")
        asking.cancel()
        assert await generate(pool.engine(A), [2], 1) == [2]

    pooled(platform, test)


def stored(folder: Path) -> NamedModel:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return NamedModel("m", "d", folder, Artifact("d", "model", "m", folder, size))


def test_caches_and_drafts_are_reckoned_and_encoders_have_none(tmp_path: Path) -> None:
    tiny, bert = write_model(tmp_path / "tiny"), write_bert(tmp_path / "bert")
    # 32 rows of 256 tokens, 2 layers with keys and values of 2 heads of 8 numbers in 4 bytes.
    assert reckon(stored(tiny), KV_BYTES).kv == 32 * 256 * 2 * 2 * 2 * 8 * 4
    assert reckon(stored(bert), KV_BYTES).kv == 0
    alone, draft = reckon(stored(tiny), KV_BYTES), stored(write_model(tmp_path / "draft", seed=2))
    both = reckon(stored(tiny), KV_BYTES, draft)
    assert both.kv == 2 * alone.kv
    assert both.process == alone.process + int(1.5 * draft.artifact.size_bytes)
    assert reckon(stored(bert), KV_BYTES, draft) == reckon(stored(bert), KV_BYTES)
    (tiny / "config.json").write_text("{}")
    assert reckon(stored(tiny), KV_BYTES).kv == KV_BYTES


def test_the_budget_is_a_share_of_what_is_free_and_caches_a_share_of_the_budget() -> None:
    assert 0 < default_budget() < measure().available
    assert (kv_limit(None), kv_limit(8 * GB), kv_limit(2 * GB)) == (KV_BYTES, KV_BYTES, GB // 2)
    assert worker_command(A, Path("s"), 1, kv_bytes=5)[-2:] == ["--kv-bytes", "5"]
