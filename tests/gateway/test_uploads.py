"""`/v1/uploads` through the official client, and what is refused."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from bessemer.app import files, uploads
from bessemer.app.platform import Platform
from bessemer.app.tables import uploads as rows
from bessemer.core.errors import Conflict, NotFound, PayloadTooLarge
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeServing
from tests.gateway.calling import CHAT_KEY, KEY, FakeKeyRing, call, running
from tests.specification import check

ME = Principal("org", "p1", "u1", frozenset({"*"}))
STRANGER = Principal("org", "p2", "u2", frozenset({"*"}))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


@pytest.fixture
def app(platform: Platform) -> ASGIApp:
    return build(FakeServing({}), FakeKeyRing(), routes=resource_routes(platform))


def begin(platform: Platform, size: int, who: Principal = ME) -> uploads.Upload:
    return uploads.create(platform, who, "a.jsonl", "batch", size, "text/jsonl")


def add(platform: Platform, upload: uploads.Upload, data: bytes, who: Principal = ME) -> str:
    with files.writer(platform) as written:
        written.write(data)
        return uploads.add_part(platform, who, upload.id, written).id


def form(data: bytes, name: str = "data") -> tuple[bytes, dict[str, str]]:
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="p"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    return head.encode() + data + b"\r\n--edge--\r\n", headers


def test_parts_come_in_any_order_and_become_one_file(app: ASGIApp, platform: Platform) -> None:
    pieces = [os.urandom(3_000_000), b"", os.urandom(1_234_567)]
    whole = b"".join(pieces)
    with running(app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        made = client.uploads.create(
            filename="größe.jsonl", purpose="batch", bytes=len(whole), mime_type="text/jsonl",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )  # fmt: skip
        assert (made.status, made.expires_at - made.created_at) == ("pending", 3600)
        ids = {n: client.uploads.parts.create(made.id, data=pieces[n]).id for n in (2, 0, 1)}
        done = client.uploads.complete(
            made.id, part_ids=[ids[n] for n in range(3)], md5=hashlib.md5(whole).hexdigest()
        )
        assert done.status == "completed"
        assert done.file is not None
        assert (done.file.bytes, done.file.filename) == (len(whole), "größe.jsonl")
        assert done.file.expires_at == done.file.created_at + 3600
        assert client.files.content(done.file.id).content == whole
        assert list(platform.home.uploads.iterdir()) == []
        for late in (client.uploads.cancel, lambda id: client.uploads.complete(id, part_ids=[])):
            with pytest.raises(openai.ConflictError):
                late(made.id)


def test_the_official_client_sends_a_file_in_chunks(app: ASGIApp, tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_bytes(os.urandom(300_000))
    with running(app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        done = client.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="batch", part_size=100_000
        )
        assert done.file is not None
        assert client.files.content(done.file.id).content == path.read_bytes()


def test_answers_are_what_the_specification_says(app: ASGIApp) -> None:
    asked = {"filename": "a", "purpose": "batch", "bytes": 3, "mime_type": "text/jsonl"}
    made = call(app, "/v1/uploads", asked).json()
    check("POST", "/v1/uploads", 200, made)
    path = f"/v1/uploads/{made['id']}"
    body, headers = form(b"abc")
    part = call(app, f"{path}/parts", body, headers=headers).json()
    check("POST", f"{path}/parts", 200, part)
    done = call(app, f"{path}/complete", {"part_ids": [part["id"]]}).json()
    check("POST", f"{path}/complete", 200, done)
    other = call(app, "/v1/uploads", asked).json()
    path = f"/v1/uploads/{other['id']}/cancel"
    check("POST", path, 200, call(app, path, {}).json())
    again = call(app, path, {})
    assert again.status == 409
    check("POST", path, 409, again.json())


def test_what_does_not_add_up_is_refused_and_can_be_tried_again(
    app: ASGIApp, platform: Platform
) -> None:
    upload = begin(platform, 6)
    one, two = add(platform, upload, b"abc"), add(platform, upload, b"def")
    path = f"/v1/uploads/{upload.id}/complete"
    for body, param in (
        ({"part_ids": [one]}, "part_ids"),
        ({"part_ids": [one, one]}, "part_ids"),
        ({"part_ids": [one, "part_none"]}, "part_ids"),
        ({"part_ids": [two, one], "md5": hashlib.md5(b"abcdef").hexdigest()}, "md5"),
        ({"part_ids": [one, two], "sha": "x"}, "sha"),
        ({}, "part_ids"),
    ):
        answer = call(app, path, body)
        assert (answer.status, answer.error["param"]) == (400, param)
    assert list(platform.home.files.iterdir()) == []
    done = call(app, path, {"part_ids": [one, two], "md5": hashlib.md5(b"abcdef").hexdigest()})
    assert done.status == 200


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"bytes": 8 * 2**30 + 1}, 413, "bytes"),
        ({"bytes": -1}, 400, "bytes"),
        ({"purpose": "batch_output"}, 400, "purpose"),
        ({"filename": ""}, 400, "filename"),
        ({"mime_type": "x" * 300}, 400, "mime_type"),
        ({"color": "red"}, 400, "color"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, 400, "expires_after.seconds"),
    ],
)
def test_a_wrong_upload_names_its_field(
    app: ASGIApp, change: dict[str, Any], status: int, param: str
) -> None:
    asked = {"filename": "a", "purpose": "batch", "bytes": 3, "mime_type": "text/jsonl"}
    answer = call(app, "/v1/uploads", {**asked, **change})
    assert (answer.status, answer.error["param"]) == (status, param)


def test_a_part_has_a_limit_and_all_parts_have_one(
    platform: Platform, app: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_PART_BYTES", 10)
    monkeypatch.setattr(uploads, "MAX_UPLOAD_BYTES", 15)
    upload = begin(platform, 12)
    body, headers = form(b"x" * 11)
    assert call(app, f"/v1/uploads/{upload.id}/parts", body, headers=headers).status == 413
    body, headers = form(b"x", name="file")
    assert call(app, f"/v1/uploads/{upload.id}/parts", body, headers=headers).status == 400
    add(platform, upload, b"x" * 10)
    with pytest.raises(PayloadTooLarge):
        add(platform, upload, b"x" * 6)
    assert len(list(platform.home.uploads.iterdir())) == 1


def test_another_project_and_a_poor_key_see_nothing(app: ASGIApp, platform: Platform) -> None:
    upload = begin(platform, 1)
    part = add(platform, upload, b"x")
    for act in (
        lambda: uploads.pending(platform, STRANGER, upload.id),
        lambda: add(platform, upload, b"x", STRANGER),
        lambda: uploads.complete(platform, STRANGER, upload.id, [part]),
        lambda: uploads.cancel(platform, STRANGER, upload.id),
    ):
        with pytest.raises(NotFound):
            act()
    path = f"/v1/uploads/{upload.id}"
    body = {"filename": "a", "purpose": "batch", "bytes": 3, "mime_type": "text/jsonl"}
    assert call(app, "/v1/uploads", body, key=CHAT_KEY).status == 403
    for what in ("parts", "complete", "cancel"):
        assert call(app, f"{path}/{what}", {"part_ids": []}, key=CHAT_KEY).status == 403
        assert call(app, f"{path}/{what}", {"part_ids": []}, key=None).status == 401


def test_what_expired_takes_nothing_and_its_parts_go(platform: Platform) -> None:
    upload = begin(platform, 1)
    part = add(platform, upload, b"x")
    with platform.db.write() as connection:
        connection.execute(rows.update().values(expires_ms=time.time_ns() // 1_000_000 - 1))
    with pytest.raises(Conflict, match="expired"):
        add(platform, upload, b"y")
    with pytest.raises(Conflict, match="expired"):
        uploads.complete(platform, ME, upload.id, [part])
    assert (platform.home.uploads / part).exists()
    begin(platform, 1)
    assert list(platform.home.uploads.iterdir()) == []
    with platform.db.read() as connection:
        states = list(connection.execute(sa.select(rows.c.status).order_by(rows.c.id)).scalars())
    assert states == ["expired", "pending"]


@pytest.mark.parametrize("overtaken_after", [False, True])
def test_of_two_who_complete_at_one_time_one_gets_the_file(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, overtaken_after: bool
) -> None:
    upload = begin(platform, 1)
    part = add(platform, upload, b"x")
    join = uploads._join

    def overtaken(paths: Any, written: Any) -> str:
        monkeypatch.setattr(uploads, "_join", join)
        found = join(paths, written) if overtaken_after else ""
        uploads.complete(platform, ME, upload.id, [part])
        return found or join(paths, written)

    monkeypatch.setattr(uploads, "_join", overtaken)
    with pytest.raises(Conflict):
        uploads.complete(platform, ME, upload.id, [part])
    assert len(list(platform.home.files.iterdir())) == 1


def test_a_swept_home_keeps_the_parts_that_are_needed(platform: Platform) -> None:
    kept = add(platform, begin(platform, 1), b"x")
    stray = platform.home.uploads / "part_of_a_killed_server"
    stray.write_bytes(b"x")
    for path in platform.home.uploads.iterdir():
        os.utime(path, (0, 0))
    uploads.sweep(platform)
    assert [path.name for path in platform.home.uploads.iterdir()] == [kept]


@pytest.mark.parametrize("end", ["complete", "cancel"])
def test_a_kill_behind_an_uploads_end_leaves_no_parts(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    upload = begin(platform, 2)
    parts = [add(platform, upload, b"x"), add(platform, upload, b"y")]
    going = add(platform, begin(platform, 1), b"z")
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "_forget_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            if end == "complete":
                uploads.complete(platform, ME, upload.id, parts)
            else:
                uploads.cancel(platform, ME, upload.id)
    assert len(list(platform.home.uploads.iterdir())) == 3
    uploads.sweep(platform)
    assert [path.name for path in platform.home.uploads.iterdir()] == [going]
    assert len(list(platform.home.files.iterdir())) == (end == "complete")
