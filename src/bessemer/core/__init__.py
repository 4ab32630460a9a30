"""The words the whole house speaks.

A room's `__all__` names its public modules; the others are its own business, and
`tests/test_architecture.py` holds every room to that. Nothing is imported here, so that a
room's door never costs more than what is taken through it.
"""

__all__ = [
    "adapters",
    "allocator",
    "artifacts",
    "compiled_products",
    "database",
    "digests",
    "engine_client",
    "errors",
    "events",
    "frames",
    "home",
    "ids",
    "interval",
    "memory",
    "principal",
    "processes",
    "processor",
    "progress",
    "protocols",
    "recipes",
    "reward_sections",
    "runs",
    "sandbox",
    "space",
    "stopping",
    "tables",
    "train_recipe",
    "train_sections",
    "unit_tests",
    "watchdog",
]
