"""Who gets through: Host, Origin, session; and what every answer carries."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from bessemer.app.platform import Platform
from bessemer.console.sessions import offer_token, token_folder

PAGES = ("/", "/chat", "/runs", "/runs/run_x", "/console/models", "/nowhere")


@pytest.mark.parametrize("path", PAGES)
def test_without_a_session_nothing_is_shown(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 401
    assert "bessemer login" in answer.text


def test_the_login_page_says_where_the_address_is(stranger: TestClient) -> None:
    answer = stranger.get("/login?token=old")
    assert answer.status_code == 401
    assert "used already" in answer.text


def test_a_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use(
    stranger: TestClient, platform: Platform
) -> None:
    token = offer_token(token_folder(platform.home))
    answer = stranger.get(f"/login?token={token}")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert token not in answer.text
    assert stranger.get("/chat").status_code == 200


def test_a_preview_does_not_use_the_link_up(stranger: TestClient, platform: Platform) -> None:
    url = f"/login?token={offer_token(token_folder(platform.home))}"
    assert stranger.head(url).status_code == 503
    assert stranger.get(url, headers={"sec-purpose": "prefetch;prerender"}).status_code == 503
    assert stranger.get(url).status_code == 200


def test_the_same_link_again_brings_who_is_in_to_the_chat(
    client: TestClient, platform: Platform
) -> None:
    assert client.get("/login?token=used").headers["location"] == "/chat"


def test_logging_out_ends_the_session(client: TestClient) -> None:
    kept = dict(client.cookies)
    assert client.post("/logout").status_code == 200
    client.cookies.update(kept)
    assert client.get("/chat").status_code == 401


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "LAB.example:80"]
)
def test_a_known_host_is_served(stranger: TestClient, host: str) -> None:
    assert stranger.get("/static/console.css", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "lab.example:81", "[::1", ""]
)
@pytest.mark.parametrize("path", ["/static/console.css", "/login", "/console/models"])
def test_a_rebound_name_is_refused(client: TestClient, host: str, path: str) -> None:
    assert client.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:9999", "null", "http://localhost:8000"]
)
@pytest.mark.parametrize("path", ["/console/chat", "/runs/run_x/cancel", "/logout"])
def test_another_page_changes_nothing(client: TestClient, origin: str, path: str) -> None:
    assert client.post(path, headers={"origin": origin}).status_code == 403
    assert client.get("/chat").status_code == 200


def test_our_own_page_may_post(client: TestClient) -> None:
    answer = client.post("/runs/run_x/cancel", headers={"origin": "http://127.0.0.1:8000"})
    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/chat", "/nowhere", "/static/chat.js", "/console/models"])
def test_every_answer_forbids_foreign_and_inline_script(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


def test_pages_are_not_kept_and_files_are_checked(client: TestClient) -> None:
    assert client.get("/chat").headers["cache-control"] == "no-store"
    assert client.get("/static/chat.js").headers["cache-control"] == "no-cache"


def test_static_serves_nothing_outside_its_folder(client: TestClient) -> None:
    assert client.get("/static/..%2fpages.py").status_code == 404


def test_an_unknown_address_is_a_page_with_a_way_back(client: TestClient) -> None:
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert 'href="/runs"' in answer.text
