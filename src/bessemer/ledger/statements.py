"""Statements that a ledger runs for every request, as text that is made once.

SQLAlchemy builds each statement anew out of its parts, which takes longer than SQLite needs to run
it; here it does so once for a kind of database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

Rows = Sequence[Mapping[str, Any]]


class Statement:
    """An insert or update of many rows, which all have the same columns.

    Args:
        columns: those that an insert fills, or an update sets, unless the clause says so; it may
            have other parameters of its own.
    """

    def __init__(self, clause: sa.Insert | sa.Update, columns: Sequence[str] | None = None) -> None:
        self._clause, self._columns = clause, columns
        self._made: dict[str, tuple[str, Sequence[str] | None]] = {}

    def run(self, connection: sa.Connection, rows: Rows) -> None:
        """One round for all rows; none is no round."""
        if not rows:
            return
        text, order = self._for(connection.dialect)
        if order is None:
            connection.exec_driver_sql(text, [dict(row) for row in rows])
        else:
            connection.exec_driver_sql(text, [tuple(row[name] for name in order) for row in rows])

    def _for(self, dialect: sa.Dialect) -> tuple[str, Sequence[str] | None]:
        if dialect.name not in self._made:
            made = self._clause.compile(dialect=dialect, column_keys=self._columns)
            self._made[dialect.name] = str(made), getattr(made, "positiontup", None)
        return self._made[dialect.name]
