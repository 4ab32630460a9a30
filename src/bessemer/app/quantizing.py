"""A model in 8 or 4 bits: an artifact of its own, with the model it was made from as its parent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from bessemer.app.models import NamedModel, find_model_local, register
from bessemer.app.names import check_name
from bessemer.app.platform import Platform
from bessemer.app.pull import need_torch, workspace_of
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import OutOfSpace
from bessemer.core.principal import Principal

Bits = Literal["int8", "int4"]
Wanted = Literal["int8", "int4", "auto"]
# A change of how codes are found makes other bytes; what was made before is then made again.
METHOD = 1


class Quantized(NamedTuple):
    """`model` is None where the model as it is was the fastest.

    `speeds`: seconds of one token's products by precision, where they were measured.
    """

    precision: str
    model: NamedModel | None
    speeds: dict[str, float]


def quantize(
    platform: Platform,
    principal: Principal,
    model: str,
    to: Wanted = "auto",
    *,
    requests: int = 1,
    name: str | None = None,
) -> Quantized:
    """Store a model in 8 or 4 bits under a name; what was made before is found again.

    Args:
        model: a name, a digest or a folder's path.
        to: `auto` measures this machine for two seconds and takes the fastest precision.
        requests: how many are answered at a time; `auto` measures with so many.
        name: by default the model's and the precision.

    Raises:
        NotFound: no such model.
        InvalidInput: it is quantized already, or has layers that cannot be.
        OutOfSpace: the new model does not fit on the disk.
    """
    principal.require("models:write")
    need_torch("quantizing a model")
    found = find_model_local(platform, principal, model)
    speeds = _measure(found.path, requests) if to == "auto" else {}
    precision = _fastest(speeds) if to == "auto" else to
    if precision not in ("int8", "int4"):
        return Quantized(precision, None, speeds)
    bits: Bits = "int8" if precision == "int8" else "int4"
    name = check_name(name or f"{found.name}-{bits}")
    artifact = _made_before(platform, found, bits) or _make(platform, found, bits, name)
    return Quantized(bits, register(platform, principal, name, artifact), speeds)


def _made_before(platform: Platform, found: NamedModel, bits: Bits) -> Artifact | None:
    for artifact in platform.artifacts.list():
        made = artifact.provenance.get("quantized")
        if artifact.parents == (found.digest,) and made == {"to": bits, "method": METHOD}:
            return artifact
    return None


def _make(platform: Platform, found: NamedModel, bits: Bits, name: str) -> Artifact:
    from bessemer.models.quantizing import check_can_quantize, quantize_folder

    check_can_quantize(found.path, bits)
    with workspace_of(platform) as workspace:
        needed, free = found.artifact.size_bytes, shutil.disk_usage(workspace).free
        if free < needed:
            raise OutOfSpace(
                f"quantizing {found.name} may need {needed:,} bytes; {workspace.parent} has"
                f" {free:,} free",
                next_step="free some space and quantize again",
            )
        quantize_folder(found.path, workspace, bits)
        return platform.artifacts.put(
            workspace,
            kind="model",
            name=name,
            licence=found.artifact.licence,
            parents=(found.digest,),
            provenance={"quantized": {"to": bits, "method": METHOD}},
        )


def _measure(folder: Path, requests: int) -> dict[str, float]:
    from bessemer.inference.speeds import measure
    from bessemer.models.config import ModelConfig
    from bessemer.models.quantizing import check_can_quantize

    check_can_quantize(folder, "int4")
    return dict(measure(ModelConfig.from_folder(folder), requests))


def _fastest(speeds: dict[str, float]) -> str:
    from bessemer.inference.speeds import Speed, fastest

    return fastest([Speed(*item) for item in speeds.items()])
