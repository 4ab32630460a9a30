"""The chat in a real browser: it streams, it stops, and it loses nothing."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from bessemer.core.errors import ContextLengthExceeded
from tests.browser.chromium import Watch, soon
from tests.browser.site import Site

pytestmark = pytest.mark.browser


def ask(page: Page, question: str) -> None:
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")


def answer(page: Page) -> str:
    """CSS of the newest answer's words."""
    return ".turn.is-assistant:last-child .words"


def test_words_appear_while_the_answer_is_being_made(page: Page, site: Site) -> None:
    base = site.serving.responders["base"]
    ask(page, "Tell me.")
    base.wait_asked()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    base.say("Steel ")
    expect(page.locator(answer(page))).to_have_text("Steel")
    base.say("is ", "iron")
    expect(page.locator(answer(page))).to_have_text("Steel is iron")
    base.finish()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".turn:last-child .facts")).to_contain_text("base · 3 tokens ·")
    expect(page.locator(".turn:last-child .facts")).to_contain_text("tokens/s")


def test_the_question_is_shown_as_code(page: Page, site: Site, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    page.get_by_label("Message", exact=True).fill("What is <b>steel</b>?")
    page.get_by_role("button", name="As code").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("code[data-name=Python]")).to_contain_text("What is <b>steel</b>?")
    dialog.get_by_role("button", name="Copy as curl").click()
    expect(dialog.get_by_role("button", name="Copied")).to_be_visible()
    assert "/v1/chat/completions" in page.evaluate("navigator.clipboard.readText()")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="As code")).to_be_focused()


def test_stop_ends_the_work_and_keeps_the_words(page: Page, site: Site) -> None:
    base = site.serving.responders["base"]
    ask(page, "Count.")
    base.wait_asked()
    base.say("one ", "two")
    expect(page.locator(answer(page))).to_have_text("one two")
    page.get_by_role("button", name="Stop").click()
    base.wait_closed()
    expect(page.locator(answer(page))).to_have_text("one two")
    expect(page.locator(".turn:last-child .facts")).to_contain_text("stopped by you")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()

    ask(page, "Go on.")
    said = [(turn["role"], turn["content"]) for turn in base.wait_asked().messages]
    assert said == [("user", "Count."), ("assistant", "one two"), ("user", "Go on.")]


def test_a_reload_in_the_middle_keeps_every_word_and_ends_the_work(page: Page, site: Site) -> None:
    base = site.serving.responders["base"]
    ask(page, "A long story.")
    base.wait_asked()
    base.say("Once upon ", "a time")
    expect(page.locator(answer(page))).to_have_text("Once upon a time")
    page.reload()
    base.wait_closed()
    expect(page.locator(".turn.is-user")).to_have_text("A long story.")
    expect(page.locator(answer(page))).to_have_text("Once upon a time")
    expect(page.locator(".notice")).to_contain_text("Cut off")

    page.get_by_role("button", name="Try again").click()
    assert [turn["content"] for turn in base.wait_asked().messages] == ["A long story."]
    base.say("Whole.")
    base.finish()
    expect(page.locator(".turn.is-assistant")).to_have_count(1)
    expect(page.locator(answer(page))).to_have_text("Whole.")
    expect(page.locator(".notice")).to_have_count(0)


def test_a_new_chat_leaves_the_old_one_in_the_list(page: Page, site: Site) -> None:
    site.serving.responders["base"].always("Noted.")
    ask(page, "Remember the first.")
    expect(page.locator(answer(page))).to_have_text("Noted.")
    first = page.url
    assert re.search(r"/chat\?c=[0-9a-f-]{36}$", first)

    page.get_by_role("link", name="New chat").click()
    expect(page.get_by_text("Ask a model on this machine")).to_be_visible()
    expect(page.locator("#talks li")).to_have_count(1)  # the page's script is there
    ask(page, "Remember the second.")
    expect(page.locator("#talks li")).to_have_count(2)

    page.get_by_role("link", name="Remember the first.").click()
    page.wait_for_url(first)
    expect(page.locator(".turn.is-user")).to_have_text("Remember the first.")
    expect(page.locator(answer(page))).to_have_text("Noted.")


def test_deleting_a_conversation_asks_first(page: Page, site: Site) -> None:
    site.serving.responders["base"].always("Yes.")
    ask(page, "Forget me.")
    expect(page.locator(answer(page))).to_have_text("Yes.")
    delete = page.get_by_role("button", name="Delete Forget me.")
    page.once("dialog", lambda dialog: dialog.dismiss())
    delete.click()
    expect(page.locator("#talks li")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    delete.click()
    expect(page.get_by_text("Ask a model on this machine")).to_be_visible()
    expect(page.locator("#talks li")).to_have_count(0)


def test_the_chosen_model_answers_and_is_still_chosen_after_a_reload(
    page: Page, site: Site
) -> None:
    site.serving.responders["taught"].always("From the taught one.")
    page.get_by_label("Model", exact=True).select_option("taught")
    ask(page, "Who are you?")
    expect(page.locator(answer(page))).to_have_text("From the taught one.")
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("taught")


def test_loading_is_said_until_it_is_over(page: Page, site: Site) -> None:
    site.serving.states["base"] = "loading"
    soon(page)
    expect(page.locator("#model-state")).to_have_text("loading…")
    ask(page, "Hello?")
    expect(page.locator(".turn:last-child .meta")).to_contain_text("Loading base")
    site.serving.states["base"] = "ready"
    soon(page)
    expect(page.locator("#model-state")).to_have_text("ready")
    expect(page.locator(".turn:last-child .meta")).to_have_text("Reading the question")


def test_a_new_model_appears_in_the_picker_by_itself(page: Page, site: Site) -> None:
    site.serving.states["newborn"] = "stopped"
    soon(page)
    picker = page.get_by_label("Model", exact=True)
    expect(picker.locator("option")).to_have_text(["base", "taught", "newborn"])
    expect(picker).to_have_value("base")


def test_a_fault_says_what_to_do_and_the_question_can_be_put_again(page: Page, site: Site) -> None:
    base = site.serving.responders["base"]
    base.always_fail(
        ContextLengthExceeded("9,100 tokens do not fit 8,192", next_step="start a new chat")
    )
    ask(page, "Much too long.")
    expect(page.locator(".notice")).to_contain_text("9,100 tokens do not fit 8,192")
    expect(page.locator(".notice")).to_contain_text("Next: start a new chat")
    page.reload()
    expect(page.locator(".notice")).to_contain_text("9,100 tokens")
    base.always("Short enough.")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(answer(page))).to_have_text("Short enough.")


def test_a_fault_in_the_middle_keeps_what_was_said(page: Page, site: Site) -> None:
    base = site.serving.responders["base"]
    ask(page, "Go.")
    base.wait_asked()
    base.say("Half")
    base.fail(ContextLengthExceeded("the context is full: 8,192 tokens"))
    expect(page.locator(".notice")).to_contain_text("the context is full")
    expect(page.locator(answer(page))).to_have_text("Half")


def test_a_server_that_goes_away_is_said_so(page: Page, site: Site, watch: Watch) -> None:
    watch.allow("ERR_CONNECTION_REFUSED")
    watch.allow("ERR_INCOMPLETE_CHUNKED_ENCODING")
    base = site.serving.responders["base"]
    ask(page, "Still there?")
    base.wait_asked()
    base.say("Ye")
    expect(page.locator(answer(page))).to_have_text("Ye")
    site.stop()
    soon(page)
    expect(page.locator(".notice")).to_contain_text("connection to the server was lost")
    expect(page.locator(answer(page))).to_have_text("Ye")
    expect(page.locator("#model-state")).to_have_text("the server does not answer")


def test_a_session_that_ended_is_said_until_it_is_there_again(
    page: Page, site: Site, watch: Watch
) -> None:
    watch.allow("status of 401")
    watch.allow("ERR_INTERNET_DISCONNECTED")
    state, fault = page.locator("#model-state"), page.get_by_role("alert")
    page.context.set_offline(True)
    soon(page)
    expect(state).to_have_text("the server does not answer")
    page.context.clear_cookies()
    page.context.set_offline(False)
    soon(page)
    expect(fault).to_contain_text("This session has ended")
    expect(state).to_have_text("not known: this session has ended")
    page.context.new_page().goto(site.login_url())
    soon(page)
    expect(state).to_have_text("ready")
    expect(fault).to_have_count(0)


def test_enter_sends_and_shift_enter_makes_a_line(page: Page, site: Site) -> None:
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    request = site.serving.responders["base"].wait_asked()
    assert request.messages[-1]["content"] == "one\ntwo"
    expect(box).to_have_value("")


def test_a_question_that_is_quicker_than_the_script_is_kept(
    context: BrowserContext, watch: Watch, site: Site
) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    context.route("**/static/chat.js", hold)
    page = context.new_page()
    page.goto(site.login_url(), wait_until="commit")
    page.wait_for_url("**/chat", wait_until="commit")
    box, send = page.get_by_label("Message", exact=True), page.get_by_role("button", name="Send")
    box.fill("Quick?")
    expect(send).to_be_disabled()
    box.press("Enter")
    send.click(force=True)
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").press("Enter")
    # Even where a browser sends the form all the same, it goes nowhere.
    page.evaluate("document.getElementById('composer').requestSubmit()")
    assert page.url == f"{site.url}/chat"
    (script,) = held
    script.continue_()
    expect(send).to_be_enabled()
    expect(box).to_have_value("Quick?\n")
    box.press("Enter")
    asked = site.serving.responders["base"].wait_asked()
    assert [turn["content"] for turn in asked.messages] == ["Quick?"]


def test_an_empty_message_is_not_sent(page: Page, site: Site) -> None:
    ask(page, "   ")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn")).to_have_count(0)
    assert site.serving.responders["base"].requests == []


def test_an_example_can_be_asked_with_the_keyboard(page: Page, site: Site) -> None:
    page.get_by_role("button", name="What is the capital of France?").focus()
    page.keyboard.press("Enter")
    request = site.serving.responders["base"].wait_asked()
    assert request.messages[-1]["content"] == "What is the capital of France?"


def test_what_a_model_says_is_never_markup_and_code_looks_like_code(page: Page, site: Site) -> None:
    site.serving.responders["base"].always(
        "<img src=x onerror=alert(1)> and `x < y`\n", "```py\nif a < b:\n", "    go()\n```\nend"
    )
    ask(page, "<b>bold?</b>")
    words = page.locator(answer(page))
    expect(words.locator("pre code")).to_have_text("if a < b:\n    go()")
    expect(words.locator("pre")).to_have_attribute("data-language", "py")
    expect(words.locator(":scope > code")).to_have_text("x < y")
    expect(words).to_contain_text("<img src=x onerror=alert(1)> and")
    expect(words).to_contain_text("end")
    expect(page.locator("#turns img, #turns b")).to_have_count(0)
    expect(page.locator(".turn.is-user")).to_have_text("<b>bold?</b>")


def test_settings_reach_the_model_and_stay(page: Page, site: Site) -> None:
    base = site.serving.responders["base"]
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens in an answer").fill("32")
    page.get_by_label("System message").fill("Be brief.")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Temperature")).to_be_hidden()
    ask(page, "Hi")
    request = base.wait_asked()
    assert (request.sampling.temperature, request.max_tokens) == (0.0, 32)
    assert request.messages[0] == {"role": "system", "content": "Be brief."}
    page.reload()
    expect(page.get_by_label("System message")).to_have_value("Be brief.")


def test_a_run_links_to_its_model(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/chat?model=taught")
    expect(page.get_by_label("Model", exact=True)).to_have_value("taught")


def test_a_model_that_is_just_being_stored_is_chosen_once_it_is_there(
    page: Page, site: Site
) -> None:
    page.goto(f"{site.url}/chat?model=newborn")
    picker = page.get_by_label("Model", exact=True)
    expect(picker).to_have_value("base")
    site.serving.states["newborn"] = "stopped"
    soon(page)
    expect(picker).to_have_value("newborn")
