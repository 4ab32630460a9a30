"""The use cases, one file per resource: the only room that composes the others.

Every use case takes a `Principal`. Gateway, console and command line are three thin faces over
these functions; none of them holds a rule of its own. Nothing is imported here: a face pays only
for what it takes.
"""

__all__ = [
    "adapters",
    "catalog",
    "chat",
    "checking",
    "datasets",
    "embeddings",
    "engine_memory",
    "engine_process",
    "engines",
    "epitaph",
    "evaluations",
    "exporting",
    "harvest",
    "hub",
    "jobs",
    "keys",
    "latencies",
    "machine",
    "merging",
    "models",
    "names",
    "partner",
    "platform",
    "pool_serving",
    "pooled_engine",
    "pull",
    "quantizing",
    "recording",
    "replaying",
    "responder",
    "run_process",
    "second_try",
    "seen",
    "supervisor",
    "target_serving",
    "targets",
    "tokens",
    "tracing",
    "training",
]
