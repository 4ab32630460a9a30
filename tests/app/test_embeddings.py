"""Texts in, vectors out: what is refused, what stands around a text, how much is asked at once."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest

from bessemer.app import embeddings
from bessemer.app.embeddings import (
    IN_FLIGHT,
    Embedded,
    EmbedRequest,
    EngineEmbedder,
    embed,
)
from bessemer.core.errors import (
    Busy,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidInput,
    PermissionDenied,
)
from bessemer.core.principal import Principal
from bessemer.core.protocols import Pooling
from bessemer.text.bpe import train_bpe
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeEngine, FakeServing
from tests.models.bert_folder import write_bert


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = map("".join, itertools.product(ascii_lowercase, repeat=2))
    return train_bpe(words, 500, tmp_path_factory.mktemp("bpe"))


async def ask(engine: Any, tokenizer: Tokenizer, *inputs: Any, **more: Any) -> Embedded:
    return await EngineEmbedder(engine, tokenizer, 16).embed(EmbedRequest(inputs=inputs, **more))


async def test_texts_and_ids_in_order_with_their_count(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    found = await ask(engine, tokenizer, "ab cd", [3, 4], "x")
    ids = [tokenizer.encode("ab cd"), [3, 4], tokenizer.encode("x")]
    assert engine.embedded == ids
    assert found.prompt_tokens == sum(map(len, ids))
    assert found.vectors == [[math.cos(sum(i)), math.sin(sum(i))] for i in ids]


async def test_an_encoders_texts_stand_between_its_control_tokens(tmp_path: Path) -> None:
    tokenizer, engine = Tokenizer.load(write_bert(tmp_path / "m")), FakeEngine()
    await ask(engine, tokenizer, "a man [SEP]", [7])
    start, end = tokenizer.control_id("[CLS]"), tokenizer.control_id("[SEP]")
    assert (engine.embedded[0][0], engine.embedded[0][-1]) == (start, end)
    assert engine.embedded[0].count(end or -1) == 1
    assert engine.embedded[1] == [7], "ids are taken as they are"


async def test_the_pooling_that_was_asked_for_reaches_the_engine(tokenizer: Tokenizer) -> None:
    found = await ask(FakeEngine(), tokenizer, [3, 4], pooling="last")
    assert found.vectors == [[math.cos(4), math.sin(4)]]


async def test_fewer_dimensions_are_the_first_ones_at_unit_length(tokenizer: Tokenizer) -> None:
    whole = (await ask(FakeEngine(), tokenizer, [3, 4])).vectors[0]
    (short,) = (await ask(FakeEngine(), tokenizer, [3, 4], dimensions=1)).vectors
    assert short == [math.copysign(1.0, whole[0])]
    assert (await ask(FakeEngine(), tokenizer, [3, 4], dimensions=2)).vectors == [whole]
    with pytest.raises(InvalidInput, match="'dimensions' is 3; this model's vectors have 2"):
        await ask(FakeEngine(), tokenizer, [3, 4], dimensions=3)


async def test_a_text_that_is_too_long_is_named_with_both_numbers(tokenizer: Tokenizer) -> None:
    engine, words = FakeEngine(), r"16 tokens; input\[1\] has 17 tokens"
    with pytest.raises(ContextLengthExceeded, match=words) as found:
        await ask(engine, tokenizer, "ab", [5] * 17)
    assert found.value.facts == {"prompt_tokens": 17, "context_length": 16}
    assert engine.embedded == [], "nothing was computed for it"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "0 items; a request takes 1 to 2,048"),
        (["a"] * 2049, "2,049 items"),
        (["a", ""], r"'input\[1\]' is empty"),
        ([[]], r"'input\[0\]' is empty"),
        ([[1, 100_000]], "token id 100000"),
        ([[-1]], "token id -1"),
    ],
)
async def test_what_cannot_be_embedded_is_refused(
    inputs: list[Any], words: str, tokenizer: Tokenizer
) -> None:
    with pytest.raises(InvalidInput, match=words) as found:
        await ask(FakeEngine(), tokenizer, *inputs)
    assert found.value.param == "input"


async def test_more_tokens_in_all_than_a_request_may_have_are_refused(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "MAX_TOKENS", 30)
    with pytest.raises(InvalidInput, match="32 tokens in all; the limit is 30"):
        await ask(FakeEngine(), tokenizer, [5] * 16, [6] * 16)


async def test_long_texts_are_encoded_to_the_same_ids(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "LONG_CHARS", 3)
    engine = FakeEngine()
    await ask(engine, tokenizer, "ab cd", "ef")
    assert engine.embedded == [tokenizer.encode("ab cd"), tokenizer.encode("ef")]


class SlowEngine(FakeEngine):
    """Counts how many vectors are being made at a time; the one of the id 400 fails."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if ids[0] == 400:
                raise Busy("full", retry_after_s=1)
            return await super().embed(ids, pooling, client)
        finally:
            self.now -= 1


async def test_a_request_does_not_fill_the_engines_queue(tokenizer: Tokenizer) -> None:
    engine = SlowEngine()
    found = await ask(engine, tokenizer, *([i] for i in range(300)))
    assert engine.most == IN_FLIGHT
    assert found.vectors[299] == [math.cos(299), math.sin(299)]


async def test_the_first_error_ends_the_rest(tokenizer: Tokenizer) -> None:
    engine = SlowEngine()
    with pytest.raises(Busy):
        await ask(engine, tokenizer, *([400 if i == 70 else i] for i in range(400)))
    await asyncio.sleep(0)
    assert engine.now == 0
    assert len(engine.embedded) < 200


async def test_vectors_need_the_scope_of_chat(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    serving = FakeServing({}, embedders={"m": EngineEmbedder(engine, tokenizer, 16)})
    nobody = Principal("org", "p", "u", frozenset({"models:read"}))
    request = EmbedRequest(inputs=["a"])
    with pytest.raises(PermissionDenied):
        await embed(serving, nobody, "m", request)
    someone = Principal("org", "p", "u", frozenset({"chat"}))
    assert len((await embed(serving, someone, "m", request)).vectors) == 1
    assert engine.clients == {"u"}, "they wait in their own line"


class StillEngine(FakeEngine):
    """Never answers, and notes who stopped waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        try:
            await asyncio.Event().wait()
        finally:
            self.left += 1
        raise AssertionError("unreachable")


async def test_vectors_that_are_late_are_not_waited_for(tokenizer: Tokenizer) -> None:
    engine = StillEngine()
    serving = FakeServing({}, embedders={"m": EngineEmbedder(engine, tokenizer, 16)})
    somebody = Principal("org", "p", "u", frozenset({"chat"}))
    asked = EmbedRequest(inputs=["a", "b"], deadline_s=0.05)
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s were given"):
        await embed(serving, somebody, "m", asked)
    assert engine.left == 2
