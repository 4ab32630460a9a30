"""How much of OpenAI's specification is served here, by its own client: `make conformance`.

A cycle (`cycle.py`, `cycles/`) does with one resource what a user does: create, read back, change,
delete; and looks each time at what became of it. All run with the synchronous and the asynchronous
client, against `bessemer up` with a tiny model that really computes and jobs that really train.
Every body that comes back is held to the specification (`recording.py`), and an operation is
counted when both clients called it in a cycle that says what it proves (`score.py`).
"""
