"""Whose pages these are: the owner's of the home, or a person's with the rights of their roles."""

from __future__ import annotations

from starlette.testclient import TestClient

from bessemer.app import members, people, projects
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.app.signing_in import signed_in
from bessemer.console.sessions import offer_token, token_folder
from tests.console.told_runs import train_run


def log_in(client: TestClient, platform: Platform, person: people.Person) -> TestClient:
    token = offer_token(token_folder(platform.home), person.id)
    assert client.get(f"/login?token={token}").status_code == 200
    return client


def reader_of(platform: Platform, project_id: str) -> people.Person:
    me = platform.local_principal()
    person = people.add(platform, me, "reader@example.org", "reader")
    members.add(platform, me, project_id, person.id, "reader")
    return person


def test_a_reader_sees_no_buttons_and_is_refused(stranger: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    client = log_in(stranger, platform, reader_of(platform, PROJECT_ID))
    answer = client.get(run.path)
    assert answer.status_code == 200
    assert "/cancel" not in answer.text
    assert client.post(f"{run.path}/cancel").status_code == 403
    assert 'href="/chat"' not in answer.text
    assert client.get("/chat").status_code == 403


def test_a_person_works_in_the_project_that_lets_them_in(
    stranger: TestClient, platform: Platform
) -> None:
    run = train_run(platform)
    other = projects.create(platform, platform.local_principal(), "research")
    person = reader_of(platform, other.id)
    assert signed_in(platform, person.id).principal.project_id == other.id
    client = log_in(stranger, platform, person)
    assert run.id not in client.get("/runs").text
    assert client.get(run.path).status_code == 404


def test_a_role_that_is_taken_is_a_right_lost_at_once(
    stranger: TestClient, platform: Platform
) -> None:
    person = reader_of(platform, PROJECT_ID)
    client = log_in(stranger, platform, person)
    assert client.get("/runs").status_code == 200
    me = platform.local_principal()
    members.remove(platform, me, PROJECT_ID, person.id)
    assert client.get("/runs").status_code == 403
    people.remove(platform, me, person.id)
    assert client.get("/runs").status_code == 401


def test_whoever_is_in_begins_on_a_page_they_may_read(
    stranger: TestClient, platform: Platform
) -> None:
    client = log_in(stranger, platform, reader_of(platform, PROJECT_ID))
    assert client.get("/").headers["location"] == "/runs"
