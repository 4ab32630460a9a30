"""`quantize`: a stored model with its parent, found again, refused where it cannot be."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from bessemer.app import quantizing
from bessemer.app.engines import EnginePool
from bessemer.app.models import find_model, register
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.app.quantizing import copy_in, quantize
from bessemer.cli.serving import models_to_load
from bessemer.core.errors import Conflict, InvalidInput, Missing
from bessemer.core.principal import Principal
from bessemer.models.config import Llama3Scaling, ModelConfig, read_tree
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from bessemer.models.gguf_file import Facts, open_gguf
from bessemer.models.scheme import kind_of
from tests.tiny.world import write_model


@pytest.fixture
def base(platform: Platform, owner: Principal, tmp_path: Path) -> str:
    pull(platform, owner, str(write_model(tmp_path / "base")), licence="Apache-2.0")
    return "base"


def test_the_quantized_model_names_its_parent_and_is_found_again(
    platform: Platform, owner: Principal, base: str
) -> None:
    made = quantize(platform, owner, base, "int8")
    parent = find_model(platform, owner, base)
    assert made.model is not None and made.precision == "int8"
    assert made.model == find_model(platform, owner, "base-int8")
    assert made.model.artifact.parents == (parent.digest,)
    assert made.model.artifact.licence == "Apache-2.0"
    assert kind_of(read_tree(made.model.path)) == "int8"
    assert made.model.artifact.size_bytes < parent.artifact.size_bytes
    again = quantize(platform, owner, base, "int8", name="other")
    assert again.model is not None and again.model.digest == made.model.digest


def test_auto_measures_and_makes_what_is_fastest(
    platform: Platform, owner: Principal, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"bf16": 2.0, "int8": 1.5, "int4": 1.0}
    asked = []

    def measured(_folder: Path, requests: int) -> dict[str, float]:
        asked.append(requests)
        return speeds

    monkeypatch.setattr(quantizing, "_measure", measured)
    made = quantize(platform, owner, base, requests=4)
    assert asked == [4] and made.precision == "int4" and made.speeds == speeds
    assert made.model is not None and made.model.name == "base-int4"
    speeds["int4"] = speeds["int8"] = 2.0
    kept = quantize(platform, owner, base)
    assert kept.model is None and kept.precision == "bf16"


def test_a_copy_to_serve_is_made_once_and_no_name_changes_its_meaning(
    platform: Platform, owner: Principal, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    plain = find_model(platform, owner, base)
    made = copy_in(platform, owner, plain, "int8", said.append)
    assert (made.name, said) == ("base-int8", ["making base-int8, once"])
    assert copy_in(platform, owner, plain, "int8", said.append) == made and len(said) == 1
    assert find_model(platform, owner, base) == plain

    speeds = {"bf16": 2.0, "int8": 1.0, "int4": 2.0}
    monkeypatch.setattr(quantizing, "_measure", lambda *_: speeds)
    assert copy_in(platform, owner, plain, "auto", said.append) == made
    assert said[1:] == [
        "base: int8 is taken; ms of products a token: bf16 2000.00, int8 1000.00, int4 2000.00"
    ]
    speeds["int8"] = 2.0
    assert copy_in(platform, owner, plain, "auto", said.append) == plain

    register(platform, owner, "base-int4", made.artifact)
    with pytest.raises(Conflict, match="base-int4 is here, and it was not made of what base is"):
        copy_in(platform, owner, plain, "int4", said.append)


def test_a_gguf_file_is_a_model_that_only_openvino_reads(
    platform: Platform, owner: Principal, base: str
) -> None:
    made = quantize(platform, owner, base, "q8_0").model
    parent = find_model(platform, owner, base)
    assert made is not None and made.name == "base-q8_0"
    assert made.artifact.parents == (parent.digest,)
    facts = Facts(open_gguf(made.path / "model.gguf"), made.path)
    assert facts.text("general.base_model.0.version") == parent.digest
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (made.path / file).read_bytes() == (parent.path / file).read_bytes()
    assert not list(made.path.glob("*.safetensors"))
    with pytest.raises(InvalidInput, match=r"is a GGUF file \(q8_0\), which OpenVINO"):
        load_decoder(made.path)
    with pytest.raises(InvalidInput, match="q8_0 already"):
        quantize(platform, owner, "base-q8_0", "int8")
    stretched = ModelConfig.from_folder(parent.path)
    stretched = replace(stretched, rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 32))
    save_decoder(Decoder(stretched).init_weights(1), parent.path)
    with pytest.raises(InvalidInput, match="stretches its rotary frequencies"):
        quantize(platform, owner, str(parent.path), "q4_0", name="never")


@pytest.mark.skipif(
    importlib.util.find_spec("openvino_genai") is not None, reason="openvino-genai is installed"
)
def test_without_openvino_a_gguf_file_is_refused_before_anything_starts(
    platform: Platform, owner: Principal, base: str
) -> None:
    made = quantize(platform, owner, base, "q8_0").model
    assert made is not None
    for refused in (
        lambda: EnginePool(platform, 1).engine(made),
        lambda: models_to_load(platform, ["base-q8_0"]),
        lambda: models_to_load(platform, ["base"], "q4_0"),
    ):
        with pytest.raises(Missing, match="is computed by OpenVINO, which is not") as found:
            refused()
        assert 'pip install "bessemer[openvino]"' in str(found.value.next_step)
    assert models_to_load(platform, ["base"]) == [find_model(platform, owner, "base")]


def test_a_quantized_model_is_not_quantized_again(
    platform: Platform, owner: Principal, base: str
) -> None:
    quantize(platform, owner, base, "int4")
    with pytest.raises(InvalidInput, match="int4 already"):
        quantize(platform, owner, "base-int4", "int8")
    with pytest.raises(InvalidInput, match="int4 already"):
        quantize(platform, owner, "base-int4", "auto")
