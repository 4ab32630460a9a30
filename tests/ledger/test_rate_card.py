"""Prices are exact to the micro-unit, and a card that could surprise is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.ledger.counts import MOST, Counts
from bessemer.ledger.rate_card import RateCard, micro_units, money
from tests.ledger.house import CARD

PRICES = st.integers(0, 10**8)
AMOUNTS = st.integers(0, 10**7)
COUNTS = st.builds(Counts, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)


def card_of(prices: tuple[int, ...]) -> RateCard:
    names = ("prompt", "cached", "completion", "reasoning", "device_hour", "training")
    lines = "\n".join(f"{name} = {price}" for name, price in zip(names, prices, strict=True))
    return RateCard.parse(f'currency = "usd"\n[[rates]]\nmodel = "*"\n{lines}')


CARDS = st.tuples(PRICES, PRICES, PRICES, PRICES, PRICES, PRICES)


def exact(prices: tuple[int, ...], counts: Counts) -> Fraction:
    """The same sum in rational numbers."""
    units = (1_000_000, 1_000_000, 1_000_000, 1_000_000, 3_600_000, 1_000_000)
    parts = zip(prices, counts, units, strict=True)
    return sum((Fraction(price * count, unit) for price, count, unit in parts), Fraction())


@given(CARDS, COUNTS)
def test_a_cost_is_the_exact_sum_rounded_up_once(prices: tuple[int, ...], counts: Counts) -> None:
    cost = card_of(prices).cost_micro("m", counts)
    assert 0 <= cost - exact(prices, counts) < 1


@given(CARDS, COUNTS)
def test_the_parts_cost_no_less_than_the_whole_and_less_than_one_each_more(
    prices: tuple[int, ...], counts: Counts
) -> None:
    card = card_of(prices)
    alone = [Counts(**{name: count}) for name, count in counts._asdict().items()]
    parts = sum(card.cost_micro("m", one) for one in alone)
    whole = card.cost_micro("m", counts)
    assert whole <= parts < whole + len(alone)


@given(CARDS, COUNTS, COUNTS)
def test_more_is_never_cheaper_and_neither_is_one_request_cut_in_two(
    prices: tuple[int, ...], one: Counts, other: Counts
) -> None:
    card = card_of(prices)
    both = Counts(*(a + b for a, b in zip(one, other, strict=True)))
    a, b, together = (card.cost_micro("m", counts) for counts in (one, other, both))
    assert max(a, b) <= together <= a + b


@given(CARDS, COUNTS, COUNTS)
def test_what_is_reserved_is_enough_whichever_class_a_token_falls_in(
    prices: tuple[int, ...], said: Counts, unsaid: Counts
) -> None:
    card = card_of(prices)
    used = said._replace(cached=unsaid.cached, reasoning=unsaid.reasoning)
    most = used._replace(
        prompt=used.prompt + used.cached,
        cached=0,
        completion=used.completion + used.reasoning,
        reasoning=0,
    )
    assert card.cost_micro("m", used) <= card.most_micro("m", most)


def test_a_price_is_for_a_million_tokens_or_an_hour() -> None:
    assert CARD.cost_micro("smollm2", Counts(prompt=1_000_000)) == 150_000
    assert CARD.cost_micro("smollm2", Counts(prompt=1)) == 1
    assert CARD.cost_micro("ft:mine", Counts(device_ms=1000)) == 1000


def test_absent_classes_cost_what_their_kind_costs() -> None:
    card = RateCard.parse(
        'currency = "eur"\n[[rates]]\nmodel = "m"\nprompt = 2_000_000\ncompletion = 3_000_000'
    )
    assert card.cost_micro("m", Counts(cached=5)) == 10
    assert card.cost_micro("m", Counts(reasoning=5)) == 15
    with pytest.raises(InvalidInput, match="no price for training: 7 ms of a device"):
        card.cost_micro("m", Counts(device_ms=7))


def test_training_is_paid_for_by_the_token_or_by_the_hour_or_by_both() -> None:
    def cost(prices: str) -> int:
        card = RateCard.parse(
            f'currency = "usd"\n[[rates]]\nmodel = "m"\nprompt = 0\ncompletion = 0\n{prices}'
        )
        return card.cost_micro("m", Counts(device_ms=1_000, training=500))

    assert cost("training = 2_000_000") == 1_000
    assert cost("device_hour = 3_600_000") == 1_000
    assert cost("training = 2_000_000\ndevice_hour = 3_600_000") == 2_000
    with pytest.raises(InvalidInput, match=r"no price for training: .* 500 tokens"):
        cost("")


def test_a_model_without_a_price_is_refused_not_free() -> None:
    with pytest.raises(InvalidInput, match="no price for the model 'gpt-9'"):
        CARD.cost_micro("gpt-9", Counts(prompt=1))


def test_the_first_rate_that_fits_is_the_models() -> None:
    rate = "prompt = {0}\ncompletion = {0}\n"
    text = 'currency = "usd"\n' + "".join(
        f'[[rates]]\nmodel = "{name}"\n{rate.format(price)}'
        for name, price in (("ft:a:x", 1), ("ft:a:*", 2), ("ft:*", 3), ("*", 4))
    )
    card = RateCard.parse(text)
    found = [card.rate_of(name).prompt for name in ("ft:a:x", "ft:a:y", "ft:b", "other")]
    assert found == [1, 2, 3, 4]


@pytest.mark.parametrize(("above", "below"), [("ft:*", "ft:a"), ("*", "ft:*"), ("a", "a")])
def test_a_rate_that_can_never_apply_is_refused(above: str, below: str) -> None:
    text = 'currency = "usd"\n' + "".join(
        f'[[rates]]\nmodel = "{name}"\nprompt = 1\ncompletion = 1\n' for name in (above, below)
    )
    with pytest.raises(InvalidInput, match=f"rate of '.*' can never apply, because '{'.'}"):
        RateCard.parse(text)


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("0.15", "rates.0.prompt: .*valid integer"),
        ("-1", "greater than or equal to 0"),
        ("true", "valid integer"),
        ('"1"', "valid integer"),
        ("1\nbonus = 2", "rates.0.bonus"),
    ],
)
def test_a_price_is_a_whole_number_of_micro_units(price: str, message: str) -> None:
    text = f'currency = "usd"\n[[rates]]\nmodel = "m"\ncompletion = 1\nprompt = {price}'
    with pytest.raises(InvalidInput, match=message):
        RateCard.parse(text)
    with pytest.raises(InvalidInput, match="the rate card is not TOML"):
        RateCard.parse(f"{text} =")


def test_a_digest_is_of_what_a_card_says_not_of_how() -> None:
    rates = '[[rates]]\nmodel="m"\nprompt={}\ncompletion=1'
    one = RateCard.parse(f'currency="usd"\n{rates.format("1_000")}')
    same = RateCard.parse(f"# ours\ncurrency = 'usd'\n{rates.format('1000')}")
    other = RateCard.parse(f'currency="usd"\n{rates.format(1001)}')
    assert one.digest == same.digest != other.digest
    assert RateCard.from_canonical(other.canonical).digest == other.digest


def test_a_count_is_a_whole_number_in_bounds() -> None:
    assert Counts(prompt=MOST).check().tokens == MOST
    for wrong in (-1, MOST + 1, 1.0, True):
        with pytest.raises(InvalidInput, match="prompt is"):
            Counts(prompt=wrong).check()  # type: ignore[arg-type]


def test_money_has_the_digits_it_needs() -> None:
    shown = [money(micro) for micro in (0, 1, -1, 1_500_000, 1_234_567_890_123)]
    assert shown == ["0.00", "0.000001", "-0.000001", "1.50", "1,234,567.890123"]


@pytest.mark.parametrize("wrong", ["", "1e-9", "NaN", "inf", "-0.01", "1,5", "1e5000", "1e999999"])
def test_an_amount_is_exact(wrong: str) -> None:
    assert (micro_units("12.50"), micro_units("0.000001")) == (12_500_000, 1)
    assert micro_units("9223372036854.775807") == 2**63 - 1
    with pytest.raises(InvalidInput, match="is not an amount"):
        micro_units(wrong)
