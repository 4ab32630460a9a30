"""Evals: asks a model questions, scores the answers, says whether it got better.

    recipe       how much is asked
    items        which test chats are asked, chosen by hash
    shots        the fixed examples a model may be shown first
    likelihood   loss per answer token
    unrelated    text the model was not taught, for what it forgot
    naming       greedy answers against the one right name
    asking       many questions at an engine, a few at a time
    measuring    one model, one set of questions: a measurement that can be kept and used again
    exam         everything that will be asked, put together
    metrics      what is read out of a measurement, and which way is better
    comparing    measurements side by side, with `core.interval`: better, worse, or cannot tell
    wording      that as plain sentences and table rows
    passing      pass rates of criteria, and of two runs held against each other
    report       all of it as one value and as JSON

Everything is asked of a `core.protocols.Engine`; this room has no tensors.
"""

__all__ = [
    "asking",
    "comparing",
    "exam",
    "items",
    "likelihood",
    "measuring",
    "metrics",
    "naming",
    "passing",
    "recipe",
    "report",
    "shots",
    "unrelated",
    "wording",
]
