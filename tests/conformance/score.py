"""What was shown, out of everything that the specification has."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.conformance.recording import EVENTS
from tests.conformance.running import KINDS, Outcome
from tests.specification import Operation, operations

RETIRED, MISSING = "retired", "not_implemented"


class Score(NamedTuple):
    """`faults` are what must not be: a cycle that failed, a body against the specification, an
    operation that is served and not exercised.
    """

    exercised: frozenset[Operation]
    missing: Sequence[Operation]
    retired: Sequence[Operation]
    bodies: int
    faults: Sequence[str]

    @property
    def current(self) -> list[Operation]:
        """Without what OpenAI itself has retired."""
        return [one for one in operations() if one not in set(self.retired)]

    @property
    def line(self) -> str:
        """As README says it."""
        return f"{len(self.exercised)} of {len(self.current)} operations"

    def text(self) -> str:
        out = io.StringIO()
        print(f"{'resource':34} {'operations':>10} {'served':>7} {'exercised':>9}", file=out)
        rows = Counter(map(resource_of, self.current))
        absent = Counter(map(resource_of, self.missing))
        shown = Counter(map(resource_of, self.exercised))
        for resource in sorted(rows):
            served = rows[resource] - absent[resource]
            print(f"{resource:34} {rows[resource]:10} {served:7} {shown[resource]:9}", file=out)
        served = len(self.current) - len(self.missing)
        print(f"{'all':34} {len(self.current):10} {served:7} {len(self.exercised):9}", file=out)
        print("\nAnswered 501:", file=out)
        for one in self.missing:
            print(f"  {one.method} {one.path}", file=out)
        resources = sorted(set(map(resource_of, self.retired)))
        print(
            f"\nNot counted: {len(self.retired)} operations that OpenAI has retired"
            f" ({', '.join(resources)}); they answer 404 with what replaces them.",
            file=out,
        )
        print(
            f"{self.bodies:,} bodies and streams were held to the specification, which is amended"
            " where it forgets what its own prose says (`_amend` in tests/specification).",
            file=out,
        )
        for fault in self.faults:
            print(f"\nFAULT: {fault}", file=out)
        print(f"\n{self.line}", file=out)
        return out.getvalue()


def resource_of(operation: Operation) -> str:
    """`files`, `organization/users`."""
    first, *rest = operation.path.strip("/").split("/")
    return f"{first}/{rest[0]}" if first in ("organization", "fine_tuning") and rest else first


def judge(outcomes: Sequence[Outcome], refusals: Mapping[Operation, str]) -> Score:
    shown = [_shown(outcomes, kind) for kind in KINDS]
    exercised = frozenset(shown[0] & shown[1])
    missing = [one for one, code in refusals.items() if code == MISSING]
    retired = [one for one, code in refusals.items() if code == RETIRED]
    served = [one for one in operations() if one not in refusals]
    records = [record for outcome in outcomes for record in outcome.records]
    faults = [
        *_failures(outcomes),
        *sorted({fault for record in records for fault in record.faults()}),
        *(f"{one.method} {one.path} is served and not exercised"
          for one in served if one not in exercised),
        *(f"{one.method} {one.path} answers {code!r}"
          for one, code in refusals.items() if code not in (MISSING, RETIRED)),
    ]  # fmt: skip
    checked = [record for record in records if record.operation is not None]
    return Score(exercised & set(served), missing, retired, len(checked), faults)


def _shown(outcomes: Sequence[Outcome], kind: str) -> set[Operation]:
    """What one client called with success in cycles that ended well and say that they prove it;
    what streams, as a stream too.
    """
    proven, whole, streamed = set[Operation](), set[Operation](), set[Operation]()
    for outcome in outcomes:
        if outcome.kind != kind or outcome.fault is not None:
            continue
        for record in outcome.records:
            if record.operation in outcome.cycle.proves and record.status < 300:
                proven.add(record.operation)
                (streamed if record.streamed else whole).add(record.operation)
    return {one for one in proven if one in whole and (one in streamed or one not in EVENTS)}


def _failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        name = f"{outcome.cycle.name} ({outcome.kind})"
        if outcome.fault is not None:
            yield f"{name}: {outcome.fault}"
            continue
        called = {record.operation for record in outcome.records if record.status < 300}
        for one in outcome.cycle.proves:
            if one not in called:
                yield f"{name} says that it proves {one.method} {one.path}, and did not call it"
