"""The database's schema through time (Alembic); it sees the tables of every room.

A new table or column: change the room's `tables.py`, write the next file in `versions/` by hand,
set `HEAD` to its revision. `tests/app/test_migrations.py` fails until the three agree.
"""

# Known here as well as to Alembic, so that opening a home that is up to date never imports it.
HEAD = "0012"
