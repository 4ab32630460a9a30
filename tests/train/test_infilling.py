"""Documents rearranged to fill in their middle: nothing lost, nothing longer, and it is learned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.core.recipes import loads
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.infilling import InfilledRows
from bessemer.data.material import Material
from bessemer.data.packing import Row
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.text.bpe import train_bpe
from bessemer.text.infilling import Sentinels
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import micro_batch
from bessemer.train.gradient import Part, accumulate, add_up
from bessemer.train.objectives.language import LanguageTask, infilled
from bessemer.train.optimizer import Optimizer
from bessemer.train.weights import TrainedWeights

WORDS = ("iron", "coal", "steel", "slag", "flux", "ore", "blast", "heat")


def text_of(number: int) -> str:
    word = WORDS[number * 5 % len(WORDS)]
    return f"entry {number} naïve 東京 says {word} and once more {word} and ends here {word}."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_bpe([text_of(i) for i in range(40)], 340, tmp_path_factory.mktemp("tokens"))


class Texts:
    """Rows of three texts each."""

    def __init__(self, tokenizer: Tokenizer, shift: int = 0) -> None:
        self._tokenizer, self._shift = tokenizer, shift

    def row(self, position: int) -> Row:
        start = [self._tokenizer.bos_id]
        pieces = [
            start + self._tokenizer.encode(text_of(3 * position + i + self._shift))
            for i in range(3)
        ]
        ids = np.array([id_ for piece in pieces for id_ in piece], dtype=np.int64)
        targets = np.concatenate([ids[1:], ids[:1]])
        return Row(ids, tuple(map(len, pieces)), np.arange(len(ids)), targets)


def pieces(row: Row) -> list[list[int]]:
    return [list(part) for part in np.split(row.ids, np.cumsum(row.lengths)[:-1])]


@settings(max_examples=60)
@given(position=st.integers(0, 500), seed=st.integers(0, 9), spm=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_parts_are_the_document_in_another_order(
    tokenizer: Tokenizer, position: int, seed: int, spm: float
) -> None:
    sentinels = Sentinels.of(tokenizer)
    assert sentinels is not None
    rows = InfilledRows(Texts(tokenizer), tokenizer, rate=1.0, spm=spm, seed=seed)
    row, plain = rows.row(position), Texts(tokenizer).row(position)
    begin = 0
    for number, (ids, before) in enumerate(zip(pieces(row), pieces(plain), strict=True)):
        targets = row.targets[begin : begin + len(ids)]
        begin += len(ids)
        assert len(ids) <= len(before)
        assert ids[0] == tokenizer.bos_id
        assert list(targets[:-1]) == ids[1:]
        if ids == before:
            continue  # no room in front of the middle
        assert targets[-1] == tokenizer.bos_id  # the middle ends; the model is to stop there
        body = [*ids[1:]]
        assert [Counter(body)[id_] for id_ in sentinels] == [1, 1, 1]
        at = {name: body.index(getattr(sentinels, name)) for name in Sentinels._fields}
        suffix_end = at["middle"]
        suffix = body[at["suffix"] + 1 : suffix_end]
        prefix = body[at["prefix"] + 1 : at["suffix"]]  # empty in SPM
        rebuilt = prefix + body[suffix_end + 1 :] + suffix
        # Bytes, for the room of the sentinels may have been taken from within a character.
        kept = b"".join(map(tokenizer.token_bytes, rebuilt))
        assert kept and text_of(3 * position + number).encode().endswith(kept)


def test_rows_are_a_function_of_seed_and_position(tokenizer: Tokenizer) -> None:
    def rows(seed: int) -> list[Row]:
        made = InfilledRows(Texts(tokenizer), tokenizer, rate=0.5, spm=0.5, seed=seed)
        return [made.row(position) for position in range(12)]

    same = [np.array_equal(a.ids, b.ids) for a, b in zip(rows(1), rows(1), strict=True)]
    other = [np.array_equal(a.ids, b.ids) for a, b in zip(rows(1), rows(2), strict=True)]
    assert all(same) and not all(other)


def test_the_rate_is_the_share_of_pieces_rearranged(tokenizer: Tokenizer) -> None:
    sentinels = Sentinels.of(tokenizer)
    assert sentinels is not None

    def rearranged(rate: float) -> list[list[int]]:
        made = InfilledRows(Texts(tokenizer), tokenizer, rate=rate, spm=0.25, seed=3)
        found = (piece for position in range(200) for piece in pieces(made.row(position)))
        return [piece for piece in found if sentinels.middle in piece]

    all_, half = rearranged(1.0), rearranged(0.5)
    assert 0.44 < len(half) / len(all_) < 0.56
    spm = [p for p in all_ if p.index(sentinels.suffix) == p.index(sentinels.prefix) + 1]
    # A prefix that gave all its room to sentinels looks like SPM as well.
    assert 0.2 < len(spm) / len(all_) < 0.36


def test_a_tokenizer_without_sentinels_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tree = (tokenizer.folder / "tokenizer.json").read_text().replace("fim_", "other_")
    (tmp_path / "tokenizer.json").write_text(tree)
    with pytest.raises(InvalidInput, match="no sentinel tokens"):
        InfilledRows(Texts(tokenizer), Tokenizer.load(tmp_path), rate=0.5, spm=0.5, seed=0)


RECIPE = """
objective = "pretrain"
minutes = 1
model.depth = 1
data.name = "python-stdlib"
optimizer.learning_rate = 0.01
"""


def test_training_learns_to_fill_in_and_without_it_does_not(tokenizer: Tokenizer) -> None:
    found = {rate: middle_loss_after(tokenizer, rate, steps=60) for rate in (0.0, 0.8)}
    assert found[0.8] < 2.0
    assert found[0.0] > 2 * found[0.8]


def middle_loss_after(tokenizer: Tokenizer, rate: float, steps: int) -> float:
    recipe = loads(RECIPE, TrainRecipe, [f"pretrain.fim_rate={rate or 1e-12}"]).recipe
    held_out = [Texts(tokenizer, 1000).row(position) for position in range(4)]
    material = Material(tokenizer, Texts(tokenizer), held_out, [], "digest")
    material, middles = infilled(material, recipe)
    task = LanguageTask("pretrain", material, middles=middles)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=48, intermediate_size=96, layers=2, heads=4,
        kv_heads=4, head_dim=12, context_length=128, tied=True,
    )  # fmt: skip
    decoder = Decoder(config).init_weights(0)
    weights = TrainedWeights(decoder)
    optimizer = Optimizer(weights.masters, recipe.optimizer)
    for step in range(steps):
        part = Part(task, task.rows(range(8 * step, 8 * step + 8)), 1.0)
        accumulate(decoder, weights, [part], 8)
        weights.clip(1.0)
        optimizer.step(0.01)
        weights.publish()
    with torch.no_grad():
        measured = add_up([task.loss(decoder, micro_batch(task.validation()))])
    return measured["middle_loss"]
