"""What a GGUF file meant is what the imported folder computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bessemer.core.errors import InvalidInput
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.config import Llama3Scaling
from bessemer.models.folder import load_decoder
from bessemer.models.gguf_import import import_gguf
from tests.models.gguf_blocks import BLOCKS, decode
from tests.models.gguf_files import gguf_name, source_of, tiny_model


def logits_of_folder(folder: Path, ids_T: torch.Tensor) -> torch.Tensor:
    decoder = load_decoder(folder, torch.float64)
    with torch.no_grad():
        attend = PackedAttention([len(ids_T)])
        return decoder.logits(decoder(ids_T, positions([len(ids_T)]), attend))


def logits_of_transformers(model: Any, ids_T: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.double()(ids_T[None]).logits[0]
    return found


def some_ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 300, (40,), generator=generator)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {}),
        ("llama", {"tied": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {"tied": True}),
        ("qwen3", {}),
    ],
)
def test_f32_file_computes_what_its_model_computed(
    family: str, more: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(family, **more)
    config = import_gguf(source_of(model).write(tmp_path / "m.gguf"), tmp_path / "m")
    assert config.family == family
    expected = logits_of_transformers(model, some_ids())
    found = logits_of_folder(tmp_path / "m", some_ids())
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float64)
    torch.testing.assert_close(logits_of_transformers(opened, some_ids()), expected)


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_tensor_type_holds_the_values_its_description_gives(
    kind: str, tmp_path: Path
) -> None:
    source = source_of(tiny_model("qwen2", tied=True, wide=True), kind)  # qwen2: rows as they are
    import_gguf(source.write(tmp_path / "m.gguf"), tmp_path / "m")
    matrices = 0
    for name, tensor in load_file(tmp_path / "m" / "model.safetensors").items():
        data, type_ = source.tensors[gguf_name(name)]
        expected = np.array(decode(type_.name, data.tobytes()), dtype=np.float32)
        np.testing.assert_allclose(tensor.numpy().ravel(), expected, rtol=1e-5, atol=1e-7)
        matrices += type_.name == kind and tensor.dim() == 2
    assert matrices == 8


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q6_K"])
def test_quantized_file_opens_in_transformers_with_our_logits(kind: str, tmp_path: Path) -> None:
    source = source_of(tiny_model("llama", wide=True), kind)
    import_gguf(source.write(tmp_path / "m.gguf"), tmp_path / "m")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float64)
    expected = logits_of_transformers(opened, some_ids())
    assert expected.std() > 1e-3
    found = logits_of_folder(tmp_path / "m", some_ids())
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_numbers_that_float32_blurs_come_out_as_they_were_written(tmp_path: Path) -> None:
    source = source_of(tiny_model("llama"))
    import_gguf(source.write(tmp_path / "m.gguf"), tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["rms_norm_eps"] == 1e-5


LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def factors_as_the_converter_writes_them(rope: dict[str, Any], head_dim: int) -> Any:
    """How many times slower each pair turns than it would unscaled, by transformers."""
    config = tiny_model("llama", wide=True, rope_parameters=frozen(rope)).config
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2) / head_dim)
    return (plain / scaled).float().numpy()


class frozen(dict[str, Any]):  # a key of tiny_model's cache
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_factors_are_recognized_and_compute_the_same(factor: float, tmp_path: Path) -> None:
    rope = frozen(LLAMA31 | {"factor": factor})
    model = tiny_model("llama", wide=True, rope_parameters=rope)
    source = source_of(model)
    factors = factors_as_the_converter_writes_them(rope, head_dim=64)
    source.tensors["rope_freqs.weight"] = (factors, source.tensors["output_norm.weight"][1])
    config = import_gguf(source.write(tmp_path / "m.gguf"), tmp_path / "m")
    assert config.rope_scaling == Llama3Scaling(factor, 1.0, 4.0, 8192)
    expected = logits_of_transformers(model, some_ids())
    found = logits_of_folder(tmp_path / "m", some_ids())
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_other_rotary_factors_are_refused(tmp_path: Path) -> None:
    source = source_of(tiny_model("llama", wide=True))
    factors = np.linspace(1.0, 5.0, 32, dtype=np.float32)
    source.tensors["rope_freqs.weight"] = (factors, source.tensors["output_norm.weight"][1])
    with pytest.raises(InvalidInput, match="not those of a published Llama 3"):
        import_gguf(source.write(tmp_path / "m.gguf"), tmp_path / "m")
