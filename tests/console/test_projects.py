"""Projects and keys: what the pages show, to whom, and what their forms do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from bessemer.app import files, members, people, project_keys, projects, service_accounts
from bessemer.app.keys import KeyRing, create_key
from bessemer.app.paging import PageRequest
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.core.errors import Unauthenticated
from tests.console.copied import House, house
from tests.console.test_signing_in import log_in, reader_of

__all__ = ["house"]  # a fixture

SECRET = re.compile(r"sk-bsm-[\w-]{43}")
HERE = f"/projects/{PROJECT_ID}"


def research(platform: Platform) -> projects.Project:
    return projects.create(platform, platform.local_principal(), "research")


def test_a_project_is_created_opened_and_archived(client: TestClient, platform: Platform) -> None:
    answer = client.post("/projects", data={"name": "research"})
    assert answer.status_code == 303
    path = answer.headers["location"]
    page = client.get(path).text
    assert "<h1>research</h1>" in page and "No key is in use here" in page
    assert client.post(f"{path}/archive").status_code == 303
    assert "archived" in client.get("/projects").text
    page = client.get(path).text
    assert "archived" in page and '<form class="card' not in page
    assert client.post(f"{path}/keys", data={"name": "x", "scope": "chat"}).status_code == 409


def test_an_archived_project_is_no_place_to_work_in(client: TestClient, platform: Platform) -> None:
    gone = research(platform)
    client.post(f"/projects/{gone.id}/work")
    assert '<span class="sr">You work in </span>research' in client.get("/files").text
    client.post(f"/projects/{gone.id}/archive")
    assert '<span class="sr">You work in </span>Default project' in client.get("/files").text
    client.post("/files", files={"file": ("a", b"{}")}, data={"purpose": "evals"})
    me = platform.local_principal()
    there, _ = files.list_files(platform, replace(me, project_id=gone.id), PageRequest())
    here, _ = files.list_files(platform, me, PageRequest())
    assert (len(there), len(here)) == (0, 1)


def test_the_secret_of_a_key_is_shown_once(client: TestClient, platform: Platform) -> None:
    form = {"name": "note<b>book", "scope": ["chat", "files:read"], "expires": "90"}
    answer = client.post(f"{HERE}/keys", data=form)
    (secret,) = set(SECRET.findall(answer.text))
    principal = KeyRing(platform).authenticate(secret)
    assert principal.scopes == {"chat", "files:read"}
    later = client.get(HERE).text
    assert secret not in later
    assert "note&lt;b&gt;book" in later and f"sk-bsm-...{secret[-4:]}" in later
    assert "<code>files:read</code>" in later and "used never" in later and "ends 20" in later


def test_a_key_is_revoked(client: TestClient, platform: Platform) -> None:
    key = create_key(platform, platform.local_principal(), "old one", ["chat"])
    assert f'action="{HERE}/keys/{key.id}/revoke"' in client.get(HERE).text
    answer = client.post(f"{HERE}/keys/{key.id}/revoke")
    assert answer.headers["location"] == f"{HERE}#keys"
    assert "old one" not in client.get(HERE).text
    with pytest.raises(Unauthenticated):
        KeyRing(platform).authenticate(key.secret)
    assert client.post(f"{HERE}/keys/{key.id}/revoke").status_code == 404


def test_a_key_of_another_project_is_not_here(client: TestClient, platform: Platform) -> None:
    other = research(platform)
    me = platform.local_principal()
    key = project_keys.create(platform, me, other.id, "theirs", ["chat"])
    assert client.post(f"{HERE}/keys/{key.id}/revoke").status_code == 404
    assert "theirs" not in client.get(HERE).text
    assert "theirs" in client.get(f"/projects/{other.id}").text
    assert client.get("/projects/proj_nobody").status_code == 404


@pytest.mark.parametrize(
    "form",
    [{"name": "", "scope": "chat"}, {"name": "x"}, {"name": "x", "scope": "everything"},
     {"name": "x", "scope": "chat", "expires": "7"}],
)  # fmt: skip
def test_a_form_that_makes_no_key_says_why(client: TestClient, form: dict[str, str]) -> None:
    answer = client.post(f"{HERE}/keys", data=form)
    assert answer.status_code == 400
    assert "That did not work" in answer.text


def test_an_expired_key_says_so(client: TestClient, platform: Platform) -> None:
    create_key(platform, platform.local_principal(), "old", ["chat"], expires_in_s=-1)
    assert "has expired" in client.get(HERE).text


def test_a_long_list_of_keys_has_a_next_page(client: TestClient, platform: Platform) -> None:
    me = platform.local_principal()
    for number in range(101):
        create_key(platform, me, f"key-{number:03}", ["chat"])
    first = client.get(HERE).text
    assert "key-100" in first and "key-000" not in first
    (after,) = re.findall(rf'href="{HERE}\?after=(\w+)#keys"', first)
    assert "key-000" in client.get(f"{HERE}?after={after}").text


def test_every_person_and_account_is_on_some_page(client: TestClient, platform: Platform) -> None:
    me = platform.local_principal()
    for number in range(101):
        person = people.add(platform, me, f"p{number:03}@example.org", "reader")
        members.add(platform, me, PROJECT_ID, person.id, "reader")
        service_accounts.create(platform, me, PROJECT_ID, f"robot-{number:03}")
    for address, part, last in (
        ("/projects", "people", "p100@example.org"),
        (HERE, "people", "p100@example.org"),
        (HERE, "accounts", "robot-100</strong>"),
    ):
        found = f'id="{part}"'
        text = client.get(address).text.partition(found)[2]
        assert last not in text
        (link,) = re.findall(rf'href="({address}\?after_\w+=[\w-]+#{part})"', text)
        assert last in client.get(link).text.partition(found)[2]


def test_a_service_account_comes_with_a_key_and_goes_with_it(
    client: TestClient, platform: Platform
) -> None:
    answer = client.post(f"{HERE}/accounts", data={"name": "nightly"})
    (secret,) = set(SECRET.findall(answer.text))
    assert KeyRing(platform).authenticate(secret).holds("chat")
    me = platform.local_principal()
    (account,), _ = service_accounts.list_accounts(platform, me, PROJECT_ID, PageRequest())
    assert client.post(f"{HERE}/accounts/{account.id}/delete").status_code == 303
    with pytest.raises(Unauthenticated):
        KeyRing(platform).authenticate(secret)
    assert "None yet. A service account" in client.get(HERE).text


def test_people_come_in_change_their_role_and_go(client: TestClient, platform: Platform) -> None:
    assert "Nobody is on this project" in client.get(HERE).text
    client.post("/people", data={"email": "ada@example.org", "role": "reader"})
    assert "ada@example.org" in client.get("/projects").text
    client.post(f"{HERE}/people", data={"person": "ada@example.org", "role": "member"})
    me = platform.local_principal()
    ada = people.find(platform, me, "ada@example.org")
    assert members.get(platform, me, PROJECT_ID, ada.id).role == "member"
    client.post(f"{HERE}/people/{ada.id}/role", data={"role": "owner"})
    assert "<option selected>owner</option>" in client.get(HERE).text
    client.post(f"{HERE}/people/{ada.id}/remove")
    assert "Nobody is on this project" in client.get(HERE).text


def test_a_reader_reads_and_changes_nothing(stranger: TestClient, platform: Platform) -> None:
    me = platform.local_principal()
    key = create_key(platform, me, "the owner's", ["chat"])
    reader = reader_of(platform, PROJECT_ID)
    client = log_in(stranger, platform, reader)
    for path in ("/projects", HERE):
        page = client.get(path)
        assert page.status_code == 200
        assert re.findall(r'action="([^"]+)"', page.text) == ["/logout"]
    assert "the owner&#39;s" in page.text
    posts = {
        "/projects": {"name": "mine"},
        "/people": {"email": "eve@example.org", "role": "owner"},
        f"{HERE}/archive": {},
        f"{HERE}/keys": {"name": "x", "scope": "files:read"},
        f"{HERE}/keys/{key.id}/revoke": {},
        f"{HERE}/accounts": {"name": "x"},
        f"{HERE}/accounts/svc_acct_x/delete": {},
        f"{HERE}/people": {"person": "owner@localhost", "role": "reader"},
        f"{HERE}/people/{reader.id}/role": {"role": "owner"},
        f"{HERE}/people/{reader.id}/remove": {},
    }
    for path, form in posts.items():
        assert client.post(path, data=form).status_code == 403, path
    assert "an owner gives roles" in client.post("/projects", data={"name": "mine"}).text
    assert project_keys.get(platform, me, PROJECT_ID, key.id).key.revoked_ms is None


def test_an_owner_of_one_project_changes_that_one_alone(
    stranger: TestClient, platform: Platform
) -> None:
    me, other = platform.local_principal(), research(platform)
    ada = people.add(platform, me, "ada@example.org", "reader")
    members.add(platform, me, other.id, ada.id, "owner")
    members.add(platform, me, PROJECT_ID, ada.id, "reader")
    client = log_in(stranger, platform, ada)
    assert '<form class="card' not in client.get(HERE).text
    there = f"/projects/{other.id}"
    answer = client.post(f"{there}/keys", data={"name": "hers", "scope": "chat"})
    assert SECRET.search(answer.text)
    assert client.post(f"{HERE}/keys", data={"name": "x", "scope": "chat"}).status_code == 403


def test_working_in_another_project_turns_every_page(
    client: TestClient, platform: Platform
) -> None:
    other = research(platform)
    answer = client.post(f"/projects/{other.id}/work")
    assert answer.headers["location"] == f"/projects/{other.id}"
    assert "You work in </span>research" in client.get("/runs").text
    assert client.post("/projects/proj_nobody/work").status_code == 404


def test_who_is_not_let_in_cannot_work_there(stranger: TestClient, platform: Platform) -> None:
    other = research(platform)
    client = log_in(stranger, platform, reader_of(platform, PROJECT_ID))
    assert client.post(f"/projects/{other.id}/work").status_code == 404
    listed = client.get("/projects").text
    assert HERE in listed and other.id not in listed and "owner@localhost" not in listed
    assert client.get(f"/projects/{other.id}").status_code == 403


def test_a_form_that_is_none_is_refused(client: TestClient) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/projects", content=b"name=%ff", headers=kind).status_code == 400
    assert client.post("/projects", content=b"a=" * 2_000, headers=kind).status_code == 400
    big = client.post("/projects", content=b"x" * 1_000_001, headers=kind)
    assert big.status_code == 413


def test_what_is_copied_says_what_the_pages_show(house: House) -> None:
    listed = house.page("/projects")
    ran = house.run(listed.calls["List the projects"])
    shown = re.findall(r'<a href="/projects/(\w+)">', listed.text)
    assert [one["id"] for one in ran["CLI"].json] == shown
    assert [one["id"] for one in ran["Python"].json["data"]] == shown
    assert ran.get("curl", ran["Python"]).json == ran["Python"].json

    one = house.page(HERE)
    hints = re.findall(r'<span class="id">(sk-bsm-[^<]+)</span>', one.text)
    ran = house.run(one.calls["List the keys"])
    assert [key["hint"] for key in ran["CLI"].json] == hints
    for name in ran.keys() - {"CLI"}:
        assert [key["redacted_value"] for key in ran[name].json["data"]] == hints


@pytest.mark.parametrize("name", ["curl", "Python", "CLI"])
def test_what_is_copied_revokes_a_key(house: House, name: str) -> None:
    me = house.platform.local_principal()
    key = create_key(house.platform, me, "notebook <b>", ["chat"])
    text = house.page(HERE).calls["Revoke the key notebook <b>"][name]
    for ran in house.run({name: text}).values():
        assert key.id in ran.out
        assert f"/keys/{key.id}/revoke" not in house.page(HERE).text


@pytest.mark.parametrize("name", ["curl", "Python", "CLI"])
def test_what_is_copied_creates_a_project(house: House, name: str) -> None:
    text = house.page("/projects").calls["Create a project"][name]
    for made in house.run({name: text}).values():
        page = house.page("/projects").text
        assert f'<a href="/projects/{made.json["id"]}">' in page


def test_what_is_copied_does_what_the_forms_do(house: House) -> None:
    ran = house.run(house.page(HERE).calls["Create a key"])
    page = house.page(HERE).text
    assert page.count("<strong>notebook</strong>") == len(ran)
    assert page.count("ends 20") == len(ran)
    for made in ran.values():
        assert made.json["id"] in page
    house.run(house.page("/projects").calls["List the people"])
    accounts = house.run(house.page(HERE).calls["Create a service account"])
    page = house.page(HERE).text
    for account in accounts.values():
        assert f"{HERE}/accounts/{account.json['id']}/delete" in page
    for title in ("List the service accounts", "List the people"):
        house.run(house.page(HERE).calls[title])
