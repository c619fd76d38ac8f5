"""One limit of one cell -> its verdict. Pure.

Figures that vary from launch to launch are tested on the logarithms of launch values, against the limit.
Sizes are exact. Peak memory is the largest over the launches, since a memory limit must hold every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from edgebench import comparison
from edgebench.budgets import METRICS, Limit, show
from edgebench.comparison import ALPHA, LEAST_LAUNCHES
from edgebench.gates import duets, plausible
from edgebench.gates.accuracy import loss
from edgebench.gates.base import DeviceNoise, Observed, SessionNoise, Verdict, Word
from edgebench.gates.looks import (
    ONE_SIDE,
    PAIRS,
    Answer,
    Bounds,
    Planned,
    Test,
    interval,
    least_effect,
    look,
    tested,
    told,
)
from edgebench.gates.plausible import MIXED_UNITS
from edgebench.records import replace
from edgebench.units import significant

# below so many samples a launch, no 95 % upper bound of that quantile exists: q^n > 0.05
LEAST_SAMPLES = {
    "latency.p50": 5,
    "latency.p90": 29,
    "latency.p95": 59,
    "latency.p99": 299,
    "throughput": 5,
}
LEAST_MEMORY_LAUNCHES = 3
# Without A/A history: how far sessions of one board may lie apart (standard deviation of each, a logarithm).
# An assumption on the safe side: only a change that no session explains is a failure, and nothing passes.
ASSUMED_SESSION_SD = 0.10
ASSUMED_FREEDOM = 4
SAME_ARTIFACT = "the artifact is the baseline's, byte for byte: there is nothing to compare"
UNITS_HINT = "times are whole nanoseconds, one for each inference, on both sides"
MIN_HINT = f"measure at least {LEAST_LAUNCHES} launches: edgebench run --launches {LEAST_LAUNCHES}"

FIGURES: Mapping[str, Callable[[Observed], list[float | None]]] = {
    "latency.p50": lambda cell: [launch.p50_ns for launch in cell.launches],
    "latency.p90": lambda cell: [launch.p90_ns for launch in cell.launches],
    "latency.p95": lambda cell: [launch.p95_ns for launch in cell.launches],
    "latency.p99": lambda cell: [launch.p99_ns for launch in cell.launches],
    "throughput": lambda cell: [
        cell.batch * 1e9 / launch.mean_ns if launch.mean_ns else None for launch in cell.launches
    ],
    "load_time": lambda cell: [launch.load_ns for launch in cell.launches],
    "first_inference": lambda cell: [launch.first_inference_ns for launch in cell.launches],
    "energy_per_inference": lambda cell: [launch.energy_mj for launch in cell.launches],
}


class Baseline(NamedTuple):
    """What a cell is compared with, what is known of the noise between sessions on its device, and a duet."""

    cell: Observed | None
    noise: DeviceNoise | None = None
    duet: Observed | None = None
    problem: str = ""

    @property
    def session_noise(self) -> SessionNoise | None:
        """What two sessions on the device differ by."""
        return None if self.noise is None else self.noise.session


def judge(limit: Limit, cell: Observed, baseline: Baseline) -> Verdict:
    """The verdict on one limit of one cell."""
    if cell.failure:
        return _verdict(
            limit, cell, "error", f"it was not measured: {cell.failure}", next="see the failure's hint"
        )
    if limit.metric == "artifact_size":
        return _exact(limit, cell, baseline, lambda each: each.artifact_bytes)
    if limit.metric == "parity.snr":
        return _exact(limit, cell, baseline, lambda each: each.parity_snr_db)
    if limit.metric == "accuracy_drop":
        return _accuracy(limit, cell, baseline)
    if not cell.launches:
        reason = f"no launch is valid ({cell.invalid_reason})" if cell.invalid else "there are no launches"
        return _verdict(
            limit, cell, "invalid", reason, next=f"edgebench devices doctor {cell.subject.device}"
        )
    if limit.metric == "memory_peak":
        return _memory(limit, cell, baseline)
    sides = (cell, baseline.cell) if limit.kind == "regress" else (cell,)
    nonsense = _nonsense(limit, sides)
    if nonsense:
        return _verdict(limit, cell, "invalid", nonsense, next=UNITS_HINT)
    if limit.metric == "deadline_misses":
        return _deadlines(limit, cell)
    if limit.kind != "regress":
        return replace(_absolute(limit, cell), **_company(cell))
    return _with_duet(_relative(limit, cell, baseline), limit, cell, baseline)


def _nonsense(limit: Limit, sides: Sequence[Observed | None]) -> str:
    """Why the times behind a limit cannot have been measured, or ""."""
    if not limit.metric.startswith(("latency.", "throughput", "deadline_misses")):
        return ""
    found = [plausible.implausible(side) for side in sides if side is not None]
    return next((each for each in found if each), "")


# --- exact figures --------------------------------------------------------------------------------


def _exact(
    limit: Limit, cell: Observed, baseline: Baseline, figure: Callable[[Observed], float | None]
) -> Verdict:
    value = figure(cell)
    if value is None:
        return _unknown(limit, cell)
    if limit.kind != "regress":
        good = value <= limit.value if limit.kind == "max" else value >= limit.value
        return _decided(limit, cell, good, value)
    before = None if baseline.cell is None else figure(baseline.cell)
    if before is None:
        return _no_baseline(limit, cell, value)
    return _decided_ratio(limit, cell, value, before)


def _memory(limit: Limit, cell: Observed, baseline: Baseline) -> Verdict:
    value = _largest(cell)
    if value is None:
        return _unknown(limit, cell)
    few = min(len(each.launches) for each in (cell, baseline.cell) if each is not None and each.launches)
    if limit.kind == "regress" and identical(cell, baseline.cell):
        return _verdict(limit, cell, "pass", SAME_ARTIFACT, observed=value, launches=len(cell.launches))
    if limit.kind == "regress":
        before = None if baseline.cell is None else _largest(baseline.cell)
        if before is None:
            return _no_baseline(limit, cell, value)
        problem = baseline.problem or differences(cell, baseline.cell)
        if problem:
            return _not_comparable(limit, cell, problem, value)
        found = _decided_ratio(limit, cell, value, before)
    else:
        good = value <= limit.value if limit.kind == "max" else value >= limit.value
        found = _decided(limit, cell, good, value)
    if few < LEAST_MEMORY_LAUNCHES and found.word == "pass":
        launches = "1 launch" if few == 1 else f"{few} launches"
        reason = f"the largest of {launches} says little; {LEAST_MEMORY_LAUNCHES} are the least"
        return _verdict(
            limit,
            cell,
            "inconclusive",
            reason,
            next=MIN_HINT,
            cause="few-launches",
            observed=value,
            baseline=found.baseline,
        )
    return found


def _largest(cell: Observed) -> int | None:
    known = [launch.peak_bytes for launch in cell.launches]
    return None if not known or None in known else max(each for each in known if each is not None)


def _accuracy(limit: Limit, cell: Observed, baseline: Baseline) -> Verdict:
    """By the loss against the model as it was given; of files that know no such, against the baseline's."""
    report = cell.accuracy_report
    if report is not None and report.drop is not None:
        found = loss(report, limit.value, limit.text, at_least=limit.kind == "min")
        return _verdict(
            limit,
            cell,
            found.word,
            found.reason,
            next=found.next,
            observed=report.drop,
            ci_low=report.drop_low,
            ci_high=report.drop_high,
            p_value=found.p_value,
            rule=found.rule,
            launches=len(cell.launches),
        )
    before = None if baseline.cell is None else baseline.cell.accuracy
    if cell.accuracy is None:
        return _unknown(limit, cell)
    if before is None:
        return _no_baseline(limit, cell, cell.accuracy)
    drop = before - cell.accuracy
    good = drop <= limit.value if limit.kind == "max" else drop >= limit.value
    return _decided(limit, cell, good, drop)


# --- figures that vary ----------------------------------------------------------------------------


def _absolute(limit: Limit, cell: Observed) -> Verdict:
    known = known_logs(limit.metric, cell)
    refused = _too_little(limit, cell, _typical(known), [cell])
    if refused is not None or known is None:
        return refused or _unknown(limit, cell)
    sign = -1.0 if limit.kind == "min" else 1.0
    logs = [sign * value for value in known]
    bound = sign * math.log(limit.value)
    bounds = Bounds(bound, cell.alpha, pass_alpha=cell.alpha / 2)  # skewed launches pass too often at alpha
    test = look(logs, bounds, cell.looks, ONE_SIDE)
    low, high = interval(test.estimate)
    ends = sorted((math.exp(sign * low), math.exp(sign * high)))
    found = test.answer
    observed = math.exp(sign * test.estimate.shift)
    return _verdict(
        limit,
        cell,
        found.word,
        _sentence(limit, f"{show(limit.metric, observed)}", ends, test, found),
        next=_next(found, test, limit),
        cause=found.cause,
        observed=observed,
        ci_low=ends[0],
        ci_high=ends[1],
        **told(test, bound),
    )


def _relative(limit: Limit, cell: Observed, baseline: Baseline) -> Verdict:
    now = known_logs(limit.metric, cell)
    typical = _typical(now)
    if identical(cell, baseline.cell):
        return _verdict(limit, cell, "pass", SAME_ARTIFACT, observed=typical, launches=len(cell.launches))
    problem = baseline.problem or differences(cell, baseline.cell)
    if problem:
        return _not_comparable(limit, cell, problem, typical)
    if baseline.cell is None or baseline.cell.failure or not baseline.cell.launches:
        return _no_baseline(limit, cell, typical)
    before = known_logs(limit.metric, baseline.cell)
    refused = _too_little(limit, cell, typical, [cell, baseline.cell])
    if refused is not None or now is None or before is None:
        return refused or _unknown(limit, cell)
    sign = -1.0 if METRICS[limit.metric].more_is_better else 1.0
    bound = -math.log(1 - limit.value) if sign < 0 else math.log(1 + limit.value)
    sides = _Sides(cell, [sign * each for each in now], baseline.cell, [sign * each for each in before])
    test = _compare(sides, bound, baseline.session_noise)
    if test is None:
        reason = f"{len(sides.pairs())} pairs are left; {LEAST_LAUNCHES} are the least"
        return _verdict(
            limit, cell, "inconclusive", reason, next=MIN_HINT, cause="few-launches", observed=typical
        )
    found = _judged_ratio(test, sign, cell, baseline)
    found = _refused_if_too_fine(found, limit, test, baseline)
    verdict = _ratio_verdict(limit, cell, test, found, sign)
    return replace(verdict, observed=typical, baseline=_typical(before), **_company(cell))


def _ratio_verdict(limit: Limit, cell: Observed, test: Test, found: Answer, sign: float = 1.0) -> Verdict:
    """The verdict on a ratio, without the two figures that it is of."""
    low, high = interval(test.estimate)
    ends = sorted((math.exp(sign * low), math.exp(sign * high)))
    ratio = math.exp(sign * test.estimate.shift)
    return _verdict(
        limit,
        cell,
        found.word,
        _sentence(limit, change(ratio), ends, test, found),
        next=_next(found, test, limit),
        cause=found.cause,
        ratio=ratio,
        ci_low=ends[0],
        ci_high=ends[1],
        **told(test),
    )


def _judged_ratio(test: Test, sign: float, cell: Observed, baseline: Baseline) -> Answer:
    """The answer, where the two sides can be compared at all."""
    found, ratio = test.answer, math.exp(sign * test.estimate.shift)
    side_by_side = baseline.cell is not None and baseline.cell.session == cell.session
    if not (1 / MIXED_UNITS < ratio < MIXED_UNITS):
        times = significant(max(ratio, 1 / ratio))
        return Answer("invalid", f"the two sides differ by {times} times: mixed units?")
    if found.word != "fail" and not side_by_side and baseline.session_noise is None:
        why = "the baseline was measured in another session, and this device has no A/A history"
        return Answer("inconclusive", why, "no-history")
    return duets.capped(found, duets.busy_others(cell))


def _refused_if_too_fine(found: Answer, limit: Limit, test: Test, baseline: Baseline) -> Answer:
    """The answer to a limit that the device can resolve.

    Below its noise floor nothing passes, and only what lies beyond the floor fails.
    """
    floor = None if baseline.noise is None else baseline.noise.floor
    times = METRICS[limit.metric].unit in ("time", "per-second")
    if floor is None or not times or limit.value >= floor.least_effect:
        return found
    beyond = test.estimate.lower(test.alpha) > math.log1p(floor.least_effect)
    if found.word not in ("pass", "fail") or (found.word == "fail" and beyond):
        return found
    shown = f"{significant(100 * floor.least_effect, 2)} %"
    why = f"{limit.text} is finer than what {floor.told} can resolve: {shown}"
    return Answer("inconclusive", why, "too-fine")


class _Sides(NamedTuple):
    """A cell and its baseline, and the logarithms of their launches' figures; more is worse."""

    cell: Observed
    now: list[float]
    other: Observed
    before: list[float]

    def pairs(self) -> list[comparison.Pair]:
        """Baseline and candidate of the pairs in which both launches are valid."""
        then = {launch.place: log for launch, log in zip(self.other.launches, self.before, strict=True)}
        beside = zip(self.cell.launches, self.now, strict=True)
        return [(then[launch.place], log) for launch, log in beside if launch.place in then]


def _compare(sides: _Sides, bound: float, noise: SessionNoise | None) -> Test | None:
    """Pairs where both were measured side by side, else Welch with the noise between sessions."""
    if sides.other.session == sides.cell.session:
        pairs = sides.pairs()
        bounds = Bounds(bound, sides.cell.alpha)
        return look(pairs, bounds, sides.cell.looks, PAIRS) if len(pairs) >= LEAST_LAUNCHES else None
    found = comparison.welch(sides.before, sides.now)
    if found is None:
        return None
    between = noise or SessionNoise(variance=2 * ASSUMED_SESSION_SD**2, freedom=ASSUMED_FREEDOM)
    estimate = found.with_variance(between.variance, between.freedom)
    crosscheck = comparison.hodges_lehmann(sides.before, sides.now)
    return tested(estimate, crosscheck, Bounds(bound), Planned(min(len(sides.before), len(sides.now))))


# --- duets ----------------------------------------------------------------------------------------


def _with_duet(verdict: Verdict, limit: Limit, cell: Observed, baseline: Baseline) -> Verdict:
    """What the duet says where separate launches do not decide; a failure of those stands."""
    duet = baseline.duet
    decided = verdict.word not in ("inconclusive", "missing")
    if duet is None or decided or not duets.tells(limit.metric, limit.kind):
        return verdict
    test = duets.test_of(limit, duet)
    if test is None:
        return verdict
    heard = _ratio_verdict(limit, cell, test, duets.answer_of(test, duet, cell, baseline.cell))
    return replace(
        heard,
        design="duet",
        reason=f"duet: {heard.reason}",
        observed=_typical(known_logs(limit.metric, cell)),
        baseline=verdict.baseline,
        **_company(duet),
    )


def _company(cell: Observed) -> dict[str, Any]:
    """What is known of other work on the device meanwhile."""
    known = [launch.foreign_load for launch in cell.launches if launch.foreign_load is not None]
    return {
        "foreign_load": median(known) if known else None,
        "p50_over_p10": duets.p50_over_p10(cell),
    }


def _deadlines(limit: Limit, cell: Observed) -> Verdict:
    """The share of inferences that last longer than a frame; of none missed in N, up to 3/N may be."""
    period_ns = limit.period_ns or 0
    if not all(launch.samples_ns for launch in cell.launches):
        return _unknown(limit, cell)
    shares = [sum(each > period_ns for each in launch.samples_ns) / launch.n for launch in cell.launches]
    total = sum(launch.n for launch in cell.launches)
    found = comparison.one_sample(shares)
    share = math.fsum(shares) / len(shares)
    if found is None or len(shares) < LEAST_LAUNCHES:
        reason = f"{len(shares)} launches; {LEAST_LAUNCHES} are the least"
        return _verdict(
            limit, cell, "inconclusive", reason, next=MIN_HINT, cause="few-launches", observed=share
        )
    low, high = max(0.0, found.lower(ALPHA)), min(1.0, max(found.upper(ALPHA), 3 / total))
    above, below = (
        (low > limit.value, high <= limit.value)
        if limit.kind == "max"
        else (high < limit.value, low >= limit.value)
    )
    word: Word = "fail" if above else "pass" if below else "inconclusive"
    reason = (
        f"{significant(100 * share)} % of {total} inferences are longer than {show('latency.p50', period_ns)}"
    )
    return _verdict(
        limit,
        cell,
        word,
        f"{reason}, limit {limit.text}",
        observed=share,
        ci_low=low,
        ci_high=high,
        rule=found.rule,
        launches=len(shares),
        cause="low-power" if word == "inconclusive" else "",
        next="" if word != "inconclusive" else "more launches make it sharper: edgebench run --launches 20",
    )


# --- comparable -----------------------------------------------------------------------------------


def identical(cell: Observed, baseline: Observed | None) -> bool:
    """Whether a run was to measure both side by side and they are one artifact: then there was nothing to."""
    if baseline is None or baseline.role != "baseline" or baseline.launches:
        return False
    return cell.artifact_digest != "" and cell.artifact_digest == baseline.artifact_digest


def differences(cell: Observed, baseline: Observed | None) -> str:
    """What keeps two cells from being compared, or ""."""
    if baseline is None:
        return ""
    return "; ".join(_told_apart(cell, baseline))


def _told_apart(cell: Observed, baseline: Observed) -> Iterator[str]:
    if cell.batch != baseline.batch:
        yield f"batch {cell.batch} is not batch {baseline.batch}"
    if cell.inputs and baseline.inputs and cell.inputs != baseline.inputs:
        yield f"the inputs are {cell.inputs}, and were {baseline.inputs}"
    if cell.environment == baseline.environment:
        return
    for name in sorted(set(cell.environment) & set(baseline.environment)):
        now, before = cell.environment[name], baseline.environment[name]
        if now != before:
            yield f"{name.replace('_', ' ')} is {now}, and was {before}"


# --- parts ----------------------------------------------------------------------------------------


def known_logs(metric: str, cell: Observed) -> list[float] | None:
    """The logarithm of each launch's figure; None where one does not have it, or it is not above 0."""
    values = FIGURES[metric](cell)
    known = [math.log(value) for value in values if value is not None and value > 0]
    return known if len(known) == len(values) and known else None


def _too_little(
    limit: Limit, cell: Observed, observed: float | None, sides: Sequence[Observed]
) -> Verdict | None:
    """Inconclusive where launches or samples are too few for this figure; None where they are enough."""
    fewest = min(len(side.launches) for side in sides)
    if fewest < LEAST_LAUNCHES:
        launches = "1 valid launch" if fewest == 1 else f"{fewest} valid launches"
        reason = f"{launches}; {LEAST_LAUNCHES} are the least that say anything"
        return _verdict(
            limit, cell, "inconclusive", reason, next=MIN_HINT, cause="few-launches", observed=observed
        )
    least = LEAST_SAMPLES.get(limit.metric, 1)
    samples = min(launch.n for side in sides for launch in side.launches)
    if samples < least:
        reason = (
            f"{samples} samples in a launch; below {least} a {limit.metric.split('.')[-1]} has no upper bound"
        )
        hint = f"edgebench run --min-samples {max(662, least)}"
        return _verdict(
            limit, cell, "inconclusive", reason, next=hint, cause="few-samples", observed=observed
        )
    return None


def _typical(logs: Sequence[float] | None) -> float | None:
    """The geometric mean, of logarithms."""
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def change(ratio: float) -> str:
    """A ratio as a change: "+5.1 %"."""
    percent = 100 * (ratio - 1)
    return f"{'+' if percent >= 0 else '-'}{significant(abs(percent), 2)} %"


def _sentence(limit: Limit, shift: str, ends: Sequence[float], test: Test, found: Answer) -> str:
    if limit.kind == "regress":
        shown = [change(each) for each in ends]
        sign = "-" if METRICS[limit.metric].more_is_better else "+"
        bound = f"limit {sign}{limit.text}"
    else:
        shown = [show(limit.metric, each) for each in ends]
        bound = f"limit {limit.text}"
    text = f"{shift} (95 % interval {shown[0]} to {shown[1]}), {bound}, {test.estimate.n} launches"
    if found.why:
        return f"{text}: {found.why}"
    if found.word == "inconclusive":
        if limit.kind != "regress":
            beyond = change(1 + least_effect(test, test.bound))
            return f"{text}: only {beyond} or more beyond the limit would have been found in 80 % of cases"
        least = change(1 + least_effect(test))
        return f"{text}: only a change of {least} or more would have been found in 80 % of cases"
    return text


def _next(found: Answer, test: Test, limit: Limit) -> str:
    if found.word in ("pass", "fail"):
        return ""
    if found.word == "invalid":
        return UNITS_HINT
    if found.cause == "load-dilution":
        return "stop the other work on the device (edgebench devices doctor shows it), then measure again"
    if found.cause == "duet-refused":
        return "measure separate launches on a quiet device: edgebench run --gate FILE --mode separate"
    if found.cause == "too-fine":
        return "write a limit that the device can resolve, or quiet it and repeat edgebench aa"
    if found.cause == "no-history":
        return "measure candidate and baseline side by side: edgebench run --gate FILE --baseline NAME"
    wanted = (
        test.bound + math.log(1.03)
        if limit.kind == "regress"
        else max(test.estimate.shift, test.bound + 0.03)
    )
    needed = comparison.launches_needed(test.estimate, test.bound, wanted, test.alpha)
    if needed is None or needed > 1000:
        return "the launches differ too much: quiet the device (edgebench devices doctor), then measure again"
    return f"about {max(needed, test.estimate.n + 1)} launches would decide: edgebench run --launches N"


def _decided(limit: Limit, cell: Observed, good: bool, value: float) -> Verdict:
    reason = f"{show(limit.metric, value)}, limit {'at least ' if limit.kind == 'min' else ''}{limit.text}"
    return _verdict(
        limit, cell, "pass" if good else "fail", reason, observed=value, launches=len(cell.launches)
    )


def _decided_ratio(limit: Limit, cell: Observed, value: float, before: float) -> Verdict:
    ratio = value / before if before else math.inf if value else 1.0
    good = ratio <= 1 + limit.value
    told = change(ratio) if math.isfinite(ratio) else "from nothing"
    reason = f"{show(limit.metric, value)} after {show(limit.metric, before)} ({told}), limit +{limit.text}"
    return _verdict(
        limit,
        cell,
        "pass" if good else "fail",
        reason,
        observed=value,
        baseline=before,
        ratio=ratio if math.isfinite(ratio) else None,
        launches=len(cell.launches),
    )


def _unknown(limit: Limit, cell: Observed) -> Verdict:
    reason = f"{limit.metric} is not known of this cell"
    hint = "the device or file does not tell it: leave the limit out for it, or measure it"
    return _verdict(limit, cell, "missing", reason, next=hint)


def _no_baseline(limit: Limit, cell: Observed, value: float | None) -> Verdict:
    hint = "name a baseline that has this cell (--baseline), or give an absolute limit (max)"
    return _verdict(limit, cell, "missing", "no baseline has this cell", next=hint, observed=value)


def _not_comparable(limit: Limit, cell: Observed, problem: str, value: float | None) -> Verdict:
    hint = "measure candidate and baseline side by side: edgebench run --gate"
    return _verdict(limit, cell, "not-comparable", problem, next=hint, observed=value)


def _verdict(limit: Limit, cell: Observed, word: Word, reason: str, **more: Any) -> Verdict:
    return Verdict(
        subject=cell.subject,
        metric=limit.metric,
        kind=limit.kind,
        word=word,
        reason=reason,
        severity=limit.severity,
        limit=limit.value,
        limit_text=limit.text,
        origin=limit.origin,
        **more,
    )
