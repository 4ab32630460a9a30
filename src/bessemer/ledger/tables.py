"""The rows of the ledger. An id of a reservation and of its usage row is the request's own id,
so the primary key itself refuses a second charge.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, Text

from bessemer.core.tables import metadata, owned

# What a request may use at most. Written before its work begins, closed once: `open` becomes
# `settled` or `released`, and a closed row is never changed again.
reservations = owned(
    "reservations",
    Column("key_id", String(64)),
    Column("model", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("card", String(80), nullable=False),
    Column("month", String(7), nullable=False),
    Column("reserved_micro", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("closed_ms", BigInteger),
    Column("closed_by", String(64)),
    Column("reason", Text),
    Index(None, "state", "created_ms"),
)

# What a request used and cost: only ever added to. `created_ms` is when it was reserved.
usage = owned(
    "usage",
    Column("key_id", String(64)),
    Column("model", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("card", String(80), nullable=False),
    Column("prompt", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),
    Column("completion", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("device_ms", BigInteger, nullable=False),
    Column("cost_micro", BigInteger, nullable=False),
    Column("settled_ms", BigInteger, nullable=False),
    Column("training", BigInteger, nullable=False, server_default="0"),
    Index(None, "project_id", "created_ms"),
    Index(None, "org_id", "created_ms"),
)

# Sums of `usage` by the hour, kept in the same transactions (`hours`), so that a month is read
# without its millions of rows. A request without a key has the key "".
usage_hours = Table(
    "usage_hours",
    metadata,
    Column("org_id", String(64), primary_key=True),
    Column("hour_ms", BigInteger, primary_key=True),
    Column("project_id", String(64), primary_key=True),
    Column("owner_id", String(64), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("card", String(80), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),
    Column("completion", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("device_ms", BigInteger, nullable=False),
    Column("training", BigInteger, nullable=False),
    Column("cost_micro", BigInteger, nullable=False),
)

# Sums of the two tables above, kept in the same transactions, so that a budget is checked without
# adding rows up. `account` is `project:<id>` or `org:<id>`; `reconciling` compares.
balances = Table(
    "balances",
    metadata,
    Column("account", String(80), primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("settled_micro", BigInteger, nullable=False),
    Column("held_micro", BigInteger, nullable=False),
)

# A limit that somebody set, or lifted (no limit). The newest row of an account and period counts.
budgets = owned(
    "budgets",
    Column("account", String(80), nullable=False),
    Column("period", String(8), nullable=False),
    Column("limit_micro", BigInteger),
    Index(None, "account", "period"),
)

# Told of once a month, when what was charged to the account reaches `threshold_micro`. `channel` is
# JSON: who wants to know.
spend_alerts = owned(
    "spend_alerts",
    Column("account", String(80), nullable=False),
    Column("threshold_micro", BigInteger, nullable=False),
    Column("channel", Text, nullable=False),
    Index(None, "account"),
)

# That an alert was told of, written in the transaction of the charge that reached it; the index
# itself refuses a second time. Rows outlive their alert.
spend_firings = owned(
    "spend_firings",
    Column("alert_id", String(64), nullable=False),
    Column("account", String(80), nullable=False),
    Column("month", String(7), nullable=False),
    Column("threshold_micro", BigInteger, nullable=False),
    Column("settled_micro", BigInteger, nullable=False),
    Index(None, "alert_id", "month", "threshold_micro", unique=True),
)

# Rate cards in the order in which they came into force; the newest is in force. `text` is the
# canonical JSON whose SHA-256 is `digest`.
rate_cards = owned(
    "rate_cards",
    Column("digest", String(80), nullable=False),
    Column("text", Text, nullable=False),
    Index(None, "digest"),
)

# Requests and tokens a minute that a `project:<id>` or a `key:<id>` may have, of a model or (`*`)
# of all. The newest row of an account and model counts; one without a number lifts the limit.
rate_limits = owned(
    "rate_limits",
    Column("account", String(80), nullable=False),
    Column("model", String(200), nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Index(None, "account", "model"),
)
