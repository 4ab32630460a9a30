"""What the walk over all routes (`test_isolation`) needs to know of the ones it meets.

A new route with an id in its path needs a line in `MAKERS`: how the first project comes by such an
object. One that reads its body before it looks at rights or ids needs a body in `BODIES`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from bessemer.app import (
    admin_keys,
    batches,
    conversations,
    eval_definitions,
    eval_runs,
    eval_sources,
    eval_submission,
    feedback,
    files,
    invites,
    members,
    model_permissions,
    names,
    people,
    responses,
    service_accounts,
    spend_alerts,
    spending,
    stored_completions,
    uploads,
)
from bessemer.app.eval_definitions import CustomData
from bessemer.app.eval_grading import Judge
from bessemer.app.eval_plans import Plan
from bessemer.app.eval_sources import FileContent, Row
from bessemer.app.keys import create_key
from bessemer.app.paging import PageRequest
from bessemer.app.tables import fine_tuning_jobs
from bessemer.core.database import now_ms
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest
from bessemer.text.criteria import StringCheck
from tests.fakes import FakeServing
from tests.gateway.organization import World

# Given by the path's name for it; each call makes a new object of the first project's, or of the
# organization's, and returns its id.
Maker = Callable[[World, Principal], str]


def _user(world: World, me: Principal) -> str:
    made = people.add(world.platform, world.owner, f"{new_id('a')}@example.org", "reader")
    members.add(world.platform, world.owner, me.project_id, made.id, "member")
    return made.id


def _project(world: World, me: Principal) -> str:
    """The first one itself, with a list of models, so that there is one to read."""
    if world.ring.authenticate(world.mine).models is None:
        model_permissions.set_to(world.platform, world.owner, me.project_id, "deny_list", [])
    NEWEST["project"] = me.project_id
    return me.project_id


def _invite(world: World, _me: Principal) -> str:
    email = f"{new_id('a')}@example.org"
    return invites.create(world.platform, world.owner, email, "reader", []).invite.id


def _budget(world: World, me: Principal) -> str:
    """There is one to read and to lift."""
    spending.set_budget(world.platform, world.owner, "org", "month", 10_000)
    there = replace(world.owner, project_id=me.project_id)
    spending.set_budget(world.platform, there, "project", "month", 10_000)
    return ""


_LIMIT = {"threshold_amount": 5, "currency": "USD", "interval": "month"}
_ALERT = {**_LIMIT, "notification_channel": {"type": "email", "recipients": ["a@example.org"]}}
_OF = ("", "projects/{project_id}/")


def _alert(world: World, me: Principal) -> str:
    """The first project's where the path speaks of one, else the organization's."""
    channel = spend_alerts.Channel([])
    of = NEWEST.pop("project", None)
    return spend_alerts.create(world.platform, world.owner, of, 1, channel).id


# Paths speak of parts after their whole, so a run is made of the eval that was made before it;
# emptied for each path.
NEWEST: dict[str, str] = {}


def _eval(world: World, me: Principal) -> str:
    data = CustomData(item_schema={}, include_sample_schema=False)
    criterion = StringCheck(name="equal", input="{{item.a}}", reference="b", operation="eq")
    NEWEST["eval"] = eval_definitions.add(world.platform, me, data, [criterion]).id
    return NEWEST["eval"]


_ITEMS = {
    "type": "jsonl",
    "source": {"type": "file_content", "content": [{"item": {"a": "b"}}]},
}


def _eval_run(world: World, me: Principal) -> str:
    plan = Plan(source=FileContent([Row({"a": "b"})]), model=None, messages=None)
    run = eval_submission.submit(world.platform, me, None, NEWEST["eval"], plan, _ITEMS)
    NEWEST["run"] = run.id
    return run.id


def _eval_output(world: World, me: Principal) -> str:
    begun = eval_runs.begin(world.platform, NEWEST["run"])
    assert begun is not None
    definition = eval_definitions.get(world.platform, me, NEWEST["eval"])
    assert begun[0].plan is not None
    (line,) = eval_sources.read(world.platform, me, begun[0].plan.source)
    judged = asyncio.run(Judge(FakeServing({}), begun[0], definition).judge(line))
    eval_runs.record(world.platform, NEWEST["run"], judged)
    asked = PageRequest(limit=1)
    (output,), _ = eval_runs.list_outputs(world.platform, me, NEWEST["eval"], NEWEST["run"], asked)
    return output.id


def _job(world: World, me: Principal, model: str = "ft:tiny:first::x") -> str:
    row = {
        "id": new_id("ftjob-"),
        "org_id": me.org_id,
        "project_id": me.project_id,
        "owner_id": me.owner_id,
        "created_ms": now_ms(),
        "model": "tiny",
        "method": '{"type":"supervised","supervised":{}}',
        "seed": 1,
        "training_file": "file-1",
        "fine_tuned_model": model,
        "state": "validating",
        "wanted": "run",
    }
    with world.platform.db.write() as connection:
        connection.execute(fine_tuning_jobs.insert().values(row))
    return str(row["id"])


def _model(world: World, me: Principal) -> str:
    """What a job made."""
    name = f"ft-{new_id('m')}"
    folder = world.platform.artifacts.workspace()
    (folder / "config.json").write_text(json.dumps({"name": name}))
    stored = world.platform.artifacts.put(folder, kind="model", name=name)
    names.bind(world.platform, me, "model", name, stored.digest)
    _job(world, me, name)
    return name


def _completion(world: World, me: Principal) -> str:
    answer = {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [],
    }
    stored_completions.add(world.platform, me, {}, b"[]", json.dumps(answer).encode())
    return str(answer["id"])


def _item() -> dict[str, Any]:
    said = [{"type": "input_text", "text": "hi"}]
    return {
        "type": "message",
        "id": new_id("msg"),
        "role": "user",
        "status": "completed",
        "content": said,
    }


_SAID: Mapping[str, Any] = {
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
}


def _response(world: World, me: Principal) -> str:
    request = ChatRequest(request_id="r")
    asked = responses.Asked(
        id=new_id("resp"), model="tiny", items=[_item()], request=request, says=_SAID, store=True
    )
    prepared = responses.prepare(world.platform, me, asked)
    whole = msgspec.structs.replace(prepared.response, status="completed")
    return responses.keep(world.platform, prepared, whole).id


def _conversation(world: World, me: Principal) -> str:
    NEWEST["conversation"] = conversations.create(world.platform, me, {}, []).id
    return NEWEST["conversation"]


def _conversation_item(world: World, me: Principal) -> str:
    (added,) = conversations.add_items(world.platform, me, NEWEST["conversation"], [_item()])
    return str(added["id"])


def _batch(world: World, me: Principal) -> str:
    file = files.add_bytes(world.platform, me, "a.jsonl", "batch", b"{}")
    return batches.create(world.platform, me, file.id, "/v1/chat/completions").id


MAKERS: Mapping[str, Maker] = {
    "batch_id": _batch,
    "upload_id": lambda world, me: uploads.create(world.platform, me, "a", "batch", 0, "").id,
    "feedback_id": lambda world, me: (
        feedback.create(world.platform, me, new_id("chatcmpl-"), "up").id
    ),
    "completion_id": _completion,
    "response_id": _response,
    "conversation_id": _conversation,
    "item_id": _conversation_item,
    "job_id": _job,
    "model": _model,
    "eval_id": _eval,
    "run_id": _eval_run,
    "output_item_id": _eval_output,
    "file_id": lambda world, me: files.add_bytes(world.platform, me, "a", "batch", b"x").id,
    "project_id": _project,
    "api_key_id": lambda world, me: create_key(world.platform, me, "k", ["chat"]).id,
    "service_account_id": lambda world, me: (
        service_accounts.create(world.platform, world.owner, me.project_id, "robot").account.id
    ),
    "user_id": _user,
    "key_id": lambda world, _me: admin_keys.create(world.platform, world.owner, "k").key.id,
    "invite_id": _invite,
    "alert_id": _alert,
    "rate_limit_id": lambda _world, _me: "rl-*",
}

# Bodies that are right, for the check that the owner of the object is let through.
BODIES: Mapping[tuple[str, str], Any] = {
    ("POST", "/v1/uploads"): {"filename": "a", "purpose": "batch", "bytes": 0, "mime_type": ""},
    ("POST", "/v1/uploads/{upload_id}/complete"): {"part_ids": []},
    ("POST", "/v1/chat/completions/{completion_id}"): {"metadata": {"a": "b"}},
    ("POST", "/v1/conversations"): {"metadata": {"a": "b"}},
    ("POST", "/v1/conversations/{conversation_id}"): {"metadata": {"a": "b"}},
    ("POST", "/v1/conversations/{conversation_id}/items"): {
        "items": [{"type": "message", "role": "user", "content": "hi"}]
    },
    ("POST", "/v1/evals/{eval_id}"): {"name": "another"},
    ("POST", "/v1/evals/{eval_id}/runs"): {"data_source": _ITEMS},
    ("POST", "/v1/organization/projects"): {"name": "another"},
    ("POST", "/v1/organization/projects/{project_id}"): {"name": "first"},
    ("POST", "/v1/organization/projects/{project_id}/api_keys"): {"name": "k"},
    ("POST", "/v1/organization/projects/{project_id}/service_accounts"): {"name": "robot"},
    ("POST", "/v1/organization/projects/{project_id}/users/{user_id}"): {"role": "owner"},
    ("POST", "/v1/organization/projects/{project_id}/model_permissions"): {
        "mode": "allow_list",
        "model_ids": ["tiny"],
    },
    ("POST", "/v1/organization/users/{user_id}"): {"role": "member"},
    ("POST", "/v1/organization/admin_api_keys"): {"name": "k"},
    **{("POST", f"/v1/organization/{of}spend_limit"): _LIMIT for of in _OF},
    **{
        ("POST", f"/v1/organization/{of}spend_alerts{one}"): _ALERT
        for of in _OF
        for one in ("", "/{alert_id}")
    },
    ("POST", "/v1/organization/projects/{project_id}/rate_limits/{rate_limit_id}"): {
        "max_requests_per_1_minute": 1_000
    },
    ("POST", "/v1/organization/invites"): {"email": "new@example.org", "role": "reader"},
}

# What a route has to be asked besides its path.
QUERIES: Mapping[tuple[str, str], Maker] = {
    ("GET", "/v1/evals/{eval_id}/runs/{run_id}/comparison"): (
        lambda world, me: f"?with={_eval_run(world, me)}"
    ),
    ("GET", "/v1/organization/usage/completions"): lambda _world, _me: "?start_time=1",
    ("GET", "/v1/organization/usage/embeddings"): lambda _world, _me: "?start_time=1",
    ("GET", "/v1/organization/costs"): lambda _world, _me: "?start_time=1",
    **{
        (method, f"/v1/organization/{of}spend_limit"): _budget
        for method in ("GET", "DELETE")
        for of in _OF
    },
}

# POSTs that change nothing, so that a reader may do them.
READING_POSTS: frozenset[tuple[str, str]] = frozenset()

# Answered for the holder of a one-time token alone: every key is refused.
TOKENS_ONLY = frozenset({("POST", "/v1/organization/invites/accept")})


def owner_of_first(world: World) -> Principal:
    return replace(world.owner, project_id=world.first.id)
