"""Runs what the pages offer to copy: the real curl, the official client, the real command.

    with running_house(tmp_path) as house:
        page = house.page("/keys")
        ran = house.run(page.calls["List the keys"])
        assert ran["curl"].json["data"] ... what the page shows
        assert ran["Python"].json == ran["curl"].json

The server is real, on a free port, with API and console; nothing of a text is changed on the way.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

import pytest

from bessemer.app import admin_keys
from bessemer.app.chat import Serving
from bessemer.app.keys import KeyRing, create_key
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.console.pages import build as build_console
from bessemer.console.sessions import Sessions, login_url, token_folder
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeServing
from tests.gateway.calling import running
from tests.leaks import LEAKS

WAIT_S = 60.0

_TEXT = re.compile(r'<code data-title="([^"]*)" data-name="([^"]*)">(.*?)</code>', re.DOTALL)


class Ran(NamedTuple):
    """What a copied text printed."""

    out: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Page(NamedTuple):
    """An answer of the console; `calls` is title -> name (`curl`, `Python`, `CLI`) -> text."""

    status: int
    text: str
    calls: Mapping[str, Mapping[str, str]]


@dataclass
class House:
    """A running server, a browser's session in it, and keys for those who copy."""

    platform: Platform
    ring: KeyRing
    url: str
    folder: Path
    key: str = field(repr=False)
    admin_key: str = field(repr=False)
    cookie: str = field(repr=False, default="")

    def log_in(self, person_id: str | None = None) -> None:
        """As the owner of the home, or as somebody."""
        url = login_url(self.url, token_folder(self.platform.home), person_id)
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]

    def page(self, path: str, form: Mapping[str, Any] | None = None) -> Page:
        """A page, or with `form` what a form of it answers, once redirects are followed."""
        data = None if form is None else urlencode(form, doseq=True).encode()
        asked = urllib.request.Request(self.url + path, data, {"cookie": self.cookie})
        try:
            answer = cast(HTTPResponse, urllib.request.urlopen(asked, timeout=WAIT_S))
        except urllib.error.HTTPError as fault:
            answer = cast(HTTPResponse, fault)
        with answer:
            text = answer.read().decode()
            return Page(answer.status, text, copied(text))

    def calls_for(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
        """The texts that a script of a page gets for JSON that it posts."""
        headers = {"cookie": self.cookie, "content-type": "application/json"}
        asked = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
            return copied(answer.read().decode())

    def run(self, texts: Mapping[str, str]) -> dict[str, Ran]:
        """Run all texts of one call, by their names. Each has to succeed.

        Without a curl on this machine that one is left out, and said in the test's output.
        """
        self.ring.refresh()  # a server does this once a second
        return {
            name: ran for name, text in texts.items() if (ran := self._run(name, text)) is not None
        }

    def _run(self, name: str, text: str) -> Ran | None:
        LEAKS.look(f"the text to copy as {name}", text)
        if name == "curl" and shutil.which("curl") is None:
            print("no curl on the PATH: the copied curl text was not run")
            return None
        words = [sys.executable, "-c", text] if name == "Python" else ["bash", "-euc", text]
        done = subprocess.run(
            words,
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return Ran(done.stdout)

    def _environment(self) -> dict[str, str]:
        # The command as it is called on a machine where it is installed.
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        command = bin_folder / "bessemer"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bessemer "$@"\n')
        command.chmod(0o755)
        return {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "BESSEMER_HOME": str(self.platform.home.root),
            "OPENAI_API_KEY": self.key,
            "OPENAI_ADMIN_KEY": self.admin_key,
        }


@contextlib.contextmanager
def running_house(
    folder: Path, serving: Serving | None = None, meter: Meter | None = None
) -> Iterator[House]:
    """Serve a home of its own until the end of the block; the owner is logged in."""
    with Platform.open(Home(folder / "home")) as platform:
        me = platform.local_principal()
        models = serving or FakeServing({})
        ring = KeyRing(platform)
        console = build_console(platform, models, Sessions(token_folder(platform.home)))
        app = build(
            models,
            ring,
            meter=meter,
            routes=resource_routes(platform, serving=models, meter=meter),
            other=console,
        )
        key = create_key(platform, me, "copied", ["*"]).secret
        admin_key = admin_keys.create(platform, me, "copied").key.secret
        with running(app) as server:
            house = House(platform, ring, server.url, folder, key, admin_key)
            house.log_in()
            yield house


def copied(page: str) -> dict[str, dict[str, str]]:
    """The texts on a page: title -> name -> text."""
    found: dict[str, dict[str, str]] = {}
    for title, name, text in _TEXT.findall(page):
        found.setdefault(html.unescape(title), {})[name] = html.unescape(text)
    return found


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Import it into a test module to use it."""
    with running_house(tmp_path) as house:
        yield house
