"""What is changed through the use cases leaves a row in the trail, and what is not leaves none."""

from __future__ import annotations

from typing import Any

import pytest

from bessemer.app import audit, eval_definitions, eval_runs, targets
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.app.targets import Target, add_target, remove_target
from bessemer.core.errors import Conflict, NotFound, PermissionDenied
from bessemer.core.principal import Principal
from tests.app.evals_world import EQUAL, ME, define, rows, submit

NEAR = Target(url="http://127.0.0.1:8001/v1", model="m", key_env="NEAR_KEY")
FAR = Target(url="http://127.0.0.1:8002/v1", model="m")


def trail(platform: Platform, who: Principal) -> list[tuple[str, str, Any, Any]]:
    """Oldest first: what was done to what, before and after."""
    reader = Principal(who.org_id, who.project_id, who.owner_id, frozenset({"org:read"}))
    found, _ = audit.list_events(platform, reader, PageRequest(100, "asc"))
    return [(event.action, event.target, event.before, event.after) for event in found]


def test_targets_are_in_the_trail_without_the_key_itself(
    platform: Platform, owner: Principal
) -> None:
    start = len(trail(platform, owner))
    add_target(platform, owner, "near", NEAR)
    add_target(platform, owner, "near", NEAR)
    add_target(platform, owner, "near", FAR)
    with pytest.raises(NotFound):
        remove_target(platform, owner, "far")
    remove_target(platform, owner, "near")
    near = {"url": NEAR.url, "model": "m", "key_env": "NEAR_KEY"}
    far = {"url": FAR.url, "model": "m"}
    assert trail(platform, owner)[start:] == [
        ("target.added", "near", None, near),
        ("target.added", "near", near, far),
        ("target.removed", "near", far, None),
    ]


def test_a_target_that_cannot_be_written_leaves_no_row(
    platform: Platform, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = trail(platform, owner)
    monkeypatch.setattr(targets, "_write", full)
    with pytest.raises(OSError, match="No space"):
        add_target(platform, owner, "near", NEAR)
    assert trail(platform, owner) == before


def test_evals_and_their_runs_are_in_the_trail_without_what_models_are_asked(
    platform: Platform,
) -> None:
    judge = {
        "type": "label_model", "name": "kind", "model": "j", "labels": ["yes", "no"],
        "passing_labels": ["yes"], "input": [{"role": "user", "content": "hush: is it kind?"}],
    }  # fmt: skip
    made = define(platform, EQUAL, judge)
    eval_definitions.update(platform, ME, made.id, name="new", metadata={"a": "b"})
    run = submit(platform, made, rows(2, want="hush"))
    other = submit(platform, made, rows(1, want="hush"))
    eval_runs.cancel(platform, ME, made.id, run.id)
    with pytest.raises(Conflict):
        eval_runs.cancel(platform, ME, made.id, run.id)
    reader = Principal(ME.org_id, ME.project_id, "u2", frozenset({"evals:read"}))
    with pytest.raises(PermissionDenied):
        eval_definitions.delete(platform, reader, made.id)
    eval_runs.finish(platform, other.id, "completed")  # by the server, which is nobody
    eval_runs.delete(platform, ME, made.id, other.id)
    eval_definitions.delete(platform, ME, made.id)
    ran = {"eval_id": made.id, "name": "m", "model": "m", "state": "queued"}
    renamed = {"name": "new", "metadata": {"a": "b"}}
    found = trail(platform, ME)
    assert found == [
        ("eval.created", made.id, None, {"name": made.name, "criteria": ["equal", "kind"]}),
        ("eval.updated", made.id, {"name": made.name, "metadata": {}}, renamed),
        ("eval_run.created", run.id, None, {**ran, "total": 2}),
        ("eval_run.created", other.id, None, {**ran, "total": 1}),
        ("eval_run.cancelled", run.id, None, None),
        (
            "eval_run.deleted", other.id,
            {"eval_id": made.id, "name": "m", "state": "completed"}, None,
        ),
        ("eval.deleted", made.id, renamed, None),
    ]  # fmt: skip
    assert "hush" not in str(found)
