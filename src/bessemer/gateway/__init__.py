"""The HTTP API, in OpenAI's shapes: a thin face over `app`. No use case lives here.

Nothing is imported here: `server` runs what `asgi.build` builds of `resources`.
"""

__all__ = ["asgi", "resources", "server"]
