"""What is written into the ledger: three kinds of entry, and what comes back for each.

A request's id is the entry's identity. Its life is `Reserve`, then one of `Settle` and `Release`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.ledger.counts import Counts

Kind = Literal[
    "chat", "completion", "response", "embedding", "batch", "batch_embedding",
    "evaluation", "rollout", "training",
]  # fmt: skip
State = Literal["open", "settled", "released"]

_WIDTHS = {"request_id": 64, "model": 200, "actor": 64}  # of the columns, in characters


class Reserve(NamedTuple):
    """Hold what the request may cost at most.

    `most` prices every prompt token as computed: how many are cached is known only later.
    """

    principal: Principal
    request_id: str
    model: str
    kind: Kind
    most: Counts

    def check(self) -> None:
        _check_texts(request_id=self.request_id, model=self.model)
        if self.kind not in get_args(Kind):
            raise InvalidInput(
                f"there is no kind of work {self.kind!r}",
                param="kind",
                next_step=f"choose from: {', '.join(get_args(Kind))}",
            )
        self.most.check()


class Settle(NamedTuple):
    """Charge what the request used, and hold nothing for it any more."""

    request_id: str
    used: Counts

    def check(self) -> None:
        _check_texts(request_id=self.request_id)
        self.used.check()


class Release(NamedTuple):
    """Hold nothing for the request any more and charge nothing: it failed, or nobody knows what
    became of it. The reservation keeps who released it, and why.
    """

    request_id: str
    actor: str
    reason: str

    def check(self) -> None:
        _check_texts(request_id=self.request_id, actor=self.actor)
        _refuse_nul("reason", self.reason)
        if not self.reason.strip():
            raise InvalidInput(
                f"request {self.request_id} is released without a reason",
                param="reason",
                next_step="say why, for whoever reads the ledger later",
            )


Entry = Reserve | Settle | Release


class Reservation(NamedTuple):
    """A row of `reservations`."""

    id: str
    org_id: str
    project_id: str
    owner_id: str
    created_ms: int
    key_id: str | None
    model: str
    kind: Kind
    card: str
    month: str
    reserved_micro: int
    state: State = "open"
    closed_ms: int | None = None
    closed_by: str | None = None
    reason: str | None = None

    @property
    def accounts(self) -> tuple[str, str]:
        return accounts_of(self.project_id, self.org_id)


class Charge(NamedTuple):
    """What settling a request did. `cost_micro` is more than `reserved_micro` only if the request
    used more of something than was reserved for it.
    """

    request_id: str
    used: Counts
    cost_micro: int
    reserved_micro: int


Outcome = Reservation | Charge


def accounts_of(project_id: str, org_id: str) -> tuple[str, str]:
    """The names of the accounts that a request of this project moves."""
    return f"project:{project_id}", f"org:{org_id}"


def _check_texts(**texts: str) -> None:
    for name, text in texts.items():
        if not text or len(text) > _WIDTHS[name]:
            raise InvalidInput(
                f"{name} has {len(text)} characters; it takes 1 to {_WIDTHS[name]}", param=name
            )
        _refuse_nul(name, text)


def _refuse_nul(name: str, text: str) -> None:
    # PostgreSQL would refuse it with all the entries that share the transaction.
    if "\0" in text:
        raise InvalidInput(f"{name} has the character U+0000, which no text may have", param=name)
