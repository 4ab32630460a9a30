"""What a form of ours posts, for use cases that run in a worker thread.

    Route("/projects", posted(projects.create), methods=["POST"])

    def create(self, request: Request, form: Form) -> Response:
        projects.create(self._platform, asker(request), form.text("name"))

Forms of ours are small and without files, so they are read whole. Where a form may have come from
is the guard's business (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from bessemer.core.errors import InvalidInput, PayloadTooLarge

MAX_BYTES = 1_000_000
MAX_FIELDS = 1_000


class Form:
    """Names and their values."""

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def text(self, name: str, default: str = "") -> str:
        """The first value, without the space around it; `default` where there is none."""
        return (self.all(name) or (default,))[0].strip()

    def all(self, name: str) -> Sequence[str]:
        """All values, as the browser sent them: of check boxes, those that are set."""
        return self._fields.get(name, ())


def posted(
    act: Callable[[Request, Form], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that reads the form, and then acts in a worker thread."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(act, request, await read(request))

    return endpoint


async def read(request: Request) -> Form:
    """Raises PayloadTooLarge, and InvalidInput where it is not what a form of ours sends."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise PayloadTooLarge(f"the form is larger than {MAX_BYTES:,} bytes")
    try:
        fields = parse_qs(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as fault:
        raise InvalidInput(f"the form is not what the page sends: {fault}") from None
    return Form(fields)
