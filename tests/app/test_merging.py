"""An adapter and its base become one stored model: PEFT's own merge, with both parents named."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import peft
import pytest
import torch
import transformers

from bessemer.app import jobs
from bessemer.app.merging import merge
from bessemer.app.models import find_model
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.app.quantizing import quantize
from bessemer.core.adapters import write_base
from bessemer.core.digests import manifest_of
from bessemer.core.errors import BessemerError, Conflict, IntegrityError, InvalidInput, OutOfSpace
from bessemer.core.principal import Principal
from bessemer.models.folder import read_tensors
from tests.tiny.world import write_model


@pytest.fixture
def base(platform: Platform, owner: Principal, tmp_path: Path) -> str:
    pull(platform, owner, str(write_model(tmp_path / "base")), licence="Apache-2.0")
    return "base"


def write_adapter(platform: Platform, owner: Principal, base: str, folder: Path) -> Path:
    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(find_model(platform, owner, base).path),
        peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj"]),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    model.save_pretrained(folder)
    return folder


def test_the_merged_model_is_pefts_own_and_names_both_parents(
    platform: Platform, owner: Principal, base: str, tmp_path: Path
) -> None:
    adapter = write_adapter(platform, owner, base, tmp_path / "adapter")
    merged = merge(platform, owner, base, str(adapter), name="both")
    parents = (find_model(platform, owner, base).digest, manifest_of(adapter).digest)
    assert find_model(platform, owner, "both") == merged
    assert merged.artifact.parents == parents
    assert merged.artifact.provenance["merged"] == dict(
        zip(("base", "adapter"), parents, strict=True)
    )
    assert merged.artifact.licence == "Apache-2.0"
    plain = find_model(platform, owner, base).path
    model = transformers.AutoModelForCausalLM.from_pretrained(plain)
    expected = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    before = dict(read_tensors(plain))
    changed = set()
    for name, weight in read_tensors(merged.path):
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
        if not torch.equal(weight, before[name]):
            changed.add(name.split(".")[-2])
    assert changed == {"q_proj"}
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (merged.path / file).read_bytes() == (plain / file).read_bytes()


def test_a_run_is_known_by_its_id_and_holds_to_the_base_it_was_trained_on(
    platform: Platform, owner: Principal, base: str, tmp_path: Path
) -> None:
    digest = find_model(platform, owner, base).digest
    plan = {"model": {"digest": digest}}
    run = jobs.submit(platform, owner, "train", "taught", "", plan)
    with pytest.raises(InvalidInput, match="has left no adapter"):
        merge(platform, owner, base, run.run_id)
    adapter = write_adapter(platform, owner, base, tmp_path / "adapter")
    shutil.copytree(adapter, run.output / "adapter")
    merged = merge(platform, owner, base, run.run_id)
    assert merged.name == f"base-{run.run_id}"
    assert merged.artifact.provenance["run_id"] == run.run_id
    other = write_model(tmp_path / "other", seed=2)
    with pytest.raises(Conflict, match=f"on {digest}, and {other} is sha256:"):
        merge(platform, owner, str(other), run.run_id)
    # Whoever means it says where the folder is.
    insisted = merge(platform, owner, str(other), str(run.output / "adapter"), name="insisted")
    assert insisted.digest != merged.digest


def test_only_an_int8_models_own_adapter_is_merged_into_it(
    platform: Platform, owner: Principal, base: str, tmp_path: Path
) -> None:
    adapter = write_adapter(platform, owner, base, tmp_path / "adapter")
    quantized = quantize(platform, owner, base, "int8").model
    assert quantized is not None
    parent = find_model(platform, owner, base).digest[:19]
    for spelled in (quantized.name, str(quantized.path)):
        with pytest.raises(InvalidInput, match=r"is int8: .* rescaled") as told:
            merge(platform, owner, spelled, str(adapter))
        assert f"bessemer merge {parent} {adapter}," in str(told.value.next_step)
    write_base(adapter, quantized.digest)  # as a run on the int8 model leaves it
    merged = merge(platform, owner, quantized.name, str(adapter), name="whole")
    assert merged.artifact.parents[0] == quantized.digest


def test_what_cannot_be_merged_leaves_nothing(
    platform: Platform,
    owner: Principal,
    base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = write_adapter(platform, owner, base, tmp_path / "adapter")
    narrow = transformers.LlamaConfig(
        vocab_size=320, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(narrow).save_pretrained(tmp_path / "narrow")
    before = sorted(platform.artifacts.root.iterdir())

    def refused(error: type[BessemerError], says: str, to: str, what: str) -> None:
        with pytest.raises(error, match=says):
            merge(platform, owner, to, what, name="never")
        assert sorted(platform.artifacts.root.iterdir()) == before

    refused(IntegrityError, "does not fit this model", str(tmp_path / "narrow"), str(adapter))
    refused(IntegrityError, "is no adapter", base, str(tmp_path / "narrow"))
    refused(InvalidInput, "neither a folder, nor the id of a run, nor an adapter", base, "adaptor")
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(OutOfSpace, r"needs [\d,]+ bytes; .* has 1,000 free", base, str(adapter))
