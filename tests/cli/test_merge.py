"""`bessemer merge`: prints what it made; says on one line why it could not."""

from __future__ import annotations

from pathlib import Path

from bessemer.models.adapter import save_adapter
from bessemer.models.folder import load_decoder
from bessemer.models.lora import add_lora
from tests.cli.calling import say
from tests.tiny.world import write_model


def test_a_folder_and_an_adapter_become_a_named_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    layers = add_lora(load_decoder(base), 2, 4.0, seed=0, targets=["v_proj"])
    save_adapter(layers, tmp_path / "adapter", base="base")
    words = ("merge", str(base), str(tmp_path / "adapter"))
    made = say(*words, "--name", "both", "--json").json
    assert (made["name"], made["kind"], len(made["parents"])) == ("both", "model", 2)
    assert say(*words).out.startswith("base-adapter  ")
    assert [model["name"] for model in say("models", "--json").json] == ["base-adapter", "both"]


def test_a_wrong_adapter_is_one_line_and_the_next_step(tmp_path: Path) -> None:
    said = say("merge", str(write_model(tmp_path / "base")), str(tmp_path))
    assert (said.status, said.out) == (1, "")
    assert "is no adapter" in said.err
    assert "next: " in said.err
