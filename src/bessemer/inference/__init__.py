"""Token ids in, token ids out, many requests at a time.

The story of a request: `engine` takes it, `scheduler` admits it to a row of the `cache` and
gives it a share of each step, `runner` computes the step with the `prepared` network, `sampling`
draws the next token. `worker` is the process around an engine.
"""

__all__ = ["cache", "engine", "precision", "prepared", "probing", "sampling", "worker"]
