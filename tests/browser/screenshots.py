"""Pictures of every page, wide and narrow, light and dark, of a server that runs.

    python -m tests.browser.screenshots LOGIN_URL FOLDER [--ask QUESTION]

LOGIN_URL is what `bessemer up` printed; it is used up. Not a test: it judges nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page

from tests.browser.chromium import NARROW, WIDE, find_chromium, launched

QUESTION = "What does the Python function textwrap.shorten do?"
LISTS = {"files": "/files", "fine-tuning": "/fine-tuning", "evals": "/evals"}
ANSWER_WAIT_MS = 120_000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("login_url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ask", default=QUESTION)
    options = parser.parse_args(arguments)
    chromium = find_chromium()
    if chromium is None:
        print("there is no Chromium on the PATH; on Debian: apt-get install chromium")
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    with launched(chromium) as browser:
        context = browser.new_context(viewport=WIDE, device_scale_factor=2)
        page = context.new_page()
        page.goto(options.login_url)
        page.wait_for_url("**/chat")
        for name, address in pages_of(context, options.login_url, options.ask):
            for path in pictures(page, name, address, options.folder):
                print(path)
    return 0


def pages_of(context: BrowserContext, login_url: str, question: str) -> list[tuple[str, str]]:
    """Name and address of each page: the newest run of each kind stands for its kind."""
    parts = urlsplit(login_url)
    root = f"{parts.scheme}://{parts.netloc}"
    page = context.new_page()
    found = [("chat-empty", f"{root}/chat"), ("chat", ask(page, root, question))]
    found += [(name, f"{root}/{name}") for name in ("runs", "projects", "usage", "audit")]
    found.append(("project", f"{root}/projects/project_default"))
    page.goto(f"{root}/runs")
    seen: set[str] = set()
    for row in page.locator(".run-row").all():
        words = row.inner_text().split()
        kind = next((word for word in words if word in ("train", "eval")), "other")
        state = row.locator(".badge").inner_text()
        if f"{kind}-{state}" not in seen:
            seen.add(f"{kind}-{state}")
            address = row.locator("a").get_attribute("href")
            found.append((f"run-{kind}-{state}", f"{root}{address}"))
    for name, listed in LISTS.items():
        found.append((name, f"{root}{listed}"))
        page.goto(f"{root}{listed}")
        newest = page.locator(".row-name a, .run-name a").first
        if newest.count():
            address = f"{root}{newest.get_attribute('href')}"
            found.append((f"{name}-newest", address))
    page.close()
    return found


def ask(page: Page, root: str, question: str) -> str:
    """Put one question and return the conversation's address."""
    page.goto(f"{root}/chat")
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")
    page.locator("#send:visible").wait_for(timeout=ANSWER_WAIT_MS)
    return page.url


def pictures(page: Page, name: str, address: str, folder: Path) -> list[Path]:
    paths = []
    for width, size in (("wide", WIDE), ("narrow", NARROW)):
        for scheme in ("light", "dark"):
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)
            page.goto(address)
            page.evaluate("document.fonts.ready")
            if page.locator("#chart").count():
                page.locator("#chart[data-points]").wait_for(timeout=10_000)
            path = folder / f"{name}-{width}-{scheme}.png"
            page.screenshot(path=path, full_page=not name.startswith("chat"))
            paths.append(path)
    return paths


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
