"""Pushing ids one by one gives the text of decoding them all, and never half a character."""

import time
from pathlib import Path

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from bessemer.text.detokenizer import Detokenizer
from bessemer.text.tokenizer import Tokenizer


def pieces_of(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
    return [*(detokenizer.push(id_) for id_ in ids), detokenizer.flush()]


def test_pieces_join_to_the_full_decode_for_any_ids(tokenizer: Tokenizer) -> None:
    @given(st.lists(st.integers(0, tokenizer.vocab_size + 3)), st.booleans())
    def check(ids: list[int], skip: bool) -> None:
        pieces = pieces_of(tokenizer, ids, skip_special=skip)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip)

    check()


def test_pieces_join_to_the_full_decode_for_any_bytes(tokenizer: Tokenizer) -> None:
    id_of = {tokenizer.token_bytes(id_): id_ for id_ in range(4, 260)}

    @given(st.binary(max_size=40))
    def check(data: bytes) -> None:
        ids = [id_of[bytes([byte])] for byte in data]
        assert "".join(pieces_of(tokenizer, ids)) == data.decode(errors="replace")

    check()


def test_valid_text_is_never_shown_broken(tokenizer: Tokenizer) -> None:
    @given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])))
    def check(text: str) -> None:
        pieces = pieces_of(tokenizer, tokenizer.encode(text, parse_special=False))
        assert not any("\ufffd" in piece for piece in pieces)
        assert pieces[-1] == ""

    check()


def test_a_character_comes_with_its_last_byte(tokenizer: Tokenizer) -> None:
    id_of = {tokenizer.token_bytes(id_): id_ for id_ in range(4, 260)}
    ids = [id_of[bytes([byte])] for byte in "é🦊".encode()]
    assert pieces_of(tokenizer, ids) == ["", "é", "", "", "", "🦊", ""]
    assert pieces_of(tokenizer, ids[:-1]) == ["", "é", "", "", "", "\ufffd"]


def test_a_long_answer_costs_no_more_per_token(tokenizer: Tokenizer) -> None:
    def seconds(count: int) -> float:
        ids = tokenizer.encode("hello 東京 ") * count
        start = time.process_time()
        pieces_of(tokenizer, ids)
        return time.process_time() - start

    # Work that grows with the square would be 20 times over.
    assert min(seconds(20_000) for _ in range(3)) < 3 * 20 * min(seconds(1_000) for _ in range(3))


def test_sentencepiece_loses_only_the_first_space(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, **{f"<0x{b:02X}>": b + 4 for b in range(256)}}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(),
            decoders.Fuse(), decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    for text in ("a a", " a", "", "a🦊 a", "\n"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text == backend.decode(ids)
        assert "".join(pieces_of(tokenizer, ids)) == text
    assert tokenizer.encode_continuation("a") == [2]
    assert tokenizer.encode("a") == [3]
