"""The watch that looks for secrets in logs, events, errors and databases does see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.access.keys import make_secret, on_secret
from bessemer.app.keys import create_key
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from tests.leaks import LEAKS, Leaks


def test_every_secret_of_this_run_is_told() -> None:
    assert LEAKS.told in on_secret
    assert make_secret().encode() in LEAKS.made


def test_a_secret_is_seen_wherever_it_was_left(tmp_path: Path) -> None:
    leaks, secret = Leaks(), "sk-bsm-" + "x" * 43
    leaks.told(secret)
    leaks.look("log", f"key={secret}, and more")
    leaks.look("error", b'{"message": "' + secret.encode() + b'"}')
    leaks.look("hint", "sk-bsm-...xxxx and sk-bsm-" + "y" * 43)
    assert leaks.found == ["log", "error"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").write_text(f'{{"secret": "{secret}"}}\n')
    assert leaks.look_through(tmp_path) == 1
    assert len(leaks.found) == 3
    assert secret not in str(leaks.found)


@pytest.mark.sqlite("the database is a file of the home")
def test_a_home_with_keys_is_looked_through_and_clean(tmp_path: Path) -> None:
    with Platform.open(Home(tmp_path / "home")) as platform:
        leaks = Leaks()
        on_secret.append(leaks.told)
        try:
            create_key(platform, platform.local_principal(), "laptop", ["chat"])
        finally:
            on_secret.remove(leaks.told)
        assert leaks.made and leaks.look_through(tmp_path) >= 1
        assert leaks.found == []
