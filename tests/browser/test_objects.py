"""The pages of files, fine-tuning jobs and evals in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from bessemer.app import eval_runs
from tests.browser.chromium import Watch, soon
from tests.browser.site import Site
from tests.console.test_evals import F, P, define, told_run
from tests.console.told_jobs import CHAT, ToldJob, a_file, a_model

pytestmark = pytest.mark.browser


def test_a_file_is_uploaded_and_its_broken_line_found(
    page: Page, site: Site, tmp_path: Path
) -> None:
    sent = tmp_path / "mine.jsonl"
    sent.write_text(f"{json.dumps(CHAT)}\n" * 40 + '{"messages": [<img src=x>\n')
    page.goto(f"{site.url}/files")
    page.get_by_label("File").set_input_files(sent)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("mine.jsonl")
    expect(page.locator(".notice")).to_contain_text("1 of 41 lines is broken")
    expect(page.locator("#line-1 .said").first).to_contain_text("What is 2 + 2?")
    page.locator(".notice").get_by_role("link", name="line 41").click()
    broken = page.locator("#line-41")
    expect(broken).to_be_in_viewport()
    expect(broken).to_contain_text("not JSON")
    expect(broken.locator("pre")).to_have_text('{"messages": [<img src=x>')
    expect(page.locator("main img")).to_have_count(0)


def test_deleting_a_file_asks_first_and_can_be_left(page: Page, site: Site) -> None:
    file_id = a_file(site.platform)
    page.goto(f"{site.url}/files/{file_id}")
    question, delete = page.locator(".sure"), page.get_by_role("button", name="Delete chats.jsonl")
    expect(delete).to_be_hidden()
    question.get_by_text("Delete").first.click()
    expect(question).to_contain_text("gone for good, and a job that has not read them yet fails")
    question.get_by_text("Never mind").click()
    expect(delete).to_be_hidden()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("chats.jsonl")
    page.locator(".sure summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(delete).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("No files yet")).to_be_visible()


def test_a_plan_stops_at_a_broken_file_and_leads_to_its_lines(page: Page, site: Site) -> None:
    a_model(site.platform)
    a_file(site.platform, CHAT, {"messages": []})
    page.goto(f"{site.url}/fine-tuning")
    page.get_by_role("link", name="Begin with a file").click()
    page.get_by_role("link", name="chats.jsonl").click()
    page.get_by_role("link", name="Teach a model with it").click()
    page.get_by_label("Epochs").fill("2")
    page.get_by_role("button", name="Plan it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Before it starts")
    soon(page)
    expect(page.locator(".plan")).to_contain_text("line 2: messages is empty")
    page.get_by_role("link", name="Change it").click()
    expect(page.get_by_label("Epochs")).to_have_value("2")
    page.go_back()
    page.get_by_role("link", name="See the lines where they are").click()
    expect(page.locator("#line-2")).to_contain_text("messages is empty")


def test_the_text_to_copy_is_what_the_form_holds(page: Page, site: Site) -> None:
    a_model(site.platform)
    a_file(site.platform)
    page.goto(f"{site.url}/fine-tuning/new")
    text = page.locator(".copied code[data-name=Python]")
    expect(text).to_have_count(1)
    page.locator(".copied > summary").click()
    expect(text).to_be_visible()
    page.get_by_label("Epochs").fill("3")
    expect(text).to_contain_text('"n_epochs": 3')
    page.get_by_role("radio", name="dpo").check()
    expect(text).to_contain_text('"type": "dpo"')
    expect(page.get_by_role("button", name="Copy as Python")).to_be_visible()
    page.get_by_label("Seed").fill("one")
    expect(page.locator(".copied")).to_contain_text("seed is 'one'; leave it empty")
    expect(text).to_have_count(0)
    page.get_by_label("Seed").fill("1")
    expect(text).to_contain_text("seed=1")
    page.get_by_role("button", name="Plan it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Before it starts")


def test_a_text_to_copy_that_grows_old_is_said(page: Page, site: Site, watch: Watch) -> None:
    watch.allow("401")
    a_model(site.platform)
    a_file(site.platform)
    page.goto(f"{site.url}/fine-tuning/new")
    page.get_by_label("Epochs").fill("3")
    expect(page.locator(".copied code[data-name=Python]")).to_contain_text('"n_epochs": 3')
    page.context.clear_cookies()
    page.get_by_label("Epochs").fill("4")
    expect(page.get_by_role("alert")).to_contain_text("This session has ended")


def test_the_form_asks_for_what_the_method_needs(page: Page, site: Site, watch: Watch) -> None:
    watch.allow("400")  # the mistake
    a_model(site.platform)
    a_file(site.platform)
    page.goto(f"{site.url}/fine-tuning/new")
    grader, beta = page.locator("textarea"), page.get_by_label("Beta")
    answers = page.get_by_label("Answers times")
    for method, asked in (
        ("supervised", []),
        ("dpo", [beta]),
        ("reinforcement", [grader, answers]),
    ):
        page.get_by_role("radio", name=method).check()
        for field in (beta, grader, answers):
            expect(field).to_be_visible(visible=field in asked)
    expect(grader).to_have_value(re.compile("string_check"))
    grader.fill('{"type": "python"\n"name": "x"}')
    page.get_by_role("button", name="Plan it").click()
    expect(page.locator(".notice")).to_contain_text("the grader is no JSON: line 2: expected ','")
    expect(grader).to_have_value('{"type": "python"\n"name": "x"}')
    expect(grader).to_have_attribute("aria-invalid", "true")


def test_a_job_is_followed_to_its_end(page: Page, site: Site) -> None:
    job = ToldJob(site.platform, suffix="boxes")
    run = job.begin()
    page.goto(site.url + job.path)
    chart = page.locator("#chart")
    run.teach(range(1, 21), 49)
    soon(page)
    expect(chart).to_have_attribute("data-points", "22")
    expect(chart.locator(".u-legend")).to_contain_text("on lines it learns")  # no validation file
    expect(page.locator("#live")).to_contain_text("20 of 49 steps")
    expect(page.locator(".events")).to_contain_text("Step 20/49")
    run.teach(range(21, 50), 49)
    run.finish()
    job.keep(49, train_loss=1.2)
    job.end("succeeded", trained_tokens=5_000)
    soon(page)
    expect(page.locator(".badge")).to_have_text("succeeded")
    expect(page.locator("#findings")).to_contain_text("ckpt-step-49")
    site.serving.states[job.name] = "ready"
    page.get_by_role("link", name="Chat with it").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(job.name)


def test_a_job_waits_for_its_run_and_is_cancelled(page: Page, site: Site, watch: Watch) -> None:
    job = ToldJob(site.platform)
    page.goto(site.url + job.path)
    expect(page.locator(".badge")).to_have_text("validating files")
    page.locator(".sure summary").click()
    page.evaluate("window.isTheSame = true")
    soon(page)  # the page would load again now, and does not under an open question
    soon(page)
    assert page.evaluate("window.isTheSame")
    page.locator(".sure").get_by_text("Never mind").click()
    with page.expect_navigation():
        soon(page)
    assert job.now.status == "validating_files"
    page.locator(".sure summary").click()
    page.get_by_role("button", name=f"Cancel {job.name}").click()
    expect(page.locator(".badge")).to_have_text("cancelled")


def test_the_question_stays_open_while_the_page_is_renewed(page: Page, site: Site) -> None:
    job = ToldJob(site.platform)
    run = job.begin()
    for address, name in ((job.path, job.name), (run.path, job.name)):
        page.goto(site.url + address)
        page.locator(".sure summary").click()
        cancel = page.get_by_role("button", name=f"Cancel {name}")
        cancel.focus()
        run.teach(range(1, 5), 49)
        with page.expect_response(f"**{address}"):
            soon(page)
        expect(page.locator("#live")).to_contain_text("4 of 49 steps")
        expect(cancel).to_be_visible()
        expect(cancel).to_be_focused()
    run.finish()
    soon(page)
    expect(page.locator(".sure")).to_have_count(0)


def test_a_run_of_an_eval_is_followed_and_its_failures_read(page: Page, site: Site) -> None:
    definition = define(site.platform)
    run = told_run(site.platform, definition, "going", [P, F], end=False, total=4)
    eval_runs.begin(site.platform, run.id)
    page.goto(f"{site.url}/evals/{definition.id}/runs/{run.id}")
    expect(page.locator("#live")).to_contain_text("2 of 4 items")
    eval_runs.finish(site.platform, run.id, "completed")
    soon(page)
    expect(page.locator(".badge")).to_have_text("completed")
    page.get_by_role("link", name="failed 1").click()
    expect(page.locator(".item")).to_have_count(1)
    expect(page.locator(".item")).to_contain_text("the answer of going to 1")


def test_two_runs_are_chosen_and_compared(page: Page, site: Site) -> None:
    definition = define(site.platform)
    told_run(site.platform, definition, "small", [P, F, P])
    told_run(site.platform, definition, "large", [F, P, P])
    page.goto(f"{site.url}/evals/{definition.id}")
    page.get_by_role("button", name="Compare the two chosen").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Is it better?")
    items = page.locator(".item")
    expect(items).to_have_count(2)
    expect(items.first).to_contain_text("item 0")
    expect(items.first).to_contain_text("the answer of large to 0")
    page.get_by_role("link", name="The other way round").click()
    expect(items.first).to_contain_text("item 1")
