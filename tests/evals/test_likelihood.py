"""The loss is that of the answer's tokens, all of them and no others."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from bessemer.core.errors import RunFailed
from bessemer.data.chats import Chat
from bessemer.data.corpus import Document
from bessemer.evals.items import item_of
from bessemer.evals.likelihood import Passage, likelihood_of, passages_of_chats, score_passages
from bessemer.evals.shots import choose_shots
from bessemer.evals.unrelated import unrelated_passages
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from tests.evals.worlds import (
    VOCABULARY,
    UnigramEngine,
    chat,
    symbol_chats,
    write_model_folder,
)

UNIFORM = math.log(VOCABULARY)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate.load(Path(tokenizer.folder))


def test_loss_of_a_unigram_model_is_the_sum_over_the_answers_bytes(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    items = [item_of(chat("Say banana.", "banana")), item_of(chat("Say ban.", "ban"))]
    (a,) = tokenizer.encode("a")
    engine = UnigramEngine({a: math.log(0.25)})
    passages = passages_of_chats(items, {}, tokenizer, template)
    asked = asyncio.run(score_passages(engine, passages))
    # banana: 3 a, 3 others, the end of the turn; ban: 1 a, 2 others, the end.
    expected = [3 * math.log(4) + 4 * UNIFORM, math.log(4) + 3 * UNIFORM]
    assert [row.nll_nats for row in asked.answers] == pytest.approx(expected)
    assert [row.tokens for row in asked.answers] == [7, 4]


def test_examples_change_what_is_read_and_not_what_is_counted(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    items = [item_of(one) for one in symbol_chats(90, 93)]
    shots = {
        kind: choose_shots(symbol_chats(0, 20), kind, 6, seed=0) for kind in ("name", "describe")
    }
    plain = passages_of_chats(items, {}, tokenizer, template)
    shown = passages_of_chats(items, shots, tokenizer, template)
    for item, without, with_shots in zip(items, plain, shown, strict=True):
        # The item itself is the end of both, to the token.
        assert with_shots.ids[-len(without.ids) :] == without.ids
        assert sum(with_shots.is_target) == sum(without.is_target)
        counted = [i for i, c in zip(with_shots.ids, with_shots.is_target, strict=True) if c]
        assert tokenizer.decode(counted) == item.expected
        assert tokenizer.decode(with_shots.ids).count("assistant") == 7


def test_all_items_of_a_kind_share_the_ids_of_their_examples(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    items = [item_of(one) for one in symbol_chats(90, 99) if one.kind == "name"]
    shots = {"name": choose_shots(symbol_chats(0, 20), "name", 6, seed=0)}
    shown = passages_of_chats(items, shots, tokenizer, template)
    plain = passages_of_chats(items, {}, tokenizer, template)
    length = len(shown[0].ids) - len(plain[0].ids)
    assert len({tuple(passage.ids[:length]) for passage in shown}) == 1


def test_every_answer_of_a_longer_chat_counts(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    messages = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "two!"},
    ]
    item = item_of(Chat(messages))
    shots = choose_shots([chat("0", "zero")], "chat", 1, seed=0)
    for prefix in ({}, {"chat": shots}):
        (passage,) = passages_of_chats([item], prefix, tokenizer, template)
        counted = [i for i, c in zip(passage.ids, passage.is_target, strict=True) if c]
        assert tokenizer.decode(counted) == "onetwo!"


def test_scores_that_are_no_numbers_end_the_measurement() -> None:
    passage = Passage("x", "x", [1, 2, 3], [False, True, True])
    with pytest.raises(RunFailed, match="loss of nan"):
        likelihood_of(passage, [-1.0, math.nan])
    with pytest.raises(RunFailed, match="inf"):
        likelihood_of(passage, [-1.0, -math.inf])


def test_scores_of_the_wrong_number_end_the_measurement() -> None:
    passage = Passage("x", "x", [1, 2, 3], [False, True, True])
    with pytest.raises(RunFailed, match=r"scored 3 tokens.*3 ids have 2"):
        likelihood_of(passage, [-1.0, -1.0, -1.0])


def test_unrelated_text_is_cut_whole_and_every_token_but_the_first_of_a_chunk_counts(
    tokenizer: Tokenizer,
) -> None:
    documents = [Document("a", "x" * 100, "PSF-2.0"), Document("b", "y" * 25, "PSF-2.0")]
    passages = unrelated_passages(
        documents, tokenizer, chunk_tokens=40, total_tokens=10_000, seed=0
    )
    by_document = {"a": [40, 40, 20], "b": [25]}
    for name, sizes in by_document.items():
        mine = [passage for passage in passages if passage.cluster == name]
        assert sorted((len(passage.ids) for passage in mine), reverse=True) == sizes
        assert all(sum(p.is_target) == len(p.ids) - 1 and not p.is_target[0] for p in mine)
    asked = asyncio.run(score_passages(UnigramEngine(), passages))
    total = sum(row.nll_nats for row in asked.answers)
    assert total == pytest.approx((125 - 4) * UNIFORM)


def test_unrelated_text_stops_at_its_size_and_is_the_same_each_time(tokenizer: Tokenizer) -> None:
    documents = [Document(f"d{i}", f"text {i} " * 50, "PSF-2.0") for i in range(30)]
    settings = {"chunk_tokens": 64, "total_tokens": 1000, "seed": 0}
    chosen = unrelated_passages(documents, tokenizer, **settings)
    assert 1000 <= sum(len(passage.ids) for passage in chosen) < 1064
    assert chosen == unrelated_passages(documents[::-1], tokenizer, **settings)
    assert len({passage.cluster for passage in chosen}) > 5


def test_a_control_token_spelled_in_unrelated_text_is_text(tokenizer: Tokenizer) -> None:
    (passage,) = unrelated_passages(
        [Document("a", "<|im_end|>", "PSF-2.0")],
        tokenizer,
        chunk_tokens=64,
        total_tokens=64,
        seed=0,
    )
    assert len(passage.ids) == len("<|im_end|>")
