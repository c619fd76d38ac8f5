"""Rules on launches: against scipy's own tests, against published tables, and what always holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from edgebench.comparison import (
    LOOKS,
    Estimate,
    alphas_of_looks,
    by_differences,
    by_pairs,
    decide,
    false_discoveries,
    hodges_lehmann,
    hodges_lehmann_of_one,
    launches_needed,
    least_effect,
    least_effect_at,
    one_sample,
    paired,
    quantile,
    trimmed_paired,
    welch,
)
from edgebench.errors import BugError

LIMIT = math.log(1.02)
logs = st.lists(st.floats(-3, 3), min_size=2, max_size=40)


def _known(estimate: Estimate | None) -> Estimate:
    assert estimate is not None
    return estimate


@given(logs, logs)
def test_welch_is_scipys(baseline: list[float], candidate: list[float]) -> None:
    assume(min(np.std(baseline), np.std(candidate)) > 1e-6)  # scipy warns of the others
    found = _known(welch(baseline, candidate))
    theirs = stats.ttest_ind(candidate, baseline, equal_var=False, alternative="greater")
    assert found.p_above(0.0) == pytest.approx(theirs.pvalue, abs=1e-9)


@given(logs)
def test_paired_is_scipys(differences: list[float]) -> None:
    assume(np.std(differences) > 1e-6)
    theirs = stats.ttest_1samp(differences, LIMIT, alternative="greater")
    assert _known(paired(differences)).p_above(LIMIT) == pytest.approx(theirs.pvalue, abs=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=10, max_size=40))
def test_the_trimmed_mean_is_scipys(differences: list[float]) -> None:
    found = _known(trimmed_paired(differences))
    assert found.shift == pytest.approx(stats.trim_mean(differences, 0.2), abs=1e-12)
    winsorized = np.asarray(stats.mstats.winsorize(np.asarray(differences), limits=(0.2, 0.2)))
    cut = math.floor(0.2 * len(differences))
    share = 1 - 2 * cut / len(differences)
    expected = np.std(winsorized, ddof=1) / (share * math.sqrt(len(differences)))
    assert found.error == pytest.approx(expected, abs=1e-12)
    assert found.freedom in (len(differences) - 2 * cut - 1, math.inf)


@given(logs)
def test_the_hodges_lehmann_shift_of_pairs_is_the_median_of_walsh_averages(values: list[float]) -> None:
    averages = [(a + b) / 2 for i, a in enumerate(values) for b in values[i:]]
    assert hodges_lehmann_of_one(values) == pytest.approx(float(np.median(averages)), abs=1e-12)


@given(logs, st.floats(-2, 2))
def test_a_shift_of_all_launches_is_the_hodges_lehmann_shift(values: list[float], shift: float) -> None:
    assert hodges_lehmann(values, [value + shift for value in values]) == pytest.approx(shift, abs=1e-9)


def test_one_slow_launch_in_ten_does_not_decide() -> None:
    quiet = [0.10, 0.101, 0.099, 0.1, 0.102, 0.098, 0.1, 0.101, 0.099]
    spoilt = [*quiet, 1.6]
    assert decide(_known(paired(spoilt)), LIMIT) == "inconclusive"
    assert decide(_known(by_differences(spoilt)), LIMIT) == "fail"
    sides = [(0.01 * (place % 3), 0.01 * (place % 3) + each) for place, each in enumerate(spoilt)]
    assert decide(_known(by_pairs(sides)), LIMIT) == "fail"


def test_neighbours_that_go_together_are_judged_by_their_differences() -> None:
    """Slow drift of the board: each side spreads by 90 %, and their pairs by a thousandth."""
    drifting = [(0.1 * place, 0.1 * place + 0.1 + 0.001 * (place % 2)) for place in range(10)]
    assert _known(by_pairs(drifting)).rule == "paired"
    assert decide(_known(by_pairs(drifting)), LIMIT) == "fail"
    assert decide(_known(welch(*zip(*drifting, strict=True))), LIMIT) == "inconclusive"


def test_neighbours_that_do_not_are_judged_as_two_sides() -> None:
    apart = [(0.001 * (place % 2), 0.1 + 0.001 * (place % 3)) for place in range(10)]
    assert _known(by_pairs(apart)) == _known(welch(*zip(*apart, strict=True)))


@given(logs, st.floats(-1, 1), st.sampled_from([0.05, 0.025, 0.0167]))
def test_one_side_alone_fails_where_its_p_says_so(values: list[float], limit: float, alpha: float) -> None:
    found = _known(one_sample(values))
    assume(found.error > 1e-6)
    assert (found.lower(alpha) > limit) == (found.p_above(limit) < alpha) or math.isclose(
        found.lower(alpha), limit, abs_tol=1e-6
    )
    assert (found.upper(alpha) < limit) == (found.p_below(limit) < alpha) or math.isclose(
        found.upper(alpha), limit, abs_tol=1e-6
    )
    assert found.p_above(limit) + found.p_below(limit) == pytest.approx(1.0)


def test_a_launch_that_is_slow_once_in_a_while_makes_the_interval_reach_up() -> None:
    values = [0.0, 0.001, -0.001, 0.002, -0.002, 0.001, 0.0, -0.001, 0.0, 0.05]
    found = _known(one_sample(values))
    assert found.upper(0.025) - found.shift > 1.5 * (found.shift - found.lower(0.025))


def test_launches_that_resemble_each_other_count_for_less() -> None:
    steps = [0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.01, 0.01, 0.01, 0.01]
    mixed = [steps[place] for place in (0, 5, 1, 2, 6, 7, 3, 8, 9, 4)]
    alike, unlike = _known(one_sample(steps)), _known(one_sample(mixed))
    assert alike.error > 2 * unlike.error
    assert (alike.freedom, unlike.freedom) == (2, 9)


@pytest.mark.parametrize(
    ("shift", "outcome"), [(math.log(1.03), "fail"), (LIMIT, "pass"), (0.0, "pass"), (-1.0, "pass")]
)
def test_launches_without_any_spread_are_compared_with_the_limit(shift: float, outcome: str) -> None:
    """A coarse timer gives equal medians: nothing is left to chance, and nothing is divided by zero."""
    found = _known(paired([shift] * 5))
    assert decide(found, LIMIT) == outcome
    assert 0 <= found.p_above(LIMIT) <= 1
    assert least_effect(found, LIMIT) == LIMIT


@pytest.mark.parametrize("rule", [one_sample, paired, trimmed_paired])
@pytest.mark.parametrize("values", [[], [0.1]])
def test_below_two_launches_there_is_no_estimate(rule: object, values: Sequence[float]) -> None:
    assert callable(rule)
    assert rule(values) is None
    assert welch(values, [1.0, 2.0]) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_never_becomes_an_answer(bad: float) -> None:
    with pytest.raises(BugError):
        paired([0.1, bad, 0.2])


@given(logs, st.floats(-1, 1))
def test_the_answer_and_its_p_agree(differences: list[float], limit: float) -> None:
    found = _known(by_differences(differences))
    outcome = decide(found, limit, 0.05)
    if outcome == "fail":
        assert found.p_above(limit) <= 0.05 + 1e-9
    elif outcome == "pass":
        assert found.p_below(limit) <= 0.05 + 1e-9 or found.shift == limit
    else:
        assert found.p_above(limit) >= 0.05 - 1e-9
        assert found.p_below(limit) >= 0.05 - 1e-9


@given(logs, st.floats(0, 1), st.floats(1, 30))
def test_more_variance_never_makes_surer(differences: list[float], variance: float, freedom: float) -> None:
    found = _known(paired(differences))
    wider = found.with_variance(variance, freedom)
    assert wider.shift == found.shift
    assert wider.error >= found.error


def test_the_least_effect_is_that_of_the_published_figure() -> None:
    """Pair log-ratios with a standard deviation of 1.3 % resolve +3.8 % with five pairs over +2 % (5.3)."""
    found = Estimate(rule="paired", n=5, shift=0.0, error=0.013 / math.sqrt(5), freedom=4)
    assert math.exp(least_effect(found, LIMIT)) - 1 == pytest.approx(0.038, abs=0.001)
    assert least_effect_at(found, LIMIT, 20) < least_effect(found, LIMIT)


def test_the_launches_needed_are_about_those_of_the_formula() -> None:
    found = Estimate(rule="paired", n=5, shift=0.0, error=0.05 / math.sqrt(5), freedom=4)
    needed = launches_needed(found, LIMIT, math.log(1.10))
    assert needed == pytest.approx(6.2 * (0.05 / (math.log(1.10) - LIMIT)) ** 2 + 2, abs=1)
    assert launches_needed(found, LIMIT, LIMIT) is None


def test_the_looks_share_alpha() -> None:
    assert alphas_of_looks(LOOKS) == pytest.approx((0.0025, 0.0075, 0.04))
    assert alphas_of_looks((20,)) == (0.05,)
    assert alphas_of_looks((6, 12)) == (0.025, 0.025)


def test_false_discoveries_are_those_of_the_paper() -> None:
    """Benjamini and Hochberg 1995, their example: 15 tests, four stay at q = 0.05."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    q = false_discoveries(p)
    assert sum(each <= 0.05 for each in q) == 4
    assert false_discoveries([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_q_is_never_below_p(p: list[float]) -> None:
    assert all(q >= each - 1e-12 for q, each in zip(false_discoveries(p), p, strict=True))


def test_quantiles_need_a_probability() -> None:
    assert quantile(0.975, 4) == pytest.approx(2.776445, abs=1e-6)
    assert quantile(0.95, math.inf) == pytest.approx(1.644854, abs=1e-6)
    with pytest.raises(BugError):
        quantile(1.0, 4)


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.975, 100, 1.984),
        (0.975, 1e9, 1.960),
        (0.95, 4, 2.132),
        (0.995, 9, 3.250),
    ],
)
def test_the_quantile_of_student_t_is_the_published_one(
    probability: float, freedom: float, expected: float
) -> None:
    assert quantile(probability, freedom) == pytest.approx(expected, abs=6e-4)


def test_the_quantile_at_one_half_is_zero_and_outside_is_a_bug() -> None:
    assert quantile(0.5, 3) == pytest.approx(0, abs=1e-9)
    for probability, freedom in ((1.0, 3), (0.0, 3), (0.9, 0)):
        with pytest.raises(BugError):
            quantile(probability, freedom)
