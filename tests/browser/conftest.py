"""A real Chromium against a real server; without a Chromium these tests say what they skip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.chromium import WIDE, Watch, find_chromium, launched
from tests.browser.site import Site, running_site

WAIT_MS = 10_000


# Not for the whole session: Playwright keeps an event loop running in this thread, in which the
# other rooms' tests could not run one of their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on the PATH: the console was not tested in a browser")
    with launched(chromium) as browser:
        yield browser


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path / "home", "base", "taught") as site:
        yield site


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(WAIT_MS)
    context.clock.install()  # runs on by itself; `soon` lets a test jump
    yield context
    context.close()


@pytest.fixture
def watch(context: BrowserContext) -> Iterator[Watch]:
    """Afterwards nothing may have been asked of another host, nor complained about."""
    watch = Watch(context)
    yield watch
    assert watch.foreign == []
    assert watch.unexpected() == []


@pytest.fixture
def page(context: BrowserContext, watch: Watch, site: Site) -> Page:
    """Logged in, on the chat."""
    page = context.new_page()
    page.goto(site.login_url())
    page.wait_for_url("**/chat")
    return page
