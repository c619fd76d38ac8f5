"""Launches -> summaries and intervals. Pure: records in, records out; nothing is read or written.

The launch is the statistical unit: iterations of one launch are not independent (pooling them gives about
40 % false alarms), so every figure of a measurement is taken per launch first and then over launches. Raw
samples stay integers; quantiles are exact order statistics, never interpolated.
"""

from __future__ import annotations

import math
import statistics as stdlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from edgebench import comparison
from edgebench.errors import BugError
from edgebench.records import Launch, Measurement, MemoryLadder, Record
from edgebench.units import NS_PER_S, significant

CONFIDENCE = 0.95

# Below the first, a p99 is just the maximum. Below the second (0.99^n > 0.05) no 95 % upper bound exists.
# The third is the single-stream floor of MLPerf LoadGen early stopping at 99 % confidence
# (loadgen/early_stopping.cc).
P99_MIN_SAMPLES = 100
P99_BOUND_SAMPLES = 299
P99_RECOMMENDED_SAMPLES = 662

SPREAD_LIMIT = 0.05  # between the fastest and the slowest launch's p50
DRIFT_LIMIT = 0.05  # between the medians of a launch's first and last third
FOREIGN_LOAD_LIMIT = 0.2  # cores kept busy by other processes
AUTOCORRELATION_LIMIT = 0.5  # between successive launches; five independent ones reach it in 1 of 25 cases
AUTOCORRELATION_MIN_SPREAD = 0.02  # below that it does not matter
MODES_LIMIT = 0.05  # two groups of samples nearer than this do not matter
MODES_MIN_SHARE = 0.1  # a smaller group is outliers
MODES_EXPLAINED = (
    0.85  # a best split of a uniform distribution explains 0.75 of the variance, of a normal one 0.64
)

CautionKind = Literal[
    "emulated",
    "throttled",
    "foreign-load",
    "drift",
    "spread",
    "autocorrelation",
    "two-modes",
    "warm-up",
    "few-launches",
    "p99",
]

T = TypeVar("T")


class Caution(Record, frozen=True):
    """One reason to trust a measurement less; `detail` carries the numbers."""

    kind: CautionKind
    detail: str


class LaunchSummary(Record, frozen=True):
    """Order statistics of one launch's samples; all but `n` are None when there are no samples."""

    n: int
    min_ns: int | None = None
    p50_ns: int | None = None
    p90_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None
    max_ns: int | None = None
    mean_ns: float | None = None


class MemorySummary(Record, frozen=True):
    """Memory of the launch process, bytes: each figure is the largest over the launches, None where unknown.

    `runtime_bytes` is what importing the runtime added, `model_bytes` what loading the model added to that,
    `inference_bytes` what the first inference added; the peaks are whole figures, of the timed part alone and
    of the launch. `available_drop_bytes`: by how much the whole system's available memory fell;
    `engine_bytes`: what an engine says that it takes of the GPU's memory.
    """

    method: str = ""
    start_bytes: int | None = None
    runtime_bytes: int | None = None
    model_bytes: int | None = None
    inference_bytes: int | None = None
    steady_peak_bytes: int | None = None
    peak_bytes: int | None = None
    available_drop_bytes: int | None = None
    engine_bytes: int | None = None


class Summary(Record, frozen=True):
    """A measurement in numbers, from its usable launches only; None is "not known", never 0.

    `p50_ns`, `p90_ns` and `p99_ns` are medians over the launches of each launch's own quantile: one slow
    launch does not move them. `mean_ns` is the mean of launch means (each launch counts once), `min_ns` and
    `max_ns` the extremes of all samples. `p50_low_ns` to `p50_high_ns` is the 95 % interval of the typical
    launch's p50, see `interval_95`; so are the others. `p99_note` says why `p99_ns` is missing or rough.
    `spread` is slowest / fastest launch p50, minus 1. `throughput_per_s` is inputs per second, one request
    after the other: batch / mean.
    """

    launches: int
    launches_unusable: int
    samples: int
    launch_p50_ns: tuple[int, ...] = ()
    p50_ns: int | None = None
    p50_low_ns: float | None = None
    p50_high_ns: float | None = None
    p90_ns: int | None = None
    p90_low_ns: float | None = None
    p90_high_ns: float | None = None
    p99_ns: int | None = None
    p99_low_ns: float | None = None
    p99_high_ns: float | None = None
    p99_note: str = ""
    min_ns: int | None = None
    max_ns: int | None = None
    mean_ns: float | None = None
    spread: float | None = None
    import_ns: int | None = None
    load_ns: int | None = None
    first_inference_ns: int | None = None
    throughput_per_s: float | None = None
    memory: MemorySummary = MemorySummary()
    cautions: tuple[Caution, ...] = ()


# --- quantiles ------------------------------------------------------------------------------------


def percentile_ns(sorted_samples: Sequence[int] | npt.NDArray[np.integer], q: float) -> int:
    """The smallest sample that the share `q` of all samples does not exceed: an exact order statistic.

    This is the nearest rank, or inverted CDF (Hyndman and Fan 1996, type 1; numpy's `method="inverted_cdf"`).
    `q` is read as the decimal it is written as, so that 0.07 of 100 is rank 7 and not 8. `sorted_samples` is
    ascending and not empty, `q` in [0, 1]; anything else is a BugError.
    """
    count = len(sorted_samples)
    if count == 0 or not 0 <= q <= 1:
        raise BugError(f"no quantile {q} of {count} samples")
    rank = max(1, math.ceil(Fraction(repr(float(q))) * count))
    return int(sorted_samples[rank - 1])


def summarise_samples(samples_ns: Sequence[int]) -> LaunchSummary:
    """The order statistics of some samples, in nanoseconds."""
    if not samples_ns:
        return LaunchSummary(n=0)
    ordered = sorted(samples_ns)
    return LaunchSummary(
        n=len(ordered),
        min_ns=ordered[0],
        p50_ns=percentile_ns(ordered, 0.5),
        p90_ns=percentile_ns(ordered, 0.9),
        p95_ns=percentile_ns(ordered, 0.95),
        p99_ns=percentile_ns(ordered, 0.99),
        max_ns=ordered[-1],
        mean_ns=sum(ordered) / len(ordered),  # integers of any size: the sum is exact
    )


def summarise(launch: Launch) -> LaunchSummary:
    """The order statistics of one launch's samples, in nanoseconds; valid or not."""
    return summarise_samples(launch.samples_ns)


# --- intervals ------------------------------------------------------------------------------------


def interval_95(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the typical value, from those of single launches in their order.

    It is that of an absolute limit (`comparison.one_sample`): on logarithms, about the geometric mean, wider
    upwards as far as launches are skewed. None for fewer than two values, a value that is not positive, or a
    bound that no float holds.
    """
    if len(values) < 2 or any(not value > 0 for value in values):
        return None
    found = comparison.one_sample([math.log(value) for value in values])
    if found is None:
        return None
    beyond = (1 - CONFIDENCE) / 2
    try:
        return math.exp(found.lower(beyond)), math.exp(found.upper(beyond))
    except OverflowError:
        return None


def half_width(launches: Sequence[Launch]) -> float | None:
    """How far the 95 % interval of p50 reaches to each side, as a share of it; None below two launches."""
    usable = [summarise(launch).p50_ns for launch in launches if not unusable_reason(launch)]
    return half_width_of(_known(usable))


def half_width_of(values: Sequence[float]) -> float | None:
    """How far the 95 % interval of some values reaches to each side, as a share; None where there is none."""
    ends = interval_95(values)
    return None if ends is None else math.sqrt(ends[1] / ends[0]) - 1


# --- one measurement ------------------------------------------------------------------------------


def unusable_reason(launch: Launch) -> str:
    """Why the launch may not be averaged in, or "". Throttled numbers are never a device's numbers."""
    if not launch.valid:
        return launch.invalid_reason or "marked invalid"
    if launch.before.throttled or launch.after.throttled:
        return "the device was throttled"
    if not launch.samples_ns:
        return "no samples"
    return ""


def summarise_measurement(measurement: Measurement) -> Summary:
    """The figures of one measurement over its usable launches, with the reasons to trust them less."""
    launches = [launch for launch in measurement.launches if not unusable_reason(launch)]
    each = [summarise(launch) for launch in launches]
    p50s = tuple(_known(summary.p50_ns for summary in each))
    p90s = _known(summary.p90_ns for summary in each)
    p99_ns, p99_note = _p99(each)
    p99s = [] if p99_ns is None else _known(summary.p99_ns for summary in each)
    ends = {50: interval_95(p50s), 90: interval_95(p90s), 99: interval_95(p99s)}
    low, high = ({q: None if found is None else found[end] for q, found in ends.items()} for end in (0, 1))
    mean_ns = _mean(_known(summary.mean_ns for summary in each))
    return Summary(
        launches=len(launches),
        launches_unusable=len(measurement.launches) - len(launches),
        samples=sum(summary.n for summary in each),
        launch_p50_ns=p50s,
        p50_ns=_median(p50s),
        p50_low_ns=low[50],
        p50_high_ns=high[50],
        p90_ns=_median(p90s),
        p90_low_ns=low[90],
        p90_high_ns=high[90],
        p99_ns=p99_ns,
        p99_low_ns=low[99],
        p99_high_ns=high[99],
        p99_note=p99_note,
        min_ns=min(_known(summary.min_ns for summary in each), default=None),
        max_ns=max(_known(summary.max_ns for summary in each), default=None),
        mean_ns=mean_ns,
        spread=_spread(p50s),
        import_ns=_median(_known(launch.import_ns for launch in launches)),
        load_ns=_median(_known(launch.load_ns for launch in launches)),
        first_inference_ns=_median(_known(launch.first_inference_ns for launch in launches)),
        throughput_per_s=measurement.job.workload.batch * NS_PER_S / mean_ns if mean_ns else None,
        memory=_memory([launch.memory for launch in launches]),
        cautions=tuple(_cautions(measurement, launches, p50s, p99_note)),
    )


def _p99(each: Sequence[LaunchSummary]) -> tuple[int | None, str]:
    """The median p99 of the launches and what to say of it."""
    if not each:
        return None, ""
    fewest = min(summary.n for summary in each)
    if fewest < P99_MIN_SAMPLES:
        return None, f"no p99: {fewest} samples in a launch, {P99_MIN_SAMPLES} are the least"
    p99_ns = _median(_known(summary.p99_ns for summary in each))
    if fewest < P99_BOUND_SAMPLES:
        return p99_ns, f"p99 is rough: {fewest} samples in a launch, no 95 % bound below {P99_BOUND_SAMPLES}"
    if fewest < P99_RECOMMENDED_SAMPLES:
        return p99_ns, f"p99 is rough: {fewest} samples in a launch, better {P99_RECOMMENDED_SAMPLES}"
    return p99_ns, ""


def _memory(ladders: Sequence[MemoryLadder]) -> MemorySummary:
    """The largest of each figure over the launches: a memory budget must hold every time."""

    def largest(figure: Callable[[MemoryLadder], int | None]) -> int | None:
        return max(_known(figure(ladder) for ladder in ladders), default=None)

    return MemorySummary(
        method=", ".join(sorted({ladder.method for ladder in ladders})),
        start_bytes=largest(lambda ladder: ladder.start_bytes),
        runtime_bytes=largest(lambda ladder: _added(ladder.start_bytes, ladder.runtime_bytes)),
        model_bytes=largest(lambda ladder: _added(ladder.runtime_bytes, ladder.model_bytes)),
        inference_bytes=largest(lambda ladder: _added(ladder.model_bytes, ladder.first_inference_bytes)),
        steady_peak_bytes=largest(lambda ladder: ladder.steady_peak_bytes),
        peak_bytes=largest(lambda ladder: ladder.peak_bytes),
        available_drop_bytes=largest(lambda ladder: ladder.available_drop_bytes),
        engine_bytes=largest(lambda ladder: ladder.engine_bytes),
    )


# --- reasons to trust it less -----------------------------------------------------------------------


def _cautions(
    measurement: Measurement, launches: Sequence[Launch], p50s: Sequence[int], p99_note: str
) -> Iterable[Caution]:
    if measurement.facts.emulated:
        yield Caution(kind="emulated", detail="an emulated processor's times and memory are not the board's")
    throttled = sum(bool(one.before.throttled or one.after.throttled) for one in measurement.launches)
    if throttled:
        yield Caution(kind="throttled", detail=f"{_of(throttled, measurement.launches)}, left out")
    foreign = max(_known(launch.foreign_load for launch in launches), default=0.0)
    if foreign > FOREIGN_LOAD_LIMIT:
        yield Caution(
            kind="foreign-load", detail=f"other processes kept {significant(foreign, 2)} cores busy"
        )
    yield from _cautions_of_samples(launches)
    spread = _spread(p50s)
    if spread is not None and spread > SPREAD_LIMIT:
        yield Caution(kind="spread", detail=f"launch p50s differ by {_percent(spread)}")
    alike = _lag_1(p50s)
    if alike > AUTOCORRELATION_LIMIT and (spread or 0.0) > AUTOCORRELATION_MIN_SPREAD:
        detail = f"each launch resembles the one before it (correlation {significant(alike, 2)})"
        yield Caution(kind="autocorrelation", detail=detail)
    unstable = sum(not launch.warmup_stable for launch in launches)
    if unstable:
        yield Caution(kind="warm-up", detail=f"not stable in {_of(unstable, launches)}")
    if len(launches) == 1:
        yield Caution(kind="few-launches", detail="one usable launch: no interval can be given")
    if p99_note:
        yield Caution(kind="p99", detail=p99_note)


def _cautions_of_samples(launches: Sequence[Launch]) -> Iterable[Caution]:
    drifts = [drift for launch in launches if abs(drift := _drift(launch.samples_ns)) > DRIFT_LIMIT]
    if drifts:
        worst = max(drifts, key=abs)
        direction = "slower" if worst > 0 else "faster"
        detail = f"up to {_percent(abs(worst))} {direction} towards the end, {_of(len(drifts), launches)}"
        yield Caution(kind="drift", detail=detail)
    gaps = _known(_mode_gap(launch.samples_ns) for launch in launches)
    if gaps:
        detail = f"two groups of samples, {_percent(max(gaps))} apart, {_of(len(gaps), launches)}"
        yield Caution(kind="two-modes", detail=detail)


def _drift(samples_ns: Sequence[int]) -> float:
    """How much slower the last third of a launch is than the first (medians), as a share; 0 if too short."""
    third = len(samples_ns) // 3
    if third < 5:
        return 0.0
    first = stdlib.median_low(samples_ns[:third])
    last = stdlib.median_low(samples_ns[-third:])
    return last / first - 1 if first > 0 else 0.0


def _lag_1(values: Sequence[int]) -> float:
    """The correlation of each value with the one before it; 0 below five values."""
    if len(values) < 5 or min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    off = [value - mean for value in values]
    together = math.fsum(now * then for now, then in zip(off[1:], off, strict=False))
    return together / math.fsum(each**2 for each in off)


def _mode_gap(samples_ns: Sequence[int]) -> float | None:
    """How far apart two groups of samples lie (mean ratio minus 1), or None where they are one group.

    The split leaves the least variance inside the groups (Otsu 1979), with the slowest 1 % set aside.
    """
    if len(samples_ns) < 50:
        return None
    ordered = np.sort(np.asarray(samples_ns, dtype=np.float64))
    ordered = ordered[: math.ceil(len(ordered) * 0.99)]
    total = ordered.var()
    if not total > 0 or not ordered[0] > 0:
        return None
    count = len(ordered)
    sizes = np.arange(1, count, dtype=np.float64)
    sums = np.cumsum(ordered)
    low_means = sums[:-1] / sizes
    high_means = (sums[-1] - sums[:-1]) / (count - sizes)
    between = sizes * (count - sizes) / count**2 * (high_means - low_means) ** 2
    at = int(np.argmax(between))
    share = min(sizes[at], count - sizes[at]) / count
    gap = float(high_means[at] / low_means[at]) - 1
    two = between[at] / total > MODES_EXPLAINED and share >= MODES_MIN_SHARE and gap > MODES_LIMIT
    return gap if two else None


# --- small arithmetic -------------------------------------------------------------------------------


def _known(values: Iterable[T | None]) -> list[T]:
    return [value for value in values if value is not None]


def _median(values: Sequence[int]) -> int | None:
    """The median as whole nanoseconds, None of nothing; exact for integers of any size."""
    if not values:
        return None
    return (stdlib.median_low(values) + stdlib.median_high(values)) // 2


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _spread(p50s: Sequence[int]) -> float | None:
    return max(p50s) / min(p50s) - 1 if len(p50s) > 1 and min(p50s) > 0 else None


def _added(before: int | None, after: int | None) -> int | None:
    """What a step added; memory given back in between counts as nothing added."""
    return None if before is None or after is None else max(0, after - before)


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %"


def _of(count: int, launches: Sequence[Launch]) -> str:
    return f"{count} of {len(launches)} launches"
