"""Accuracy: shares and paired differences with intervals that hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.accuracy import (
    Pairs,
    Scores,
    compared,
    hits,
    mcnemar,
    paired_bounds,
    paired_score,
    scored,
    wilson,
)
from edgebench.errors import UserError

counts = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n)).flatmap(
        lambda both: st.tuples(st.just(both[0]), st.just(both[1]), st.integers(0, both[0] - both[1]))
    )
)


# --- shares ---------------------------------------------------------------------------------------


@given(st.integers(1, 100_000), st.floats(0, 1), st.sampled_from([0.1, 0.05, 0.01]))
@settings(deadline=None)
def test_wilsons_interval_is_that_of_scipy(n: int, share: float, alpha: float) -> None:
    from scipy.stats import binomtest

    right = round(share * n)
    other = binomtest(right, n).proportion_ci(1 - alpha, method="wilson")
    assert wilson(right, n, alpha) == pytest.approx((other.low, other.high), abs=1e-9)


def test_wilsons_interval_of_the_demo_network() -> None:
    assert wilson(498, 500) == pytest.approx((0.986, 0.999), abs=5e-4)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


@given(st.integers(0, 200), st.integers(0, 200))
@settings(deadline=None)
def test_mcnemars_test_is_the_exact_binomial_one(more: int, fewer: int) -> None:
    from scipy.stats import binomtest

    wanted = binomtest(more, more + fewer, 0.5).pvalue if more + fewer else 1.0
    assert mcnemar(more, fewer) == pytest.approx(wanted, abs=1e-9)


# --- the paired difference --------------------------------------------------------------------------


@given(counts, st.floats(-0.95, 0.95))
@settings(deadline=None)
def test_the_score_uses_the_most_likely_table_under_that_drop(
    table: tuple[int, int, int], drop: float
) -> None:
    """Against the likelihood itself, searched on a fine grid."""
    n, more, fewer = table
    low, high = max(0.0, -drop), (1 - drop) / 2
    grid = np.linspace(low, high, 20_001)

    def part(count: int, share: np.ndarray) -> np.ndarray:
        return count * np.log(np.clip(share, 1e-300, None)) if count else np.zeros_like(share)

    likely = part(more, grid + drop) + part(fewer, grid) + part(n - more - fewer, 1 - 2 * grid - drop)
    best = grid[int(np.argmax(likely))]
    step = (high - low) / 20_000
    spread = (n * max(0.0, 2 * b + drop * (1 - drop)) for b in (best - step, best, best + step))
    low_v, _, high_v = spread
    apart = more - fewer - n * drop
    distance = math.copysign(max(0.0, abs(apart) - 0.5), apart)
    found = paired_score(Pairs(n, more, fewer), drop)
    if low_v <= 0:  # at the edge of what is possible
        return
    ends = sorted((distance / math.sqrt(low_v), distance / math.sqrt(high_v)))
    assert ends[0] - 1e-6 <= found <= ends[1] + 1e-6


@given(counts)
@settings(deadline=None)
def test_the_interval_holds_the_drop_and_is_mirrored(table: tuple[int, int, int]) -> None:
    n, more, fewer = table
    lower, upper = paired_bounds(Pairs(n, more, fewer))
    low, high = lower(0.025), upper(0.025)
    assert -1 <= low <= (more - fewer) / n <= high <= 1
    assert low <= lower(0.05) <= upper(0.05) <= high
    other_lower, other_upper = paired_bounds(Pairs(n, fewer, more))
    assert (-other_upper(0.025), -other_lower(0.025)) == pytest.approx((low, high), abs=1e-6)


def test_at_no_drop_the_score_is_mcnemars() -> None:
    assert paired_score(Pairs(100, 12, 3), 0.0) == pytest.approx((9 - 0.5) / math.sqrt(15))


def test_without_any_difference_the_interval_is_no_point() -> None:
    lower, upper = paired_bounds(Pairs(500, 0, 0))
    assert 3 / 500 < upper(0.05) < 4 / 500  # exactly: 1 - 0.05 ** (1 / 500), 0.6 %
    assert lower(0.05) == pytest.approx(-upper(0.05), abs=1e-9)


@pytest.mark.parametrize("n", [50, 200, 500, 2000])
@pytest.mark.parametrize(
    ("only_reference", "only_candidate"),
    [(0.005, 0.0), (0.01, 0.01), (0.02, 0.005), (0.03, 0.02), (0.04, 0.01), (0.1, 0.0), (0.1, 0.1)],
)
def test_the_interval_holds_as_often_as_it_says(n: int, only_reference: float, only_candidate: float) -> None:
    """By every table that can be drawn, with its probability: no chance and no seed."""
    from scipy.stats import binom

    truth = only_reference - only_candidate
    most = [
        min(n, int(n * share + 8 * math.sqrt(n * share)) + 8) for share in (only_reference, only_candidate)
    ]
    held, over, under = 0.0, 0.0, 0.0
    for more in range(most[0] + 1):
        fewer = np.arange(min(most[1], n - more) + 1)
        chance = binom.pmf(more, n, only_reference)
        chance = chance * binom.pmf(fewer, n - more, only_candidate / (1 - only_reference))
        z = np.array([paired_score(Pairs(n, more, int(each)), truth) for each in fewer])
        held += float(chance[np.abs(z) <= 1.959964].sum())
        over += float(chance[z > 1.644854].sum())
        under += float(chance[z < -1.644854].sum())
    assert held >= 0.945
    assert over <= 0.06
    assert under <= 0.06


# --- scores ---------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(2, 12), st.integers(1, 5), st.integers(0, 10_000))
def test_hits_are_those_of_a_stable_sort(n: int, classes: int, guesses: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    outputs = chance.integers(0, 4, size=(n, classes)).astype(np.float32)  # many are equal
    labels = chance.integers(0, classes, size=n)
    order = np.argsort(-outputs, axis=1, kind="stable")[:, :guesses]
    assert hits(outputs, labels, guesses).tolist() == [
        bool(label in row) for label, row in zip(labels, order, strict=True)
    ]


def test_an_answer_of_nan_is_wrong() -> None:
    outputs = np.array([[np.nan, 1.0], [0.0, 1.0]])
    assert hits(outputs, np.array([1, 1])).tolist() == [False, True]
    assert hits(np.array([[np.nan] * 6]), np.array([0]), 5).tolist() == [False]


def test_right_and_wrong_answers_give_a_paired_interval() -> None:
    reference = np.array([1.0] * 90 + [0.0] * 10)
    candidate = np.array([1.0] * 84 + [0.0] * 14 + [1.0] * 2)
    found = compared("top1", Scores(0.86, candidate, 0.97), Scores(0.9, reference), 100)
    assert (found.only_reference, found.only_candidate, found.n, found.top5) == (6, 2, 100, 0.97)
    assert found.drop == pytest.approx(0.04)
    assert found.p_value == pytest.approx(mcnemar(6, 2))
    assert found.drop_low is not None
    assert found.drop_high is not None
    assert found.drop_low < 0 < 0.04 < found.drop_high
    assert (found.low, found.high) == pytest.approx(wilson(86, 100))


def test_other_scores_get_a_paired_t_and_one_figure_none() -> None:
    chance = np.random.default_rng(4)
    reference = chance.uniform(0.4, 0.9, 200)
    candidate = reference - 0.02 + chance.normal(0, 0.01, 200)
    found = compared("m:iou", scored(candidate, 200, "m:iou"), scored(reference, 200, "m:iou"), 200)
    assert found.drop_low is not None
    assert found.drop_high is not None
    assert found.drop_low < 0.02 < found.drop_high
    assert found.drop_high - found.drop_low < 0.005  # unpaired it would be ten times as wide
    assert found.only_reference is None
    single = compared("m:map", scored(0.41, 200, "m:map"), scored(np.float32(0.43), 200, "m:map"), 200)
    assert single.drop == pytest.approx(0.02, abs=1e-6)
    assert (single.low, single.drop_low, single.p_value) == (None, None, None)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([1.0, 2.0], "shape [2] for 3 samples"),
        ([[1.0], [2.0], [3.0]], "shape [3, 1]"),
        ([1.0, math.nan, 0.0], "NaN"),
        (math.inf, "NaN or infinity"),
        ("much", "no numbers"),
        (None, "NaN"),
        ([1, [2, 3], 4], "no numbers"),
    ],
)
def test_what_a_metric_returns_must_be_scores(result: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        scored(result, 3, "m:f")
    assert said in caught.value.message
    assert "3 numbers" in caught.value.hint
