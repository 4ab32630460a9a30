"""A model in 8 or 4 bits: an artifact of its own, with the model it was made from as its parent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from bessemer.app.models import NamedModel, find_model, find_model_local, register
from bessemer.app.names import check_name
from bessemer.app.platform import Platform
from bessemer.app.pull import Say, need_torch, workspace_of
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import Conflict, NotFound, OutOfSpace
from bessemer.core.principal import Principal

if TYPE_CHECKING:
    from bessemer.models.gguf_export import Progress

Coded = Literal["int8", "int4", "q8_0", "q4_0"]
"""`q8_0` and `q4_0` are GGUF files, which OpenVINO computes (`models.gguf_folder`)."""

Wanted = Coded | Literal["auto"]
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
    progress: Progress = lambda _done, _total: None,
) -> Quantized:
    """Store a model in 8 or 4 bits under a name; what was made before is found again.

    Args:
        model: a name, a digest or a folder's path.
        to: `auto` measures this machine for two seconds and takes the fastest precision.
        requests: how many are answered at a time; `auto` measures with so many.
        name: by default the model's and the precision.
        progress: of a GGUF file, takes the bytes that are written and how many there will be.

    Raises:
        NotFound: no such model.
        InvalidInput: it is quantized already, or has layers that cannot be.
        OutOfSpace: the new model does not fit on the disk.
    """
    principal.require("models:write")
    need_torch("quantizing a model")
    found = find_model_local(platform, principal, model)
    speeds = _measure(found.path, requests) if to == "auto" else {}
    kind = _fastest(speeds) if to == "auto" else to
    if kind == "bf16":
        return Quantized(kind, None, speeds)
    name = check_name(name or name_in(found, kind))
    artifact = _made_before(platform, found, kind) or _make(platform, found, kind, name, progress)
    return Quantized(kind, register(platform, principal, name, artifact), speeds)


def copy_in(
    platform: Platform, principal: Principal, model: NamedModel, to: Wanted, say: Say
) -> NamedModel:
    """The model in this precision, to be served by a name of its own: made on first use, and then
    found again. What `model`'s own name means does not change.

    Args:
        to: `auto` measures this machine for two seconds, and may find the model as it is fastest.

    Raises:
        Conflict: the copy's name means another model here.
        BessemerError: as `quantize`.
    """
    kind = _told(model, _measure(model.path, 1), say) if to == "auto" else to
    if kind == "bf16":
        return model
    name = name_in(model, kind)
    try:
        known = find_model(platform, principal, name)
    except NotFound:
        say(f"making {name}, once")
        made = quantize(platform, principal, model.digest, kind, name=name).model
        assert made is not None, name
        return made
    if not is_made_from(known.artifact, model.digest, kind):
        raise Conflict(
            f"{name} is here, and it was not made of what {model.name} is now",
            next_step=f"serve it as it is: bessemer up --model {name}; or make it again with"
            " bessemer quantize",
        )
    return known


def _told(model: NamedModel, speeds: dict[str, float], say: Say) -> Literal["bf16", Coded]:
    kind = _fastest(speeds)
    measured = ", ".join(f"{name} {1e3 * each:.2f}" for name, each in speeds.items())
    say(f"{model.name}: {kind} is taken; ms of products a token: {measured}")
    return kind


def name_in(model: NamedModel, precision: Coded) -> str:
    """What a model is called in 8 or 4 bits unless it is given a name."""
    return f"{model.name}-{precision}"


def is_made_from(made: Artifact, digest: str, precision: Coded) -> bool:
    """Whether `made` is what `quantize` makes of the model with this digest today."""
    told = made.provenance.get("quantized")
    return made.parents == (digest,) and told == {"to": precision, "method": METHOD}


def _made_before(platform: Platform, found: NamedModel, kind: Coded) -> Artifact | None:
    made = platform.artifacts.list()
    return next((each for each in made if is_made_from(each, found.digest, kind)), None)


def _make(
    platform: Platform, found: NamedModel, kind: Coded, name: str, progress: Progress
) -> Artifact:
    with workspace_of(platform) as workspace:
        needed, free = found.artifact.size_bytes, shutil.disk_usage(workspace).free
        if free < needed:
            raise OutOfSpace(
                f"quantizing {found.name} may need {needed:,} bytes; {workspace.parent} has"
                f" {free:,} free",
                next_step="free some space and quantize again",
            )
        _write(found, workspace, kind, progress)
        return platform.artifacts.put(
            workspace,
            kind="model",
            name=name,
            licence=found.artifact.licence,
            parents=(found.digest,),
            provenance={"quantized": {"to": kind, "method": METHOD}},
        )


def _write(found: NamedModel, workspace: Path, kind: Coded, progress: Progress) -> None:
    if kind == "int8" or kind == "int4":
        from bessemer.models.quantizing import quantize_folder

        quantize_folder(found.path, workspace, kind)
        return
    from bessemer.models.gguf_export import About
    from bessemer.models.gguf_folder import write_gguf_folder

    about = About(found.name, found.digest, found.artifact.licence)
    write_gguf_folder(found.path, workspace, kind, about, progress)


def _measure(folder: Path, requests: int) -> dict[str, float]:
    from bessemer.inference.speeds import measure
    from bessemer.models.config import ModelConfig
    from bessemer.models.quantizing import check_can_quantize

    check_can_quantize(folder, "int4")
    return dict(measure(ModelConfig.from_folder(folder), requests))


def _fastest(speeds: dict[str, float]) -> Literal["bf16", "int8", "int4"]:
    from bessemer.inference.speeds import Speed, fastest

    name = fastest([Speed(*item) for item in speeds.items()])
    return cast(Literal["bf16", "int8", "int4"], name)
