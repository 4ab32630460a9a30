"""The HTTP API, in OpenAI's shapes: a thin face over `app`. No use case lives here.

Nothing is imported here: `server` runs what `asgi.build` builds of `resources`; `answerer` answers
the requests of batches, and `eval_sampling` reads the data source of an eval's run, also where it
comes from a verb.
"""

__all__ = ["answerer", "asgi", "eval_sampling", "resources", "server"]
