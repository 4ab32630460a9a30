"""The pages, rendered on the server and kept alive by four small scripts.

`pages.build` makes the ASGI app that `bessemer up` mounts beside the API; `sessions` makes the
one-time login URL. No use case lives here: every page asks `app`.
"""

__all__ = ["pages", "sessions"]
