"""`/v1/files` through the official client, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app import audit, files
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeServing
from tests.gateway.calling import CHAT_KEY, KEY, OTHER_KEY, FakeKeyRing, call, running
from tests.specification import check

ME = Principal("org", "p1", "u1", frozenset({"*"}))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


@pytest.fixture
def app(platform: Platform) -> ASGIApp:
    return build(FakeServing({}), FakeKeyRing(), routes=resource_routes(platform))


def form(*parts: tuple[str, bytes], filename: str = "a.jsonl") -> tuple[bytes, dict[str, str]]:
    """A form whose part `file` is the file."""
    body = b""
    for name, value in parts:
        named = f'; filename="{filename}"' if name == "file" else ""
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
        body += value + b"\r\n"
    return body + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


def upload(app: ASGIApp, *parts: tuple[str, bytes], key: str = KEY) -> object:
    body, headers = form(*parts)
    return call(app, "/v1/files", body, key=key, headers=headers)


def test_the_official_client_uploads_lists_reads_and_deletes(app: ASGIApp) -> None:
    content = b"".join(b'{"n": %d}\n' % number for number in range(300_000))
    with running(app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        made = client.files.create(
            file=("many ümlauts.jsonl", content),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (made.bytes, made.filename, made.purpose) == (
            len(content), "many ümlauts.jsonl", "batch",
        )  # fmt: skip
        assert made.expires_at == made.created_at + 3600
        assert client.files.retrieve(made.id) == made
        assert client.files.content(made.id).content == content
        assert [file.id for file in client.files.list(purpose="batch")] == [made.id]
        assert list(client.files.list(purpose="fine-tune")) == []
        assert client.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(made.id)


def test_answers_are_what_the_specification_says(app: ASGIApp) -> None:
    body, headers = form(("purpose", b"batch"), ("file", b"x"))
    made = call(app, "/v1/files", body, headers=headers).json()
    path = f"/v1/files/{made['id']}"
    check("POST", "/v1/files", 200, made)
    check("GET", "/v1/files", 200, call(app, "/v1/files", method="GET").json())
    check("GET", path, 200, call(app, path, method="GET").json())
    check("DELETE", path, 200, call(app, path, method="DELETE").json())
    gone = call(app, path, method="GET")
    check("GET", path, gone.status, gone.json())


def test_pages_go_through_the_list_in_either_order(app: ASGIApp, platform: Platform) -> None:
    ids = [files.add_bytes(platform, ME, f"{n}", "batch", b"").id for n in range(5)]
    with running(app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        assert [file.id for file in client.files.list(limit=2, order="asc")] == ids
        assert [file.id for file in client.files.list(limit=2)] == ids[::-1]


def test_another_project_and_a_poor_key_see_nothing(app: ASGIApp, platform: Platform) -> None:
    file = files.add_bytes(platform, ME, "a", "batch", b"x")
    rich = Principal("org", "p2", "u2", frozenset({"*"}))
    with pytest.raises(files.NotFound):
        files.get(platform, rich, file.id)
    for path, method in (("", "GET"), (f"/{file.id}", "DELETE"), (f"/{file.id}/content", "GET")):
        assert call(app, "/v1/files" + path, method=method, key=CHAT_KEY).status == 403
        assert call(app, "/v1/files" + path, method=method, key=OTHER_KEY).status == 403
        assert call(app, "/v1/files" + path, method=method, key=None).status == 401


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("file", b"x")], "purpose"),
        ([("purpose", b"batch")], "file"),
        ([("purpose", b"batch_output"), ("file", b"x")], "purpose"),
        ([("purpose", b"batch"), ("file", b"x"), ("file", b"y")], "file"),
        ([("purpose", b"batch"), ("purpose", b"batch"), ("file", b"x")], "purpose"),
        ([("purpose", b"batch"), ("colour", b"red"), ("file", b"x")], "colour"),
        (
            [("purpose", b"batch"), ("expires_after[anchor]", b"now"), ("file", b"x")],
            "expires_after[anchor]",
        ),
    ],
)
def test_a_wrong_form_names_its_field(
    app: ASGIApp, platform: Platform, parts: list[tuple[str, bytes]], param: str
) -> None:
    answer = upload(app, *parts)
    assert answer.status == 400 and answer.error["param"] == param  # type: ignore[attr-defined]
    assert list(platform.home.files.iterdir()) == []


def test_a_form_that_breaks_off_leaves_nothing(app: ASGIApp, platform: Platform) -> None:
    body, headers = form(("purpose", b"batch"), ("file", b"x" * 5000))
    for broken in (body[:-10], body[:60], b"", b"no form"):
        assert call(app, "/v1/files", broken, headers=headers).status == 400
    assert call(app, "/v1/files", {"purpose": "batch"}).status == 400
    packed = call(app, "/v1/files", body, headers={**headers, "content-encoding": "gzip"})
    assert (packed.status, packed.error["code"]) == (415, "unsupported_encoding")
    assert list(platform.home.files.iterdir()) == []


def test_a_file_past_the_limit_is_413(platform: Platform) -> None:
    with pytest.raises(files.PayloadTooLarge), files.writer(platform, most_bytes=10) as written:
        written.write(b"x" * 11)
    assert list(platform.home.files.iterdir()) == []


def test_what_expired_is_gone_and_swept(platform: Platform) -> None:
    with files.writer(platform) as written:
        old = files.add(platform, ME, "a", "batch", written, expires_after_s=-1)
    kept = files.add_bytes(platform, ME, "b", "batch", b"x")
    with pytest.raises(files.NotFound):
        files.get(platform, ME, old.id)
    assert files.sweep(platform) == 0, "younger than an hour: somebody may be writing it"
    assert files.get(platform, ME, kept.id).path.read_bytes() == b"x"


def test_unknown_queries_and_cursors_are_refused(app: ASGIApp) -> None:
    with running(app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        for query in ({"color": "red"}, {"limit": 0}, {"after": "file-none"}, {"order": "up"}):
            with pytest.raises(openai.BadRequestError) as caught:
                client.files.list(extra_query=query)
            assert json.loads(caught.value.response.content)["error"]["param"] == next(iter(query))


def test_the_rest_of_the_specification_says_what_it_is(app: ASGIApp) -> None:
    assert call(app, "/v1/images/generations", {}).status == 501
    unbuilt = call(app, "/v1/audio/speech", {})
    assert unbuilt.error["code"] == "not_implemented"
    assert unbuilt.headers["x-should-retry"] == "false", "it would be asked three times in vain"
    retired = call(app, "/v1/assistants", method="GET")
    assert retired.status == 404 and "/v1/responses" in retired.error["message"]
    assert call(app, "/v1/threads/t1/runs/r1/steps", method="GET").error["code"] == "retired"
    assert call(app, "/v1/nothing", method="GET").error["code"] == "unknown_url"
    assert call(app, "/v1/images/generations", method="GET").status == 404
    wrong = call(app, "/v1/files", method="DELETE")
    assert wrong.status == 405 and wrong.headers["allow"] == "GET, POST"


def test_who_deletes_what_they_list_comes_to_the_end(app: ASGIApp, platform: Platform) -> None:
    for n in range(5):
        files.add_bytes(platform, ME, f"{n}", "batch", b"")
    with running(app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        deleted = [client.files.delete(file.id).id for file in client.files.list(limit=2)]
        assert len(deleted) == 5
        assert list(client.files.list(after=deleted[0])) == []
        for cursor in ("file-1", "batch_" + deleted[0][-26:], "any text"):
            files.add_bytes(platform, ME, "a", "batch", b"")
            with pytest.raises(openai.BadRequestError, match="in this list"):
                client.files.list(after=cursor)


@pytest.fixture
def overtaken(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> files.File:
    """A file that somebody else deletes when it is looked up for the first time."""
    file, look = files.add_bytes(platform, ME, "a", "batch", b"x"), files.get

    def get(*given: Any, **named: Any) -> files.File:
        found = look(*given, **named)
        monkeypatch.setattr(files, "get", look)
        files.delete(platform, ME, file.id)
        return found

    monkeypatch.setattr(files, "get", get)
    return file


@pytest.mark.parametrize(("method", "of"), [("DELETE", ""), ("GET", "/content")])
def test_who_comes_while_a_file_is_deleted_is_told(
    app: ASGIApp, platform: Platform, overtaken: files.File, method: str, of: str
) -> None:
    answer = call(app, f"/v1/files/{overtaken.id}{of}", method=method)
    assert (answer.status, answer.error["param"]) == (404, "file_id")
    reader = Principal("org", "p1", "u9", frozenset({"org:read"}))
    events, _ = audit.list_events(platform, reader, PageRequest(), audit.Filter())
    assert [event.action for event in events] == ["file.deleted", "file.created"]


def test_an_empty_list_is_as_specified(app: ASGIApp) -> None:
    empty = call(app, "/v1/files", method="GET").json()
    check("GET", "/v1/files", 200, empty)
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], "", "")
