"""A GGUF file that is not whole, or not known, is refused in words and nothing is written."""

from __future__ import annotations

import shutil
import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from gguf import GGMLQuantizationType, GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.folder import load_decoder
from bessemer.models.gguf_import import import_gguf
from tests.models.gguf_files import Source, source_of, tiny_model

F32, F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16


def source() -> Source:
    return source_of(tiny_model("llama"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return source().write(tmp_path_factory.mktemp("whole") / "m.gguf").read_bytes()


@pytest.fixture(scope="module")
def header_bytes(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = tmp_path_factory.mktemp("header") / "m.gguf"
    path.write_bytes(whole)
    return int(GGUFReader(path).data_offset)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for hypothesis, which runs many examples in one test."""
    return tmp_path_factory.mktemp("place")


def refused(path: Path, *errors: type[Exception], match: str) -> None:
    with pytest.raises(errors, match=match):
        import_gguf(path, path.parent / "m")
    assert not (path.parent / "m").exists()


def outcome(data: bytes, place: Path) -> Exception | None:
    """The refusal of these bytes, or None if they were imported to a folder that loads."""
    folder = place / "m"
    shutil.rmtree(folder, ignore_errors=True)
    (place / "m.gguf").write_bytes(data)
    started = time.monotonic()
    try:
        import_gguf(place / "m.gguf", folder)
    except (IntegrityError, InvalidInput) as refusal:
        assert not folder.exists()
        return refusal
    finally:
        assert time.monotonic() - started < 10
    load_decoder(folder)
    tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return None


@pytest.mark.parametrize("start", [b"", b"GG", b"GGML", b"PK\x03\x04", b"gguf"])
def test_other_files_are_refused_by_their_first_bytes(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(start + bytes(100) * bool(start))
    refused(tmp_path / "m.gguf", IntegrityError, match="is not a GGUF file")


def test_file_cut_off_anywhere_is_refused(whole: bytes, header_bytes: int, place: Path) -> None:
    assert outcome(whole, place) is None
    lengths = [*range(0, 200, 7), *range(200, header_bytes, header_bytes // 60)]
    lengths += [header_bytes, header_bytes + 1, *range(header_bytes, len(whole), len(whole) // 30)]
    lengths += [len(whole) - 32]  # the last 31 bytes may be padding
    for length in lengths:
        assert isinstance(outcome(whole[:length], place), IntegrityError), length


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_header_bytes_never_break_the_import(
    whole: bytes, header_bytes: int, place: Path, data: st.DataObject
) -> None:
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header_bytes - 1))
        changed[at] ^= data.draw(st.integers(1, 255))
    outcome(bytes(changed), place)


@pytest.mark.parametrize("key", ["tensor count", "pair count", "array length", "string length"])
@pytest.mark.parametrize("count", [2**32, 2**60, 2**63 - 1, 2**64 - 1])
def test_counts_beyond_the_file_are_refused_at_once(
    key: str, count: int, whole: bytes, place: Path
) -> None:
    array = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    at = {"tensor count": 8, "pair count": 16, "array length": array, "string length": 24}[key]
    changed = whole[:at] + struct.pack("<Q", count) + whole[at + 8 :]
    assert isinstance(outcome(changed, place), IntegrityError)


def test_array_that_would_end_beyond_the_file_is_not_read_as_a_shorter_one(
    whole: bytes, place: Path
) -> None:
    key = b"tokenizer.ggml.token_type"
    at = whole.index(key) + len(key) + 8
    changed = whole[:at] + struct.pack("<Q", 1_000_000) + whole[at + 8 :]
    assert f"it ends at byte {len(whole):,}, before byte" in str(outcome(changed, place))


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    changed = source()
    changed.architecture = "gemma3"
    refused(changed.write(tmp_path / "m.gguf"), InvalidInput, match="'gemma3' is not one of llama")


def test_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    changed = source()
    changed.facts["llama.expert_count"] = 8
    refused(changed.write(tmp_path / "m.gguf"), InvalidInput, match="mixture of experts")


@pytest.mark.parametrize(
    "facts", [{"rope.scaling.type": "yarn"}, {"rope.scaling.type": "linear"},
              {"rope.dimension_count": 4}],
)  # fmt: skip
def test_other_rotary_embeddings_are_refused(facts: dict[str, Any], tmp_path: Path) -> None:
    changed = source()
    changed.facts |= {f"llama.{key}": value for key, value in facts.items()}
    refused(changed.write(tmp_path / "m.gguf"), InvalidInput, match="rotary scaling")


def test_tensor_type_that_is_not_known_here_is_refused_by_its_name(tmp_path: Path) -> None:
    changed = source()
    values = np.zeros(changed.tensors["blk.0.ffn_up.weight"][0].shape, np.float32)
    kind = GGMLQuantizationType.Q5_0
    changed.tensors["blk.0.ffn_up.weight"] = (gguf.quantize(values, kind), kind)
    refused(changed.write(tmp_path / "m.gguf"), InvalidInput, match=r"ffn_up.weight is Q5_0; known")


def test_tensor_type_that_does_not_exist_is_refused_by_its_number(
    whole: bytes, tmp_path: Path
) -> None:
    name = b"blk.0.ffn_up.weight"
    at = whole.index(name) + len(name) + 4 + 2 * 8  # number of dimensions, two dimensions
    (tmp_path / "m.gguf").write_bytes(whole[:at] + struct.pack("<I", 999) + whole[at + 4 :])
    refused(tmp_path / "m.gguf", IntegrityError, match="999")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [F32, F16])
def test_values_that_are_not_finite_are_refused(
    value: float, kind: GGMLQuantizationType, tmp_path: Path
) -> None:
    changed = source()
    values = changed.tensors["blk.1.ffn_down.weight"][0].astype(np.float32)
    values[3, 5] = value
    changed.tensors["blk.1.ffn_down.weight"] = (gguf.quantize(values, kind), kind)
    refused(
        changed.write(tmp_path / "m.gguf"),
        IntegrityError,
        match=r"blk.1.ffn_down.weight holds values that are not finite",
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_no_tensor_may_be_missing(family: str, tmp_path: Path) -> None:
    original = source_of(tiny_model(family))
    for name in original.tensors:
        if name == "output.weight":  # without it the embedding is the head
            continue
        changed = source_of(tiny_model(family))
        del changed.tensors[name]
        refused(changed.write(tmp_path / "m.gguf"), IntegrityError, InvalidInput, match="missing")


@pytest.mark.parametrize("name", ["blk.2.attn_q.weight", "blk.00.attn_q.weight"])
def test_tensor_too_many_is_refused(name: str, tmp_path: Path) -> None:
    changed = source()
    changed.tensors[name] = changed.tensors["blk.0.attn_q.weight"]
    refused(changed.write(tmp_path / "m.gguf"), IntegrityError, match="1 not in the model")


@pytest.mark.parametrize("name", ["blk.0.attn_sinks.weight", "cls.output.weight", "v.patch.weight"])
def test_tensor_without_a_place_is_refused(name: str, tmp_path: Path) -> None:
    changed = source()
    changed.tensors[name] = changed.tensors["output_norm.weight"]
    refused(changed.write(tmp_path / "m.gguf"), InvalidInput, match="has no place")


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "token_embd.weight", "output_norm.weight"])
def test_tensor_of_another_shape_is_refused(name: str, tmp_path: Path) -> None:
    changed = source()
    changed.tensors[name] = (np.ones((16, 16), np.float32), F32)
    refused(changed.write(tmp_path / "m.gguf"), IntegrityError, match=r"shape \[16, 16\]; the head")


def test_rotary_factors_of_another_length_are_refused(tmp_path: Path) -> None:
    changed = source()
    changed.tensors["rope_freqs.weight"] = (np.ones(7, np.float32), F32)
    refused(changed.write(tmp_path / "m.gguf"), IntegrityError, match="rope_freqs.weight")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("block_count", 0, "llama.block_count = 0"),
        ("block_count", 2**31, "layers must be from 1 to"),
        ("block_count", 2**20, "1,048,576 layers; the file has"),
        ("attention.head_count", 0, "head_count = 0"),
        ("attention.head_count", 3, "3 heads cannot share 2"),
        ("attention.head_count", [4, 4], "head_count is a list"),
        ("attention.head_count_kv", 3, "4 heads cannot share 3"),
        ("attention.key_length", 2**30, "head_dim must be from 1 to"),
        ("embedding_length", 2**31, "hidden_size must be from 1 to"),
        ("feed_forward_length", "many", "feed_forward_length is a str"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "norm_eps must be a finite"),
        ("rope.freq_base", 0.0, "rope_theta must be a finite number above 0"),
    ],
)
def test_header_values_that_cannot_be_are_refused(
    key: str, value: Any, words: str, tmp_path: Path
) -> None:
    changed = source()
    changed.facts[f"llama.{key}"] = value
    refused(changed.write(tmp_path / "m.gguf"), IntegrityError, InvalidInput, match=words)


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "context_length"])
def test_missing_header_value_is_named(key: str, tmp_path: Path) -> None:
    changed = source()
    del changed.facts[f"llama.{key}"]
    refused(changed.write(tmp_path / "m.gguf"), IntegrityError, match=f"no 'llama.{key}'")
