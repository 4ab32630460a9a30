"""The Chromium of this machine, watched: what it asks for, and what it complains about."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
# No sandbox: CI runs as root. The rest keeps the browser from talking to its maker.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 844}


def find_chromium() -> str | None:
    """The first Chromium or Chrome on the PATH."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def launched(path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def soon(page: Page) -> None:
    """Let the page's clock jump past its next question to the server."""
    page.clock.fast_forward(2_100)


class Watch:
    """Everything a page must not do: ask another host, complain on the console.

    A test that provokes a complaint says so with `allow`.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.foreign: list[str] = []
        self._complaints: list[str] = []
        self._allowed: list[str] = []
        context.on("request", lambda request: self._look(request.url))
        context.on("console", lambda said: self._hear(said.type, said.text))
        context.on("weberror", lambda fault: self._complaints.append(str(fault.error)))

    def allow(self, part: str) -> None:
        """Expect complaints that contain this."""
        self._allowed.append(part)

    def unexpected(self) -> list[str]:
        return [
            said for said in self._complaints if not any(part in said for part in self._allowed)
        ]

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self._complaints.append(text)

    def _look(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about") and parts.hostname != "127.0.0.1":
            self.foreign.append(url)
