"""Token ids in, token ids out, many requests at a time.

The story of a request: `engine` takes it, `scheduler` admits it to a row of the `cache` and
gives it a share of each step, `speculation` guesses what may come next, `stepper` takes the step:
`runner` computes it with the `prepared` network, whose `products` multiply in 16, 8 or 4 bits,
each row with its own of the `adapters`; `constraint` says which tokens may be next, `sampling`
draws them. An encoder's steps are in `encoding`; in a `deterministic` stepper sequences do not
touch each other's bits. `worker` is the process around an engine; `live` is an engine over a
network that is being trained.
"""

__all__ = [
    "adapters",
    "cache",
    "constraint",
    "engine",
    "live",
    "openvino_engine",
    "precision",
    "prepared",
    "probing",
    "recomputing",
    "sampling",
    "speeds",
    "worker",
]
