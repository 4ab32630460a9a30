"""The cycles, a file for each family of resources. Importing this registers all of them."""

from tests.conformance.cycles import (
    batches,
    conversations,
    evals,
    files,
    fine_tuning,
    models,
    money,
    organization,
    people,
    responses,
    stored_completions,
)

__all__ = [
    "batches",
    "conversations",
    "evals",
    "files",
    "fine_tuning",
    "models",
    "money",
    "organization",
    "people",
    "responses",
    "stored_completions",
]
