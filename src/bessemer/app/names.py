"""The names a project gave to artifacts. Models and datasets are both names of this kind.

A name points at a digest; pointing it elsewhere adds a row, and the newest row wins, so that what
a name meant last week can still be said. A project sees only digests that it has a name for.
"""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import sqlalchemy as sa

from bessemer.app import audit
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact, Kind
from bessemer.core.database import now_ms
from bessemer.core.digests import DIGEST_PREFIX
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.tables import names

MIN_PREFIX_HEX = 12

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_DIGEST_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX_HEX},64}}")


class Named(NamedTuple):
    """A name and what it means now."""

    name: str
    artifact: Artifact


def list_named(platform: Platform, principal: Principal, kind: Kind) -> list[Named]:
    """Every name of this kind in the project, sorted by name."""
    found = []
    for name, digest in sorted(_bound(platform, principal, kind).items()):
        try:
            found.append(Named(name, platform.artifacts.get(digest)))
        except NotFound:
            # One lost folder must not hide the others; finding it by name says what is wrong.
            _log.warning("%s %s is named but its artifact %s is gone", kind, name, digest)
    return found


def find_named(platform: Platform, principal: Principal, kind: Kind, text: str) -> Named:
    """By name, by digest, or by the first 12 or more hex digits of a digest.

    Raises:
        NotFound: with the names there are.
        InvalidInput: the digits fit more than one digest.
    """
    bound = _bound(platform, principal, kind)
    if text in bound:
        return Named(text, platform.artifacts.get(bound[text]))
    if may_be_digest(text):
        digits = text.removeprefix(DIGEST_PREFIX)
        found = _by_digest(platform, principal, kind, DIGEST_PREFIX + digits)
        if found is not None:
            return found
    known = ", ".join(sorted(bound)) or "none yet"
    raise NotFound(f"there is no {kind} {text!r}; known: {known}", next_step=_how_to_add(kind))


def may_be_digest(text: str) -> bool:
    """Whether it has the form of a digest, or of the beginning of one that is long enough."""
    return _DIGEST_PREFIX.fullmatch(text.removeprefix(DIGEST_PREFIX)) is not None


def bind(
    platform: Platform,
    principal: Principal,
    kind: Kind,
    name: str,
    digest: str,
    run_id: str | None = None,
) -> None:
    """Let `name` mean `digest` from now on. Doing it twice changes nothing."""
    check_name(name)
    with platform.db.write() as connection:
        insert_name(connection, principal, kind, name, digest, run_id)


def insert_name(
    connection: sa.Connection,
    owner: Principal,
    kind: Kind,
    name: str,
    digest: str,
    run_id: str | None,
) -> None:
    """`bind` within a transaction of the caller's."""
    newest = (
        sa.select(names.c.digest)
        .where(names.c.project_id == owner.project_id, names.c.kind == kind, names.c.name == name)
        .order_by(names.c.id.desc())
        .limit(1)
    )
    meant = connection.execute(newest).scalar()
    if meant == digest:
        return
    row = {"kind": kind, "name": name, "digest": digest, "run_id": run_id}
    ids = {"org_id": owner.org_id, "project_id": owner.project_id, "owner_id": owner.owner_id}
    connection.execute(names.insert().values(id=new_id("name"), created_ms=now_ms(), **ids, **row))
    before = None if meant is None else {"digest": meant}
    after = {"digest": digest, "run_id": run_id}
    audit.record(connection, owner, f"{kind}.named", name, before=before, after=after)


def check_name(name: str) -> str:
    """Raises InvalidInput unless `name` can be a name."""
    if not _NAME.fullmatch(name) or name.startswith(DIGEST_PREFIX):
        raise InvalidInput(
            f"{name!r} cannot be a name: 1 to 200 letters, digits and . _ : / @ + -, "
            "beginning with a letter or digit",
            param="name",
        )
    return name


def _bound(platform: Platform, principal: Principal, kind: Kind) -> dict[str, str]:
    query = (
        sa.select(names.c.name, names.c.digest)
        .where(names.c.project_id == principal.project_id, names.c.kind == kind)
        .order_by(names.c.id)
    )
    with platform.db.read() as connection:
        return {row.name: row.digest for row in connection.execute(query)}


def _by_digest(platform: Platform, principal: Principal, kind: Kind, prefix: str) -> Named | None:
    query = (
        sa.select(names.c.name, names.c.digest)
        .where(names.c.project_id == principal.project_id, names.c.kind == kind)
        .where(names.c.digest.startswith(prefix))
        .order_by(names.c.id)
    )
    with platform.db.read() as connection:
        found = {digest: name for name, digest in connection.execute(query)}
    if len(found) > 1:
        raise InvalidInput(
            f"{prefix} fits {len(found)} digests: {', '.join(sorted(found))}",
            next_step="give more digits",
        )
    for digest, name in found.items():
        return Named(name, platform.artifacts.get(digest))
    return None


def _how_to_add(kind: Kind) -> str:
    if kind == "dataset":
        return "bessemer data build python-docs, or bessemer data import FILE.jsonl"
    return "bessemer pull smollm2-135m-instruct"
