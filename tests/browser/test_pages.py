"""What holds for every page: the login, both widths, both schemes, keyboard and names."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from bessemer.app import members, people, project_keys, projects, service_accounts, spending
from bessemer.app.keys import SCOPES
from bessemer.app.platform import Platform
from bessemer.console.sessions import Sessions, token_folder
from tests.browser.chromium import NARROW, WIDE, Watch
from tests.browser.site import Site
from tests.console.test_evals import E, F, P, define, told_run
from tests.console.test_usage import lively
from tests.console.told_jobs import CHAT, ToldJob, a_file
from tests.console.told_runs import ToldRun, eval_run, found, train_run

pytestmark = pytest.mark.browser

LONG = "a-name-that-is-much-longer-than-any-telephone-is-wide-and-has-no-space-in-it"


def addresses(site: Site) -> list[str]:
    """Every kind of page, with content that is hard to fit."""
    train = train_run(site.platform, LONG)
    train.teach(range(1, 30), 49)
    train.tell("sample", step=29, text="x" * 400)
    train.tell("result", digest="sha256:" + "f" * 64)
    failed = ToldRun(site.platform, "train", "failed", {})
    failed.start()
    failed.finish("failed", error={"message": "/a/path/" * 30, "next_step": "do " + "this" * 60})
    measured = eval_run(site.platform)
    measured.report(found(["A sentence with a " + "long" * 60 + " word."]))
    measured.finish()
    runs = ["/runs", train.path, failed.path, measured.path]
    return ["/chat", *runs, *objects(site), *organization(site.platform), "/nowhere"]


def objects(site: Site) -> list[str]:
    """The pages of files, jobs and evals, with names and texts that are hard to fit."""
    file_id = a_file(site.platform, CHAT, {LONG: "x" * 400}, "y" * 300, name=f"{LONG}.jsonl")
    job = ToldJob(site.platform, suffix=LONG[:64], training_file=file_id)
    job.begin().teach(range(1, 30), 49)
    job.keep(16, train_loss=1.5)
    broken = ToldJob(site.platform)
    error = {"code": "x", "message": "/a/path/" * 60, "param": "training_file"}
    broken.end("failed", error)
    definition = define(site.platform, LONG)
    first, second = (
        told_run(site.platform, definition, f"{LONG}-{n}", [P, F, E][n:], answer="z" * 300)
        for n in (0, 1)
    )
    evals = f"/evals/{definition.id}"
    return [
        "/files", f"/files/{file_id}", "/fine-tuning", "/fine-tuning/new", job.path, broken.path,
        "/evals", evals, f"{evals}/runs/{first.id}",
        f"{evals}/comparison?baseline={first.id}&candidate={second.id}",
    ]  # fmt: skip


def organization(platform: Platform) -> list[str]:
    """Names that are long, and everything of which there can be some."""
    me = platform.local_principal()
    lively(platform)
    other = projects.create(platform, me, LONG * 2)
    person = people.add(platform, me, f"{LONG[:60]}@{LONG}.example", "member", LONG)
    members.add(platform, me, other.id, person.id, "reader")
    service_accounts.create(platform, me, other.id, LONG)
    project_keys.create(platform, me, other.id, LONG, [scope for scope in SCOPES if scope != "*"])
    spending.set_budget(platform, me, "org", "month", 12_345_678_901_234)
    return ["/projects", f"/projects/{other.id}", "/usage", "/usage?days=90&by=key", "/audit"]


def unfold(page: Page) -> None:
    """Open everything that a click would open."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert isinstance(width, int)
    return width


def test_a_login_link_works_once_even_from_another_site(
    context: BrowserContext, watch: Watch, site: Site
) -> None:
    watch.allow("status of 401")
    page = context.new_page()
    url = site.login_url()
    # A link on a page of nobody's: to the browser that is another site.
    page.set_content(f'<a href="{url}">log in</a>')
    page.get_by_role("link").click()
    page.wait_for_url("**/chat")
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    context.clear_cookies()
    page.goto(url)
    expect(page.locator("main")).to_contain_text("used already")


def test_after_a_restart_the_page_says_where_the_new_address_is(
    page: Page, site: Site, watch: Watch
) -> None:
    watch.allow("status of 401")
    page.context.clear_cookies()
    page.reload()
    expect(page.get_by_role("heading")).to_have_text("Log in from the terminal")
    assert not Sessions(token_folder(site.platform.home)).is_open("anything")


def test_logging_out_is_a_button(page: Page, watch: Watch) -> None:
    watch.allow("status of 401")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading")).to_have_text("Log in from the terminal")
    page.goto(page.url.replace("/logout", "/chat"))
    expect(page.get_by_role("heading")).to_have_text("Log in from the terminal")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways(
    page: Page, site: Site, watch: Watch, scheme: Literal["light", "dark"]
) -> None:
    watch.allow("status of 404")
    page.emulate_media(color_scheme=scheme)
    for address in addresses(site):
        for size in (NARROW, WIDE):
            page.set_viewport_size(size)
            page.goto(site.url + address)
            assert overflow(page) <= 0, f"{address} at {size['width']} px"
            unfold(page)
            assert overflow(page) <= 0, f"{address} at {size['width']} px, unfolded"


def test_a_page_begins_with_what_it_is(page: Page, site: Site, watch: Watch) -> None:
    watch.allow("status of 404")
    for address in addresses(site):
        page.goto(site.url + address)
        expect(page.locator("h1")).to_have_count(1)
        assert len(page.title().removesuffix(" · Bessemer")) > 2, address
        if address.count("/") == 1 and address != "/nowhere":  # a page of the navigation
            assert page.locator("nav a[aria-current=page]").count() == 1, address
            told = page.locator("main p.quiet").first.inner_text()
            assert told.count(" ") > 6, f"{address}: {told}"


def test_a_name_breaks_between_its_parts(page: Page, site: Site) -> None:
    """A heading of a telephone's width; no line of it ends inside of a word."""
    job = ToldJob(site.platform, suffix="where-things-are")
    page.set_viewport_size(NARROW)
    page.goto(site.url + job.path)
    lines = page.locator("h1").evaluate(
        """(title) => {
          const found = [], range = document.createRange();
          const walk = document.createTreeWalker(title, NodeFilter.SHOW_TEXT);
          while (walk.nextNode()) {
            if (walk.currentNode.parentElement.closest(".badge")) continue;
            for (let at = 0; at < walk.currentNode.length; at++) {
              range.setStart(walk.currentNode, at);
              range.setEnd(walk.currentNode, at + 1);
              const top = Math.round(range.getBoundingClientRect().top);
              if (found.at(-1)?.top !== top) found.push({ top, text: "" });
              found.at(-1).text += range.toString();
            }
          }
          return found.map((line) => line.text.trim()).filter((text) => text);
        }"""
    )
    assert "".join(lines) == job.name and len(lines) > 1
    assert {line[-1] for line in lines[:-1]} <= set(":-_"), lines


def test_the_current_tab_is_in_sight_on_a_telephone(page: Page, site: Site) -> None:
    page.set_viewport_size(NARROW)
    page.goto(f"{site.url}/audit")
    expect(page.locator("nav a[aria-current=page]")).to_be_in_viewport(ratio=0.9)


def test_a_long_answer_fits_a_telephone(page: Page, site: Site) -> None:
    base = site.serving.responders["base"]
    base.always("word " * 50, "w" * 300, "\n```\n" + "code " * 60 + "\n```\n")
    page.set_viewport_size(NARROW)
    page.get_by_label("Message", exact=True).fill("q" * 300)
    page.keyboard.press("Enter")
    expect(page.locator(".turn pre")).to_be_visible()
    assert overflow(page) <= 0
    expect(page.get_by_role("button", name="Send")).to_be_in_viewport()


def test_conversations_are_reachable_on_a_telephone(page: Page, site: Site) -> None:
    site.serving.responders["base"].always("ok")
    page.set_viewport_size(NARROW)
    page.get_by_label("Message", exact=True).fill("An earlier one")
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    button = page.get_by_role("button", name="Conversations")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("link", name="An earlier one")).to_be_visible()


def test_every_control_has_a_name(page: Page, site: Site, watch: Watch) -> None:
    watch.allow("status of 404")
    for address in addresses(site):
        page.goto(site.url + address)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("a, button, input, select, textarea")]
              .filter((one) => one.type !== "hidden")
              .filter((one) => !(one.textContent.trim() || one.ariaLabel || one.labels?.length))
              .map((one) => one.outerHTML)"""
        )
        assert nameless == [], address
        expect(page.get_by_role("heading", level=1)).to_have_count(1)


def test_the_keyboard_can_skip_to_the_page(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/runs")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the page")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    page: Page, site: Site, watch: Watch, scheme: Literal["light", "dark"]
) -> None:
    """WCAG 2.2 AA (success criterion 1.4.3): at least 4.5 to 1."""
    watch.allow("status of 404")
    page.emulate_media(color_scheme=scheme)
    for address in addresses(site):
        page.goto(site.url + address)
        unfold(page)
        faint = page.evaluate(CONTRAST)
        assert faint == [], f"{address}: {faint}"


CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const said = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!said || !element.checkVisibility()) continue;
    const pair = [parse(getComputedStyle(element).color), ground(element)].map(luminance);
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) faint.push(`${element.className || element.tagName} ${ratio.toFixed(2)}`);
  }
  return [...new Set(faint)];
}"""
