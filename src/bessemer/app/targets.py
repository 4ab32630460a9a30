"""Partners by name: models that another OpenAI-compatible server answers for, in `targets.toml`.

    [big]
    url = "http://10.0.0.7:8001/v1"
    model = "qwen3-8b"
    key_env = "BIG_KEY"

The file lies in the home and may be edited by hand. A secret is never in it: only the name of the
environment variable that has it, read by the server that asks. Not here: asking
(`partner`, `target_serving`).
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import tomli_w

from bessemer.app import audit
from bessemer.app.models import list_models
from bessemer.app.names import check_name
from bessemer.app.platform import Platform
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.home import Home
from bessemer.core.principal import Principal

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a name's answers come from. `model` is the name over there.

    `key_env` names the environment variable with the API key; without it none is sent.
    """

    url: str
    model: str
    key_env: str | None = None


def targets_file(home: Home) -> Path:
    """Where the targets of this home are written, whether there are any or not."""
    return home.root / "targets.toml"


def read_targets(home: Home) -> dict[str, Target]:
    """By name, sorted; empty without a file.

    Raises:
        InvalidInput: the file is not what it should be.
    """
    path = targets_file(home)
    try:
        tables = tomllib.loads(path.read_text())
        found = msgspec.convert(tables, dict[str, Target])
    except FileNotFoundError:
        return {}
    except (
        tomllib.TOMLDecodeError,
        RecursionError,
        UnicodeDecodeError,
        msgspec.ValidationError,
    ) as fault:
        raise InvalidInput(
            f"{path} cannot be read: {fault}", next_step="mend it, or delete it and add them again"
        ) from fault
    for name, target in found.items():
        _check(name, target)
    return dict(sorted(found.items()))


def add_target(platform: Platform, principal: Principal, name: str, target: Target) -> None:
    """Let `name` be answered by a partner; a running server learns of it by itself.

    Raises:
        Conflict: a model here has this name.
        InvalidInput: the URL, or the variable's name, is none.
    """
    principal.require("models:write")
    _check(name, target)
    if any(model.name == name for model in list_models(platform, principal)):
        raise Conflict(
            f"a model here is called {name!r}, and what has a name here is answered here",
            next_step="give the partner another name",
        )
    # The file last, while the lock of the trail's transaction keeps other writers away.
    with platform.db.write() as connection:
        known = read_targets(platform.home)
        before = _table(known[name]) if name in known else None
        if before == _table(target):
            return
        audit.record(connection, principal, "target.added", name, before, _table(target))
        _write(platform.home, known | {name: target})


def remove_target(platform: Platform, principal: Principal, name: str) -> None:
    """Raises NotFound: there is none of this name."""
    principal.require("models:write")
    with platform.db.write() as connection:
        known = read_targets(platform.home)
        if name not in known:
            raise NotFound(f"there is no partner {name!r}; known: {', '.join(known) or 'none yet'}")
        audit.record(connection, principal, "target.removed", name, before=_table(known[name]))
        _write(platform.home, {other: known[other] for other in known if other != name})


def _check(name: str, target: Target) -> None:
    check_name(name)
    _check_url(target.url)
    if not target.model:
        raise InvalidInput(f"{name} needs the model's name over there", param="model")
    if target.key_env is not None and not _VARIABLE.fullmatch(target.key_env):
        # Not shown: who gave the key itself by mistake must not find it in a log.
        raise InvalidInput(
            f"what {name} has for key_env is no name of an environment variable",
            next_step="export the key as MY_KEY=..., and give --key-env MY_KEY",
            param="key_env",
        )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise InvalidInput(
            "a partner's url is http:// or https:// with a host and no query",
            next_step="as OpenAI's clients take it: --url http://10.0.0.7:8001/v1",
            param="url",
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            "a partner's url has no user or password in it",
            next_step="put the key into an environment variable, and give --key-env VARIABLE",
            param="url",
        )


def _write(home: Home, targets: dict[str, Target]) -> None:
    """In one piece: a server may be reading."""
    tables: dict[str, Any] = {name: _table(target) for name, target in sorted(targets.items())}
    handle, temporary = tempfile.mkstemp(dir=home.root, prefix=".targets-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(tomli_w.dumps(tables))
        Path(temporary).replace(targets_file(home))
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _table(target: Target) -> dict[str, str]:
    return {key: value for key, value in msgspec.structs.asdict(target).items() if value}
