"""Every resource of the API but the hot paths: a file each, a line each."""

from __future__ import annotations

from bessemer.app.platform import Platform
from bessemer.gateway import files
from bessemer.gateway.routes import Route


def resource_routes(platform: Platform) -> list[Route]:
    return [
        *files.routes(platform),
    ]
