"""The rate card: what a model's tokens and device time cost.

    currency = "usd"

    [[rates]]
    model = "smollm2-135m-instruct"   # a name, or a pattern: "ft:*", "*"
    prompt = 150_000                  # micro-units for a million tokens
    cached = 75_000                   # absent: as prompt
    completion = 600_000
    reasoning = 600_000               # absent: as completion
    training = 3_000_000              # a token trained on; absent: see below
    device_hour = 40_000_000          # micro-units for an hour of training; absent: see below

Training is paid for by the token, by the hour, or by both; by a rate with neither no model is
trained. The first rate whose pattern fits is the model's. A card is known by the SHA-256 of its
content, comments and spelling aside, and never changes: another price is another card.
"""

from __future__ import annotations

import fnmatch
import json
import tomllib
from decimal import Decimal, DecimalException
from functools import cached_property
from typing import Annotated, Any

import pydantic

from bessemer.core.digests import DIGEST_PREFIX, canonical_json, sha256_bytes
from bessemer.core.errors import InvalidInput
from bessemer.ledger.counts import Counts

TOKENS = 1_000_000
HOUR_MS = 3_600_000
_WHOLE = 18_000_000  # the least number that both divide
MOST_MICRO = 10**15  # of one request, so that sums of thousands fit 64 bits

_WILD = frozenset("*?[")

Price = Annotated[int, pydantic.Field(strict=True, ge=0, le=10**12)]


class Rate(pydantic.BaseModel):
    """The prices of the models that a pattern fits. Patterns are those of `fnmatch`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    model: str = pydantic.Field(min_length=1, max_length=200)
    prompt: Price
    cached: Price | None = None
    completion: Price
    reasoning: Price | None = None
    training: Price | None = None
    device_hour: Price | None = None

    def fits(self, model: str) -> bool:
        return fnmatch.fnmatchcase(model, self.model)


class RateCard(pydantic.BaseModel):
    """Rates, the first that fits first."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    currency: str = pydantic.Field(pattern="^[a-z]{3}$")
    rates: tuple[Rate, ...] = pydantic.Field(min_length=1)

    @classmethod
    def parse(cls, text: str, where: str = "the rate card") -> RateCard:
        """Read TOML.

        Raises:
            InvalidInput: not TOML, a price that is not a whole number, or a rate that no model
                can reach.
        """
        try:
            return cls._checked(tomllib.loads(text), where)
        except (tomllib.TOMLDecodeError, RecursionError) as fault:
            raise InvalidInput(f"{where} is not TOML: {fault}") from fault

    @classmethod
    def from_canonical(cls, text: str) -> RateCard:
        """The card that `canonical` wrote."""
        return cls._checked(json.loads(text), "a stored rate card")

    @classmethod
    def _checked(cls, tree: dict[str, Any], where: str) -> RateCard:
        try:
            card = cls.model_validate(tree)
        except pydantic.ValidationError as fault:
            first = fault.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise InvalidInput(
                f"{where}: {key}: {first['msg']}; got {first['input']!r}",
                next_step="prices are whole micro-units: write $0.15 as 150_000",
            ) from fault
        card._refuse_unreachable(where)
        return card

    def _refuse_unreachable(self, where: str) -> None:
        for number, rate in enumerate(self.rates):
            for above in self.rates[:number]:
                covered = above.fits(rate.model) and not _WILD & set(rate.model)
                if covered or above.model in ("*", rate.model):
                    raise InvalidInput(
                        f"{where}: the rate of {rate.model!r} can never apply, because"
                        f" {above.model!r} above it fits first",
                        next_step="put names before patterns, and narrow patterns before wide ones",
                    )

    @cached_property
    def canonical(self) -> str:
        return canonical_json(self.model_dump(exclude_none=True)).decode()

    @cached_property
    def digest(self) -> str:
        return DIGEST_PREFIX + sha256_bytes(self.canonical.encode())

    def rate_of(self, model: str) -> Rate:
        """The rate of a model.

        Raises:
            InvalidInput: none fits. A model without a price is not served for nothing in silence.
        """
        for rate in self.rates:
            if rate.fits(model):
                return rate
        raise InvalidInput(
            f"the rate card {self.digest[:19]} has no price for the model {model!r}",
            param="model",
            next_step='add a rate to the card, or one with model = "*" at its end',
        )

    def most_micro(self, model: str, most: Counts) -> int:
        """What a request of at most so many tokens costs at most; raises as `cost_micro`.

        Which of its tokens are found in a cache, and which are thought and not said, is known after
        it: where such a class is the dearer one, any of them may fall in it.
        """
        rate = self.rate_of(model)
        if rate.cached is not None and rate.cached > rate.prompt:
            most = most._replace(prompt=0, cached=most.prompt + most.cached)
        if rate.reasoning is not None and rate.reasoning > rate.completion:
            most = most._replace(completion=0, reasoning=most.completion + most.reasoning)
        return self.cost_micro(model, most)

    def cost_micro(self, model: str, counts: Counts) -> int:
        """What a request costs: the exact sum over its classes, rounded up once, at the end.

        Up, so that a request with a price is never free, more is never cheaper, and one request cut
        in two is never cheaper either. Once, so that the rounding adds less than one micro-unit to
        a request, however many classes it has.

        Raises:
            InvalidInput: no rate fits, training where the rate has no price for it, or a cost past
                what a row can hold.
        """
        rate = self.rate_of(model)
        trained = counts.device_ms or counts.training
        if trained and rate.device_hour is None and rate.training is None:
            raise InvalidInput(
                f"the rate of {model!r} has no price for training: {counts.device_ms:,} ms of a"
                f" device, {counts.training:,} tokens",
                param="model",
                next_step="add device_hour or training to that rate of the card; 0 is a price too",
            )
        tokens = (
            counts.prompt * rate.prompt
            + counts.cached * (rate.prompt if rate.cached is None else rate.cached)
            + counts.completion * rate.completion
            + counts.reasoning * (rate.completion if rate.reasoning is None else rate.reasoning)
            + counts.training * (rate.training or 0)
        )
        device = counts.device_ms * (rate.device_hour or 0)
        cost = -(-(tokens * (_WHOLE // TOKENS) + device * (_WHOLE // HOUR_MS)) // _WHOLE)
        if cost > MOST_MICRO:
            raise InvalidInput(f"a cost of {cost:,} micro-units is past what the ledger holds")
        return cost


def money(micro: int) -> str:
    """Micro-units for a person, with as many digits as the amount has.

    >>> money(1_500_000), money(1)
    ('1.50', '0.000001')
    """
    sign, micro = "-" if micro < 0 else "", abs(micro)
    fraction = f"{micro % 1_000_000:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{micro // 1_000_000:,}.{fraction}"


def micro_units(text: str) -> int:
    """Whole micro-units, from an amount like 12.50; never through a float.

    Raises:
        InvalidInput: it is none, or more than a database can hold.
    """
    try:
        micro = Decimal(text) * 1_000_000
        exact = micro.is_finite() and 0 <= micro < 2**63 and micro == micro.to_integral_value()
    except DecimalException:
        exact = False
    if not exact:
        raise InvalidInput(f"{text[:40]!r} is not an amount; write 25 or 12.50", param="amount")
    return int(micro)
