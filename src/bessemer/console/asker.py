"""Who asks: the principal of a request's session, which the guard looked up.

files.list_files(platform, asker(request), ...)
"""

from __future__ import annotations

from starlette.requests import Request

from bessemer.app.signing_in import SignedIn
from bessemer.core.principal import Principal

_FIELD = "signed_in"


def asker(request: Request) -> Principal:
    """The signed-in person, with the rights that their roles give them now."""
    found = signed_in_if_any(request)
    assert found is not None, f"{request.url.path} was reached without a session"
    return found.principal


def signed_in_if_any(request: Request) -> SignedIn | None:
    """None on the pages that need no session."""
    found: SignedIn | None = request.scope.get("state", {}).get(_FIELD)
    return found


def remember(request: Request, who: SignedIn) -> None:
    """Say who asks, for what comes after the guard."""
    # A dictionary of its own: the server's is shared by all requests of its life.
    request.scope["state"] = {**request.scope.get("state", {}), _FIELD: who}
