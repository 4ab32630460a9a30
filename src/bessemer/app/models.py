"""Models by name: list them, find one, give a stored one a name. Pulling them in is `pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bessemer.app import names
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact
from bessemer.core.digests import manifest_of
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal


@dataclass(frozen=True)
class NamedModel:
    """A model as a person speaks of it. `path` is a plain Hugging Face folder."""

    name: str
    digest: str
    path: Path
    artifact: Artifact


def list_models(platform: Platform, principal: Principal) -> list[NamedModel]:
    """The models this project has names for, sorted by name."""
    principal.require("models:read")
    return [_model(found) for found in names.list_named(platform, principal, "model")]


def find_model(platform: Platform, principal: Principal, text: str) -> NamedModel:
    """By name, by digest, or by the first 12 or more hex digits of a digest.

    Whoever works with models may resolve a name; the use case that calls this asks for its scope.

    Raises:
        NotFound: with the names there are.
    """
    return _model(names.find_named(platform, principal, "model", text))


def find_model_local(platform: Platform, principal: Principal, text: str) -> NamedModel:
    """`find_model` for the person at this machine, who may also give a folder's path.

    Something that begins with `.`, `/` or `~` is a path. The folder is used where it is; its
    digest is computed, and nothing is stored.
    """
    if not text.startswith((".", "/", "~")):
        return find_model(platform, principal, text)
    folder = Path(text).expanduser().absolute()
    if not (folder / "config.json").is_file():
        raise InvalidInput(
            f"{folder} is not a model folder: it has no config.json",
            next_step="bessemer pull PATH takes a Hugging Face folder or a GGUF file",
        )
    manifest = manifest_of(folder)
    artifact = Artifact(manifest.digest, "model", folder.name, folder, manifest.size_bytes)
    return NamedModel(folder.name, manifest.digest, folder, artifact)


def register(
    platform: Platform,
    principal: Principal,
    name: str,
    artifact: Artifact,
    run_id: str | None = None,
) -> NamedModel:
    """Let `name` mean this stored model from now on. Doing it twice changes nothing."""
    principal.require("models:write")
    if artifact.kind != "model":
        raise InvalidInput(f"{artifact.digest[:19]} is a {artifact.kind}, not a model")
    names.bind(platform, principal, "model", name, artifact.digest, run_id)
    return _model(names.Named(name, artifact))


def _model(found: names.Named) -> NamedModel:
    return NamedModel(found.name, found.artifact.digest, found.artifact.path, found.artifact)
