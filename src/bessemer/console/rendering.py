"""Templates into answers: one environment, everything escaped, a missing value is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from bessemer.app.usage import money
from bessemer.console import wording
from bessemer.console.asker import signed_in_if_any
from bessemer.console.copying import Call
from bessemer.console.navigation import tabs_of

HERE = Path(__file__).parent

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(
    count=wording.count,
    figure=wording.figure,
    share=wording.share,
    size=wording.size,
    duration=wording.duration,
    ago=wording.ago,
    moment=wording.moment,
    clock=wording.clock,
    breakable=wording.breakable,
    short_digest=wording.short_digest,
    day=wording.day,
    money=money,
)


def page(
    request: Request,
    template: str,
    *,
    status: int = 200,
    calls: Sequence[Call] = (),
    **facts: Any,
) -> Response:
    """The template as an HTML answer.

    Beside `facts` it knows `path`, the page's own address; `me`, the principal who asks, or None,
    and `working_in`, what their project is called; `tabs`, where the navigation leads; and
    `base_url`, under which the browser knows this server.

    Args:
        calls: what the page shows and does, to be copied as curl, Python and CLI.
    """
    who = signed_in_if_any(request)
    me = None if who is None else who.principal
    text = ENVIRONMENT.get_template(template).render(
        path=request.url.path,
        me=me,
        working_in=None if who is None else who.project,
        tabs=tabs_of(me),
        calls=calls,
        base_url=str(request.base_url).rstrip("/"),
        **facts,
    )
    return HTMLResponse(text, status_code=status)
