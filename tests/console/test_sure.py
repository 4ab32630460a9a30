"""What is lost by a click is asked for first: every form that takes something away stands in one
question (`parts.sure`), which needs no script."""

from __future__ import annotations

import html
import re
from pathlib import Path

from starlette.testclient import TestClient

from bessemer.app import files, spending
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console.rendering import HERE
from tests.console.told_jobs import ToldJob, a_file
from tests.console.told_runs import eval_run

_FORM = re.compile(r'<form[^>]*method="post"[^>]*action="[^"]*/([\w-]+)"')
_SURE = re.compile(r'parts\.sure\([^)]*?/([\w-]+)"')

# The last word of what a form posts to. A new one has to be put into one of the two.
TAKES_AWAY = {"archive", "budgets", "cancel", "delete", "remove", "revoke"}
HARMLESS = {
    *("accounts", "budgets", "files", "keys", "logout", "pause", "people", "plans", "projects"),
    *("resume", "role", "start", "work"),
}  # fmt: skip


def _words(pattern: re.Pattern[str]) -> set[str]:
    templates: list[Path] = sorted((HERE / "templates").glob("*.html"))
    return {word for path in templates for word in pattern.findall(path.read_text())}


def test_every_form_that_takes_something_away_asks() -> None:
    assert _words(_FORM) <= HARMLESS
    assert _words(_SURE) == TAKES_AWAY


def asked(client: TestClient, address: str, action: str) -> str:
    """The closed question on the page of `address` whose answer is posted to `action`."""
    text = html.unescape(client.get(address).text)
    questions = re.findall(r'<details class="sure".*?</details>', text, re.DOTALL)
    (found,) = (each for each in questions if f'action="{action}"' in each)
    assert " open" not in found.partition(">")[0]
    return found


def test_the_question_says_what_is_lost(client: TestClient, platform: Platform) -> None:
    job, ended = ToldJob(platform), eval_run(platform)
    run = job.begin()
    assert "makes no model" in asked(client, job.path, f"{job.path}/cancel")
    assert "leaves no model" in asked(client, run.path, f"{run.path}/cancel")
    assert "leaves no report" in asked(client, ended.path, f"{ended.path}/cancel")


def test_the_answer_needs_no_script(client: TestClient, platform: Platform) -> None:
    me = platform.local_principal()
    file_id = a_file(platform, name="a<b>.jsonl")
    question = asked(client, f"/files/{file_id}", f"/files/{file_id}/delete")
    assert "Delete a<b>." in question and "are gone for good" in question
    assert client.post(f"/files/{file_id}/delete").status_code == 303
    assert files.list_files(platform, me, PageRequest()) == ([], False)

    spending.set_budget(platform, me, "project", "month", 5_000_000)
    question = asked(client, "/usage", "/usage/budgets")
    assert "any amount may be spent" in question
    sent = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', question))
    assert client.post("/usage/budgets", data=sent).status_code == 303
    assert spending.list_budgets(platform, me) == []
