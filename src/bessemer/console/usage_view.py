"""What the usage page shows: sums by day and by group, bars for the days, what budgets leave."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from bessemer.app import usage
from bessemer.app.spending import Budget
from bessemer.app.usage import Bucket, Counts, Sum, money
from bessemer.console import wording
from bessemer.console.copying import ApiCall

Group = Literal["model", "project", "key", "user"]
Measure = Literal["cost", "tokens", "requests"]

GROUPS: Final[Mapping[Group, str]] = {
    "model": "model", "project": "project", "key": "key", "user": "person",
}  # fmt: skip
MEASURES: Final[Sequence[Measure]] = ("cost", "tokens", "requests")
SPANS: Final = (7, 30, 90)  # days

DAY_MS: Final = 86_400_000

# Of the drawing, in its own units; the page stretches it to its width.
_WIDTH, _HEIGHT, _SHARE_OF_BAR = 1000.0, 200.0, 0.7
_MOST_BUCKETS = 31  # that the API has in a page of days
_API_GROUPS: Mapping[Group, str] = {
    "model": "model", "project": "project_id", "key": "api_key_id", "user": "user_id",
}  # fmt: skip
_COST_GROUPS: Mapping[Group, str] = {
    "model": "line_item", "project": "project_id", "key": "api_key_id",
}  # fmt: skip


class Total(NamedTuple):
    """Of a day or a group; `input` has its cached tokens in it, as the API counts."""

    name: str
    requests: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    cost_micro: int = 0

    def plus(self, one: Sum) -> Total:
        counts: Counts = one.counts
        return Total(
            self.name,
            self.requests + one.requests,
            self.input + counts.prompt + counts.cached,
            self.cached + counts.cached,
            self.output + counts.completion + counts.reasoning,
            self.cost_micro + one.cost_micro,
        )

    def measured(self, measure: Measure) -> int:
        tokens = self.input + self.output
        return {"cost": self.cost_micro, "tokens": tokens, "requests": self.requests}[measure]


class Bar(NamedTuple):
    """A rectangle of the drawing, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    says: str


class Asked(NamedTuple):
    """The page's address, read."""

    days: int
    by: Group
    measure: Measure | None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Asked:
        """What is not offered is as if it were not there: the page has one of everything."""
        days = next((span for span in SPANS if str(span) == query.get("days")), 30)
        by: Group = next((group for group in GROUPS if group == query.get("by")), "model")
        measure = next((each for each in MEASURES if each == query.get("show")), None)
        return cls(days, by, measure)

    def start_ms(self, now_ms: int) -> int:
        """The first of the days, today being the last one (UTC)."""
        return now_ms - now_ms % DAY_MS - (self.days - 1) * DAY_MS

    def link(self, **other: object) -> str:
        facts = {**self._asdict(), **other}
        shown = f"&show={facts['measure']}" if facts["measure"] else ""
        return f"/usage?days={facts['days']}&by={facts['by']}{shown}"


@dataclass(frozen=True)
class UsageView:
    """`names` says what projects, keys and people are called, by their ids."""

    asked: Asked
    buckets: Sequence[Bucket]
    names: Mapping[str, str]

    @property
    def whole(self) -> Total:
        return self._sum("all", [one for bucket in self.buckets for one in bucket.sums])

    @property
    def days(self) -> list[Total]:
        """Every day of the span, also those on which nothing happened."""
        return [
            self._sum(wording.day(bucket.start_ms / 1000), bucket.sums) for bucket in self.buckets
        ]

    @property
    def groups(self) -> list[Total]:
        """The most expensive first, and among those that cost the same, the largest."""
        found: dict[str | None, Total] = {}
        for bucket in self.buckets:
            for one in bucket.sums:
                (group,) = one.group
                found[group] = found.get(group, Total(self._name(group))).plus(one)
        order = [*found.values()]
        return sorted(order, key=lambda one: (-one.cost_micro, -one.input - one.output, one.name))

    @property
    def measure(self) -> Measure:
        """What the bars show: the cost, unless nothing costs anything here."""
        return self.asked.measure or ("cost" if self.whole.cost_micro else "tokens")

    @property
    def most(self) -> str:
        """What the highest bar stands for."""
        return self._say(max((day.measured(self.measure) for day in self.days), default=0))

    @property
    def bars(self) -> list[Bar]:
        days = self.days
        most = max((day.measured(self.measure) for day in days), default=0)
        step = _WIDTH / len(days)
        found = []
        for place, day in enumerate(days):
            value = day.measured(self.measure)
            # What was used is seen, however little beside the most.
            height = max(2.0, _HEIGHT * value / most) if value else 0.0
            x = (place + (1 - _SHARE_OF_BAR) / 2) * step
            says = f"{day.name}: {self._say(value)} {self._unit}"
            found.append(Bar(x, _HEIGHT - height, step * _SHARE_OF_BAR, height, says))
        return found

    @property
    def told(self) -> str:
        """The drawing in words, for who does not see it; every number is in the table."""
        busy = [day for day in self.days if day.measured(self.measure)]
        if not busy:
            return f"Nothing was used in {self.asked.days} days."
        top = max(busy, key=lambda day: day.measured(self.measure))
        whole = self._say(self.whole.measured(self.measure))
        return (
            f"{self.measure.capitalize()} by day: {whole} {self._unit} on {len(busy)} of"
            f" {self.asked.days} days, the most on {top.name} with"
            f" {self._say(top.measured(self.measure))}."
        )

    def _name(self, group: str | None) -> str:
        return "none" if group is None else self.names.get(group, group)

    @property
    def _unit(self) -> str:
        return "of money" if self.measure == "cost" else self.measure

    def _say(self, value: int) -> str:
        return money(value) if self.measure == "cost" else wording.count(value)

    @staticmethod
    def _sum(name: str, sums: Sequence[Sum]) -> Total:
        total = Total(name)
        for one in sums:
            total = total.plus(one)
        return total


class Left(NamedTuple):
    """A budget and what may still be spent of it."""

    budget: Budget

    @property
    def left_micro(self) -> int:
        return max(0, self.budget.limit_micro - sum(self.budget.balance))

    @property
    def share(self) -> float:
        """Of the budget that is spent or held."""
        limit = self.budget.limit_micro
        return min(1.0, sum(self.budget.balance) / limit) if limit else 1.0


def calls_of(asked: Asked, start_ms: int) -> list[ApiCall]:
    buckets = min(asked.days, _MOST_BUCKETS)
    window = {"start_time": start_ms // 1000, "bucket_width": "1d", "limit": buckets}
    first = "" if buckets == asked.days else f", the first {buckets} days"
    cost_group = _COST_GROUPS.get(asked.by)
    return [
        ApiCall(
            f"Read the usage of chats and completions{first}",
            "GET",
            "/v1/organization/usage/completions",
            query={**window, "group_by": [_API_GROUPS[asked.by]]},
            python="admin.organization.usage.completions",
            cli=["usage", "--days", str(asked.days), "--by", asked.by, "--json"],
        ),
        ApiCall(
            "Read the costs",
            "GET",
            "/v1/organization/costs",
            query={
                **window,
                "limit": asked.days,
                **({"group_by": [cost_group]} if cost_group else {}),
            },
            python="admin.organization.usage.costs",
        ),
    ]


def query_of(asked: Asked, org_id: str) -> usage.UsageQuery:
    """All of the organization's, until now."""
    now_ms = time.time_ns() // 1_000_000
    return usage.UsageQuery(org_id, asked.start_ms(now_ms), now_ms + 1, "day", (asked.by,))
