"""Folders in 8 and 4 bits: what they stand for, who opens them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.attention import PackedAttention
from bessemer.models.codes import CodedLinear, Int4Matrix, Int8Matrix
from bessemer.models.config import ModelConfig, MoeConfig, read_tree
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, read_tensors, save_decoder, write_tensors
from bessemer.models.quantizing import load_coded, quantize_folder
from bessemer.models.scheme import Kind, kind_of
from bessemer.models.smoothing import smooth

SHAPE = {
    "vocab_size": 80, "hidden_size": 64, "intermediate_size": 96, "layers": 2, "heads": 4,
    "kv_heads": 2, "head_dim": 16, "context_length": 64, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES = {
    "llama": ModelConfig(**SHAPE, tied=True),
    "qwen2": ModelConfig(**SHAPE, family="qwen2", qkv_bias=True),
    "qwen3": ModelConfig(**SHAPE, family="qwen3", qk_norm=True),
    "biased": ModelConfig(**SHAPE, mlp_bias=True, qkv_bias=True, output_bias=True),
}
IDS = torch.arange(40) * 7 % 80


def random_decoder(config: ModelConfig) -> Decoder:
    decoder = Decoder(config).init_weights(seed=5)
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return decoder


def logits(decoder: Decoder) -> torch.Tensor:
    with torch.no_grad():
        hidden = decoder(IDS, torch.arange(40), PackedAttention([40]))
        return decoder.logits(hidden).double()


@pytest.fixture(params=FAMILIES)
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_decoder(random_decoder(FAMILIES[request.param]), tmp_path / "plain")
    return tmp_path / "plain"


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.06), ("int4", 0.5)])
def test_a_quantized_folder_computes_nearly_the_same(
    plain: Path, tmp_path: Path, kind: Kind, bound: float
) -> None:
    quantize_folder(plain, tmp_path / kind, kind)
    before, after = logits(load_decoder(plain)), logits(load_decoder(tmp_path / kind))
    error = float((before - after).norm() / before.norm())
    assert 0 < error < bound


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_codes_stand_for_the_numbers_that_every_other_reader_gets(
    plain: Path, tmp_path: Path, kind: Kind
) -> None:
    quantize_folder(plain, tmp_path / kind, kind)
    coded = load_coded(tmp_path / kind, torch.float32)
    assert sum(isinstance(part, CodedLinear) for part in coded.modules()) == 2 * 7
    assert torch.equal(logits(coded), logits(load_decoder(tmp_path / kind)))


def test_transformers_opens_int8_and_computes_the_same(plain: Path, tmp_path: Path) -> None:
    """Through compressed-tensors, without rounding of activations: numbers equal numbers."""
    quantize_folder(plain, tmp_path / "int8", "int8")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "int8",
        dtype=torch.float32,
        quantization_config=transformers.CompressedTensorsConfig(run_compressed=False),
    )
    own = dict(load_decoder(tmp_path / "int8").named_parameters())
    for name, parameter in theirs.named_parameters():
        if name in own:
            torch.testing.assert_close(parameter.float(), own[name], rtol=1e-2, atol=1e-6)
    with torch.no_grad():
        expected = theirs(IDS[None]).logits[0].double()
    error = (expected - logits(load_decoder(tmp_path / "int8"))).norm() / expected.norm()
    assert float(error) < 0.02


def test_smoothing_changes_no_bit_of_the_function_but_the_weights_of_it() -> None:
    decoder = random_decoder(FAMILIES["biased"]).double()
    before = logits(decoder)
    weights = decoder.model.layers[0].mlp.down_proj.weight.clone()  # type: ignore[union-attr]
    smooth(decoder)
    assert not torch.equal(weights, decoder.model.layers[0].mlp.down_proj.weight)  # type: ignore[union-attr]
    torch.testing.assert_close(logits(decoder), before, rtol=1e-5, atol=1e-6)


def test_smoothing_lets_large_inputs_be_rounded_with_the_rest() -> None:
    """One input of `down_proj` a hundred times the rest: its neighbors keep their steps."""
    decoder = random_decoder(FAMILIES["llama"])
    mlp = decoder.model.layers[0].mlp
    with torch.no_grad():
        mlp.up_proj.weight[3] *= 100  # type: ignore[union-attr, index, operator]
        mlp.down_proj.weight[:, 3] /= 100  # type: ignore[union-attr, index, operator]

    def spread() -> float:
        sizes: list[torch.Tensor] = []
        hook = mlp.down_proj.register_forward_pre_hook(  # type: ignore[union-attr, operator]
            lambda _layer, inputs: sizes.append(inputs[0].abs().amax(0))
        )
        logits(decoder)
        hook.remove()  # type: ignore[union-attr]
        return float(sizes[0].max() / sizes[0].median())

    before = spread()
    smooth(decoder)
    assert spread() < before / 5


@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 3.0, -50.0]),
)
def test_no_number_is_further_from_its_code_than_half_a_step(
    seed: int, scale: float, offset: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(4, 64, generator=generator) + offset) * scale
    eight = Int8Matrix.of(weight)
    # Scales are bfloat16, 1 part in 256 off at the most: at code 127 that is half a step more.
    assert ((eight.whole(torch.float32) - weight).abs() <= 1.01 * eight.scales.float()).all()
    four = Int4Matrix.of(weight)
    steps = four.scales.float().repeat_interleave(32, 1)
    zeros = four.zeros.float().abs().repeat_interleave(32, 1)
    assert ((four.whole(torch.float32) - weight).abs() <= 0.55 * steps + zeros / 256).all()


def test_a_matrix_that_was_on_a_grid_of_sixteen_steps_keeps_its_codes() -> None:
    """Like a model that came from a Q4_1 file: steps and least number in few bits."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (8, 3, 32), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    steps = torch.tensor([0.5, 0.25, 2.0])[None, :, None]
    matrix = Int4Matrix.of((codes * steps - 4.0).view(8, 96))
    assert torch.equal(matrix.codes().view(8, 3, 32), codes.to(torch.uint8))
    assert torch.equal(matrix.whole(torch.float32).view(8, 3, 32), codes * steps - 4.0)


def test_quantizing_twice_is_refused(plain: Path, tmp_path: Path) -> None:
    quantize_folder(plain, tmp_path / "int8", "int8")
    with pytest.raises(InvalidInput, match="int8 already"):
        quantize_folder(tmp_path / "int8", tmp_path / "again", "int4")
    assert not (tmp_path / "again").exists()


def test_layers_without_such_products_are_refused_by_name(tmp_path: Path) -> None:
    moe = MoeConfig(experts=4, top_k=2, size=48)
    save_decoder(random_decoder(ModelConfig(**SHAPE, family="mixtral", moe=moe)), tmp_path / "moe")
    with pytest.raises(InvalidInput, match="mixtral has experts"):
        quantize_folder(tmp_path / "moe", tmp_path / "int8", "int8")
    odd = ModelConfig(**SHAPE | {"intermediate_size": 90})
    save_decoder(random_decoder(odd), tmp_path / "odd")
    with pytest.raises(InvalidInput, match=r"rows of 90.*use int8|rows of 90"):
        quantize_folder(tmp_path / "odd", tmp_path / "int4", "int4")


def test_another_format_is_refused_and_a_damaged_folder_named(plain: Path, tmp_path: Path) -> None:
    quantize_folder(plain, tmp_path / "int4", "int4")
    weights = dict(read_tensors(tmp_path / "int4"))
    name = next(name for name in weights if name.endswith("weight_zero"))
    kept = {key: tensor.clone() for key, tensor in weights.items() if key != name}
    write_tensors(kept, tmp_path / "int4")
    with pytest.raises(IntegrityError, match="1 missing"):
        load_decoder(tmp_path / "int4")
    tree = read_tree(tmp_path / "int4")
    assert kind_of(tree) == "int4"
    tree["quantization_config"]["group_size"] = 64
    (tmp_path / "int4" / "config.json").write_text(json.dumps(tree))
    with pytest.raises(InvalidInput, match="weights quantized inside"):
        load_decoder(tmp_path / "int4")
