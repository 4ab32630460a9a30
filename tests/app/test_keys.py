"""Keys: shown once, kept as hashes, known in memory, ended by revoking."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from bessemer.app.keys import KeyRing, create_key, list_keys, revoke_key
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput, NotFound, PermissionDenied, Unauthenticated
from bessemer.core.principal import Principal
from bessemer.core.tables import metadata
from tests.unreachable import Reached, unreachable


def test_a_key_acts_for_the_project_that_made_it(platform: Platform, owner: Principal) -> None:
    key = create_key(platform, owner, "laptop", ["chat", "models:read"])
    found = KeyRing(platform).authenticate(key.secret)
    assert found == Principal(
        owner.org_id, owner.project_id, owner.owner_id, frozenset(key.scopes), key_id=key.id
    )
    found.require("chat")


def test_the_secret_is_in_no_file_and_no_row_of_the_home(
    platform: Platform, owner: Principal
) -> None:
    key = create_key(platform, owner, "laptop", ["chat"])
    KeyRing(platform).authenticate(key.secret)
    files = [path for path in platform.home.root.rglob("*") if path.is_file()]
    contents = b"".join(path.read_bytes() for path in files)
    with platform.db.read() as connection:  # which is no file where it is PostgreSQL's
        for table in metadata.sorted_tables:
            contents += repr(connection.execute(sa.select(table)).all()).encode()
    assert key.id.encode() in contents, "the search does look where keys are"
    assert key.secret.encode() not in contents
    assert key.secret.removeprefix("sk-bsm-").encode() not in contents
    assert key.secret not in repr(key)


@pytest.mark.parametrize("secret", ["", "sk-bsm-", "sk-bsm-" + "A" * 43, "\udc80", "x" * 10_000])
def test_a_secret_nobody_made_is_refused(platform: Platform, owner: Principal, secret: str) -> None:
    create_key(platform, owner, "laptop", ["chat"])
    with pytest.raises(Unauthenticated):
        KeyRing(platform).authenticate(secret)


def test_a_ring_learns_of_new_and_revoked_keys_when_refreshed(
    platform: Platform, owner: Principal
) -> None:
    ring = KeyRing(platform)
    assert not ring.refresh()
    first = create_key(platform, owner, "first", ["chat"])
    with pytest.raises(Unauthenticated):
        ring.authenticate(first.secret)
    assert ring.refresh()
    ring.authenticate(first.secret)
    # One more and one less at once must not look like nothing.
    second = create_key(platform, owner, "second", ["chat"])
    revoke_key(platform, owner, first.id)
    assert ring.refresh()
    ring.authenticate(second.secret)
    with pytest.raises(Unauthenticated):
        ring.authenticate(first.secret)
    assert not ring.refresh()


def test_authenticating_never_touches_the_database(platform: Platform, owner: Principal) -> None:
    key = create_key(platform, owner, "laptop", ["chat"])
    ring = KeyRing(platform)
    with unreachable(platform.db):
        with pytest.raises(Reached):
            list_keys(platform, owner)
        assert ring.authenticate(key.secret).key_id == key.id


def test_a_list_shows_hints_and_never_secrets(platform: Platform, owner: Principal) -> None:
    first = create_key(platform, owner, "first", ["chat"])
    second = create_key(platform, owner, "second", ["*"])
    revoke_key(platform, owner, first.id)
    listed = list_keys(platform, owner)
    assert [key.name for key in listed] == ["second", "first"]
    assert [key.hint for key in listed] == [second.hint, first.hint]
    assert listed[0].revoked_ms is None and listed[1].revoked_ms is not None
    assert first.secret not in repr(listed) and second.secret not in repr(listed)


def test_revoking_twice_keeps_the_first_time(platform: Platform, owner: Principal) -> None:
    key = create_key(platform, owner, "laptop", ["chat"])
    once = revoke_key(platform, owner, key.id)
    assert revoke_key(platform, owner, key.id) == once


def test_another_projects_keys_are_out_of_sight(
    platform: Platform, owner: Principal, stranger: Principal
) -> None:
    key = create_key(platform, owner, "laptop", ["chat"])
    assert list_keys(platform, stranger) == []
    with pytest.raises(NotFound):
        revoke_key(platform, stranger, key.id)
    KeyRing(platform).authenticate(key.secret)


def test_a_key_cannot_make_a_stronger_one(platform: Platform, owner: Principal) -> None:
    weak = Principal(owner.org_id, owner.project_id, owner.owner_id, frozenset({"keys:write"}))
    with pytest.raises(PermissionDenied, match="chat"):
        create_key(platform, weak, "more", ["chat"])
    with pytest.raises(PermissionDenied):
        create_key(platform, weak, "all", ["*"])
    create_key(platform, weak, "same", ["keys:write"])
    with pytest.raises(PermissionDenied):
        list_keys(platform, weak)


@pytest.mark.parametrize(("name", "scopes"), [("", ["chat"]), ("x" * 201, ["chat"]), ("x", [])])
def test_a_key_needs_a_name_and_a_scope(
    platform: Platform, owner: Principal, name: str, scopes: list[str]
) -> None:
    with pytest.raises(InvalidInput):
        create_key(platform, owner, name, scopes)
