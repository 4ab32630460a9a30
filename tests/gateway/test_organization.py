"""`/v1/organization`: who there is, what they may do, and that it holds. Answers are held to
OpenAI's specification by `World.ask`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from bessemer.app.keys import create_key
from tests.gateway.calling import running
from tests.gateway.organization import World, world
from tests.specification import specification

PROJECTS = "/v1/organization/projects"
USERS = "/v1/organization/users"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as found:
        yield found


def test_the_official_client_does_the_life_of_a_project(here: World) -> None:
    with running(here.app) as server:
        url = server.url + "/v1"
        client = openai.OpenAI(
            base_url=url, api_key=here.mine, admin_api_key=here.admin, max_retries=0
        )
        organization = client.admin.organization
        made = organization.projects.create(name="ours")
        assert organization.projects.retrieve(made.id).name == "ours"
        assert organization.projects.update(made.id, name="theirs").name == "theirs"
        names = {project.name for project in organization.projects.list(limit=1)}
        assert names == {"Default project", "first", "second", "theirs"}

        account = organization.projects.service_accounts.create(made.id, name="robot")
        assert account.api_key is not None
        robot = openai.OpenAI(base_url=url, api_key=account.api_key.value, max_retries=0)
        assert list(robot.files.list()) == []
        listed = list(organization.projects.api_keys.list(made.id))
        assert [key.owner.type for key in listed] == ["service_account"]
        assert account.api_key.value not in repr(listed)

        user = organization.projects.users.create(
            made.id, email="reader@example.org", role="member"
        )
        assert organization.projects.users.retrieve(user.id, project_id=made.id).role == "member"
        assert [one.id for one in organization.projects.users.list(made.id)] == [user.id]
        assert organization.projects.users.delete(user.id, project_id=made.id).deleted

        ended = organization.projects.archive(made.id)
        assert (ended.status, made.status) == ("archived", "active")
        with pytest.raises(openai.AuthenticationError, match="archived"):
            robot.files.list()
        types = [event.type for event in organization.audit_logs.list(project_ids=[made.id])]
        assert types == [
            "project.archived", "api_key.created", "service_account.created",
            "project.updated", "project.created",
        ]  # fmt: skip


def test_a_key_is_good_from_the_answer_on_and_a_revoked_one_no_more(here: World) -> None:
    with running(here.app) as server:
        url = server.url + "/v1"
        organization = openai.OpenAI(
            base_url=url, api_key="none", admin_api_key=here.admin, max_retries=0
        ).admin.organization
        for _ in range(3):
            account = organization.projects.service_accounts.create(here.first.id, name="robot")
            assert account.api_key is not None
            robot = openai.OpenAI(base_url=url, api_key=account.api_key.value, max_retries=0)
            assert list(robot.files.list()) == []
            organization.projects.service_accounts.delete(account.id, project_id=here.first.id)
            with pytest.raises(openai.AuthenticationError):
                robot.files.list()


def test_projects_are_renamed_and_archived_once(here: World) -> None:
    path = f"{PROJECTS}/{here.first.id}"
    assert here.post(path, {"name": "one"})["name"] == "one"
    assert here.ask("POST", path, {"name": "second"}).status == 409
    assert here.ask("POST", path, {"name": " "}).error["param"] == "name"
    assert here.ask("POST", path, {"colour": "red"}).error["param"] == "colour"
    assert here.ask("POST", PROJECTS, {"name": "x", "residency": "GLOBAL"}).status == 400
    once = here.post(path + "/archive")
    assert here.post(path + "/archive") == once
    assert here.ask("POST", path, {"name": "again"}).status == 409
    assert here.first.id not in str(here.get(PROJECTS))
    assert here.first.id in str(here.get(PROJECTS + "?include_archived=true"))
    assert here.ask("POST", f"{PROJECTS}/project_default/archive").status == 409


def test_a_role_bounds_every_key_of_a_person_at_once(here: World) -> None:
    user = here.get(USERS + "?emails[]=reader@example.org")["data"][0]
    files = "/v1/files"
    assert here.ask("GET", files, key=here.reader).status == 200
    assert here.ask("DELETE", files + "/x", key=here.reader).status == 403
    there = f"{PROJECTS}/{here.first.id}/users/{user['id']}"
    assert here.post(there, {"role": "member"})["role"] == "member"
    # The key was given scopes to read, so a higher role adds nothing to it.
    assert here.ask("DELETE", files + "/x", key=here.reader).status == 403
    here.delete(there)
    assert here.ask("GET", files, key=here.reader).status == 403
    assert here.ask("GET", there, key=here.reader).status == 403
    here.delete(f"{USERS}/{user['id']}")
    assert here.ask("GET", USERS, key=here.reader).status == 401


def test_one_owner_stays(here: World) -> None:
    owner = f"{USERS}/{here.owner.owner_id}"
    assert here.get(owner)["email"] == "owner@localhost"
    assert here.ask("DELETE", owner).status == 409
    assert here.ask("POST", owner, {"role": "reader"}).status == 409
    user = here.get(USERS + "?emails=reader@example.org")["data"][0]
    assert here.post(f"{USERS}/{user['id']}", {"role": "owner"})["role"] == "owner"
    assert here.post(owner, {"role": "reader"})["role"] == "reader"
    # Whose role no longer reaches, their admin key does not either.
    assert here.ask("POST", PROJECTS, {"name": "more"}).status == 403


def test_a_project_owner_manages_the_project_and_no_other(here: World) -> None:
    mine, other = f"{PROJECTS}/{here.second.id}", f"{PROJECTS}/{here.first.id}"
    assert here.get(mine, key=here.others)["name"] == "second"
    assert here.ask("GET", PROJECTS, key=here.others).status == 403
    made = here.post(f"{mine}/api_keys", {"name": "k", "scopes": ["chat"]}, key=here.others)
    assert made["scopes"] == ["chat"] and made["value"].startswith("sk-bsm-")
    assert here.delete(f"{mine}/api_keys/{made['id']}", key=here.others)["deleted"]
    assert here.ask("GET", f"{mine}/api_keys/{made['id']}").status == 404
    for path in (other, f"{other}/api_keys", f"{other}/users", f"{other}/service_accounts"):
        assert here.ask("GET", path, key=here.others).status == 404
    too_much = {"name": "k", "scopes": ["org:write"]}
    assert here.ask("POST", f"{mine}/api_keys", too_much, key=here.others).status == 403


def test_a_service_account_has_keys_within_its_role(here: World) -> None:
    path = f"{PROJECTS}/{here.first.id}/service_accounts"
    bare = here.post(path, {"name": "bare", "create_service_account_only": True})
    assert (bare["role"], bare["api_key"]) == ("none", None)
    one = f"{path}/{bare['id']}"
    assert here.ask("POST", f"{one}/api_keys", {"name": "k"}).status == 403
    assert here.post(one, {"role": "member"})["role"] == "member"
    key = here.post(f"{one}/api_keys", {"name": "k", "scopes": ["files:read"]})
    assert here.ask("POST", f"{one}/api_keys", {"scopes": ["keys:write"]}).status == 403
    assert here.ask("POST", f"{one}/api_keys", {"scopes": ["api.model.request"]}).status == 400
    assert here.get("/v1/files", key=key["value"])["data"] == []
    assert here.get(one)["name"] == "bare"
    assert [account["id"] for account in here.get(path)["data"]] == [bare["id"]]
    assert here.delete(one)["deleted"]
    assert here.ask("GET", "/v1/files", key=key["value"]).status == 401
    assert here.ask("GET", one).status == 404


def test_an_admin_key_is_for_the_organization_and_nothing_in_it(here: World) -> None:
    path = "/v1/organization/admin_api_keys"
    made = here.post(path, {"name": "more", "expires_in_seconds": 60})
    assert made["expires_at"] == made["created_at"] + 60
    assert here.get(PROJECTS, key=made["value"])["data"]
    for denied in ("/v1/files", "/v1/models"):
        assert here.ask("GET", denied, key=made["value"]).status == 403
    listed = here.get(path + "?limit=1")
    assert listed["has_more"] and listed["data"][0]["name"] == "admin"
    rest = here.get(f"{path}?after={listed['last_id']}")["data"]
    assert [key["id"] for key in rest] == [made["id"]]
    assert "value" not in here.get(f"{path}/{made['id']}")
    assert here.ask("POST", path, {"name": "x", "expires_in_seconds": 0}).status == 400
    here.delete(f"{path}/{made['id']}")
    assert here.ask("GET", PROJECTS, key=made["value"]).status == 401


def test_an_invite_is_accepted_once_with_its_token(here: World) -> None:
    path = "/v1/organization/invites"
    into = [{"id": here.first.id, "role": "member"}]
    asked = {"email": "Ada@example.org", "role": "reader", "projects": into}
    invite = here.post(path, asked)
    assert invite["status"] == "pending"
    token = invite["token"]
    assert token not in str(here.get(path)) + str(here.get(f"{path}/{invite['id']}"))
    assert here.ask("GET", "/v1/files", key=token).status == 403
    assert here.ask("POST", path + "/accept", {}).status == 403, "an admin key is no token"
    came = here.post(path + "/accept", {"name": "Ada"}, key=token)
    assert (came["user"]["email"], came["user"]["role"]) == ("ada@example.org", "reader")
    assert here.ask("POST", path + "/accept", {}, key=token).status == 401
    assert here.get("/v1/files", key=came["api_key"]["value"])["data"] == []
    assert here.get(f"{path}/{invite['id']}")["status"] == "accepted"
    assert here.ask("DELETE", f"{path}/{invite['id']}").status == 409
    assert here.ask("POST", path, asked).status == 409, "she is here already"
    one = here.get(f"{USERS}/{came['user']['id']}")
    assert one["projects"]["data"] == [{"id": here.first.id, "name": "first", "role": "member"}]
    taken_back = here.post(path, {"email": "bob@example.org", "role": "owner"})
    assert here.delete(f"{path}/{taken_back['id']}")["deleted"]
    assert here.ask("POST", path + "/accept", {}, key=taken_back["token"]).status == 401
    assert here.ask("POST", path, {"email": "nobody", "role": "owner"}).error["param"] == "email"


def test_model_permissions_are_set_read_and_taken_away(here: World) -> None:
    path = f"{PROJECTS}/{here.first.id}/model_permissions"
    assert here.ask("GET", path).status == 404
    body = {"mode": "allow_list", "model_ids": ["b", "a", "b"]}
    assert here.post(path, body)["model_ids"] == ["b", "a"]
    assert here.get(path)["mode"] == "allow_list"
    assert here.post(path, {"mode": "deny_list", "model_ids": []})["mode"] == "deny_list"
    assert here.ask("POST", path, {"mode": "maybe", "model_ids": []}).status == 400
    assert here.delete(path)["deleted"]
    assert here.ask("DELETE", path).status == 404


def test_owners_of_keys_who_lost_the_project_are_inactive(here: World) -> None:
    path = f"{PROJECTS}/{here.first.id}"
    active = here.get(f"{path}/api_keys?owner_project_access=active")["data"]
    user = here.get(USERS + "?emails[]=reader@example.org")["data"][0]
    assert user["id"] in str(active)
    here.post(f"{PROJECTS}/{here.second.id}/users", {"user_id": user["id"], "role": "owner"})
    here.delete(f"{path}/users/{user['id']}")
    still = here.get(f"{path}/api_keys?owner_project_access=inactive")["data"]
    key = next(key for key in active if key["owner"]["user"]["id"] == user["id"])
    assert [one["id"] for one in still] == [key["id"]]
    assert here.get(f"{path}/api_keys/{key['id']}")["owner"]["user"]["role"] == "none"


def test_what_nobody_asked_for_is_refused_by_name(here: World) -> None:
    for path, param in (
        (f"{PROJECTS}?colour=red", "colour"),
        (f"{USERS}?limit=0", "limit"),
        (f"{USERS}?after=user_none", "after"),
        ("/v1/organization/audit_logs?effective_at[around]=3", "effective_at"),
        ("/v1/organization/audit_logs?event_types[]=nothing.happened", "event_types"),
        ("/v1/organization/audit_logs?tenant_only=true", "tenant_only"),
    ):
        answer = here.ask("GET", path)
        assert (answer.status, answer.error["param"]) == (400, param)


def test_the_trail_is_asked_for_any_event_type_of_the_specification(here: World) -> None:
    path = "/v1/organization/audit_logs"
    types = specification()["components"]["schemas"]["AuditLogEventType"]["enum"]
    found = here.get(f"{path}?limit=100&{'&'.join(f'event_types[]={one}' for one in types)}")
    assert found["data"] == here.get(f"{path}?limit=100")["data"] != []
    assert here.get(f"{path}?event_types[]=login.failed")["data"] == []
    assert here.get(f"{path}?actor_emails[]=Owner@localhost")["data"], "as it is written"


def test_every_list_turns_in_pages(here: World) -> None:
    for number in range(4):
        create_key(here.platform, here.owner, f"key {number}", ["chat"])
    path = f"{PROJECTS}/{here.owner.project_id}/api_keys"
    names, after = [], ""
    while True:
        page = here.get(f"{path}?limit=2{after}")
        names += [key["name"] for key in page["data"]]
        after = f"&after={page['last_id']}"
        if not page["has_more"]:
            break
    assert names == ["key 3", "key 2", "key 1", "key 0"]
