"""Documentation is part of the product: what it tells to type works, what it points at is there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.commands import why_not
from tests.cli.mentions import fault_of, mentions

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
SHELL = ("sh", "bash", "console", "shell")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?:docs|src|tests|examples|recipes|benchmarks|\.ci)/[a-z0-9_./-]*[a-z0-9]")
_ASSIGNMENT = re.compile(r"\w+=")
_SPLIT = re.compile(r"\$\(|\)|\||&&|;")


class Block(NamedTuple):
    """A fenced block: its language, its text."""

    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    found = [Block(*match.groups()) for match in _FENCE.finditer(page.read_text())]
    return [block for block in found if block.language in languages]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of the shell blocks, in words."""
    for block in blocks(page, *SHELL):
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in _SPLIT.split(line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                while words and _ASSIGNMENT.match(words[0]):
                    words = words[1:]
                if words:
                    yield words


def make_targets() -> dict[str, str]:
    text = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([a-z]+):.*?## (.*)$", text, re.MULTILINE))


def why_make_refuses(words: list[str]) -> str | None:
    variables = {word.partition("=")[0] for word in words if "=" in word}
    targets = {word for word in words if "=" not in word}
    known = (ROOT / "Makefile").read_text()
    unknown = targets - set(make_targets()) | {v for v in variables if f"$({v})" not in known
                                               and f"$(if $({v})" not in known}  # fmt: skip
    return f"make knows nothing of {sorted(unknown)}" if unknown else None


def why_refused(words: list[str]) -> str | None:
    if words[0] == "bessemer":
        return why_not(words[1:])
    if words[0] == "make":
        return why_make_refuses(words[1:])
    if words[0] == "python":
        return None if (ROOT / words[1]).is_file() else f"there is no {words[1]}"
    return None


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_reference_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = {name: (ROOT / "docs" / name).read_text() for name in generate.pages()}
    behind = [name for name, text in generate.pages().items() if written[name] != text]
    assert behind == [], "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    spans = [span for span in _SPAN.findall(prose(page)) if _PATH.fullmatch(span)]
    assert [span for span in spans if not (ROOT / span).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_blocks_can_be_typed(page: Path) -> None:
    faults = [(" ".join(words), why) for words in commands(page) if (why := why_refused(words))]
    assert faults == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist(page: Path) -> None:
    faults = []
    for span in _SPAN.findall(prose(page)):
        words = span.split()
        if words[0] not in ("bessemer", "make") or len(words) == 1 or "VERB" in words:
            continue
        why = why_refused(words)
        # A verb may be spoken of without its arguments.
        if why is not None and not (words[0] == "bessemer" and _only_incomplete(why)):
            faults.append((span, why))
    assert faults == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_in_blocks_is_code(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, name_of(page), "exec")
    for block in blocks(page, "json"):
        json.loads(block.text)
    for block in blocks(page, "toml"):
        tomllib.loads(block.text)


def test_examples_tell_only_commands_that_exist() -> None:
    found = list(mentions(ROOT / "examples"))
    assert found
    assert [(m.place, why) for m in found if (why := fault_of(m))] == []


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == set(make_targets())


@pytest.mark.parametrize(
    ("command", "is_fault"),
    [
        ("bessemer eval", True),
        ("bessemer runs RUN --follow", False),
        ("bessemer runs show RUN", True),
        ("bessemer up --port http", True),
        ("make demo CHECK=1", False),
        ("make demos", True),
        ("make demo CHEK=1", True),
        ("python examples/none.py", True),
        ("curl http://127.0.0.1:8000/healthz", False),
    ],
)
def test_the_check_tells_commands_from_mistakes(command: str, is_fault: bool) -> None:
    assert (why_refused(command.split()) is not None) == is_fault


def _only_incomplete(why: str) -> bool:
    return "Missing argument" in why or "only prints help" in why
