"""Usage adds up, whichever way it is divided."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bessemer.core.database import Database
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Kind
from bessemer.ledger.ledger import Ledger
from bessemer.ledger.usage import Bucket, Dimension, Sum, UsageQuery, Width, usage
from tests.ledger.house import ALICE, BOB, CARD, adopt, make_database

DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS  # a midnight
KEYLESS = Principal("org_a", "project_a", "person_a", frozenset({"*"}))
STRANGER = Principal("org_z", "project_z", "person_z", frozenset({"*"}))
PEOPLE = (ALICE, BOB, KEYLESS, STRANGER)
KINDS: tuple[Kind, ...] = ("chat", "batch")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """For reading only: 720 requests, 7 minutes apart, of callers, models and kinds in turn."""
    db = make_database(tmp_path_factory.mktemp("usage") / "db.sqlite")
    adopt(db, ALICE, CARD)
    at_ms = [START_MS]
    with Ledger(db, clock_ms=lambda: at_ms[0], at_once=1) as ledger:
        for number in range(720):
            who, kind = PEOPLE[number % 4], KINDS[number // 4 % 2]
            model = ("smollm2", "ft:mine")[number // 8 % 2]
            at_ms[0] = START_MS + number * 7 * 60_000
            used = Counts(number, 2 * number, 3 * number, number % 5, 0)
            ledger.reserve(who, f"req_{number}", model, kind, used).result()
            ledger.settle(f"req_{number}", used).result()
    yield db
    db.close()


def numbers_of(person: Principal, first: int = 0, end: int = 720) -> list[int]:
    return [n for n in range(first, end) if PEOPLE[n % 4] is person]


def ask(
    db: Database, width: Width = "day", *group_by: Dimension, days: int = 4, **only: list[str]
) -> list[Bucket]:
    return usage(
        db,
        UsageQuery(
            "org_a", START_MS, START_MS + days * DAY_MS, width, group_by,
            dict(only),  # type: ignore[misc]
        ),
    )  # fmt: skip


def added(buckets: list[Bucket]) -> tuple[int, Counts, int]:
    sums = [one for bucket in buckets for one in bucket.sums]
    counts = Counts(*(sum(column) for column in zip(*(one.counts for one in sums), strict=True)))
    return sum(one.requests for one in sums), counts, sum(one.cost_micro for one in sums)


def test_one_sum_is_what_the_requests_used(filled: Database) -> None:
    numbers = sorted(n for person in (ALICE, BOB, KEYLESS) for n in numbers_of(person))
    requests, counts, cost = added(ask(filled))
    assert requests == len(numbers) == 540
    total = sum(numbers)
    assert counts == Counts(total, 2 * total, 3 * total, sum(n % 5 for n in numbers), 0)
    # From the prices: 0.15, 0.075 and 1 micro-unit a token, or nothing for prompts and 2.
    costs = [
        (0 if n // 8 % 2 else -(-300 * n // 1000)) + (2 if n // 8 % 2 else 1) * (3 * n + n % 5)
        for n in numbers
    ]
    assert cost == sum(costs)


@pytest.mark.parametrize("width", ["hour", "day"])
@pytest.mark.parametrize(
    "group_by", [(), ("project",), ("key",), ("model", "kind"), ("project", "key", "model", "kind")]
)
def test_every_division_adds_up_to_the_same(
    filled: Database, width: Width, group_by: tuple[Dimension, ...]
) -> None:
    assert added(ask(filled, width, *group_by)) == added(ask(filled))


def test_filters_divide_too(filled: Database) -> None:
    projects = [ask(filled, "day", project=[name]) for name in ("project_a", "project_b")]
    assert sum(added(part)[0] for part in projects) == 540
    assert added(ask(filled, "day", key=["key_b"])) == added(projects[1])
    chosen = ask(filled, "day", "kind", model=["smollm2"], kind=["batch"], project=["project_a"])
    assert {one.group for bucket in chosen for one in bucket.sums} == {("batch",)}
    expected = [
        n for n in numbers_of(ALICE) + numbers_of(KEYLESS) if (n // 4 % 2, n // 8 % 2) == (1, 0)
    ]
    assert added(chosen)[0] == len(expected)
    assert all(bucket.sums == () for bucket in ask(filled, "day", model=[]))


def test_a_bucket_holds_its_own_time_and_empty_ones_are_given(filled: Database) -> None:
    minutes = usage(filled, UsageQuery("org_a", START_MS, START_MS + 30 * 60_000, "minute"))
    assert [len(bucket.sums) for bucket in minutes] == [
        int(minute % 7 == 0 and minute // 7 % 4 != 3) for minute in range(30)
    ]
    assert minutes[7] == Bucket(
        START_MS + 7 * 60_000, START_MS + 8 * 60_000, (Sum((), 1, Counts(1, 2, 3, 1, 0), 5),)
    )
    last = ask(filled, "day", days=6)
    assert [bucket.sums == () for bucket in last] == [False] * 4 + [True] * 2


def test_the_ends_of_a_query_cut_buckets(filled: Database) -> None:
    minute = 60_000
    query = UsageQuery("org_a", START_MS + 7 * minute, START_MS + 14 * minute, "hour")
    (bucket,) = usage(filled, query)
    assert bucket.start_ms == START_MS
    assert [one.requests for one in bucket.sums] == [1]


def test_another_organization_sees_its_own(filled: Database) -> None:
    found = usage(filled, UsageQuery("org_z", START_MS, START_MS + DAY_MS, "day", ("project",)))
    assert [one.group for one in found[0].sums] == [("project_z",)]
    assert usage(filled, UsageQuery("org_n", START_MS, START_MS + 1))[0].sums == ()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (UsageQuery("o", 0, 1, "week"), "a bucket is a minute or hour or day"),  # type: ignore[arg-type]
        (UsageQuery("o", 0, 1, "day", ("mood",)), "no dimension 'mood'"),  # type: ignore[arg-type]
        (UsageQuery("o", 0, 1, "day", (), {"mood": []}), "no dimension"),  # type: ignore[dict-item]
        (UsageQuery("o", 5, 5), "there is no time"),
        (UsageQuery("o", 0, 1501 * 60_000, "minute"), "1,501 buckets of a minute"),
    ],
)
def test_a_query_that_cannot_be_is_refused(db: Database, query: UsageQuery, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        usage(db, query)
