"""What a database complains about, in the platform's own errors: values that it cannot hold are the
caller's, a server that is away is nobody's, and everything else is a fault of ours and stays.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa

from bessemer.core.errors import BessemerError, DatabaseUnavailable, InvalidInput

_log = logging.getLogger(__name__)

# PostgreSQL's codes (its manual, appendix A) for values that a column cannot hold: too long, out of
# range, and characters that it has not. The driver itself refuses U+0000, without a code.
_UNFIT = ("22001", "22003", "22021", "22P05", None)
_LOCK_NOT_AVAILABLE = "55P03"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise what the block's statements ran into as:

    InvalidInput: a text or number that the database cannot hold.
    DatabaseUnavailable: it is not there, went away, or another writer kept it too long.
    """
    try:
        yield
    except sa.exc.DBAPIError as fault:
        explanation = _explain(fault)
        if explanation is None:
            raise
        raise explanation from fault


def _explain(fault: sa.exc.DBAPIError) -> BessemerError | None:
    code = getattr(fault.orig, "sqlstate", None)
    said = str(fault.orig).partition("\n")[0].strip()
    if isinstance(fault, sa.exc.DataError) and code in _UNFIT:
        return InvalidInput(f"a value cannot be stored: {said}")
    if code == _LOCK_NOT_AVAILABLE or _is_busy(fault.orig):
        return DatabaseUnavailable("another writer has kept the database busy", next_step=_AGAIN)
    if fault.connection_invalidated or _never_connected(fault):
        # Where it is and who asked is the operator's to know, not the caller's.
        _log.error("the database does not answer: %s", said)
        return DatabaseUnavailable("the database does not answer", next_step=_AGAIN)
    return None


_AGAIN = "try again in a moment; the log says more"


def _is_busy(fault: object) -> bool:
    # What the driver itself refuses, as a closed connection, has no code.
    return getattr(fault, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY


def _never_connected(fault: sa.exc.DBAPIError) -> bool:
    # A statement's fault names the statement.
    return isinstance(fault, sa.exc.OperationalError) and fault.statement is None
