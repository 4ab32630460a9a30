"""The pages of runs in a real browser: they follow a run while it works."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chromium import Watch, soon
from tests.browser.site import Site
from tests.console.told_runs import eval_run, found, train_run

pytestmark = pytest.mark.browser


def test_the_list_follows_runs_by_itself(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/runs")
    expect(page.get_by_text("Nothing has run yet")).to_be_visible()
    run = train_run(site.platform)
    row = page.locator(".run-row")
    soon(page)
    expect(row).to_contain_text("running")
    run.teach(range(1, 21), 49)
    soon(page)
    expect(row).to_contain_text("20 of 49 steps")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "0.4082")
    run.teach(range(21, 50), 49)
    run.finish()
    soon(page)
    expect(row).to_contain_text("succeeded")
    expect(row).to_contain_text("49 steps in")


def test_the_focus_stays_on_a_run_while_the_list_is_renewed(page: Page, site: Site) -> None:
    run = train_run(site.platform)
    page.goto(f"{site.url}/runs")
    page.get_by_role("link", name="teach-1").focus()
    run.teach(range(1, 5), 49)
    soon(page)
    expect(page.locator(".run-row")).to_contain_text("4 of 49 steps")
    expect(page.get_by_role("link", name="teach-1")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{run.path}")


def test_the_curve_grows_while_the_run_works(page: Page, site: Site) -> None:
    run = train_run(site.platform)
    page.goto(f"{site.url}{run.path}")
    chart = page.locator("#chart")
    expect(chart).to_contain_text("The curve begins with the first step; a script draws it.")
    run.tell("validation", step=0, loss=3.94)
    run.teach(range(1, 10), 49)
    soon(page)
    expect(chart).to_have_attribute("data-points", "10")
    expect(chart.locator("canvas")).to_be_visible()
    run.teach(range(10, 21), 49)
    soon(page)
    expect(chart).to_have_attribute("data-points", "23")
    told = re.compile(r"training: .* at step 20\. validation: 3\.940 at step 0, .* at step 20\.")
    expect(chart.get_by_role("img")).to_have_attribute("aria-label", told)


def test_figures_sample_and_state_follow_too(page: Page, site: Site) -> None:
    run = train_run(site.platform)
    page.goto(f"{site.url}{run.path}")
    expect(page).to_have_title("0% · teach-1 · Bessemer")
    run.teach(range(1, 25), 49)
    soon(page)
    expect(page.locator(".figures")).to_contain_text("331 tokens/s")
    expect(page).to_have_title("49% · teach-1 · Bessemer")
    run.tell("sample", step=24, text="def main():\n    pass")
    soon(page)
    expect(page.locator("pre.sample")).to_have_text("def main():\n    pass")
    run.finish("failed", error={"message": "no space left", "next_step": "free 600 MB"})
    soon(page)
    expect(page.locator(".notice")).to_contain_text("no space left")
    expect(page.locator(".notice")).to_contain_text("free 600 MB")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_a_resumed_step_replaces_the_old_one_in_the_curve(page: Page, site: Site) -> None:
    run = train_run(site.platform)
    run.teach(range(1, 9), 49)
    page.goto(f"{site.url}{run.path}")
    expect(page.locator("#chart")).to_have_attribute("data-points", "8")
    run.teach(range(5, 10), 49)
    soon(page)
    expect(page.locator("#chart")).to_have_attribute("data-points", "9")


def test_the_page_of_a_finished_run_asks_no_more(page: Page, site: Site) -> None:
    run = train_run(site.platform)
    run.teach(range(1, 50), 49)
    run.finish()
    page.goto(f"{site.url}{run.path}")
    expect(page.locator("#chart")).to_have_attribute("data-points", "53")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for _ in range(5):
        soon(page)
    assert asked == []


def test_resume_and_its_word_are_one_click_away(page: Page, site: Site) -> None:
    run = train_run(site.platform)
    run.finish("cancelled")
    page.goto(f"{site.url}{run.path}")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".notice")).to_contain_text("Asked to go on from its last checkpoint.")
    expect(page.locator(".badge")).to_have_text("queued")


def test_a_refused_button_explains_itself(page: Page, site: Site, watch: Watch) -> None:
    watch.allow("status of 409")
    run = train_run(site.platform)
    page.goto(f"{site.url}{run.path}")
    run.finish()
    page.locator(".sure summary").click()
    page.get_by_role("button", name="Cancel teach-1").click()
    expect(page.locator(".notice")).to_contain_text("succeeded already")


def test_an_evaluation_shows_what_it_found(page: Page, site: Site) -> None:
    run = eval_run(site.platform)
    page.goto(f"{site.url}{run.path}")
    run.tell("progress", stage="base: answers", done=32, total=128, unit="questions", eta_s=9.0)
    soon(page)
    expect(page.locator("#live")).to_contain_text("base: answers · 32 of 128 questions")
    run.report(found(["Taught is better than base in loss per answer token."]))
    run.finish()
    soon(page)
    expect(page.locator("#findings")).to_contain_text("Taught is better than base in loss")
    expect(page.locator("#findings table").first).to_contain_text("-1.438 [-1.581, -1.312]")


def test_text_that_is_being_selected_is_not_pulled_away(page: Page, site: Site) -> None:
    run = train_run(site.platform)
    run.teach(range(1, 5), 49)
    page.goto(f"{site.url}{run.path}")
    page.locator(".facts .id").select_text()
    run.teach(range(5, 7), 49)
    with page.expect_response(f"**{run.path}"):
        soon(page)
    assert page.evaluate("getSelection().toString()") == run.id
    page.evaluate("getSelection().removeAllRanges()")
    soon(page)
    expect(page.locator("#live")).to_contain_text("6 of 49 steps")


def test_a_server_that_is_gone_is_said_and_its_return_too(
    page: Page, site: Site, watch: Watch
) -> None:
    watch.allow("ERR_INTERNET_DISCONNECTED")
    watch.allow("htmx:sendError")
    watch.allow("htmx:afterRequest")
    train_run(site.platform)
    page.goto(f"{site.url}/runs")
    page.context.set_offline(True)
    soon(page)
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.context.set_offline(False)
    soon(page)
    expect(page.locator("#connection")).to_be_hidden()
