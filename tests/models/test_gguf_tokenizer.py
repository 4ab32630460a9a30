"""The tokenizer in an imported folder gives the ids of the one the GGUF file was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.gguf_import import import_gguf
from tests.models.gguf_files import (
    CONTROLS,
    SAMPLES,
    TEMPLATE,
    USER_DEFINED,
    Source,
    source_of,
    tiny_model,
    tiny_tokenizer,
)

PRE_TOKENIZERS = ["smollm", "llama-bpe", "qwen2", "default"]
FAMILY = {"qwen2": "qwen2"}


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def pre(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(pre: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(source(pre), tmp_path_factory.mktemp(pre))


@pytest.fixture(scope="module")
def opened(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Tokenizer:
    """The file alone: transformers adds what it knows of a family to its own."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def source(pre: str) -> Source:
    return source_of(tiny_model(FAMILY.get(pre, "llama")), pre=pre)


def imported(source: Source, folder: Path) -> Path:
    import_gguf(source.write(folder / "m.gguf"), folder / "m")
    return folder / "m"


def ids_of(opened: Any, text: str) -> list[int]:
    ids: list[int] = opened(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("text", SAMPLES)
def test_ids_are_those_of_the_original(opened: Any, plain: Tokenizer, pre: str, text: str) -> None:
    expected = tiny_tokenizer(pre).encode(text, add_special_tokens=False).ids
    assert ids_of(opened, text) == expected
    assert plain.encode(text, add_special_tokens=False).ids == expected


PIECES = st.one_of(
    st.sampled_from([*"0123456789'sltrevmd \r\n\t$.", "e\u0301", "é", *CONTROLS, USER_DEFINED]),
    st.characters(exclude_categories=["Cs"]),
)


@given(text=st.lists(PIECES).map("".join))
@settings(max_examples=150, deadline=None)
def test_ids_of_any_text_are_those_of_the_original(
    opened: Any, plain: Tokenizer, pre: str, text: str
) -> None:
    expected = tiny_tokenizer(pre).encode(text, add_special_tokens=False).ids
    assert ids_of(opened, text) == expected
    assert plain.encode(text, add_special_tokens=False).ids == expected


def test_samples_tell_the_pre_tokenizers_apart() -> None:
    def pieces(pre: str) -> list[Any]:
        return [tiny_tokenizer(pre).pre_tokenizer.pre_tokenize_str(text) for text in SAMPLES]

    found = [pieces(pre) for pre in PRE_TOKENIZERS]
    assert all(found[i] != found[j] for i in range(4) for j in range(i))


def test_text_comes_back(opened: Any) -> None:
    for text in SAMPLES[:2] + SAMPLES[3:]:  # the third is not NFC
        assert opened.decode(ids_of(opened, text)) == text


def test_special_tokens_have_their_roles(opened: Any) -> None:
    assert (opened.bos_token, opened.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (opened.bos_token_id, opened.eos_token_id, opened.pad_token_id) == (1, 2, 2)


def test_user_defined_tokens_are_whole_but_not_hidden(opened: Any) -> None:
    ids = ids_of(opened, f"a<|im_end|>{USER_DEFINED}")
    assert len(ids) == 3
    assert opened.decode(ids, skip_special_tokens=True) == f"a{USER_DEFINED}"


def test_chat_template_is_kept(opened: Any) -> None:
    assert opened.chat_template == TEMPLATE
    chat = opened.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n"


def test_llama_3_takes_a_whole_piece_that_is_a_token_whatever_the_merges(tmp_path: Path) -> None:
    changed = source("llama-bpe")
    last_merged = len(changed.facts["tokenizer.ggml.tokens"]) - 2  # <tool_call> comes after it
    changed.facts["tokenizer.ggml.tokens"][last_merged] = "zyxwv"
    changed.facts["tokenizer.ggml.merges"].pop()
    opened = AutoTokenizer.from_pretrained(imported(changed, tmp_path))
    assert ids_of(opened, "zyxwv") == [last_merged]


@pytest.mark.parametrize(
    ("pre", "stated", "adds"),
    [("smollm", None, False), ("llama-bpe", None, True), ("llama-bpe", False, False),
     ("smollm", True, True)],
)  # fmt: skip
def test_bos_is_added_where_the_file_or_its_kind_of_tokenizer_says_so(
    pre: str, stated: bool | None, adds: bool, tmp_path: Path
) -> None:
    changed = source(pre)
    del changed.facts["tokenizer.ggml.add_bos_token"]
    if stated is not None:
        changed.facts["tokenizer.ggml.add_bos_token"] = stated
    folder = imported(changed, tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["add_bos_token"] is adds
    opened = AutoTokenizer.from_pretrained(folder)
    assert opened("hello")["input_ids"] == [1] * adds + ids_of(opened, "hello")


def test_file_without_a_template_gives_a_folder_without_one(tmp_path: Path) -> None:
    changed = source("smollm")
    del changed.facts["tokenizer.chat_template"]
    folder = imported(changed, tmp_path)
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("model", "llama", InvalidInput, "only byte-level BPE"),
        ("pre", "deepseek-v9", InvalidInput, "deepseek-v9"),
        ("merges", ["no such", "pair x"], IntegrityError, "merges do not fit"),
        ("merges", ["withoutspace"], IntegrityError, "merges do not fit"),
        ("token_type", [1, 1, 1], IntegrityError, "3 types"),
        ("bos_token_id", 100_000, IntegrityError, "100000"),
        ("tokens", 7, IntegrityError, "tokenizer.ggml.tokens is a int"),
    ],
)
def test_tokenizer_that_is_not_known_or_contradicts_itself_is_refused(
    key: str, value: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    changed = source("smollm")
    changed.facts[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(error, match=words):
        imported(changed, tmp_path)
    assert not (tmp_path / "m").exists()


def test_same_token_twice_is_refused(tmp_path: Path) -> None:
    changed = source("smollm")
    changed.facts["tokenizer.ggml.tokens"][10] = changed.facts["tokenizer.ggml.tokens"][11]
    with pytest.raises(IntegrityError, match="different"):
        imported(changed, tmp_path)
