"""Where the navigation leads, and for whom."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from bessemer.console.navigation import TABS, Tab, tabs_of
from bessemer.core.principal import Principal


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.name)
def test_every_tab_leads_to_a_page_that_is_marked(client: TestClient, tab: Tab) -> None:
    answer = client.get(tab.path)
    assert answer.status_code == 200
    current = re.findall(r'<a href="([^"]+)" aria-current="page">', answer.text)
    assert current[0] == tab.path
    for other in TABS:
        assert f'href="{other.path}"' in answer.text


def test_a_page_below_a_tab_is_part_of_it() -> None:
    runs = Tab("Runs", "/runs", "runs:read")
    assert runs.is_current("/runs/run_1") and runs.is_current("/runs")
    assert not runs.is_current("/runs-and-more")


def test_who_may_not_read_a_page_is_not_led_there() -> None:
    reader = Principal("org", "p", "u", frozenset({"runs:read"}))
    assert [tab.name for tab in tabs_of(reader)] == ["Runs", "Fine-tuning"]
    assert tabs_of(None) == []
