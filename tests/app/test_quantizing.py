"""`quantize`: a stored model with its parent, found again, refused where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.app import quantizing
from bessemer.app.models import find_model
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.app.quantizing import quantize
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.models.config import read_tree
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


def test_a_quantized_model_is_not_quantized_again(
    platform: Platform, owner: Principal, base: str
) -> None:
    quantize(platform, owner, base, "int4")
    with pytest.raises(InvalidInput, match="int4 already"):
        quantize(platform, owner, "base-int4", "int8")
    with pytest.raises(InvalidInput, match="int4 already"):
        quantize(platform, owner, "base-int4", "auto")
