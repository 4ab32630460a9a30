"""The browser files of others are what was vendored; ours load nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bessemer.console
from bessemer.core.digests import sha256_file

ROOM = Path(bessemer.console.__file__).parent
STATIC = ROOM / "static"
VENDOR = STATIC / "vendor"
TEMPLATES = sorted((ROOM / "templates").glob("*.html"))
OURS = [*TEMPLATES, *sorted(STATIC.glob("*.*"))]


def listed() -> dict[str, str]:
    """File -> SHA-256, from VENDORED.md."""
    row = re.compile(r"\| (\S+/\S+) \| \S+ \| \S+ \| \S+ \| ([0-9a-f]{64}) \|")
    return dict(row.findall((VENDOR / "VENDORED.md").read_text()))


def test_every_vendored_file_is_listed_and_none_is_changed() -> None:
    files = {path for path in VENDOR.rglob("*") if path.is_file() and path.name != "VENDORED.md"}
    assert {str(path.relative_to(VENDOR)): sha256_file(path) for path in files} == listed()


def test_every_vendored_package_has_its_licence() -> None:
    folders = [path for path in VENDOR.iterdir() if path.is_dir()]
    assert folders
    assert all((folder / "LICENSE.txt").is_file() for folder in folders)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_of_ours_loads_from_another_host(path: Path) -> None:
    text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"""(?:https?:|["'(=]\s*)//\w""", text)
    assert "@import" not in text


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_have_no_inline_script_or_style(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|hx-on|\|\s*safe", text)


def test_every_file_that_a_template_names_is_there() -> None:
    named = {
        name for path in TEMPLATES for name in re.findall(r'"/static/([^"]+)"', path.read_text())
    }
    assert named
    assert all((STATIC / name).is_file() for name in named)


def test_our_scripts_are_four() -> None:
    assert len(list(STATIC.glob("*.js"))) <= 4
