"""Ids and texts are those of `transformers`; bad folders and bad text are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.text.tokenizer import Tokenizer
from tests.text.model_folder import CONTROL, varied_strings, write_model_folder


@pytest.fixture(scope="module")
def oracle(model_folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(model_folder)


def test_ids_equal_transformers_on_2000_varied_strings(tokenizer: Tokenizer, oracle: Any) -> None:
    texts = varied_strings(2000, seed=1)
    assert sum(any(token in text for token in CONTROL) for text in texts) > 200
    for text in texts:
        ids = tokenizer.encode(text)
        assert ids == oracle(text, add_special_tokens=False)["input_ids"], text
        literal = oracle(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.encode(text, parse_special=False) == literal, text
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_decoding_any_ids_equals_transformers(tokenizer: Tokenizer, oracle: Any) -> None:
    @given(st.lists(st.integers(0, tokenizer.vocab_size + 5), max_size=30), st.booleans())
    def check(ids: list[int], skip: bool) -> None:
        assert tokenizer.decode(ids, skip_special=skip) == oracle.decode(
            ids, skip_special_tokens=skip
        )

    check()


def test_any_text_comes_back_unchanged(tokenizer: Tokenizer) -> None:
    @given(st.text())
    def check(text: str) -> None:
        ids = tokenizer.encode(text, parse_special=False)
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()

    check()


def test_a_written_control_token_is_text_unless_asked_otherwise(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_end|>") == [2]
    literal = tokenizer.encode("<|im_end|>", parse_special=False)
    assert 2 not in literal
    assert tokenizer.decode(literal) == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>") == [2], "the switch must not stay on"


def test_control_tokens_are_hidden_only_when_skipped(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|im_end|>b")
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special=False) == "a<|im_end|>b"
    assert tokenizer.is_special(2)
    assert tokenizer.token_text(2) == "<|im_end|>"


def test_names_come_from_both_configs(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, frozenset({2}))
    assert tokenizer.special_texts == ("<|endoftext|>", "<|im_start|>", "<filename>", "<|im_end|>")
    folder = write_model_folder(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 3]}))
    assert Tokenizer.load(folder).eos_ids == {0, 2, 3}


def test_a_bos_token_is_no_order_to_write_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.prefix_ids == []
    folder = write_model_folder(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["add_bos_token"] = True
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(folder)
    assert loaded.prefix_ids == [1]
    assert loaded.encode("a") == tokenizer.encode("a")


def test_somebodys_truncation_is_not_applied(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    file = json.loads((folder / "tokenizer.json").read_text())
    file["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(file))
    assert len(Tokenizer.load(folder).encode("one two three four five")) > 2


def test_half_a_surrogate_pair_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match=r"U\+D83D\) at character 3"):
        tokenizer.encode("abc\ud83d")


def test_a_folder_without_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_cut_short_says_so(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    data = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidInput, match="is not a tokenizer"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("value", ["two", [1, "2"], True, -1])
def test_an_eos_id_that_is_no_id_is_refused(tmp_path: Path, value: object) -> None:
    folder = write_model_folder(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(InvalidInput, match="eos_token_id"):
        Tokenizer.load(folder)


def test_a_decoder_of_another_family_is_refused(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    file = json.loads((folder / "tokenizer.json").read_text())
    file["decoder"] = {"type": "BPEDecoder", "suffix": "</w>"}
    (folder / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(InvalidInput, match="BPEDecoder"):
        Tokenizer.load(folder)
