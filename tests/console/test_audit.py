"""The page of the audit trail: filters, pages, what differs, and the same from outside."""

from __future__ import annotations

import re
import time

import pytest
from starlette.testclient import TestClient

from bessemer.app import files, people, projects
from bessemer.app.keys import KeyRing, create_key, revoke_key
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.console.audit import LISTED
from tests.console.copied import House, house
from tests.console.test_signing_in import log_in, reader_of

__all__ = ["house"]  # a fixture


def actions(page: str) -> list[str]:
    """Of the lines shown, in their order."""
    name = r'(?:<span>[^<]*</span>\s*)?<a class="quiet id"'
    return re.findall(rf'<a href="/audit\?[^"]*">([\w.]+)</a>\s*{name}', page)


def lively(platform: Platform) -> projects.Project:
    me = platform.local_principal()
    project = projects.create(platform, me, "research")
    projects.rename(platform, me, project.id, "re<b>search")
    ada = people.add(platform, me, "ada@example.org", "reader")
    people.set_role(platform, me, ada.id, "member")
    key = create_key(platform, me, "notebook", ["chat"])
    revoke_key(platform, me, key.id)
    return project


LIVELY = [
    "api_key.deleted", "api_key.created", "user.updated", "user.added", "project.updated",
    "project.created",
]  # fmt: skip


def test_an_empty_trail_says_what_begins_it(client: TestClient) -> None:
    page = client.get("/audit").text
    assert "Nothing was changed yet" in page and "bessemer key create" in page


def test_changes_are_listed_newest_first(client: TestClient, platform: Platform) -> None:
    lively(platform)
    page = client.get("/audit").text
    assert actions(page) == LIVELY
    assert "owner@localhost" in page and "without a key" in page


def test_what_was_changed_stands_beside_what_it_was(client: TestClient, platform: Platform) -> None:
    lively(platform)
    page = client.get("/audit?action=project.updated").text
    assert "<dt>name</dt><dd><del>research</del>" in page
    assert "<ins>re&lt;b&gt;search</ins>" in page
    made = client.get("/audit?action=user.added").text
    assert "<del>" not in made and "<ins>ada@example.org</ins>" in made
    key = client.get("/audit?action=api_key.created").text
    assert "<dt>scopes</dt><dd><ins>chat</ins>" in key and "expires_ms" not in key
    ended = client.get("/audit?action=api_key.deleted").text
    assert "<ins>" not in ended and "<del>notebook</del>" in ended


def test_keys_are_called_by_their_names_also_when_they_are_gone(
    client: TestClient, platform: Platform
) -> None:
    me = platform.local_principal()
    ci = create_key(platform, me, "<i>ci", ["*"])
    with_it = KeyRing(platform).authenticate(ci.secret)
    files.add_bytes(platform, with_it, "a.txt", "user_data", b"a")
    revoke_key(platform, me, ci.id)
    page = client.get("/audit").text
    assert f'by the key &lt;i&gt;ci <span class="id">{ci.id}</span>' in page
    target = r"<span>&lt;i&gt;ci</span>\s*<a class=\"quiet id\" href=\"[^\"]*\">(\w+)</a>"
    assert re.findall(target, page) == [ci.id, ci.id]  # made and ended
    assert ci.secret not in page and ci.secret[-8:] not in page


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("action=user.added", ["user.added"]),
        ("actor=owner@localhost&action=user.updated", ["user.updated"]),
        ("actor=person_default", LIVELY),
        ("actor=nobody@example.org", []),
        ("since=2001-01-01", LIVELY),
        ("until=2001-01-01", []),
        ("target=research", []),
    ],
)
def test_filters(client: TestClient, platform: Platform, query: str, shown: list[str]) -> None:
    lively(platform)
    page = client.get(f"/audit?{query}").text
    assert actions(page) == shown
    assert ("No change is like that" in page) == (not shown)
    assert ("all else by its id" in page) == query.startswith("target=")


def test_a_target_and_a_day(client: TestClient, platform: Platform) -> None:
    project = lively(platform)
    assert actions(client.get(f"/audit?target={project.id}").text) == LIVELY[-2:]
    today = time.strftime("%Y-%m-%d", time.gmtime())
    for days in (f"since={today}&until={today}", "since=0001-01-01&until=9999-12-31"):
        assert actions(client.get(f"/audit?{days}").text) == LIVELY


@pytest.mark.parametrize("query", ["since=yesterday", "action=nothing.done", "after=audit_log-x"])
def test_a_filter_that_is_none_is_refused(client: TestClient, query: str) -> None:
    answer = client.get(f"/audit?{query}")
    assert answer.status_code == 400 and "That did not work" in answer.text


def test_pages_are_turned_both_ways(client: TestClient, platform: Platform) -> None:
    me = platform.local_principal()
    for number in range(LISTED + 3):
        projects.create(platform, me, f"project-{number:03}")
    first = client.get("/audit?action=project.created").text
    assert len(actions(first)) == LISTED and ">Newer</a>" not in first
    (older,) = re.findall(r'href="([^"]+)">Older</a>', first)
    second = client.get(older.replace("&amp;", "&")).text
    assert "project-000" in second and len(actions(second)) == 3 and ">Older</a>" not in second
    (newer,) = re.findall(r'href="([^"]+)">Newer</a>', second)
    back = client.get(newer.replace("&amp;", "&")).text
    names = re.compile(r"<ins>(project-\d+)</ins>")
    assert names.findall(back) == names.findall(first) and ">Newer</a>" not in back


def test_who_may_not_read_the_organization_is_refused(
    stranger: TestClient, platform: Platform
) -> None:
    me, reader = platform.local_principal(), reader_of(platform, PROJECT_ID)
    client = log_in(stranger, platform, reader)
    assert client.get("/audit").status_code == 403
    people.set_role(platform, me, reader.id, "member")
    assert client.get("/audit").status_code == 200
    assert client.post("/audit").status_code == 405
    people.remove(platform, me, reader.id)
    assert client.get("/audit").status_code == 401


def test_what_is_copied_lists_what_the_page_shows(house: House) -> None:
    lively(house.platform)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    for query in ("", f"?actor=owner@localhost&since={today}&until={today}&action=api_key.created"):
        page = house.page(f"/audit{query}")
        ran = house.run(page.calls["List these changes"])
        shown = actions(page.text)
        assert shown
        assert [event["action"] for event in ran["CLI"].json] == shown
        for name in ran.keys() - {"CLI"}:
            assert [event["type"] for event in ran[name].json["data"]] == shown
