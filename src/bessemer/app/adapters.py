"""Adapters by name: what a run or `bessemer pull` left, and the base that each belongs to.

An adapter can be asked for wherever a model can. It is served by the worker of its base
(`adapted_engine`), beside any number of others, and no merged copy of the weights is made.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.app import names
from bessemer.app.models import NamedModel, find_model, find_model_local, list_models
from bessemer.app.platform import Platform
from bessemer.app.pull import need_torch
from bessemer.core.adapters import write_base
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.principal import Principal

CONFIG = "adapter_config.json"
FILES = (CONFIG, "adapter_model.safetensors")


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter as a person speaks of it; `path` is a folder in PEFT's layout."""

    name: str
    digest: str
    path: Path
    artifact: Artifact
    base: NamedModel


Served = NamedModel | NamedAdapter
"""What can be asked for by name."""


def base_of(served: Served) -> NamedModel:
    """The model whose weights it is computed with: a model's own."""
    return served.base if isinstance(served, NamedAdapter) else served


def list_adapters(platform: Platform, principal: Principal) -> list[NamedAdapter]:
    """The adapters this project has names for whose base is here, sorted by name.

    One whose name is a model's too is left out: the name means the model.
    """
    models = {model.name for model in list_models(platform, principal)}
    called = _called(platform, principal)
    found = []
    for named in names.list_named(platform, principal, "adapter"):
        base = _base(platform, named.artifact, called)
        if base is not None and named.name not in models:
            found.append(_adapter(named, base))
    return found


def find_adapter(platform: Platform, principal: Principal, text: str) -> NamedAdapter:
    """By name, by digest, or by the first 12 or more hex digits of a digest.

    Raises:
        NotFound: with the names there are.
        Conflict: its base is not here.
    """
    named = names.find_named(platform, principal, "adapter", text)
    called = {
        found.artifact.digest: found.name
        for found in names.list_named(platform, principal, "model")
    }
    base = _base(platform, named.artifact, called)
    if base is None:
        raise Conflict(
            f"{text} is an adapter of {_base_digest(named.artifact)}, which is not stored here",
            next_step="bring its base in: bessemer pull",
        )
    return _adapter(named, base)


def find_served(platform: Platform, principal: Principal, text: str) -> Served:
    """A model, else an adapter. Raises as `find_model` and `find_adapter`."""
    try:
        return find_model(platform, principal, text)
    except NotFound as no_model:
        try:
            return find_adapter(platform, principal, text)
        except NotFound:
            raise no_model from None


def find_served_local(platform: Platform, principal: Principal, text: str) -> Served:
    """`find_served` for the person at this machine, who may also give a model folder's path."""
    if text.startswith((".", "/", "~")):
        return find_model_local(platform, principal, text)
    return find_served(platform, principal, text)


def pull_adapter(
    platform: Platform,
    principal: Principal,
    folder: Path,
    base: str | None,
    *,
    name: str | None = None,
    licence: str | None = None,
) -> NamedAdapter:
    """Bring in an adapter that PEFT or a run wrote, for `base`, a model's name or digest.

    Of the folder only the adapter is taken: text is turned into tokens as its base does.

    Raises:
        NotFound: there is no such base.
        InvalidInput, UnsafeWeights, IntegrityError: it is no adapter, or does not fit the base.
        InvalidInput: the base was rescaled on its way to 8 bits.
    """
    from bessemer.models.adapter import check_adapter

    principal.require("models:write")
    need_torch("reading an adapter")
    if base is None:
        raise InvalidInput(
            f"{folder} is an adapter; it needs its base",
            next_step=f"bessemer pull {folder} --base MODEL",
        )
    found = find_model(platform, principal, base)
    refuse_rescaled(platform, found, lambda parent: f"bessemer pull {folder} --base {parent}")
    name = names.check_name(name or folder.resolve().name.replace(" ", "-"))
    if any(model.name == name for model in list_models(platform, principal)):
        raise Conflict(f"{name} is a model's name here", next_step="give it another: --name NAME")
    check_adapter(folder, found.path)
    provenance = {"folder": folder.resolve().name}
    artifact = store(
        platform, folder, found.digest, name=name, licence=licence, provenance=provenance
    )
    names.bind(platform, principal, "adapter", name, artifact.digest)
    return NamedAdapter(name, artifact.digest, artifact.path, artifact, found)


def store(
    platform: Platform,
    folder: Path,
    base_digest: str,
    *,
    name: str,
    licence: str | None,
    provenance: dict[str, Any],
) -> Artifact:
    """Store the adapter in `folder`; the artifact's digest names its base as well."""
    workspace = platform.artifacts.workspace()
    try:
        for file in FILES:
            shutil.copyfile(folder / file, workspace / file)
        write_base(workspace, base_digest)
        return platform.artifacts.put(
            workspace,
            kind="adapter",
            name=name,
            licence=licence,
            parents=(base_digest,),
            provenance=provenance,
        )
    finally:
        shutil.rmtree(workspace, ignore_errors=True)  # gone already when it was stored


def refuse_rescaled(platform: Platform, base: NamedModel, command: Callable[[str], str]) -> None:
    """An adapter from elsewhere fits the int8 copy of its base in shape, and would compute
    something else: `models.smoothing` has divided what its matrices were trained to read.

    Args:
        command: of the base's own parent, what to do instead.

    Raises:
        InvalidInput: `base` is such a copy.
    """
    artifact = base.artifact
    with contextlib.suppress(NotFound):  # a folder's path says nothing of how it was made
        artifact = platform.artifacts.get(base.digest)
    made = artifact.provenance.get("quantized")
    if made is None or made["to"] != "int8":
        return
    (parent,) = artifact.parents
    raise InvalidInput(
        f"{base.name} is int8: the inputs of its layers were rescaled, so an adapter of the model"
        " that it was made from computes something else over it",
        next_step=f"{command(parent[:19])}, or merge and quantize that",
    )


def is_adapter(folder: Path) -> bool:
    """Whether the folder has an adapter in PEFT's layout, whatever it is worth."""
    return (folder / CONFIG).is_file()


def _adapter(named: names.Named, base: NamedModel) -> NamedAdapter:
    artifact = named.artifact
    return NamedAdapter(named.name, artifact.digest, artifact.path, artifact, base)


def _base(platform: Platform, adapter: Artifact, called: dict[str, str]) -> NamedModel | None:
    digest = _base_digest(adapter)
    try:
        artifact = platform.artifacts.get(digest)
    except NotFound:
        return None
    return NamedModel(called.get(digest, digest), digest, artifact.path, artifact)


def _called(platform: Platform, principal: Principal) -> dict[str, str]:
    """Of each model's digest its first name. Who may chat but not list needs it as well."""
    called: dict[str, str] = {}
    for model in names.list_named(platform, principal, "model"):
        called.setdefault(model.artifact.digest, model.name)
    return called


def _base_digest(adapter: Artifact) -> str:
    assert adapter.parents, f"{adapter.digest} was stored without its base"
    return adapter.parents[0]
