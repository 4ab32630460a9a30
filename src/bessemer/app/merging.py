"""Merge an adapter into its base: one stored model, whose record names both."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bessemer.app import jobs
from bessemer.app.adapters import find_adapter, refuse_rescaled
from bessemer.app.models import NamedModel, find_model_local, register
from bessemer.app.names import check_name
from bessemer.app.platform import Platform
from bessemer.app.pull import need_torch, workspace_of
from bessemer.core.adapters import base_of
from bessemer.core.digests import manifest_of
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.space import refuse_if_full


class Adapter(NamedTuple):
    """A folder in PEFT's layout; of a run also its id and the digest of what it was trained on."""

    folder: Path
    run_id: str | None = None
    base_digest: str | None = None


def merge(
    platform: Platform, principal: Principal, base: str, adapter: str, *, name: str | None = None
) -> NamedModel:
    """Store what `base` and `adapter` are together, in float32, under a name.

    Args:
        base: a model's name or digest, or a folder's path.
        adapter: a folder in PEFT's layout, the id of a run that trained one, or an adapter's name.
        name: what to call the merged model; by default both names.

    Raises:
        NotFound: there is no such base or run.
        InvalidInput, IntegrityError: it is no adapter, of a kind that computes something else, or
            its layers are not the base's.
        InvalidInput: the base was rescaled on its way to 8 bits, and the adapter is not its own.
        Conflict: the run trained it on another base.
        OutOfSpace: the merged model does not fit on the disk.
    """
    principal.require("models:write")
    need_torch("merging an adapter")
    found, part = (
        find_model_local(platform, principal, base),
        _adapter(platform, principal, adapter),
    )
    if part.base_digest not in (None, found.digest):
        raise Conflict(
            f"{adapter} trained its adapter on {part.base_digest}, and {base} is {found.digest}",
            next_step=f"merge it into that, or insist by giving its folder: {part.folder}",
        )
    if found.digest not in (part.base_digest, base_of(part.folder)):
        refuse_rescaled(platform, found, lambda parent: f"bessemer merge {parent} {adapter}")
    name = check_name(name or f"{found.name}-{part.run_id or part.folder.name}")
    digest = manifest_of(part.folder).digest
    with workspace_of(platform) as workspace:
        _write_merged(found.path, part.folder, workspace)
        artifact = platform.artifacts.put(
            workspace,
            kind="model",
            name=name,
            licence=found.artifact.licence,
            parents=(found.digest, digest),
            provenance={
                "merged": {"base": found.digest, "adapter": digest},
                "adapter": part.folder.name,
                "run_id": part.run_id,
            },
        )
    return register(platform, principal, name, artifact)


def _adapter(platform: Platform, principal: Principal, text: str) -> Adapter:
    folder = Path(text).expanduser()
    if folder.is_dir():
        return Adapter(folder.resolve())
    if not text.startswith("run_"):
        return _named_adapter(platform, principal, text)
    run = jobs.get_run(platform, principal, text)
    folder = run.folder.output / "adapter"
    if not folder.is_dir():
        raise InvalidInput(
            f"{text} ({run.state}) has left no adapter: only a language model that was trained with"
            " [lora] leaves one, at its end"
        )
    return Adapter(folder, text, run.folder.plan()["model"]["digest"])


def _named_adapter(platform: Platform, principal: Principal, text: str) -> Adapter:
    try:
        found = find_adapter(platform, principal, text)
    except NotFound:
        raise InvalidInput(
            f"{text!r} is neither a folder, nor the id of a run, nor an adapter's name",
            next_step="bessemer models lists adapters, bessemer runs lists runs; one with LoRA"
            " leaves output/adapter in its folder",
        ) from None
    return Adapter(found.path, None, found.base.digest)


def _write_merged(base: Path, adapter: Path, workspace: Path) -> None:
    from bessemer.models.adapter import merge_adapter
    from bessemer.models.foreign import open_decoder, save_network

    decoder = open_decoder(base)
    needed = 4 * sum(parameter.numel() for parameter in decoder.parameters())
    again = "free some space and merge again"
    refuse_if_full(workspace.parent, needed, "the merged model", again)
    merge_adapter(decoder, adapter)
    save_network(decoder, workspace, like=base)
