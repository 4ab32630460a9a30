"""Records of answers, and the same answers computed again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from bessemer.access.keys import SCOPES
from bessemer.app import models
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.app.recording import (
    KEPT_DAYS,
    MOST_ANSWERS,
    Record,
    Recorder,
    RecordingEngine,
    digest_of,
    prune,
)
from bessemer.app.replaying import forget, replay
from bessemer.core.database import now_ms
from bessemer.core.errors import (
    Conflict,
    EngineUnavailable,
    IntegrityError,
    NotFound,
    PermissionDenied,
)
from bessemer.core.principal import Principal
from bessemer.core.protocols import Constraint, GenerateRequest, Sampling, TokenChunk, TokenLogprob
from bessemer.core.tables import answers
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeEngine
from tests.tiny import world

REQUEST = "req_01jd3k5v8w2x4y6z8a0c2e4g6j"
CONDITIONS = {"threads": "1", "precision": "fp32"}


@pytest.fixture
def model(platform: Platform, owner: Principal) -> NamedModel:
    folder = world.write_model(platform.artifacts.workspace())
    artifact = platform.artifacts.put(folder, kind="model", name="tiny")
    return models.register(platform, owner, "tiny", artifact)


def request(number: int = 0, **more: Any) -> GenerateRequest:
    facts: dict[str, Any] = {"max_tokens": 12, "sampling": Sampling(temperature=1.0)}
    facts |= {"prompt_ids": [5, 6, 7], "request_id": f"{REQUEST}-{number}"}
    return GenerateRequest(**facts | more)


async def say(engine: RecordingEngine, asked: GenerateRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(asked)]


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        return await work()

    return asyncio.run(whole())


def rows(platform: Platform) -> list[Record]:
    with platform.db.read() as connection:
        found = connection.execute(sa.select(answers.c.record).order_by(answers.c.id)).scalars()
        return [msgspec.json.decode(text, type=Record) for text in found]


def record_real_answers(
    platform: Platform, owner: Principal, model: NamedModel, *asked: GenerateRequest
) -> None:
    """Side by side, from a deterministic engine over the real model."""

    async def answer_all() -> None:
        recorder = Recorder(platform)
        settings = EngineSettings(precision="bf16", deterministic=True)
        native = NativeEngine.open(model.path, model.digest, settings)
        try:
            engine = recorder.around(native, model, owner)
            await asyncio.gather(*(say(engine, one) for one in asked))
        finally:
            native.close()

    asyncio.run(answer_all())


def rewrite(platform: Platform, change: Callable[[Record], Record]) -> None:
    """Change every record, its digest with it."""
    with platform.db.write() as connection:
        for id_, text in connection.execute(sa.select(answers.c.id, answers.c.record)).all():
            record = change(msgspec.json.decode(text, type=Record))
            values = {"record": msgspec.json.encode(record).decode()}
            values["digest"] = digest_of(record.tokens)
            connection.execute(answers.update().where(answers.c.id == id_).values(values))


# -- keeping records ----------------------------------------------------------------------


def test_the_record_is_safe_before_the_last_words_are_said(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    engine = FakeEngine([1, 2, 3], conditions=CONDITIONS)

    async def ask() -> None:
        recording = Recorder(platform).around(engine, model, owner)
        async with aclosing(recording.generate(request())) as chunks:
            async for chunk in chunks:
                assert chunk.logprobs is None, "nobody asked for them"
                assert len(rows(platform)) == (chunk.finish_reason is not None)

    asyncio.run(ask())
    (record,) = rows(platform)
    assert (record.model, record.model_digest) == ("tiny", model.digest)
    assert (record.conditions, record.ended) == (CONDITIONS, "stop")
    assert [token.id for token in record.tokens] == [1, 2, 3]
    assert record.request.sampling.seed is not None
    assert msgspec.json.encode(record.request) == msgspec.json.encode(engine.requests[0])
    assert record.request.top_logprobs == 0


def test_log_probabilities_that_were_asked_for_are_told_and_recorded(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    recording = Recorder(platform).around(FakeEngine(conditions=CONDITIONS), model, owner)
    chunks = run(lambda: say(recording, request(top_logprobs=2, sampling=Sampling(seed=3))))
    (record,) = rows(platform)
    assert record.tokens == [each for chunk in chunks for each in chunk.logprobs]
    assert record.tokens[0].top == [(1, -1.0), (2, -2.0)]
    assert record.request.sampling.seed == 3


def test_what_was_read_of_an_answer_that_nobody_read_to_its_end_is_recorded(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    engine = FakeEngine(list(range(9)), conditions=CONDITIONS)

    async def leave() -> None:
        recording = Recorder(platform).around(engine, model, owner)
        async with aclosing(recording.generate(request())) as chunks:
            async for chunk in chunks:
                if chunk.ids == [3]:
                    break

    asyncio.run(leave())
    (record,) = rows(platform)
    assert (record.ended, len(record.tokens)) == ("unfinished", 4)
    assert engine.cancelled == [f"{REQUEST}-0"]


def test_an_answer_whose_record_cannot_be_kept_is_not_whole(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    with platform.db.write() as connection:
        answers.drop(connection)
    recording = Recorder(platform).around(FakeEngine(conditions=CONDITIONS), model, owner)
    with pytest.raises(sa.exc.DatabaseError, match="answers"):
        run(lambda: say(recording, request()))


def test_many_answers_at_once_are_all_recorded(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    async def ask_all() -> None:
        recorder = Recorder(platform)
        recording = recorder.around(FakeEngine(conditions=CONDITIONS), model, owner)
        await asyncio.gather(*(say(recording, request(number)) for number in range(40)))
        await recorder.close()

    asyncio.run(ask_all())
    kept = {record.request.request_id for record in rows(platform)}
    assert kept == {f"{REQUEST}-{number}" for number in range(40)}


def test_an_engine_that_promises_nothing_is_not_recorded_as_if_it_did(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    recording = Recorder(platform).around(FakeEngine(), model, owner)
    with pytest.raises(EngineUnavailable, match="tiny is not deterministic"):
        run(lambda: say(recording, request()))


def test_old_answers_and_more_than_so_many_are_dropped(
    platform: Platform, owner: Principal
) -> None:
    facts = {"org_id": "o", "project_id": "p", "owner_id": "w", "digest": "d", "record": "{}"}
    old_ms = now_ms() - KEPT_DAYS * 24 * 3600 * 1000 - 1000

    def insert(names: list[str], created_ms: int) -> None:
        given = [{"id": n, "request_id": n, "created_ms": created_ms, **facts} for n in names]
        with platform.db.write() as connection:
            connection.execute(answers.insert(), given)

    insert(["z-old"], old_ms)
    insert([f"a{number:06}" for number in range(MOST_ANSWERS + 3)], now_ms())
    prune(platform)
    with platform.db.read() as connection:
        kept = connection.execute(sa.select(answers.c.id).order_by(answers.c.id)).scalars().all()
    assert kept == [f"a{number:06}" for number in range(3, MOST_ANSWERS + 3)]


# -- replaying ----------------------------------------------------------------------------


def test_answers_given_in_company_are_replayed_to_the_bit(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    eos = sorted(Tokenizer.load(model.path).eos_ids)
    held = Constraint("regex", "[a-f]{3,9}")
    asked = [request(0), request(1, top_logprobs=4, stop_ids=eos), request(2, constraint=held)]
    asked.append(request(3, prompt_ids=list(range(150)), deadline_s=60.0))
    record_real_answers(platform, owner, model, *asked)
    found = replay(platform, owner, REQUEST)
    assert [each.request_id for each in found] == [one.request_id for one in asked]
    assert all(each.identical and not each.changed for each in found)
    recorded = {digest_of(record.tokens) for record in rows(platform)}
    assert {each.digest for each in found} == recorded and len(recorded) == 4
    (alone,) = replay(platform, owner, f"{REQUEST}-1")
    (by_answer,) = replay(platform, owner, f"chatcmpl-{REQUEST[4:]}-1")
    assert alone == by_answer == found[1]


def test_an_unfinished_answer_is_replayed_as_far_as_it_was_read(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    record_real_answers(platform, owner, model, request())
    rewrite(
        platform,
        lambda record: msgspec.structs.replace(
            record, tokens=record.tokens[:5], ended="unfinished"
        ),
    )
    (found,) = replay(platform, owner, REQUEST)
    assert (found.identical, found.tokens) == (True, 5)


def test_the_first_bit_that_differs_is_named(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    record_real_answers(platform, owner, model, request())

    def nudge(record: Record) -> Record:
        tokens = list(record.tokens)
        was = tokens[7]
        tokens[7] = TokenLogprob(was.id, was.logprob * (1 + 2**-52), was.top)
        conditions = {**record.conditions, "torch": "1.0"}
        return msgspec.structs.replace(record, tokens=tokens, conditions=conditions)

    rewrite(platform, nudge)
    (found,) = replay(platform, owner, REQUEST)
    assert found.difference is not None and not found.identical
    assert found.difference.place == 7
    assert found.difference.then is not None and found.difference.now is not None
    assert found.difference.then.id == found.difference.now.id
    assert found.difference.then.logprob != found.difference.now.logprob
    assert found.changed.keys() == {"torch"}
    assert found.changed["torch"][0] == "1.0"


def test_an_answer_that_was_longer_or_shorter_differs_where_one_ends(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    record_real_answers(platform, owner, model, request())
    rewrite(platform, lambda r: msgspec.structs.replace(r, tokens=r.tokens[:5]))
    (found,) = replay(platform, owner, REQUEST)
    assert found.difference is not None
    assert (found.difference.place, found.difference.then) == (5, None)


def test_a_record_that_was_tampered_with_or_is_of_a_newer_version_is_not_replayed(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    record_real_answers(platform, owner, model, request())

    def replace_text(old: str, new: str) -> None:
        with platform.db.write() as connection:
            changed = sa.func.replace(answers.c.record, old, new)
            connection.execute(answers.update().values(record=changed))

    (token, *_) = rows(platform)[0].tokens
    replace_text(str(token.logprob), "-0.25")
    with pytest.raises(IntegrityError, match="was changed after it was written"):
        replay(platform, owner, REQUEST)
    replace_text('"format":1', '"format":2')
    with pytest.raises(Conflict, match="format 2"):
        replay(platform, owner, REQUEST)


def test_a_model_that_is_gone_or_changed_is_said_so(
    platform: Platform, owner: Principal, model: NamedModel
) -> None:
    record_real_answers(platform, owner, model, request())
    config = model.path / "config.json"
    config.chmod(0o600)
    config.write_text(config.read_text() + " ")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        replay(platform, owner, REQUEST)
    (platform.artifacts.root / f"{model.path.name}.json").unlink()
    with pytest.raises(NotFound, match=f"not here any more: tiny, {model.digest}"):
        replay(platform, owner, REQUEST)


def test_nobody_else_reads_or_forgets_an_answer(
    platform: Platform, owner: Principal, stranger: Principal, model: NamedModel
) -> None:
    recording = Recorder(platform).around(FakeEngine(conditions=CONDITIONS), model, owner)
    run(lambda: say(recording, request()))
    narrow = Principal(owner.org_id, owner.project_id, owner.owner_id, frozenset({"chat"}))
    for use_case in (replay, forget):
        with pytest.raises(NotFound, match="no answer to"):
            use_case(platform, stranger, REQUEST)
        with pytest.raises(PermissionDenied):
            use_case(platform, narrow, REQUEST)
        for other in ("req_%", "req_01jd3k5v8w2x4y6z8a0c2e4g6", "", f"{REQUEST}-7"):
            with pytest.raises(NotFound):
                use_case(platform, owner, other)
    assert {"answers:read", "answers:write"} <= SCOPES.keys()
    assert forget(platform, owner, REQUEST) == 1
    assert rows(platform) == []
