"""Secrets are long, unlike each other, and never kept."""

from __future__ import annotations

import hashlib
import re

import pytest

from bessemer.access.keys import check_scopes, hash_secret, hint, make_secret, matches
from bessemer.core.errors import InvalidInput


def test_a_secret_is_32_random_bytes_behind_a_prefix() -> None:
    made = {make_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"sk-bsm-[A-Za-z0-9_-]{43}", secret) for secret in made)


def test_a_hash_is_sha_256_and_only_the_same_secret_matches_it() -> None:
    one, other = make_secret(), make_secret()
    assert hash_secret(one) == hashlib.sha256(one.encode()).hexdigest()
    assert matches(hash_secret(one), hash_secret(one))
    assert not matches(hash_secret(other), hash_secret(one))


def test_any_text_a_header_can_hold_has_a_hash() -> None:
    assert len(hash_secret("\udcff" + "x" * 100_000)) == 64


def test_a_hint_shows_four_characters() -> None:
    secret = make_secret()
    assert hint(secret) == f"sk-bsm-...{secret[-4:]}"


def test_scopes_are_checked() -> None:
    assert check_scopes(["chat", "models:read", "chat"]) == {"chat", "models:read"}
    with pytest.raises(InvalidInput, match="no scope 'model:read'; did you mean 'models:read'"):
        check_scopes(["chat", "model:read"])
    with pytest.raises(InvalidInput, match="at least one"):
        check_scopes([])
