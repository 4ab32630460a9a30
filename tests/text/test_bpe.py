"""Training a vocabulary: repeatable, complete, and readable by `transformers`."""

from pathlib import Path

import pytest

from bessemer.core.errors import InvalidInput
from bessemer.text.bpe import train_bpe
from tests.text.model_folder import CORPUS, varied_strings


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    texts = varied_strings(300, seed=3)
    train_bpe(iter(texts), 600, tmp_path / "a")
    train_bpe(iter(texts), 600, tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_text_is_unknown(tmp_path: Path) -> None:
    tokenizer = train_bpe(CORPUS, 300, tmp_path)
    for text in varied_strings(200, seed=4):
        assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == text
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode("2026")) == 4
    assert len(tokenizer.encode("quick brown fox")) < 15, "it learned no merges"


def test_documents_end_with_the_one_control_token(tmp_path: Path) -> None:
    tokenizer = train_bpe(CORPUS, 300, tmp_path)
    end = tokenizer.encode("<|endoftext|>")
    assert end == [0]
    assert tokenizer.eos_ids == {0}
    assert tokenizer.bos_id == 0


def test_transformers_reads_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_bpe(CORPUS, 400, tmp_path)
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in varied_strings(200, seed=5):
        assert tokenizer.encode(text) == oracle(text)["input_ids"]
    assert oracle.eos_token_id == 0


def test_fewer_tokens_than_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="256 is too small"):
        train_bpe(CORPUS, 256, tmp_path)
