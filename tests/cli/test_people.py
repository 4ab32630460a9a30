"""`bessemer key`, `project`, `people` and `audit`, together as a person uses them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from bessemer.app import models, projects
from bessemer.app.keys import KeyRing
from bessemer.app.platform import Platform
from bessemer.console.sessions import Sessions, token_folder
from bessemer.core.home import Home
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
    assert "100 years" in say("key", "create", "--expires", f"{10**18}d").err
    assert say("key", "revoke", key["id"], "--project", project["id"]).status == 0

    assert say("project", "archive", "research").status == 0
    assert len(say("project", "list", "--json").json) == 1
    assert len(say("project", "list", "--archived", "--json").json) == 2
    late = say("key", "create", "--project", "research")
    assert (late.status, late.out) == (1, "") and "'research' is archived" in late.err
    assert "bessemer project create research makes a new one" in late.err

    trail = say("audit", "--project", project["id"], "--json").json
    assert [event["action"] for event in trail] == [
        "project.archived", "api_key.deleted", "api_key.created", "project.user.added",
        "project.created",
    ]  # fmt: skip
    assert {event["email"] for event in trail} == {"owner@localhost"}
    assert key["secret"] not in say("audit", "--json").out
    assert "owner@localhost" in say("audit", "--target", project["id"]).out


@pytest.mark.parametrize("words", [["key", "create"], ["people", "invite", "ada@example.org"]])
def test_a_new_secret_is_good_for_the_next_line_of_a_script(words: list[str], home: Path) -> None:
    over = threading.Event()

    def serve(ring: KeyRing) -> None:
        while not over.wait(1):  # as a server does
            ring.refresh()

    with Platform.open() as platform, Home(home).lock():
        ring = KeyRing(platform)
        server = threading.Thread(target=serve, args=(ring,))
        server.start()
        secret = say(*words).out.strip()
        over.set()
        server.join()
        assert ring.authenticate(secret).org_id


def test_a_name_with_line_ends_and_commands_of_a_terminal_stays_in_its_cell() -> None:
    assert say("key", "create", "--name", "a\nb\x1b[2J\u202e").status == 0
    _, row = say("key", "list").out.splitlines()
    assert r"  a\nb\x1b[2J\u202e  " in row


def test_what_is_not_found_is_not_said_to_be_none_yet() -> None:
    say("project", "create", "research")
    assert say("audit", "--actor", "nobody@example.org").out == "no changes\n"
    assert say("files", "list", "--purpose", "evals").out == "no files with the purpose 'evals'\n"


def test_an_admin_key_and_an_invite_are_shown_once() -> None:
    made = say("key", "create", "--admin", "--json").json
    assert made["scopes"] == ["org:read", "org:write"]
    assert say("key", "create", "--admin", "--scope", "chat").status == 2
    token = say("people", "invite", "ada@example.org")
    assert len(token.out.split()) == 1
    assert "not shown again" in token.err
    assert say("people", "remove", "owner@localhost").status == 1
    assert say("people", "add", "ada@example.org", "--role", "king").status == 1


def test_a_project_is_given_a_model_and_no_other() -> None:
    made = say("project", "create", "research")
    assert "bessemer project give 'research' MODEL" in made.out
    with Platform.open() as platform:
        me = platform.local_principal()
        for name in ("ours", "theirs"):
            folder = platform.artifacts.workspace()
            (folder / "config.json").write_text(name)
            stored = platform.artifacts.put(folder, kind="model", name=name)
            models.register(platform, me, name, stored)
    given = say("project", "give", "research", "theirs")
    assert (given.status, given.err) == (0, "") and "research may ask theirs" in given.out
    assert say("project", "give", "research", "theirs").status == 0
    with Platform.open() as platform:
        there = projects.acting_in(platform, platform.local_principal(), "research")
        assert [model.name for model in models.list_models(platform, there)] == ["theirs"]
    (line,) = say("audit", "--project", there.project_id, "--action", "model.named", "--json").json
    assert line["target"] == "theirs"
    assert "no model 'nothing'" in say("project", "give", "research", "nothing").err


def test_the_trail_of_some_days() -> None:
    say("project", "create", "research")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert len(say("audit", "--since", today, "--until", today, "--json").json) == 1
    assert say("audit", "--until", "2001-01-01", "--json").json == []
    assert say("audit", "--since", "0001-01-01", "--until", "9999-12-31", "--json").json
    assert say("audit", "--since", "2999-01-01", "--json").json == []
    assert say("audit", "--since", "yesterday").status == 2
    assert say("audit", "--limit", "-5").status == 2
    say("project", "create", "x" * 100)
    assert f'- -> name="{"x" * 59}...\n' in say("audit", "--limit", "1").out
    say("limits", "set", "--requests", "5")
    assert "rl-*" in (said := say("audit", "--limit", "1").out) and "  - -> max_req" in said


def test_an_address_for_somebody_lets_in_nobody_else() -> None:
    ada = say("people", "add", "ada@example.org", "--json").json
    home = Home.find()
    with home.lock():
        home.note_holder(url="http://127.0.0.1:8000")
        url = say("login", "--as", "ada@example.org").out.strip()
        own = say("login").out.strip()
        assert "no user" in say("login", "--as", "eve@example.org").err
    sessions = Sessions(token_folder(home))
    session = sessions.find(sessions.redeem(url.partition("token=")[2]))
    assert session is not None and session.person_id == ada["id"]
    session = sessions.find(sessions.redeem(own.partition("token=")[2]))
    assert session is not None and session.person_id is None
