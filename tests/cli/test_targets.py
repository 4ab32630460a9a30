"""`bessemer targets` from the command line."""

from __future__ import annotations

from tests.cli.calling import say

ADD = ("targets", "add", "big", "--url", "http://10.0.0.7:8001/v1", "--model", "qwen3-8b")


def test_add_list_and_remove() -> None:
    assert say("targets", "list").out.startswith("no partners yet; bessemer targets add")
    assert say(*ADD, "--key-env", "BIG_KEY").out == (
        "big is answered by qwen3-8b at http://10.0.0.7:8001/v1\n"
    )
    assert say("targets", "list", "--json").json == [
        {"name": "big", "url": "http://10.0.0.7:8001/v1", "model": "qwen3-8b", "key_env": "BIG_KEY"}
    ]
    assert "big   qwen3-8b" in say("targets", "list").out
    assert say("targets", "remove", "big").status == 0
    assert say("targets", "list", "--json").json == []


def test_a_key_in_the_place_of_its_variable_is_not_stored() -> None:
    said = say(*ADD, "--key-env", "sk-hunter2")
    assert (said.status, said.out) == (1, "")
    assert "give --key-env MY_KEY" in said.err and "hunter2" not in said.err
    assert say("targets", "list", "--json").json == []
