"""An exported file means what the folder meant: to our own importer, and to llama.cpp."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from bessemer.core.errors import BessemerError, Conflict, IntegrityError, InvalidInput, OutOfSpace
from bessemer.models.config import Llama3Scaling, ModelConfig
from bessemer.models.gguf_export import About, Exported, GgufPrecision, export_gguf
from bessemer.models.gguf_import import import_gguf
from tests.models.gguf_files import SAMPLES, TEMPLATE, tiny_model, tiny_tokenizer
from tests.models.llama_cpp import greedy, needs_llama_cpp
from tests.models.test_gguf import LLAMA31, frozen, logits_of_folder, some_ids

ABOUT = About("tiny", "sha256:" + "ab" * 32, "Apache-2.0")
PRE = {"qwen2": "qwen2", "qwen3": "qwen2"}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tied": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("qwen2", {"tied": True}),
    ("qwen3", {}),
]


def folder_of(model: Any, folder: Path, pre: str | None = None) -> Path:
    """The model's Hugging Face folder in bf16, with a tokenizer and a template."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    rounded = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = tiny_tokenizer(pre or PRE.get(model.config.model_type, "smollm"))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def export(folder: Path, path: Path, precision: GgufPrecision = "bf16") -> Exported:
    return export_gguf(folder, path, precision, ABOUT)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(("family", "more"), MODELS)
def test_bf16_comes_back_bit_for_bit(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tiny_model(family, **more), tmp_path / "m")
    export(folder, tmp_path / "m.gguf")
    config = import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    original = ModelConfig.from_folder(folder)
    assert replace(config, initializer_range=original.initializer_range) == original
    before, after = weights_of(folder), weights_of(tmp_path / "back")
    before.pop("lm_head.weight", None) if config.tied else None
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.float()), name


@pytest.mark.parametrize("precision", ["q8_0", "q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_quantized_weights_are_those_of_the_packages_dequantization(
    precision: GgufPrecision, tied: bool, tmp_path: Path
) -> None:
    folder = folder_of(tiny_model("llama", tied=tied), tmp_path / "m")
    made = export(folder, tmp_path / "m.gguf", precision)
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    found, logits = weights_of(tmp_path / "back"), "embed_tokens" if tied else "lm_head"
    kinds: dict[str, int] = {}
    for name, tensor in found.items():
        wide = "Q8_0" if logits in name else precision.upper()
        kind = GGMLQuantizationType["F32" if tensor.dim() == 1 else wide]
        kinds[kind.name] = kinds.get(kind.name, 0) + 1
        original = weights_of(folder)[name].float().numpy()
        # Blocks lie along a row, so that moving rows about changes nothing.
        expected = gguf.dequantize(gguf.quantize(original, kind), kind)
        np.testing.assert_array_equal(tensor.numpy(), expected.reshape(tensor.shape))
    assert made.tensors == dict(sorted(kinds.items()))
    assert kinds[precision.upper()] >= 14


def test_rows_that_do_not_divide_into_blocks_stay_bf16(tmp_path: Path) -> None:
    folder = folder_of(tiny_model("llama", intermediate_size=48), tmp_path / "m")
    made = export(folder, tmp_path / "m.gguf", "q4_0")
    assert made.tensors == {"BF16": 2, "F32": 5, "Q4_0": 13, "Q8_0": 1}
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    down = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(weights_of(tmp_path / "back")[down], weights_of(folder)[down].float())


def test_a_mistral_without_windows_is_what_llama_cpp_calls_a_llama(tmp_path: Path) -> None:
    folder = folder_of(tiny_model("llama"), tmp_path / "m")
    change(
        folder,
        "config.json",
        model_type="mistral",
        architectures=["MistralForCausalLM"],
        sliding_window=None,
    )
    export(folder, tmp_path / "m.gguf")
    assert import_gguf(tmp_path / "m.gguf", tmp_path / "back").family == "llama"
    assert torch.equal(
        logits_of_folder(tmp_path / "back", some_ids()), logits_of_folder(folder, some_ids())
    )


def test_llama_3_scaling_is_written_as_factors(tmp_path: Path) -> None:
    model = tiny_model("llama", wide=True, rope_parameters=frozen(LLAMA31))
    folder = folder_of(model, tmp_path / "m", pre="llama-bpe")
    export(folder, tmp_path / "m.gguf")
    config = import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    assert config.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)
    assert torch.equal(
        logits_of_folder(tmp_path / "back", some_ids()), logits_of_folder(folder, some_ids())
    )


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_tokenizer_comes_back(pre: str, tmp_path: Path) -> None:
    folder = folder_of(tiny_model("qwen2" if pre == "qwen2" else "llama"), tmp_path / "m", pre)
    export(folder, tmp_path / "m.gguf")
    assert text_of(tmp_path / "m.gguf", "tokenizer.ggml.pre") == pre
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    back = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    for text in SAMPLES:
        assert back.encode(text).ids == tiny_tokenizer(pre).encode(text).ids
    settings = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert settings["chat_template"] == TEMPLATE
    assert not settings["add_bos_token"]


def test_what_stands_around_every_text_comes_back(tmp_path: Path) -> None:
    folder = folder_of(tiny_model("llama"), tmp_path / "m")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [("<|im_start|>", 1), ("<|im_end|>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A $B <|im_end|>",
        special_tokens=special,
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    export(folder, tmp_path / "m.gguf")
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    back = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert back.encode("hello").ids == tokenizer.encode("hello").ids
    assert back.encode("hello").ids[::99] == [1] and back.encode("hello").ids[-1] == 2


def test_every_token_that_ends_an_answer_comes_back(tmp_path: Path) -> None:
    folder = folder_of(tiny_model("llama"), tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5, 2]}))
    export(folder, tmp_path / "m.gguf")
    assert import_gguf(tmp_path / "m.gguf", tmp_path / "back").eos_token_id == [2, 0, 5]
    change(folder, "generation_config.json", eos_token_id=[0, 5, 6, 7])
    with pytest.raises(InvalidInput, match="5 tokens end an answer"):
        export(folder, tmp_path / "n.gguf")


def test_embeddings_without_a_token_are_filled(tmp_path: Path) -> None:
    size = tiny_tokenizer().get_vocab_size()
    folder = folder_of(tiny_model("llama", vocab_size=size + 3), tmp_path / "m")
    export(folder, tmp_path / "m.gguf")
    config = import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    assert config.vocab_size == size + 3
    back = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert back.id_to_token(size + 2) == f"[PAD{size + 2}]"
    for text in SAMPLES:
        assert back.encode(text).ids == tiny_tokenizer().encode(text).ids


def test_the_header_names_the_parent_its_digest_and_licence(tmp_path: Path) -> None:
    export(folder_of(tiny_model("llama"), tmp_path / "m"), tmp_path / "m.gguf", "q8_0")
    facts = {
        "general.name": "tiny",
        "general.license": "Apache-2.0",
        "general.base_model.0.name": "tiny",
        "general.base_model.0.version": ABOUT.digest,
    }
    assert {key: text_of(tmp_path / "m.gguf", key) for key in facts} == facts
    assert text_of(tmp_path / "m.gguf", "general.file_type") == 7


def text_of(path: Path, key: str) -> Any:
    return GGUFReader(path).fields[key].contents()


def test_progress_ends_at_all_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = folder_of(tiny_model("llama"), tmp_path / "m")
    export_gguf(folder, tmp_path / "m.gguf", "bf16", ABOUT, lambda *done: told.append(done))
    assert told == sorted(told) and len(told) == 21
    assert told[-1][0] == told[-1][1] < (tmp_path / "m.gguf").stat().st_size


def _windows(folder: Path) -> None:
    change(folder, "config.json", model_type="mistral", sliding_window=64)


def _splitter(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def _normalizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(folder / "tokenizer.json"))


def _greedy_token(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", lstrip=True)])
    tokenizer.save(str(folder / "tokenizer.json"))


def _ignored_merges(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["model"]["ignore_merges"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tree))


def _more_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["another"])
    tokenizer.save(str(folder / "tokenizer.json"))


def _not_finite(folder: Path) -> None:
    weights = weights_of(folder)
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (_windows, InvalidInput, "a mistral with .* windows"),
        (_splitter, InvalidInput, "Whitespace.*known are gpt-2, smollm"),
        (_normalizer, InvalidInput, "the normalizer 'Lowercase' with 'smollm'"),
        (_greedy_token, InvalidInput, r"<\|im_end\|>' has lstrip"),
        (_ignored_merges, InvalidInput, "ignore_merges is True"),
        (_more_tokens, IntegrityError, "embeddings of 361 tokens"),
        (_not_finite, IntegrityError, "up_proj.weight holds values that are not finite"),
    ],
)
def test_what_llama_cpp_would_read_otherwise_is_refused_and_nothing_is_left(
    fault: Callable[[Path], None], error: type[BessemerError], words: str, tmp_path: Path
) -> None:
    folder = folder_of(tiny_model("llama"), tmp_path / "m")
    fault(folder)
    with pytest.raises(error, match=words):
        export(folder, tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_qwen_with_rotary_scaling_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tiny_model("qwen2"), tmp_path / "m")
    change(folder, "config.json", rope_parameters=dict(LLAMA31))
    with pytest.raises(InvalidInput, match="rotary scaling in a qwen2"):
        export(folder, tmp_path / "m.gguf")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    folder = folder_of(tiny_model("llama"), tmp_path / "m")
    (tmp_path / "m.gguf").write_bytes(b"mine")
    with pytest.raises(Conflict, match="there already"):
        export(folder, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == b"mine"


def test_a_disk_that_is_too_full_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tiny_model("llama"), tmp_path / "m")
    usage = shutil.disk_usage(tmp_path)._replace(free=1_234)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(OutOfSpace, match="1,234 free"):
        export(folder, tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@needs_llama_cpp
@pytest.mark.parametrize(("family", "more"), MODELS)
def test_llama_cpp_draws_the_tokens_that_we_draw(
    family: str, more: dict[str, Any], tmp_path: Path
) -> None:
    folder = folder_of(tiny_model(family, **more), tmp_path / "m")
    export(folder, tmp_path / "m.gguf")
    prompt = some_ids().tolist()[:12]
    drawn = drawn_surely(folder, prompt, 6)
    assert len(drawn) >= 3
    assert greedy(tmp_path / "m.gguf", prompt, len(drawn)) == drawn


def drawn_surely(folder: Path, prompt: list[int], most: int) -> list[int]:
    """Our greedy tokens, up to one so close to another that 16-bit activations decide."""
    drawn: list[int] = []
    for _ in range(most):
        best = logits_of_folder(folder, torch.tensor(prompt + drawn))[-1].topk(2)
        if best.values[0] - best.values[1] < 0.03:
            break
        drawn.append(int(best.indices[0]))
    return drawn


@needs_llama_cpp
def test_llama_cpp_rotates_by_the_factors_of_llama_3(tmp_path: Path) -> None:
    # Factors that matter within a few tokens, which the published ones do not.
    rope = frozen(LLAMA31 | {"rope_theta": 100.0, "original_max_position_embeddings": 16})
    model = tiny_model("llama", wide=True, rope_parameters=rope)
    folder = folder_of(model, tmp_path / "m", pre="llama-bpe")
    export(folder, tmp_path / "m.gguf")
    ids = some_ids().tolist()
    expected = int(logits_of_folder(folder, torch.tensor(ids))[-1].argmax())
    assert greedy(tmp_path / "m.gguf", ids, 1) == [expected]


@needs_llama_cpp
@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2"])
def test_llama_cpp_reads_the_text_that_we_read(pre: str, tmp_path: Path) -> None:
    folder = folder_of(tiny_model("qwen2" if pre == "qwen2" else "llama"), tmp_path / "m", pre)
    export(folder, tmp_path / "m.gguf")
    text = SAMPLES[0] + SAMPLES[1].strip()
    ids = tiny_tokenizer(pre).encode(text).ids
    assert greedy(tmp_path / "m.gguf", text, 4) == greedy(tmp_path / "m.gguf", ids, 4)


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.wheel
def test_llama_cpp_answers_with_the_default_model_as_we_do(
    default_model_folder: Path, tmp_path: Path
) -> None:
    export(default_model_folder, tmp_path / "m.gguf")
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = Tokenizer.from_file(str(default_model_folder / "tokenizer.json"))
    prompt = tokenizer.encode(text).ids
    ids = list(prompt)
    for _ in range(8):
        ids.append(int(logits_of_folder(tmp_path / "back", torch.tensor(ids))[-1].argmax()))
    assert (
        tokenizer.decode(ids[len(prompt) :], skip_special_tokens=False)
        == "The capital of France is Paris.<|im_end|>"
    )
    assert greedy(tmp_path / "m.gguf", text, 7) == ids[len(prompt) : -1]  # it may not end there
