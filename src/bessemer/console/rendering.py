"""Templates into answers: one environment, everything escaped, a missing value is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from bessemer.console import wording

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
    duration=wording.duration,
    ago=wording.ago,
    moment=wording.moment,
    short_digest=wording.short_digest,
)


def page(request: Request, template: str, *, status: int = 200, **facts: Any) -> Response:
    """The template as an HTML answer; `path` marks the current page in the navigation."""
    text = ENVIRONMENT.get_template(template).render(path=request.url.path, **facts)
    return HTMLResponse(text, status_code=status)
