"""What work costs, and whether a project may have more of it.

Every request is reserved before its work begins, at the most it may use; settled after it, at
what it used; or released when it failed. The rate card prices it, budgets limit it, and what was
used can be asked for by minute, hour or day. Amounts are integer micro-units of one currency
(1_000_000 is one dollar); no float ever holds money.
"""

__all__ = [
    "alerts",
    "budgets",
    "cards",
    "counts",
    "entries",
    "hours",
    "ledger",
    "rate_card",
    "rate_limits",
    "reconciling",
    "tables",
    "usage",
]
