"""Folders of weights: what is written is read again, and what does not fit is refused in words."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bessemer.core.errors import IntegrityError, InvalidInput, UnsafeWeights
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import (
    COMPANIONS,
    INDEX,
    SINGLE,
    load_decoder,
    read_tensors,
    save_decoder,
)

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=4,
    context_length=128,
    tied=True,
    eos_token_id=[2, 5],
)
SHARD_BYTES = 3_000


def decoder(seed: int = 0, config: ModelConfig = CONFIG) -> Decoder:
    return Decoder(config).init_weights(seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_decoder(decoder(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_decoder(decoder(), tmp_path / "model", max_shard_bytes=SHARD_BYTES)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 2
    return tmp_path / "model"


def same_weights(first: Decoder, second: Decoder) -> bool:
    theirs = second.state_dict()
    mine = first.state_dict()
    return set(mine) == set(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / SINGLE).items()}
    change(weights)
    save_file(weights, folder / SINGLE)


# Written and read again


@pytest.mark.parametrize("max_shard_bytes", [1, SHARD_BYTES, 10_000_000])
def test_weights_come_back_whatever_the_shards(max_shard_bytes: int, tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path, max_shard_bytes=max_shard_bytes)
    assert same_weights(load_decoder(tmp_path), decoder())


def test_index_names_every_tensor_once_and_their_total_size(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    expected = decoder().state_dict()
    assert set(index["weight_map"]) == set(expected)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    for name, shard in index["weight_map"].items():
        assert name in load_file(sharded / shard)


def test_bfloat16_comes_back_bit_by_bit_and_is_stated(tmp_path: Path) -> None:
    original = decoder().to(torch.bfloat16)
    save_decoder(original, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert all(t.dtype == torch.bfloat16 for _, t in read_tensors(tmp_path))
    assert same_weights(load_decoder(tmp_path, torch.bfloat16), original)
    assert same_weights(load_decoder(tmp_path, torch.float32), original.float())


def test_config_comes_back(folder: Path) -> None:
    assert load_decoder(folder).config == CONFIG


def test_companions_are_copied_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    for name in COMPANIONS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"this is {name}")
    (folder / "optimizer.pt").write_text("no part of the model")
    save_decoder(decoder(), tmp_path / "other", like=folder)
    other = tmp_path / "other"
    found = {path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file()}
    assert found == {*COMPANIONS, "config.json", SINGLE}
    assert all((tmp_path / "other" / n).read_text() == f"this is {n}" for n in COMPANIONS)


def test_folder_may_be_saved_over_itself_while_its_weights_are_mapped(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    loaded = load_decoder(folder)
    with torch.no_grad():
        loaded.model.norm.weight.copy_(torch.full((16,), 3.0))
    save_decoder(loaded, folder, like=folder)
    assert torch.equal(load_decoder(folder).model.norm.weight, torch.full((16,), 3.0))
    assert same_weights(load_decoder(folder), loaded)
    assert {path.name for path in folder.iterdir()} == {SINGLE, "config.json", "tokenizer.json"}


def test_loaded_weights_stay_what_they_were_when_their_file_is_replaced(folder: Path) -> None:
    loaded = load_decoder(folder)
    save_decoder(decoder(1), folder)
    assert same_weights(loaded, decoder(0))


@pytest.mark.parametrize("first", [1, SHARD_BYTES, 10_000_000])
@pytest.mark.parametrize("second", [1, SHARD_BYTES, 10_000_000])
def test_second_save_leaves_nothing_of_the_first(first: int, second: int, tmp_path: Path) -> None:
    save_decoder(decoder(1), tmp_path / "twice", max_shard_bytes=first)
    save_decoder(decoder(2), tmp_path / "twice", max_shard_bytes=second)
    save_decoder(decoder(2), tmp_path / "once", max_shard_bytes=second)
    assert same_weights(load_decoder(tmp_path / "twice"), decoder(2))
    assert {p.name for p in (tmp_path / "twice").iterdir()} == {
        p.name for p in (tmp_path / "once").iterdir()
    }


@pytest.mark.parametrize(
    "extra", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]
)
def test_what_older_exports_carry_twice_is_ignored(extra: str, folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({extra: torch.full((64, 16), 9.0)}))
    loaded = load_decoder(folder)
    assert same_weights(loaded, decoder())
    assert loaded.head_weight is loaded.model.embed_tokens.weight


# Tensors that do not fit


def test_missing_tensors_are_counted_and_named(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(IntegrityError, match=r"1 missing \(model.layers.1.mlp.up_proj.weight\)"):
        load_decoder(folder)


def test_surplus_tensors_are_counted_and_named(folder: Path) -> None:
    extra = {f"model.layers.{i}.mlp.up_proj.weight": torch.ones(2) for i in range(2, 7)}
    rewrite(folder, lambda weights: weights.update(extra))
    with pytest.raises(IntegrityError, match=r"5 not in the model \(model.layers.2.*, \.\.\.\)"):
        load_decoder(folder)


def test_untied_model_needs_its_head(tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match=r"1 missing \(lm_head.weight\)"):
        load_decoder(tmp_path)


def test_tensor_of_another_shape_is_refused_with_both_shapes(folder: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    rewrite(folder, lambda weights: weights.update({name: torch.ones(16, 16)}))
    with pytest.raises(IntegrityError, match=r"\[16, 16\]; config.json says \[8, 16\]"):
        load_decoder(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_types_that_mean_nothing_without_scales_are_refused(
    dtype: torch.dtype, folder: Path
) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    rewrite(folder, lambda weights: weights.update({name: torch.ones(8, 16).to(dtype)}))
    with pytest.raises(InvalidInput, match=r"k_proj.weight holds .*; known are F64"):
        load_decoder(folder)


# Files that are not what they say


@pytest.mark.parametrize(
    "length", [0, 1, 7, 8, 9, 100, 2**20, 2**32, 2**63 - 1, 2**63, 2**64 - 1], ids=str
)
def test_header_length_that_lies_is_refused(length: int, folder: Path) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(struct.pack("<Q", length) + data[8:])
    with pytest.raises(UnsafeWeights, match="not a whole safetensors file"):
        load_decoder(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model.norm.weight": 5}',
        b'{"model.norm.weight": {"dtype": "F32", "shape": [16], "data_offsets": [0, 999999]}}',
        b'{"model.norm.weight": {"dtype": "F32", "shape": [16], "data_offsets": [64, 0]}}',
        b'{"model.norm.weight": {"dtype": "F99", "shape": [16], "data_offsets": [0, 64]}}',
        b"\xff\xfe",
    ],
)
def test_header_that_is_no_list_of_tensors_is_refused(header: bytes, folder: Path) -> None:
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(UnsafeWeights, match="not a whole safetensors file"):
        load_decoder(folder)


def test_file_cut_off_anywhere_is_refused(folder: Path) -> None:
    data = (folder / SINGLE).read_bytes()
    for length in [*range(0, len(data), 211), len(data) - 1]:
        (folder / SINGLE).write_bytes(data[:length])
        with pytest.raises(UnsafeWeights, match=f"{length:,} bytes"):
            load_decoder(folder)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", SINGLE]
)
def test_pickle_is_refused_and_never_opened(name: str, folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # the trap works
    mark.unlink()
    (folder / SINGLE).unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UnsafeWeights, match=r"pickled weights|not a whole safetensors"):
        load_decoder(folder)
    assert not mark.exists()


def test_pickle_beside_safetensors_is_not_touched(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    assert same_weights(load_decoder(folder), decoder())
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "form",
    [
        *("../x.safetensors", "{folder}/../x.safetensors", "sub/x.safetensors"),
        *("..", "", "x.bin", 5, None, ["x.safetensors"]),
    ],
)
def test_index_names_only_shards_of_its_own_folder(form: Any, sharded: Path) -> None:
    outside = sharded.parent / "x.safetensors"
    save_file(decoder().state_dict(), outside)
    shard = form.format(folder=sharded) if isinstance(form, str) else form
    index = {"weight_map": dict.fromkeys(decoder().state_dict(), shard)}
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match=r"not a shard of this folder|not an index of shards"):
        load_decoder(sharded)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", "{}", '{"weight_map": 3}', '{"weight_map": ["a"]}',
             '{"weight_map": {"a": 1, "b": "c"}}', "\x00"],
)  # fmt: skip
def test_index_that_is_no_index_is_refused(text: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(IntegrityError, match="is not an index of shards"):
        load_decoder(sharded)


def test_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(IntegrityError, match=f"shard {shard.name} is missing"):
        load_decoder(sharded)


def test_folder_without_weights_says_so(folder: Path) -> None:
    (folder / SINGLE).unlink()
    with pytest.raises(IntegrityError, match=r"neither model.safetensors nor"):
        load_decoder(folder)


def test_folder_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"no config\.json"):
        load_decoder(tmp_path)
