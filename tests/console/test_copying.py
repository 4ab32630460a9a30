"""Copy as curl, Python, CLI: each text does what its title says, against a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from bessemer.app import files
from bessemer.app.paging import PageRequest
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.console.copying import ApiCall
from bessemer.console.rendering import page
from tests.console.copied import House, copied, house
from tests.console.test_evals import P, define, told_run
from tests.console.told_jobs import ToldJob, a_file

__all__ = ["house"]  # a fixture

URL = "http://127.0.0.1:8000"
AWKWARD = 'it\'s "quoted" $HOME `ls` \\ <b>&amp;</b> é\nsecond line'


def rendered(call: ApiCall, url: str = URL) -> dict[str, str]:
    """The texts as the browser gets them."""
    host = url.removeprefix("http://").encode()
    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "query_string": b"",
             "root_path": "", "headers": [(b"host", host)]}  # fmt: skip
    answer = page(Request(scope), "welcome.html", calls=[call])
    return copied(bytes(answer.body).decode())[call.title]


def test_the_texts_name_the_key_and_never_hold_one() -> None:
    texts = rendered(ApiCall("List", "GET", "/v1/files", python="files.list"))
    assert set(texts) == {"curl", "Python"}
    assert "$OPENAI_API_KEY" in texts["curl"]
    assert 'os.environ["OPENAI_API_KEY"]' in texts["Python"]
    admin = rendered(
        ApiCall(
            "List", "GET", "/v1/organization/projects", python="admin.organization.projects.list",
            cli=["project", "list"],
        )
    )  # fmt: skip
    assert "OPENAI_ADMIN_KEY" in admin["curl"] and "OPENAI_ADMIN_KEY" in admin["Python"]
    assert admin["CLI"] == "bessemer project list"


def test_a_path_is_filled_and_its_gaps_counted() -> None:
    call = ApiCall("Get", "GET", "/v1/files/{file_id}", ids=["a/b?c"], python="files.retrieve")
    assert f"{URL}/v1/files/a%2Fb%3Fc" in call.as_curl(URL)
    assert 'client.files.retrieve("a/b?c")' in call.as_python(URL)
    with pytest.raises(AssertionError):
        ApiCall("Get", "GET", "/v1/files/{file_id}")


def test_the_last_id_comes_first_in_python() -> None:
    call = ApiCall(
        "End",
        "DELETE",
        "/v1/organization/projects/{project_id}/api_keys/{api_key_id}",
        ids=["proj_1", "key_1"],
        python="admin.organization.projects.api_keys.delete",
    )
    text = " ".join(call.as_python(URL).split())
    assert 'api_keys.delete( "key_1", project_id="proj_1", )' in text
    assert "-X DELETE" in call.as_curl(URL)


def test_queries_are_written_as_the_client_sends_them() -> None:
    query = {"event_types": ["a", "b"], "effective_at": {"gt": 1}, "archived": True}
    text = ApiCall("List", "GET", "/v1/organization/audit_logs", query=query).as_curl(URL)
    assert "event_types%5B%5D=a&event_types%5B%5D=b&effective_at%5Bgt%5D=1&archived=true" in text


def test_every_page_offers_what_it_shows(client: TestClient, platform: Platform) -> None:
    """Of all addresses that are pages. The chat has a button for it: it changes as one writes."""
    file_id, job, definition = a_file(platform), ToldJob(platform), define(platform)
    run, (first, second) = job.begin(), (told_run(platform, definition, n, [P]) for n in "ab")
    form = {"model": "tiny", "training_file": file_id}
    plan = client.post("/fine-tuning/plans", data=form).headers["location"]
    evals = f"/evals/{definition.id}"
    sides = f"baseline={first.id}&candidate={second.id}"
    pages = {
        "/runs": "/runs",
        "/runs/{run_id}": run.path,
        "/files": "/files",
        "/files/{file_id}": f"/files/{file_id}",
        "/fine-tuning": "/fine-tuning",
        "/fine-tuning/new": "/fine-tuning/new",
        "/fine-tuning/plans/{plan_id}": plan,
        "/fine-tuning/{job_id}": job.path,
        "/evals": "/evals",
        "/evals/{eval_id}": evals,
        "/evals/{eval_id}/comparison": f"{evals}/comparison?{sides}",
        "/evals/{eval_id}/runs/{run_id}": f"{evals}/runs/{first.id}",
        "/projects": "/projects",
        "/projects/{project_id}": f"/projects/{PROJECT_ID}",
        "/usage": "/usage",
        "/audit": "/audit",
    }
    no_pages = {"/", "/login", "/chat", "/files/{file_id}/content"}
    routes = cast("Any", client.app)._app.routes  # behind the guard
    read = {route.path for route in routes if "GET" in (getattr(route, "methods", None) or ())}
    assert {path for path in read if not path.startswith("/console/")} - no_pages == pages.keys()
    assert 'id="as-code"' in client.get("/chat").text
    for path, address in pages.items():
        assert copied(client.get(address).text), path


def test_awkward_names_arrive_as_they_are(house: House) -> None:
    """Through the page's HTML, a shell, JSON and Python's quotes."""
    for number, name in enumerate((AWKWARD, "plain")):
        call = ApiCall(
            "Create",
            "POST",
            "/v1/organization/projects",
            body={"name": f"{name} {number}"},
            python="admin.organization.projects.create",
            cli=["project", "create", f"{name} from the terminal {number}", "--json"],
        )
        texts = rendered(call, house.url)
        ran = house.run({one: texts[one] for one in ("curl", "CLI")})
        assert ran["CLI"].json["name"] == f"{name} from the terminal {number}"
        assert ran["curl"].json["name"] == f"{name} {number}"
    call = ApiCall(
        "Create", "POST", "/v1/organization/projects", body={"name": AWKWARD},
        python="admin.organization.projects.create",
    )  # fmt: skip
    made = house.run({"Python": rendered(call, house.url)["Python"]})["Python"].json
    assert made["name"] == AWKWARD


def test_a_file_is_sent_as_a_form(house: House) -> None:
    Path(house.folder / "train.jsonl").write_text('{"messages": []}\n')
    call = ApiCall(
        "Upload", "POST", "/v1/files", body={"purpose": "fine-tune"},
        files={"file": "train.jsonl"}, python="files.create",
    )  # fmt: skip
    ran = house.run(rendered(call, house.url))
    assert {made.json["filename"] for made in ran.values()} == {"train.jsonl"}
    me = house.platform.local_principal()
    found, _ = files.list_files(house.platform, me, PageRequest())
    assert sorted(file.id for file in found) == sorted(made.json["id"] for made in ran.values())
    content = ApiCall(
        "Read", "GET", "/v1/files/{file_id}/content", ids=[found[0].id], python="files.content",
        answer="text",
    )  # fmt: skip
    ran = house.run(rendered(content, house.url))
    assert [read.out.strip() for read in ran.values()] == ['{"messages": []}'] * len(ran)


def test_what_the_client_has_no_method_for_goes_through_its_own_verbs(house: House) -> None:
    project = house.platform.local_principal().project_id
    call = ApiCall(
        "Create a key",
        "POST",
        "/v1/organization/projects/{project_id}/api_keys",
        ids=[project],
        body={"name": "mine", "scopes": ["chat"]},
    )
    ran = house.run({"Python": rendered(call, house.url)["Python"]})
    assert ran["Python"].json["name"] == "mine"
