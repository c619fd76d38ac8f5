"""Quantiles against their definition and numpy, intervals against tables, summaries of odd launches."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench import comparison, statistics
from edgebench.errors import BugError
from edgebench.records import Conditions, replace
from tests.report import fixtures

SAMPLES = st.lists(st.integers(min_value=0, max_value=2**70), min_size=1, max_size=60)
QUANTILES = st.integers(min_value=0, max_value=1000).map(lambda thousandths: thousandths / 1000)


@given(SAMPLES, QUANTILES)
def test_a_quantile_is_the_smallest_sample_that_covers_the_share(samples: list[int], q: float) -> None:
    samples.sort()
    found = statistics.percentile_ns(samples, q)
    wanted = Fraction(str(q)) * len(samples)
    assert found == min(x for x in samples if sum(y <= x for y in samples) >= wanted)


@given(st.lists(st.integers(min_value=1, max_value=2**52), min_size=1, max_size=400))
def test_the_reported_quantiles_are_numpys_inverted_cdf(samples: list[int]) -> None:
    summary = statistics.summarise_samples(samples)
    expected = np.percentile(np.array(samples), [50, 90, 95, 99], method="inverted_cdf")
    assert [summary.p50_ns, summary.p90_ns, summary.p95_ns, summary.p99_ns] == expected.tolist()
    assert (summary.n, summary.min_ns, summary.max_ns) == (len(samples), min(samples), max(samples))
    assert summary.mean_ns == pytest.approx(np.mean(samples))


def test_a_share_is_read_as_the_decimal_it_is_written_as() -> None:
    assert statistics.percentile_ns(range(1, 101), 0.07) == 7  # 0.07 * 100 is 7.000000000000001 in floats
    assert statistics.percentile_ns(np.arange(1, 101), 0.0) == 1
    assert statistics.percentile_ns([5], 1.0) == 5


@pytest.mark.parametrize(("samples", "q"), [([], 0.5), ([1], -0.1), ([1], 1.5), ([1], math.nan)])
def test_a_quantile_of_nothing_is_a_bug(samples: list[int], q: float) -> None:
    with pytest.raises(BugError):
        statistics.percentile_ns(samples, q)


def test_no_samples_give_no_figures() -> None:
    assert statistics.summarise_samples(()) == statistics.LaunchSummary(n=0)


# Student's t, two-sided 95 %, one-sided 95 % and 99.5 %: NIST/SEMATECH e-Handbook, table 1.3.6.7.2.
def test_an_interval_by_hand() -> None:
    low, high = statistics.interval_95([math.exp(x) for x in (1.0, 2.0, 3.0)]) or (0, 0)
    half = 4.302653 / math.sqrt(3)  # sd of 1, 2, 3 is 1
    assert (math.log(low), math.log(high)) == pytest.approx((2 - half, 2 + half), rel=1e-6)


def test_an_interval_of_skewed_launches_by_hand() -> None:
    """Symmetric values are held to be a little skewed all the same: Hall's interval reaches further up."""
    low, high = statistics.interval_95([math.exp(x / 100) for x in (1, 2, 3, 4, 5)]) or (0, 0)
    skew, root, t = comparison.USUAL_SKEW, math.sqrt(5), 2.776445
    error = comparison.UNSEEN * math.sqrt(2.5) / root / 100
    ends = [
        0.03 - 3 * root / skew * (np.cbrt(1 + skew / root * (each - skew / (6 * root))) - 1) * error
        for each in (t, -t)
    ]
    assert (math.log(low), math.log(high)) == pytest.approx(ends, rel=1e-6)
    assert 0.03 - math.log(low) < math.log(high) - 0.03


def test_an_interval_keeps_its_promise_in_simulation() -> None:
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(1000):
        low, high = statistics.interval_95(np.exp(random.normal(0.0, 0.02, 5)).tolist()) or (0, 0)
        hits += low <= 1.0 <= high
    assert 925 <= hits <= 975


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 0.0], [5.0, -1.0], [1e-300, 1e300], [1.0, math.nan]])
def test_no_interval_where_none_can_be_given(values: list[float]) -> None:
    assert statistics.interval_95(values) is None


def test_identical_launches_have_an_interval_of_no_width() -> None:
    assert statistics.interval_95([7.0, 7.0, 7.0]) == pytest.approx((7.0, 7.0))


# --- measurements ---------------------------------------------------------------------------------


def test_the_launch_is_the_unit() -> None:
    """Each launch counts once, however many samples it has, and a slow one does not move the median."""
    measurement = fixtures.measurement(samples=([10] * 1000, [20] * 1000, [900] * 50_000))
    summary = statistics.summarise_measurement(measurement)
    assert summary.launch_p50_ns == (10, 20, 900)
    assert (summary.p50_ns, summary.p90_ns, summary.p99_ns) == (20, 20, 20)
    assert (summary.min_ns, summary.max_ns, summary.samples) == (10, 900, 52_000)
    assert summary.mean_ns == pytest.approx((10 + 20 + 900) / 3)
    assert summary.spread == pytest.approx(89)


def test_throughput_counts_inputs_and_load_times_are_medians() -> None:
    measurement = fixtures.measurement(samples=([4_000_000] * 700, [4_000_000] * 700), batch=8)
    summary = statistics.summarise_measurement(measurement)
    assert summary.throughput_per_s == pytest.approx(2000)
    assert summary.load_ns == fixtures.LOAD_NS
    assert summary.first_inference_ns == fixtures.FIRST_NS
    assert summary.p50_low_ns == pytest.approx(4_000_000)


def test_an_invalid_launch_is_never_averaged_in() -> None:
    measurement = fixtures.measurement(samples=([10] * 700, [10] * 700, [99] * 700))
    launches = (
        *measurement.launches[:2],
        replace(measurement.launches[2], valid=False, invalid_reason="hot"),
    )
    summary = statistics.summarise_measurement(replace(measurement, launches=launches))
    assert (summary.launches, summary.launches_unusable, summary.max_ns) == (2, 1, 10)


def test_a_throttled_launch_is_unusable_even_where_nobody_marked_it() -> None:
    measurement = fixtures.measurement(samples=([10] * 700, [10] * 700, [99] * 700))
    hot = replace(measurement.launches[2], after=Conditions(throttled=True))
    summary = statistics.summarise_measurement(
        replace(measurement, launches=(*measurement.launches[:2], hot))
    )
    assert summary.max_ns == 10
    assert [caution.kind for caution in summary.cautions] == ["throttled"]
    assert statistics.unusable_reason(hot) == "the device was throttled"


@pytest.mark.parametrize("samples", [(), ([],), ([], [])])
def test_nothing_measured_is_none_not_zero(samples: tuple[list[int], ...]) -> None:
    summary = statistics.summarise_measurement(fixtures.measurement(samples=samples))
    assert (summary.launches, summary.samples) == (0, 0)
    figures = (
        summary.p50_ns,
        summary.p99_ns,
        summary.mean_ns,
        summary.min_ns,
        summary.load_ns,
        summary.throughput_per_s,
        summary.p50_low_ns,
        summary.spread,
    )
    assert set(figures) == {None}
    assert summary.memory == statistics.MemorySummary()


def test_one_sample_is_reported_as_one_sample() -> None:
    summary = statistics.summarise_measurement(fixtures.measurement(samples=([123],)))
    assert (summary.p50_ns, summary.p99_ns, summary.p50_low_ns, summary.samples) == (123, None, None, 1)
    assert {caution.kind for caution in summary.cautions} == {"few-launches", "p99"}


def test_a_clock_that_stands_still_crashes_nothing() -> None:
    summary = statistics.summarise_measurement(fixtures.measurement(samples=([0] * 700, [0] * 700)))
    assert (summary.p50_ns, summary.throughput_per_s, summary.p50_low_ns, summary.spread) == (
        0,
        None,
        None,
        None,
    )


def test_huge_values_stay_exact() -> None:
    huge = 2**80 + 1
    summary = statistics.summarise_measurement(fixtures.measurement(samples=([huge] * 300, [huge + 2] * 300)))
    assert (summary.p50_ns, summary.min_ns, summary.max_ns) == (huge + 1, huge, huge + 2)


@pytest.mark.parametrize(
    ("count", "known", "noted"), [(99, False, True), (100, True, True), (661, True, True), (662, True, False)]
)
def test_p99_needs_samples(count: int, known: bool, noted: bool) -> None:
    samples = ([10] * count, [10] * 5000)
    summary = statistics.summarise_measurement(fixtures.measurement(samples=samples))
    assert (summary.p99_ns is not None, bool(summary.p99_note)) == (known, noted)
    assert ("p99" in {caution.kind for caution in summary.cautions}) == noted


def test_memory_is_the_largest_over_the_launches() -> None:
    measurement = fixtures.measurement(samples=([10] * 700, [10] * 700))
    first, second = measurement.launches
    bigger = replace(second, memory=replace(second.memory, peak_bytes=9_000_000_000, model_bytes=None))
    memory = statistics.summarise_measurement(replace(measurement, launches=(first, bigger))).memory
    assert memory.peak_bytes == 9_000_000_000
    assert first.memory.model_bytes is not None
    assert memory.model_bytes == first.memory.model_bytes - (first.memory.runtime_bytes or 0)
    assert memory.method == "VmHWM, reset"


def _kinds(samples: list[int]) -> set[str]:
    summary = statistics.summarise_measurement(fixtures.measurement(samples=(samples, samples)))
    return {caution.kind for caution in summary.cautions}


@given(st.integers(min_value=0, max_value=2**32))
def test_plain_noise_raises_no_caution(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(1_000_000, 20_000, 900)
    assert _kinds([int(x) for x in noise]) == set()


def test_a_slow_tail_is_not_a_second_mode_and_two_clocks_are() -> None:
    random = np.random.default_rng(3)
    tail = 1_000_000 * random.lognormal(0, 0.3, 900)
    assert "two-modes" not in _kinds([int(x) for x in tail])
    clocks = random.normal(1_000_000, 8_000, 900) * random.choice([1.0, 1.2], 900, p=[0.7, 0.3])
    assert _kinds([int(x) for x in clocks]) == {"two-modes"}


def test_drift_foreign_load_warm_up_and_spread_are_told() -> None:
    slower = [int(1_000_000 * (1 + i / 9000)) for i in range(1200)]
    assert _kinds(slower) == {"drift"}
    calm = fixtures.measurement(samples=([1000] * 700, [1080] * 700))
    launches = (replace(calm.launches[0], warmup_stable=False, foreign_load=0.9), calm.launches[1])
    summary = statistics.summarise_measurement(replace(calm, launches=launches))
    details = {caution.kind: caution.detail for caution in summary.cautions}
    assert details == {
        "foreign-load": "other processes kept 0.90 cores busy",
        "spread": "launch p50s differ by 8.0 %",
        "warm-up": "not stable in 1 of 2 launches",
    }


def test_an_emulated_device_is_told() -> None:
    measurement = fixtures.measurement(samples=([10] * 700, [10] * 700))
    emulated = replace(measurement, facts=replace(measurement.facts, emulated=True))
    assert [c.kind for c in statistics.summarise_measurement(emulated).cautions] == ["emulated"]
