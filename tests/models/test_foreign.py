"""Models of `transformers` that are not native: the same function, documents apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bessemer.core.errors import BessemerError, IntegrityError, InvalidInput, Missing, UnsafeWeights
from bessemer.models.attention import positions
from bessemer.models.decoder import Decoder
from bessemer.models.foreign import ForeignDecoder, load_foreign, open_decoder
from bessemer.models.lora import add_lora

SHAPE: dict[str, Any] = {
    "vocab_size": 83, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3,
}  # fmt: skip
# What each has that the native decoder has not.
CONFIGS: dict[str, Any] = {
    "olmo2 (norms behind)": transformers.Olmo2Config(**SHAPE),
    "stablelm (LayerNorm, partial rotary)": transformers.StableLmConfig(**SHAPE),
    "phi (a head with a bias)": transformers.PhiConfig(**SHAPE, partial_rotary_factor=2 / 3),
    "cohere (scaled logits)": transformers.CohereConfig(**SHAPE, logit_scale=0.0625),
    "granite (divided logits)": transformers.GraniteConfig(**SHAPE, logits_scaling=7.0),
    "gemma3 (windows, a scaled table)": transformers.Gemma3TextConfig(
        **SHAPE, head_dim=6, sliding_window=8, query_pre_attn_scalar=6
    ),
    "gpt_neox (parallel blocks)": transformers.GPTNeoXConfig(
        **{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}
    ),
    "bloom (ALiBi)": transformers.BloomConfig(
        vocab_size=83, hidden_size=24, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "olmoe (experts)": transformers.OlmoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2),
    "mamba (no attention)": transformers.MambaConfig(
        vocab_size=83, hidden_size=24, num_hidden_layers=2, state_size=4, initializer_range=0.3
    ),
}
LENGTHS = (9, 1, 30, 5, 17)


def written(folder: Path, config: Any) -> Path:
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(folder)
    return folder


def ids_of(length: int) -> torch.Tensor:
    return torch.randint(0, 83, (length,), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("name", CONFIGS)
def test_documents_side_by_side_are_as_each_alone_in_transformers(
    name: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, CONFIGS[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ours = load_foreign(folder, torch.float64)
    theirs.set_experts_implementation("eager")  # the grouped product knows no float64
    documents = [ids_of(length) for length in LENGTHS]
    ids_T, targets = torch.cat(documents), torch.cat([d.roll(-1) for d in documents])
    found = ours.logits(ours(ids_T, positions(LENGTHS)))
    expected = torch.cat([theirs(d[None], use_cache=False).logits[0].double() for d in documents])
    assert expected.std() > 0.01
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-6 if name.startswith("mamba") else 1e-9
    )
    for logits in (found, expected):
        torch.nn.functional.cross_entropy(logits, targets).backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    mine = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    assert mine.keys() == gradients.keys()
    for parameter, gradient in mine.items():
        torch.testing.assert_close(gradient, gradients[parameter], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["olmo2 (norms behind)", "cohere (scaled logits)"])
def test_what_is_saved_opens_in_transformers_with_the_same_weights(
    name: str, tmp_path: Path
) -> None:
    ours = load_foreign(written(tmp_path / "a", CONFIGS[name]))
    with torch.no_grad():
        next(iter(ours.parameters())).mul_(1.5)
    ours.save(tmp_path / "b")
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(opened).__name__.lower().startswith(name[:5])
    ids_T = ids_of(20)
    with torch.no_grad():
        found = ours.logits(ours(ids_T, positions([20])))
        torch.testing.assert_close(found, opened(ids_T[None]).logits[0], rtol=0, atol=1e-5)


def test_a_difference_of_low_rank_goes_into_its_linear_layers_and_not_into_its_head(
    tmp_path: Path,
) -> None:
    ours = load_foreign(written(tmp_path, CONFIGS["gpt_neox (parallel blocks)"]))
    ids_T = ids_of(12)
    plain = ours(ids_T, positions([12])).detach()
    layers = add_lora(ours, 2, 4.0, seed=0)
    leaves = {name.rpartition(".")[2] for name in layers}
    assert leaves == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
    torch.testing.assert_close(ours(ids_T, positions([12])), plain)
    for layer in layers.values():
        layer.lora_B.data.normal_(0, 0.1)
    moved = ours(ids_T, positions([12]))
    assert (moved - plain).abs().max() > 0.01
    moved.sum().backward()
    assert all(layer.lora_B.grad is not None for layer in layers.values())


def test_soft_capped_logits_are_refused_however_small_they_are(tmp_path: Path) -> None:
    settings = {**SHAPE, "initializer_range": 1e-4, "head_dim": 6}
    folder = written(tmp_path, transformers.Gemma2Config(**settings))
    with pytest.raises(InvalidInput, match=r"a gemma2 cannot .* \(final_logit_softcapping 30\.0\)"):
        load_foreign(folder)


def test_native_families_stay_native(tmp_path: Path) -> None:
    assert isinstance(
        open_decoder(written(tmp_path / "a", transformers.LlamaConfig(**SHAPE))), Decoder
    )
    olmo = written(tmp_path / "b", CONFIGS["olmo2 (norms behind)"])
    assert isinstance(open_decoder(olmo), ForeignDecoder)


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_what_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path, CONFIGS["olmo2 (norms behind)"])

    def refused(error: type[BessemerError], says: str) -> None:
        with pytest.raises(error, match=says):
            load_foreign(folder)

    change(folder, num_hidden_layers=3)
    refused(IntegrityError, r"11 missing \(model\.layers\.2\.")
    change(folder, num_hidden_layers=1)
    refused(IntegrityError, r"11 not in the model \(model\.layers\.1\.")
    change(folder, num_hidden_layers=2, quantization_config={"bits": 4})
    refused(InvalidInput, "quantized inside the folder")
    change(folder, quantization_config=None, model_type="nothing-like-it")
    refused(InvalidInput, "'nothing-like-it' is neither one of llama, .* nor one that")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(UnsafeWeights, "pickled")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused(Missing, "needs transformers, which is not installed")


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, CONFIGS["olmo2 (norms behind)"])
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change(
        folder,
        model_type="evil",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    with pytest.raises(InvalidInput, match="'evil' is neither"):
        load_foreign(folder)
    assert not (tmp_path / "ran").exists()
