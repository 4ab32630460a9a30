"""What the guide for those who come from OpenAI says of each endpoint is what the server does."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from bessemer.app.platform import Platform
from bessemer.gateway.asgi import build
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeServing
from tests.gateway.calling import FakeKeyRing, call
from tests.specification import PREFIX, operations

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "moving-from-openai.md"
ROW = re.compile(r"^\| `(/v1/[^`]*)` \| (same|differs|501|retired) \| .*\|$", re.MULTILINE)
SAID = {401: "served", 501: "501", 404: "retired"}


def table() -> Mapping[str, str]:
    rows = ROW.findall(GUIDE.read_text())
    assert len(rows) == len(dict(rows)), "an endpoint has two rows"
    return dict(rows)


def answers() -> Mapping[str, set[str]]:
    """What the operations below each endpoint of the table say to who has no key."""
    app = build(FakeServing({}), FakeKeyRing(), routes=resource_routes(cast(Platform, None)))
    found = defaultdict(set)
    for operation in operations():
        path = PREFIX + operation.path
        rows = [row for row in table() if path == row or path.startswith(row + "/")]
        assert rows, f"{operation.method} {path} is under no row of the table"
        answer = call(app, re.sub(r"[{}]", "", path), method=operation.method, key=None)
        found[max(rows, key=len)].add(SAID[answer.status])
    return found


def test_the_table_is_true() -> None:
    found = answers()
    wrong = [
        f"{row} is called {said!r}, and its operations are {sorted(found[row])}"
        for row, said in table().items()
        if not (
            found[row] == {"served" if said == "same" else said}
            or (said == "differs" and "served" in found[row])
        )
    ]
    assert wrong == []
