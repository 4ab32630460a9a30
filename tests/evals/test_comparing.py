"""Better, worse, or cannot tell: and the words for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.evals.asking import Failure
from bessemer.evals.comparing import (
    Comparison,
    Measured,
    Verdict,
    compare,
    comparisons_of,
    values_of,
)
from bessemer.evals.likelihood import Likelihood
from bessemer.evals.measuring import Measurement
from bessemer.evals.metrics import Row, Stage, metric
from bessemer.evals.naming import Naming
from bessemer.evals.recipe import EvalRecipe
from bessemer.evals.report import Report, make_report
from bessemer.evals.wording import difference_rows, sentence, sentences_of, value_rows

RECIPE = EvalRecipe(resamples=1000)
LOSS, EXACT = metric("loss"), metric("exact_match")


def measured(
    rows: Sequence[Row],
    label: str = "base",
    stage: Stage = "answers",
    shots: int = 0,
    failures: Sequence[Failure] = (),
) -> Measured:
    measurement = Measurement(
        key=f"{label}{stage}{shots}",
        model=f"sha256:{label}",
        stage=stage,
        shots=shots,
        rows=list(rows),
        failures=list(failures),
        precision="fp32",
        wall_s=1.0,
    )
    return Measured(label, measurement)


def losses(per_token: Callable[[int], float], count: int = 40, tokens: int = 10) -> list[Row]:
    return [Likelihood(f"i{n}", f"s{n}", per_token(n) * tokens, tokens) for n in range(count)]


def answers(is_right: Callable[[int], bool], count: int = 40) -> list[Row]:
    return [Naming(f"i{n}", f"s{n}", "x", is_right(n), is_right(n)) for n in range(count)]


def taught_against_base(base: Sequence[Row], taught: Sequence[Row]) -> Comparison:
    return compare(LOSS, measured(base), measured(taught, "taught"), RECIPE)


def test_a_lower_loss_on_every_item_is_better_and_the_other_way_round_worse() -> None:
    noise = random.Random(0)
    high, low = losses(lambda n: 4 + noise.random()), losses(lambda n: 2 + noise.random())
    assert taught_against_base(high, low).verdict == "better"
    assert taught_against_base(low, high).verdict == "worse"


def test_more_right_answers_are_better_and_the_other_way_round_worse() -> None:
    few, many = answers(lambda n: n < 3), answers(lambda n: n < 20)
    base, taught = measured(few, stage="names"), measured(many, "taught", stage="names")
    assert compare(EXACT, base, taught, RECIPE).verdict == "better"
    assert compare(EXACT, taught, base, RECIPE).verdict == "worse"


@given(st.lists(st.floats(0.1, 9), min_size=10, max_size=30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_model_against_itself_cannot_tell_and_swapping_turns_the_verdict(
    values: list[float], shift: bool
) -> None:
    one = losses(lambda n: values[n], len(values))
    other = losses(lambda n: values[-1 - n] + shift, len(values))
    assert taught_against_base(one, one).verdict == "cannot tell"
    turned: dict[Verdict, Verdict] = {
        "better": "worse", "worse": "better", "cannot tell": "cannot tell",
    }  # fmt: skip
    there, back = taught_against_base(one, other), taught_against_base(other, one)
    edge = there.difference
    assert edge is not None and edge.low is not None and edge.high is not None
    # Interpolated quantiles may differ in the last bit, which matters only exactly on the edge.
    if min(abs(edge.low), abs(edge.high)) > 1e-9:
        assert back.verdict == turned[there.verdict]


def test_differences_as_small_as_rounding_are_no_evidence() -> None:
    found = taught_against_base(losses(lambda n: 2.0), losses(lambda n: 1.9995))
    assert found.verdict == "cannot tell"
    assert "rounding" in found.reason
    assert taught_against_base(losses(lambda n: 2.0), losses(lambda n: 1.99)).verdict == "better"


def test_few_sources_cannot_tell_however_large_the_difference() -> None:
    found = taught_against_base(losses(lambda n: 9.0, 9), losses(lambda n: 1.0, 9))
    assert (found.verdict, found.reason) == (
        "cannot tell",
        "9 sources are too few; 10 or more can tell",
    )
    one = taught_against_base(losses(lambda n: 9.0, 1), losses(lambda n: 1.0, 1))
    assert one.verdict == "cannot tell"
    assert sentence(one).endswith("difference -8.000; 1 item from 1 source.")


def test_four_wins_to_none_are_no_evidence_and_seven_are() -> None:
    for wins, verdict in ((4, "cannot tell"), (7, "better")):
        base = measured(answers(lambda n: False), stage="names")
        taught = measured(answers(lambda n, w=wins: n < w), "taught", stage="names")  # type: ignore[misc]
        found = compare(EXACT, base, taught, RECIPE)
        assert found.verdict == verdict, found
        if wins == 4:
            assert found.reason == "too few answers differ (exact sign test: p = 0.12)"


def test_only_items_that_both_answered_are_compared_and_the_others_are_counted() -> None:
    base = losses(lambda n: 3.0)
    taught = losses(lambda n: 1.0)
    too_long = [Failure("i0", "too long"), Failure("i1", "too long")]
    # The two items would have turned everything round.
    base[0] = Likelihood("i0", "s0", 0.0, 10)
    base[1] = Likelihood("i1", "s1", 0.0, 10)
    found = compare(LOSS, measured(base), measured(taught[2:], "taught", failures=too_long), RECIPE)
    assert (found.items, found.left_out) == (38, 2)
    assert (found.baseline_value, found.candidate_value) == (3.0, 1.0)
    assert "38 of 40 items (2 left out: no answer to compare)" in sentence(found)


def test_models_that_cut_text_into_other_tokens_are_not_compared() -> None:
    found = taught_against_base(losses(lambda n: 3.0), losses(lambda n: 1.0, tokens=11))
    assert (found.verdict, found.difference) == ("cannot tell", None)
    assert "different tokens" in sentence(found)


def test_nothing_in_common_cannot_tell() -> None:
    found = taught_against_base(losses(lambda n: 3.0), [])
    assert sentence(found) == (
        "Cannot tell whether taught differs from base in held-out loss: "
        "no item was answered by both."
    )


def test_a_sentence_has_the_verdict_the_numbers_the_direction_and_the_interval() -> None:
    noise = random.Random(0)
    base = losses(lambda n: 3.94 + 0.1 * noise.gauss(0, 1))
    found = taught_against_base(base, losses(lambda n: 2.5 + 0.1 * noise.gauss(0, 1)))
    text = sentence(found)
    assert text.startswith("Taught is better than base in held-out loss. 2.")
    assert "(lower is better); difference -1.4" in text
    assert ", 95% interval -1.4" in text
    assert text.endswith("; 40 items from 40 sources.")


def test_shares_are_in_percent_and_points() -> None:
    base = measured(answers(lambda n: n < 2), stage="names")
    taught = measured(answers(lambda n: n < 20), "taught", stage="names")
    text = sentence(compare(EXACT, base, taught, RECIPE))
    assert "50.0% against 5.0% (higher is better); difference +45.0 points" in text


def everything() -> list[Measured]:
    noise = random.Random(2)
    return [
        measured(losses(lambda n: 4 + noise.random())),
        measured(answers(lambda n: n < 2), stage="names"),
        measured(losses(lambda n: 3 + noise.random()), shots=6),
        measured(answers(lambda n: n < 5), stage="names", shots=6),
        measured(losses(lambda n: 3 + noise.random()), stage="unrelated"),
        measured(losses(lambda n: 2.5 + noise.random()), "taught"),
        measured(answers(lambda n: n < 25), "taught", stage="names"),
        measured(losses(lambda n: 3.5 + noise.random()), "taught", stage="unrelated"),
    ]


def test_the_taught_model_is_held_against_the_base_with_and_without_examples() -> None:
    pairs = [(c.metric, c.candidate, c.baseline) for c in comparisons_of(everything(), RECIPE)]
    shown = "base with 6 examples"
    assert pairs == [
        ("loss", "taught", "base"),
        ("loss", "taught", shown),
        ("exact_match", "taught", "base"),
        ("contains_name", "taught", "base"),
        ("exact_match", "taught", shown),
        ("contains_name", "taught", shown),
        ("unrelated_loss", "taught", "base"),
        ("loss", shown, "base"),
        ("exact_match", shown, "base"),
        ("contains_name", shown, "base"),
    ]


def test_the_base_alone_is_compared_with_itself_shown_examples() -> None:
    pairs = [(c.candidate, c.baseline) for c in comparisons_of(everything()[:5], RECIPE)]
    assert pairs == [("base with 6 examples", "base")] * 3


def test_one_model_without_examples_gives_bare_values() -> None:
    alone = [measured(losses(lambda n: 2.0), failures=[Failure("long", "too long")])]
    assert comparisons_of(alone, RECIPE) == []
    assert sentences_of([], values_of(alone[0])) == [
        "Base: held-out loss 2.000 nats per token, on 40 of 41 items "
        "(1 left out: no answer to compare)."
    ]


def test_a_value_is_the_ratio_of_the_sums() -> None:
    rows: list[Row] = [Likelihood("a", "a", 10.0, 10), Likelihood("b", "b", 5.0, 1)]
    (value,) = values_of(measured(rows))
    assert value.value == pytest.approx(15 / 11)
    assert (value.answered, value.asked, value.weight) == (2, 2, 11)


def test_a_report_survives_json_and_makes_rows_for_tables() -> None:
    report = make_report(
        everything(), RECIPE, models=[{"label": "base"}, {"label": "taught"}], dataset={"name": "d"}
    )
    assert Report.from_json(report.to_json()) == report
    assert len(report.sentences) == len(report.comparisons) == 10
    # A loss has one value, a naming stage two.
    assert len(value_rows(report.values)) == 5 * 1 + 3 * 2
    assert value_rows(report.values)[0] == (
        "held-out loss (lower is better)",
        "base",
        f"{report.values[0].value:.3f} nats per token",
        "40 of 40",
    )
    first = difference_rows(report.comparisons)[0]
    assert first.models == "taught against base"
    assert first.verdict == "better"
    assert " to " in first.interval
