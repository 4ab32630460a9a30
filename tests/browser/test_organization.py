"""Projects and keys, usage, audit and copying in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from bessemer.app import audit
from bessemer.app.paging import PageRequest
from bessemer.app.platform import PROJECT_ID
from tests.browser.chromium import NARROW
from tests.browser.site import Site
from tests.console.test_audit import LIVELY
from tests.console.test_audit import lively as changed
from tests.console.test_usage import lively

pytestmark = pytest.mark.browser

HERE = f"/projects/{PROJECT_ID}"


def test_a_key_is_made_copied_and_revoked(page: Page, site: Site, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    page.goto(site.url + HERE)
    form = page.locator("form", has=page.get_by_role("heading", name="Create a key"))
    form.get_by_role("textbox", name="Name").fill("notebook")
    form.get_by_label("Expires").select_option("30")
    form.get_by_label("files:read").check()
    form.get_by_role("button").click()
    secret = page.locator(".secret code").inner_text()
    assert re.fullmatch(r"sk-bsm-[\w-]{43}", secret)
    page.get_by_role("button", name="Copy the secret").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == secret
    page.goto(site.url + HERE)
    expect(page.locator("body")).not_to_contain_text(secret)
    row = page.locator("#keys .row")
    expect(row).to_contain_text("files:read")
    row.get_by_text("Revoke notebook").first.click()
    row.get_by_text("Never mind").click()
    expect(row.get_by_role("button", name="Revoke notebook")).to_be_hidden()
    page.reload()
    row.get_by_text("Revoke notebook").first.click()
    row.get_by_role("button", name="Revoke notebook").click()
    expect(page.locator("#keys .row")).to_have_count(0)
    found, _ = audit.list_events(
        site.platform, site.platform.local_principal(), PageRequest(order="asc")
    )
    assert [event.action for event in found] == ["api_key.created", "api_key.deleted"]


def test_the_keyboard_copies_and_is_told(page: Page, site: Site, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    page.goto(f"{site.url}/audit")
    summary = page.locator(".copied > summary").first
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    button = page.get_by_role("button", name="Copy as curl: List these changes")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#copying-said")).to_have_text("Copied as curl: List these changes")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"curl -sS '{site.url}/v1/organization/audit_logs")


def test_without_a_clipboard_the_text_is_selected(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/usage")
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('none')); }"
    )
    page.locator(".copied > summary").first.click()
    page.get_by_role("button", name="Copy as CLI").first.click()
    expect(page.locator("#copying-said")).to_contain_text("Selected")
    chosen = page.evaluate("getSelection().toString()").strip()
    assert chosen == "bessemer usage --days 30 --by model --json"


def test_the_mark_of_a_long_title_stands_beside_it(page: Page, site: Site) -> None:
    page.set_viewport_size(NARROW)
    page.goto(f"{site.url}/usage?days=90")
    summary = page.get_by_text("the first 31 days").locator("xpath=ancestor::summary")
    lines = summary.evaluate(
        """(summary) => [...summary.querySelector("span").getClientRects()]
             .map((line) => line.top - summary.getBoundingClientRect().top)"""
    )
    assert len(lines) > 1 and lines[0] < 15


def test_usage_is_drawn_and_told(page: Page, site: Site) -> None:
    lively(site.platform)
    page.goto(f"{site.url}/usage?days=7")
    picture = page.get_by_role("img", name=re.compile(r"Cost by day: 0\.005225 of money"))
    expect(picture).to_be_visible()
    heights = picture.locator("rect.bar").evaluate_all(
        "bars => bars.map((bar) => Math.round(bar.getBoundingClientRect().height))"
    )
    assert heights[5] == max(heights) > heights[6] > heights[4] > 0 == heights[0]
    page.get_by_role("link", name="tokens").click()
    expect(page.get_by_role("heading", name="Tokens by day")).to_be_visible()
    page.get_by_role("link", name="by project").click()
    expect(page.get_by_role("row", name=re.compile("research"))).to_be_visible()


def test_the_trail_is_filtered_by_a_click(page: Page, site: Site) -> None:
    changed(site.platform)
    page.goto(f"{site.url}/audit")
    expect(page.locator(".trail .row")).to_have_count(len(LIVELY))
    page.get_by_role("link", name="project.created").click()
    expect(page.locator(".trail .row")).to_have_count(1)
    expect(page.get_by_label("Action")).to_have_value("project.created")
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("textbox", name="Target").fill("nothing")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="No change is like that")).to_be_visible()


def test_every_tab_is_reachable_on_a_telephone(page: Page, site: Site) -> None:
    page.set_viewport_size(NARROW)
    page.goto(f"{site.url}/runs")
    tabs = page.get_by_role("navigation", name="Pages").get_by_role("link")
    for tab in tabs.all():
        tab.scroll_into_view_if_needed()
        expect(tab).to_be_in_viewport()
    tabs.last.click()
    expect(page.locator("nav a[aria-current=page]")).to_have_text("Audit")
