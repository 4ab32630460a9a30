"""`bessemer key`, `project`, `people` and `audit`, together as a person uses them."""

from __future__ import annotations

from tests.cli.calling import say


def test_a_project_gets_a_person_a_key_and_an_end() -> None:
    project = say("project", "create", "research", "--json").json
    assert say("people", "add", "ada@example.org").status == 0
    assert say("people", "role", "ada@example.org", "member", "--project", "research").status == 0
    (inside,) = say("people", "list", "--project", "research", "--json").json
    assert (inside["email"], inside["role"]) == ("ada@example.org", "member")
    assert [one["role"] for one in say("people", "list", "--json").json] == ["owner", "reader"]

    words = ("--name", "nightly", "--scope", "*", "--expires", "30d", "--project", "research")
    key = say("key", "create", *words, "--json").json
    assert key["project_id"] == project["id"] and key["expires_ms"] is not None
    (listed,) = say("key", "list", "--project", "research", "--json").json
    assert listed["id"] == key["id"]
    assert say("key", "list", "--json").json == []
    assert "until " in say("key", "list", "--project", "research").out
    assert say("key", "revoke", key["id"], "--project", project["id"]).status == 0

    assert say("project", "archive", "research").status == 0
    assert len(say("project", "list", "--json").json) == 1
    assert len(say("project", "list", "--archived", "--json").json) == 2
    late = say("key", "create", "--project", "research")
    assert (late.status, late.out) == (1, "") and "no project 'research'" in late.err

    trail = say("audit", "--project", project["id"], "--json").json
    assert [event["action"] for event in trail] == [
        "project.archived", "api_key.deleted", "api_key.created", "project.user.added",
        "project.created",
    ]  # fmt: skip
    assert {event["email"] for event in trail} == {"owner@localhost"}
    assert key["secret"] not in say("audit", "--json").out
    assert "owner@localhost" in say("audit", "--target", project["id"]).out


def test_an_admin_key_and_an_invite_are_shown_once() -> None:
    made = say("key", "create", "--admin", "--json").json
    assert made["scopes"] == ["org:read", "org:write"]
    assert say("key", "create", "--admin", "--scope", "chat").status == 2
    token = say("people", "invite", "ada@example.org")
    assert len(token.out.split()) == 1
    assert "not shown again" in token.err
    assert say("people", "remove", "owner@localhost").status == 1
    assert say("people", "add", "ada@example.org", "--role", "king").status == 1
