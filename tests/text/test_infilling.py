"""Prefix, suffix and middle in the order that models are trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bessemer.core.errors import InvalidInput
from bessemer.text.bpe import train_bpe
from bessemer.text.infilling import NAMES, Parts, Sentinels, arrange, infill_prompt
from bessemer.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_bpe(["def add(a, b):\n    return a + b\n"] * 3, 300, tmp_path_factory.mktemp("t"))


def test_both_orders_are_those_of_the_paper() -> None:
    parts, sentinels = Parts([1, 2], [3], [4, 5]), Sentinels(prefix=90, suffix=91, middle=92)
    assert arrange(parts, sentinels, "psm") == ([90, 1, 2, 91, 4, 5, 92, 3], 7)
    assert arrange(parts, sentinels, "spm") == ([90, 91, 4, 5, 92, 1, 2, 3], 7)


def test_a_prompt_ends_where_the_middle_begins(tokenizer: Tokenizer) -> None:
    ids = infill_prompt(tokenizer, "def add(a, b):\n    return ", "\n")
    shown = tokenizer.decode(ids, skip_special=False)
    assert shown == ("<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n<|fim_middle|>")


def test_sentinels_that_somebody_wrote_are_text(tokenizer: Tokenizer) -> None:
    sentinels = Sentinels.of(tokenizer)
    assert sentinels is not None
    ids = infill_prompt(tokenizer, "<|fim_middle|>", "<|fim_prefix|>")
    assert [ids.count(id_) for id_ in sentinels] == [1, 1, 1]


@pytest.mark.parametrize("names", NAMES)
def test_the_sentinels_of_published_models_are_known(
    tokenizer: Tokenizer, names: tuple[str, str, str], tmp_path: Path
) -> None:
    tree = json.loads((tokenizer.folder / "tokenizer.json").read_text())
    for token in tree["added_tokens"]:
        for ours, theirs in zip(NAMES[0], names, strict=True):
            if token["content"] == ours:
                tree["model"]["vocab"][theirs] = tree["model"]["vocab"].pop(ours)
                token["content"] = theirs
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    found = Tokenizer.load(tmp_path)
    assert Sentinels.of(found) == tuple(found.control_id(name) for name in names)


def test_a_tokenizer_without_sentinels_says_what_is_missing(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tree = json.loads((tokenizer.folder / "tokenizer.json").read_text())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if "fim" not in t["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    plain = Tokenizer.load(tmp_path)
    assert Sentinels.of(plain) is None
    with pytest.raises(InvalidInput, match="cannot fill in the middle") as caught:
        infill_prompt(plain, "a", "b")
    assert caught.value.param == "suffix"
