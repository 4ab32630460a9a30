"""`bessemer pull hf:...` against a mirror on loopback that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.calling import say
from tests.cli.test_pull import refused
from tests.tiny.world import write_model

pytest.importorskip("huggingface_hub", reason='needs pip install "bessemer[hub]"')

COMMIT = "c0ffee" + "0" * 34
WEIGHTS = "model.safetensors"


class Mirror:
    """One repository, `steel/tiny`, over HTTP: what a model's info and its files say.

    Attributes:
        asked: path of every GET so far, in order.
        status: what model info answers with instead of 200; with `error_code` as the hub has it.
        breaks_at: a file that ends halfway.
        spoiled: a file whose bytes are not those listed.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.card: dict[str, Any] = {"license": "apache-2.0"}
        self.asked: list[str] = []
        self.status, self.error_code = 200, ""
        self.breaks_at = self.spoiled = ""
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                mirror.answer(self, with_body=False)

            def do_GET(self) -> None:
                mirror.asked.append(urlsplit(self.path).path)
                mirror.answer(self, with_body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, call: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = urlsplit(call.path).path
        headers = {"X-Repo-Commit": COMMIT}
        status, body = 404, b"{}"
        if path in ("/api/models/steel/tiny", f"/api/models/steel/tiny/revision/{COMMIT}"):
            status, body = self.status, self._info()
        elif path.startswith("/api/models/steel/tiny/revision/"):
            headers["X-Error-Code"] = "RevisionNotFound"
        name = path.removeprefix(f"/steel/tiny/resolve/{COMMIT}/")
        if name in self.files:
            status, body = 200, self.files[name]
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            if name == self.spoiled:
                body = bytes(len(body))
        if status != 200 and self.error_code:
            headers["X-Error-Code"] = self.error_code
        call.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            call.send_header(key, value)
        call.end_headers()
        if with_body:
            call.wfile.write(body[: len(body) // 2] if name == self.breaks_at else body)

    def fetched(self) -> list[str]:
        """The files that were asked for."""
        start = f"/steel/tiny/resolve/{COMMIT}/"
        return [path.removeprefix(start) for path in self.asked if path.startswith(start)]

    def _info(self) -> bytes:
        siblings = [
            {"rfilename": name, "size": len(body), **_lfs(name, body)}
            for name, body in self.files.items()
        ]
        info = {"id": "steel/tiny", "sha": COMMIT, "siblings": siblings, "cardData": self.card}
        return json.dumps(info).encode()


def _lfs(name: str, body: bytes) -> dict[str, Any]:
    if not name.endswith((".safetensors", ".bin")):
        return {}
    digest = hashlib.sha256(body).hexdigest()
    return {"lfs": {"size": len(body), "sha256": digest, "pointerSize": 130}}


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    folder = write_model(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files |= {"LICENSE.txt": b"as you like", "pytorch_model.bin": b"pickle", "README.md": b"hello"}
    files |= {"onnx/model.onnx": b"graph", "train.py": b"import os"}
    mirror = Mirror(files)
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield mirror
    mirror.close()


def test_only_the_model_is_fetched_and_its_licence_and_commit_are_on_record(
    mirror: Mirror, home: Path
) -> None:
    pulled = say("pull", "hf:steel/tiny", "--json").json
    assert (pulled["name"], pulled["licence"]) == ("tiny", "Apache-2.0")
    expected = set(mirror.files) - {"pytorch_model.bin", "README.md", "onnx/model.onnx", "train.py"}
    assert set(mirror.fetched()) == expected
    stored = {path.name: path.read_bytes() for path in Path(pulled["path"]).iterdir()}
    assert stored == {name: mirror.files[name] for name in expected}
    assert pulled["provenance"] == {
        "hub": "127.0.0.1",
        "repository": "steel/tiny",
        "revision": COMMIT,
        "asked_revision": None,
    }
    assert list((home / "cache" / "hub").iterdir()) == []  # stored once, not twice


def test_a_whole_commit_that_is_here_needs_no_network(mirror: Mirror) -> None:
    first = say("pull", f"hf:steel/tiny@{COMMIT}", "--json").json
    asked = len(mirror.asked)
    again = say("pull", f"hf:steel/tiny@{COMMIT}", "--json").json
    assert (again["digest"], len(mirror.asked)) == (first["digest"], asked)


def test_wrong_bytes_are_refused_and_do_not_stay(mirror: Mirror) -> None:
    mirror.spoiled = WEIGHTS
    assert refused(say("pull", "hf:steel/tiny"), WEIGHTS, "SHA-256", "next: pull again")
    assert say("models", "--json").json == []
    mirror.spoiled = ""
    mirror.asked.clear()
    assert say("pull", "hf:steel/tiny").status == 0
    assert mirror.fetched() == [WEIGHTS]


def test_what_was_whole_is_kept_when_the_rest_breaks_off(mirror: Mirror) -> None:
    mirror.breaks_at = WEIGHTS
    assert refused(say("pull", "hf:steel/tiny"), "next: ")
    assert say("models", "--json").json == []
    mirror.breaks_at = ""
    mirror.asked.clear()
    assert say("pull", "hf:steel/tiny").status == 0
    assert mirror.fetched() == [WEIGHTS]


def test_pickled_weights_alone_are_refused_by_name_and_not_fetched(mirror: Mirror) -> None:
    del mirror.files[WEIGHTS]
    said = say("pull", "hf:steel/tiny")
    assert refused(said, "steel/tiny", "pytorch_model.bin", "nothing was fetched", "next: ")
    assert mirror.fetched() == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "", ("private", "HF_TOKEN")),
        (401, "RepoNotFound", ("private", "HF_TOKEN")),
        (403, "GatedRepo", ("agreed to its terms", "HF_TOKEN")),
        (404, "RepoNotFound", ("has no steel/tiny", "OWNER/NAME")),
    ],
)
def test_a_hub_that_refuses(mirror: Mirror, status: int, code: str, words: tuple[str, ...]) -> None:
    mirror.status, mirror.error_code = status, code
    assert refused(say("pull", "hf:steel/tiny"), *words)


def test_a_revision_that_is_not_there(mirror: Mirror) -> None:
    assert refused(say("pull", "hf:steel/tiny@v9"), "no revision 'v9'", "next: ")


def test_a_hub_that_cannot_be_reached(mirror: Mirror) -> None:
    mirror.close()
    assert refused(say("pull", "hf:steel/tiny"), "could not be reached", "HF_ENDPOINT")


@pytest.mark.parametrize("address", ["hf:", "hf:tiny", "hf:../etc/passwd", "hf:a/b/c", "hf:a/b@"])
def test_what_is_no_address(address: str) -> None:
    assert refused(say("pull", address), "is no address of a model", "hf:OWNER/NAME")
