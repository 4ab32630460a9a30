from __future__ import annotations

import pytest

from bessemer.core.database import Database
from bessemer.core.errors import RateLimited
from bessemer.core.principal import Principal
from bessemer.ledger import rate_limits
from bessemer.ledger.rate_limits import LimitOf, RateLimit, RateLimits
from tests.ledger.house import set_rate_limit


def test_a_limit_whose_id_is_older_and_that_is_committed_later_is_seen(
    db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["limit_2", "limit_1"])
    monkeypatch.setattr(rate_limits, "new_id", lambda _: next(ids))
    limits = RateLimits(db, lambda: 0.0)
    set_rate_limit(db, alice, LimitOf("project:elsewhere", "*"), RateLimit(requests=1))
    assert limits.refresh() and not limits.refresh()
    set_rate_limit(db, alice, LimitOf(f"project:{alice.project_id}", "*"), RateLimit(requests=0))
    assert limits.refresh() and not limits.refresh()
    with pytest.raises(RateLimited):
        limits.take(alice, "m", 1)
