"""One measurement -> what a page draws of it: launches by quantiles, memory step by step, the board's state.

Raw samples never go into a page: 33 quantiles a launch draw the same line. Figures that anything is judged by
are taken from the samples, never from these. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import numpy as np

from edgebench.records import Launch, Measurement, Record
from edgebench.statistics import percentile_ns, unusable_reason
from edgebench.units import NS_PER_S

QUANTILES = 33  # evenly spaced from the lowest to the highest sample
BUCKETS = 60  # of a time line: the lowest and the highest reading of each


class LaunchLine(Record, frozen=True):
    """One launch: its quantiles in ns, from the lowest sample to the highest.

    `reason`: why it is unusable, or ""; `n` samples; without any there are no quantiles.
    """

    number: int
    n: int
    reason: str = ""
    quantiles_ns: tuple[int, ...] = ()
    p50_ns: int | None = None
    p90_ns: int | None = None
    p99_ns: int | None = None


class Reading(Record, frozen=True):
    """The lowest and the highest reading about one moment, seconds from the first launch's start."""

    at_s: float
    low: float
    high: float


class Span(Record, frozen=True):
    """From when to when a launch ran, and why it was throttled, or ""."""

    number: int
    from_s: float
    to_s: float
    throttled: str = ""


class BoardLine(Record, frozen=True):
    """Temperature and clocks while a measurement ran; one line a launch, so that pauses stay empty."""

    spans: tuple[Span, ...] = ()
    temperature_c: tuple[tuple[Reading, ...], ...] = ()
    clock_mhz: tuple[tuple[Reading, ...], ...] = ()
    clock_name: str = ""


class Step(Record, frozen=True):
    """The resident memory of a launch's process once something was done, bytes."""

    name: str
    bytes: int


class Detail(Record, frozen=True):
    """What is drawn of one measurement."""

    measurement: str
    launches: tuple[LaunchLine, ...]
    ladder: tuple[Step, ...]
    board: BoardLine


def detail(measurement: Measurement) -> Detail:
    """What is drawn of a measurement; of a processor that an emulator stands for, no times."""
    launches = measurement.launches
    return Detail(
        measurement=measurement.id,
        launches=() if measurement.facts.emulated else tuple(map(_launch, launches)),
        ladder=() if measurement.facts.emulated else tuple(_ladder(launches)),
        board=_board(launches),
    )


def _launch(launch: Launch) -> LaunchLine:
    reason = unusable_reason(launch)
    if not launch.samples_ns:
        return LaunchLine(number=launch.number, n=0, reason=reason)
    ordered = np.sort(np.asarray(launch.samples_ns, dtype=np.int64))
    shares = [place / (QUANTILES - 1) for place in range(QUANTILES)]
    return LaunchLine(
        number=launch.number,
        n=len(ordered),
        reason=reason,
        quantiles_ns=tuple(percentile_ns(ordered, share) for share in shares),
        p50_ns=percentile_ns(ordered, 0.5),
        p90_ns=percentile_ns(ordered, 0.9),
        p99_ns=percentile_ns(ordered, 0.99),
    )


def _ladder(launches: Sequence[Launch]) -> Iterator[Step]:
    """The steps of the usable launch that took most memory."""
    usable = [each.memory for each in launches if not unusable_reason(each) and each.memory.peak_bytes]
    if not usable:
        return
    largest = max(usable, key=lambda memory: memory.peak_bytes or 0)
    steps = (
        ("process started", largest.start_bytes),
        ("runtime loaded", largest.runtime_bytes),
        ("model loaded", largest.model_bytes),
        ("first inference", largest.first_inference_bytes),
        ("peak while timed", largest.steady_peak_bytes),
        ("peak of the launch", largest.peak_bytes),
    )
    yield from (Step(name=name, bytes=value) for name, value in steps if value is not None)


# --- the board meanwhile --------------------------------------------------------------------------


def _board(launches: Sequence[Launch]) -> BoardLine:
    starts = _starts(launches)
    clock = _clock_name(launches)
    buckets = max(2, BUCKETS // max(1, len(launches)))
    spans, heat, clocks = [], [], []
    for launch, start_s in zip(launches, starts, strict=True):
        spans.append(_span(launch, start_s))
        heat.append(_bucketed(_temperatures(launch, start_s), buckets))
        clocks.append(_bucketed(_series(launch, clock, start_s, 1e-3), buckets))
    return BoardLine(
        spans=tuple(spans),
        temperature_c=tuple(each for each in heat if each),
        clock_mhz=tuple(each for each in clocks if each),
        clock_name=clock.removeprefix("clock:"),
    )


def _starts(launches: Sequence[Launch]) -> list[float]:
    """When each launch began, seconds after the first; one after the other where their clocks do not tell."""
    times = [_time(launch.started_utc) for launch in launches]
    known = [time for time in times if time is not None]
    if len(known) == len(launches):
        return [time - min(known) for time in known]
    ends = [0.0]
    for launch in launches:
        ends.append(ends[-1] + _length_s(launch))
    return ends[:-1]


def _time(text: str) -> float | None:
    try:
        parsed = datetime.fromisoformat(text)
        return parsed.timestamp() if parsed.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _length_s(launch: Launch) -> float:
    known = (launch.import_ns, launch.load_ns, launch.first_inference_ns)
    told = sum(each for each in known if each) + sum(launch.warmup_ns) + sum(launch.samples_ns)
    watched = max(launch.track.times_s, default=0.0) if launch.track else 0.0
    return max(told / NS_PER_S, watched)


def _span(launch: Launch, start_s: float) -> Span:
    track = launch.track
    reasons = [*launch.after.throttle_now, *(track.throttle_events if track else ())]
    is_throttled = (
        launch.before.throttled or launch.after.throttled or (track is not None and track.throttled)
    )
    told = ", ".join(dict.fromkeys(reasons)) or "throttled"
    return Span(
        number=launch.number,
        from_s=start_s,
        to_s=start_s + _length_s(launch),
        throttled=told if is_throttled else "",
    )


def _temperatures(launch: Launch, start_s: float) -> list[tuple[float, float]]:
    """The sampler's readings; without it those before and after the launch."""
    read = _series(launch, "temperature_c", start_s)
    if read:
        return read
    ends = (start_s, launch.before.temperature_c), (start_s + _length_s(launch), launch.after.temperature_c)
    return [(at_s, value) for at_s, value in ends if value is not None]


def _series(launch: Launch, name: str, start_s: float, factor: float = 1.0) -> list[tuple[float, float]]:
    track = launch.track
    if track is None or name not in track.series:
        return []
    pairs = zip(track.times_s, track.series[name], strict=False)
    return [(start_s + at_s, value * factor) for at_s, value in pairs if value is not None]


def _clock_name(launches: Iterable[Launch]) -> str:
    """The clock to draw: what the firmware measured, else the fastest core's, else the first."""
    means: dict[str, float] = {}
    for launch in launches:
        for name in launch.track.series if launch.track else ():
            if name.startswith("clock:"):
                known = (
                    [value for value in launch.track.series[name] if value is not None]
                    if launch.track
                    else []
                )
                means[name] = max(means.get(name, 0.0), max(known, default=0.0))
    if "clock:arm measured" in means:
        return "clock:arm measured"
    cores = {name: value for name, value in means.items() if name.startswith("clock:cpu")} or means
    return max(sorted(cores), key=lambda name: cores[name], default="")


def _bucketed(readings: Sequence[tuple[float, float]], buckets: int) -> tuple[Reading, ...]:
    """Neighbouring readings together, each with its lowest and highest: a mean would hide throttling."""
    size = max(1, -(-len(readings) // buckets))
    groups = [readings[at : at + size] for at in range(0, len(readings), size)]
    return tuple(
        Reading(
            at_s=group[len(group) // 2][0],
            low=min(value for _, value in group),
            high=max(value for _, value in group),
        )
        for group in groups
    )
