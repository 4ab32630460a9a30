"""An engine's ids become text: the prompt, the stops, the counts, the log-probabilities."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.app.responder import EngineResponder
from bessemer.core.errors import Busy, ContextLengthExceeded, EngineUnavailable, InvalidInput
from bessemer.core.protocols import ChatRequest, Delta, Sampling, TokenChunk
from bessemer.text.bpe import train_bpe
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeEngine

TEMPLATE = ChatTemplate(
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = ["hello world, stop here and go on", "naïve 東京 🙂 stop"] * 3
    return train_bpe(words, 300, tmp_path_factory.mktemp("tokenizer"))


def ask(**fields: object) -> ChatRequest:
    given = {"request_id": "r1", "messages": HELLO, **fields}
    return ChatRequest(**given)  # type: ignore[arg-type]


def collect(responder: EngineResponder, request: ChatRequest) -> list[Delta]:
    async def run() -> list[Delta]:
        return [delta async for delta in responder.respond(request)]

    return asyncio.run(run())


def respond(
    tokenizer: Tokenizer, engine: FakeEngine, request: ChatRequest, context_length: int = 1024
) -> list[Delta]:
    return collect(EngineResponder(engine, tokenizer, TEMPLATE, context_length), request)


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def tokens_of(deltas: Sequence[Delta]) -> list[str]:
    return [entry.token for delta in deltas for entry in delta.logprobs or ()]


def test_the_engine_gets_the_templates_ids_the_stop_ids_and_the_sampling(
    tokenizer: Tokenizer,
) -> None:
    engine = FakeEngine([5, 6])
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, seed=3)
    respond(tokenizer, engine, ask(max_tokens=9, sampling=sampling, top_logprobs=2))
    (asked,) = engine.requests
    assert list(asked.prompt_ids) == encode_prompt(HELLO, tokenizer, TEMPLATE)
    assert (asked.request_id, asked.max_tokens) == ("r1", 9)
    assert (asked.sampling, asked.top_logprobs) == (sampling, 2)
    assert set(asked.stop_ids) == tokenizer.eos_ids != set()


def test_a_name_that_the_template_does_not_write_is_refused(tokenizer: Tokenizer) -> None:
    engine = FakeEngine([5])
    named = [{"role": "user", "name": "Ann", "content": "Hello"}]
    with pytest.raises(InvalidInput) as fault:
        respond(tokenizer, engine, ask(messages=named))
    assert (fault.value.code, fault.value.param) == ("unsupported_parameter", "messages[0].name")
    assert engine.requests == []


def test_a_bare_prompt_goes_without_template_as_text_and_as_ids(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    ids = tokenizer.encode("go on")
    respond(tokenizer, engine, ask(prompt="go on"))
    respond(tokenizer, engine, ask(prompt=ids))
    assert [list(asked.prompt_ids) for asked in engine.requests] == [ids, ids]


def test_an_empty_prompt_begins_like_a_document(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    respond(tokenizer, engine, ask(prompt=""))
    respond(tokenizer, engine, ask(prompt=[]))
    assert [list(asked.prompt_ids) for asked in engine.requests] == [[tokenizer.bos_id]] * 2


def test_ids_that_are_no_tokens_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (-1, tokenizer.vocab_size, 2**40):
        with pytest.raises(InvalidInput, match=f"token id {wrong}") as found:
            respond(tokenizer, FakeEngine(), ask(prompt=[5, wrong]))
        assert found.value.param == "prompt"


def test_a_model_without_a_template_completes_but_does_not_chat(tokenizer: Tokenizer) -> None:
    why = InvalidInput("tiny has no chat template", next_step="use text completion")
    responder = EngineResponder(FakeEngine([5]), tokenizer, why, 100)
    assert collect(responder, ask(prompt="go"))[-1].finish_reason == "stop"
    for _ in range(2):
        with pytest.raises(InvalidInput, match="no chat template") as found:
            collect(responder, ask())
        assert found.value is not why


def test_without_max_tokens_the_answer_may_take_the_rest_of_the_context(
    tokenizer: Tokenizer,
) -> None:
    engine = FakeEngine([5])
    respond(tokenizer, engine, ask(prompt=[5] * 60), context_length=100)
    assert engine.requests[0].max_tokens == 40


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "fits"),
    [(90, 10, True), (90, 11, False), (99, None, True), (100, None, False), (100, 1, False),
     (500, None, False), (1, 10**12, False)],
)  # fmt: skip
def test_the_context_is_never_exceeded_and_the_error_names_the_numbers(
    tokenizer: Tokenizer, prompt_tokens: int, max_tokens: int | None, fits: bool
) -> None:
    engine = FakeEngine([5])
    request = ask(prompt=[5] * prompt_tokens, max_tokens=max_tokens)
    if fits:
        assert respond(tokenizer, engine, request, 100)[-1].finish_reason
        return
    with pytest.raises(ContextLengthExceeded) as found:
        respond(tokenizer, engine, request, 100)
    assert "100 tokens" in found.value.message
    assert f"the prompt has {prompt_tokens} tokens" in found.value.message
    assert max_tokens is None or str(max_tokens) in found.value.message
    assert found.value.param == "prompt"
    assert engine.requests == []


def test_a_long_prompt_which_another_thread_encodes_has_the_same_ids(
    tokenizer: Tokenizer,
) -> None:
    engine = FakeEngine([5], context_length=10**6)
    text = "hello world " * 4000
    respond(tokenizer, engine, ask(prompt=text), context_length=10**6)
    assert list(engine.requests[0].prompt_ids) == tokenizer.encode(text)


def test_a_prompt_that_cannot_fit_is_refused_without_counting_every_token(
    tokenizer: Tokenizer,
) -> None:
    engine = FakeEngine([5])
    for fields in (
        {"prompt": "x" * 10**7},
        {"messages": [{"role": "user", "content": "x" * 10**7}]},
    ):
        began = time.monotonic()
        with pytest.raises(ContextLengthExceeded, match=r"at least \d{6,} tokens") as found:
            respond(tokenizer, engine, ask(**fields))
        assert time.monotonic() - began < 5
        assert found.value.param == next(iter(fields))
    assert engine.requests == []


def test_many_messages_which_another_thread_encodes_have_the_same_ids(
    tokenizer: Tokenizer,
) -> None:
    engine = FakeEngine([5], context_length=10**6)
    messages = HELLO * 100
    respond(tokenizer, engine, ask(messages=messages), context_length=10**6)
    assert list(engine.requests[0].prompt_ids) == encode_prompt(messages, tokenizer, TEMPLATE)


def test_characters_that_span_tokens_come_whole(tokenizer: Tokenizer) -> None:
    ids = [b for char in "ü🙂東" for b in byte_ids(tokenizer, char)]
    deltas = respond(tokenizer, FakeEngine(ids), ask())
    assert [d.text for d in deltas if d.text] == ["ü", "🙂", "東"]


def test_a_broken_character_at_the_end_is_not_lost(tokenizer: Tokenizer) -> None:
    deltas = respond(tokenizer, FakeEngine(byte_ids(tokenizer, "🙂")[:2]), ask())
    assert text_of(deltas) == "\ufffd"


def test_usage_is_what_the_engine_counted(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("hello world")
    deltas = respond(tokenizer, FakeEngine(ids), ask(prompt=[5, 6, 7]))
    usage = deltas[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, len(ids))
    assert [d.usage for d in deltas[:-1]] == [None] * (len(deltas) - 1)


def test_finish_reasons(tokenizer: Tokenizer) -> None:
    eos = min(tokenizer.eos_ids)
    assert respond(tokenizer, FakeEngine([5, eos, 6]), ask())[-1].finish_reason == "stop"
    assert respond(tokenizer, FakeEngine([5, 6]), ask(max_tokens=2))[-1].finish_reason == "length"


@pytest.mark.parametrize("step", [1, 2, 100])
def test_a_stop_string_cuts_the_answer_and_cancels_the_engine(
    tokenizer: Tokenizer, step: int
) -> None:
    ids = byte_ids(tokenizer, "go on END and more") + [5] * 200
    engine = FakeEngine(ids, step=step)
    deltas = respond(tokenizer, engine, ask(stop=[" END", "never"]))
    assert text_of(deltas) == "go on"
    assert deltas[-1].finish_reason == "stop"
    assert engine.cancelled == ["r1"]
    made = len("go on END")  # what came with it in one chunk is not the answer's
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == made


def test_the_engine_is_cancelled_before_the_last_words_are_sent(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(byte_ids(tokenizer, "a END b"))

    async def run() -> None:
        responder = EngineResponder(engine, tokenizer, TEMPLATE, 100)
        async for delta in responder.respond(ask(stop=["END"])):
            if delta.finish_reason:
                assert engine.running == 0

    asyncio.run(run())


def test_what_was_held_back_for_a_stop_string_is_sent_at_the_end(tokenizer: Tokenizer) -> None:
    deltas = respond(tokenizer, FakeEngine(byte_ids(tokenizer, "the EN")), ask(stop=["END"]))
    assert text_of(deltas) == "the EN"
    assert deltas[-1].finish_reason == "stop"


def test_a_stop_string_completed_by_the_last_token_wins_over_length(tokenizer: Tokenizer) -> None:
    ids = byte_ids(tokenizer, "a END")
    deltas = respond(tokenizer, FakeEngine(ids), ask(stop=["END"], max_tokens=len(ids)))
    assert (text_of(deltas), deltas[-1].finish_reason) == ("a ", "stop")
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == len(ids)


def test_logprobs_come_as_text_and_bytes_beside_their_text(tokenizer: Tokenizer) -> None:
    ids = byte_ids(tokenizer, "a🙂b")
    deltas = respond(tokenizer, FakeEngine(ids), ask(top_logprobs=2))
    entries = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert b"".join(bytes(entry.bytes) for entry in entries) == "a🙂b".encode()
    assert [entry.logprob for entry in entries] == [-1.0] * len(ids)
    first = entries[0].top
    assert first[0] == ("a", -1.0, [97])
    assert (first[1][0], first[1][1]) == (tokenizer.token_text(ids[0] + 1), -2.0)
    emoji = next(delta for delta in deltas if delta.text == "🙂")
    assert emoji.logprobs is not None
    assert len(emoji.logprobs) == 4


def test_no_logprobs_unless_asked_for(tokenizer: Tokenizer) -> None:
    deltas = respond(tokenizer, FakeEngine([5, 6]), ask())
    assert [delta.logprobs for delta in deltas] == [None] * len(deltas)


def test_logprobs_end_where_a_stop_string_cuts(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(byte_ids(tokenizer, "go END on"))
    deltas = respond(tokenizer, engine, ask(stop=["END"], top_logprobs=0))
    assert tokens_of(deltas) == ["g", "o", " "]


def test_errors_of_the_engine_pass_through(tokenizer: Tokenizer) -> None:
    full = Busy("full", retry_after_s=3)
    with pytest.raises(Busy):
        respond(tokenizer, FakeEngine(error=full), ask())


class MuteEngine(FakeEngine):
    """Ends without a last chunk, or with one that says "cancelled"."""

    def __init__(self, chunks: Sequence[TokenChunk]) -> None:
        super().__init__()
        self._chunks = chunks

    async def generate(self, request):  # type: ignore[no-untyped-def]
        for chunk in self._chunks:
            yield chunk


@pytest.mark.parametrize("last", [[], [TokenChunk(ids=[], finish_reason="cancelled")]])
def test_an_answer_that_is_not_whole_is_an_error(
    tokenizer: Tokenizer, last: list[TokenChunk]
) -> None:
    with pytest.raises(EngineUnavailable, match="before it was whole"):
        respond(tokenizer, MuteEngine([TokenChunk(ids=[5]), *last]), ask())


def test_closing_the_answer_cancels_the_engine_at_once(tokenizer: Tokenizer) -> None:
    engine = FakeEngine([5] * 50)

    async def run() -> None:
        deltas = EngineResponder(engine, tokenizer, TEMPLATE, 100).respond(ask())
        await anext(deltas)
        assert engine.running == 1
        await deltas.aclose()
        assert engine.running == 0

    asyncio.run(run())
    assert engine.cancelled == ["r1"]


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(alphabet="aEND 🙂ü", max_size=30),
    stops=st.lists(st.sampled_from(["END", "ND ", "🙂🙂", "ü", "aa"]), max_size=3),
    step=st.integers(1, 5),
)
def test_however_it_is_chunked_the_text_is_what_stands_before_the_first_stop(
    tokenizer: Tokenizer, text: str, stops: list[str], step: int
) -> None:
    ids = byte_ids(tokenizer, text)
    deltas = respond(tokenizer, FakeEngine(ids, step=step), ask(stop=stops, top_logprobs=0))
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    expected = text[: min(ends)[1]] if ends else text
    assert text_of(deltas) == expected
    assert "".join(bytes(e.bytes).decode("latin-1") for d in deltas for e in d.logprobs or ()) == (
        expected.encode().decode("latin-1")
    )


def byte_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """`text` as one token a byte, the hardest case there is."""
    single = {tokenizer.token_bytes(id_): id_ for id_ in range(tokenizer.vocab_size)}
    return [single[bytes([byte])] for byte in text.encode()]


def test_a_suffix_asks_for_what_stands_between(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    respond(tokenizer, engine, ask(prompt="hello", suffix=" on"))
    (asked,) = engine.requests
    shown = tokenizer.decode(asked.prompt_ids, skip_special=False)
    assert shown == "<|fim_prefix|>hello<|fim_suffix|> on<|fim_middle|>"
    with pytest.raises(InvalidInput, match="has to be text"):
        respond(tokenizer, engine, ask(prompt=[1, 2], suffix=" on"))
