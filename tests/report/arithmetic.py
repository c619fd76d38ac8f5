"""The numbers of a report computed once more from a store's raw samples, with code of the tests' own.

Intervals and energy are taken from the functions that have tests of their own; all else is plain arithmetic.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

from edgebench import energy
from edgebench.records import Launch, Measurement, Track
from edgebench.statistics import interval_95

MIB = 1024**2
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def is_printed(shown: str, value: float) -> bool:
    """Whether a printed number is the value, rounded at its last digit (of whole numbers at the third)."""
    printed = Decimal(shown)
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent == 0:
        exponent = max(0, len(shown.lstrip("-")) - 3)
    half = Decimal(5).scaleb(exponent - 1)
    return abs(printed - Decimal(value)) <= half * (1 + Decimal("1e-9"))


def printed_numbers(text: str) -> list[str]:
    """The numbers in a cell of the table: one, the two of an interval, or none."""
    return NUMBER.findall(text)


def used(measurement: Measurement) -> list[Launch]:
    """The launches that count."""
    return [
        each
        for each in measurement.launches
        if each.valid and each.samples_ns and not each.before.throttled and not each.after.throttled
    ]


def rank(samples: Sequence[int], percent: int) -> int:
    """The smallest sample that so many percent do not exceed."""
    return sorted(samples)[-(-len(samples) * percent // 100) - 1]


def ranks(measurement: Measurement, percent: int) -> list[int]:
    """The same of every launch that counts."""
    return [rank(each.samples_ns, percent) for each in used(measurement)]


def middle(values: Sequence[int]) -> int:
    """The median in whole units."""
    return math.floor(statistics.median(values))


def expected(one: Measurement, fp32: Measurement | None) -> Mapping[str, Sequence[float]]:
    """By the beginning of a column's heading the numbers that must stand there; `fp32`: to compare with."""
    launches = used(one)
    p50s = ranks(one, 50)
    p50_ns = middle(p50s)
    mean_ns = statistics.fmean(statistics.fmean(each.samples_ns) for each in launches)
    size = one.artifact.size_bytes if one.engine is None else one.engine.size_bytes
    found: dict[str, Sequence[float]] = {
        "p50 ms": [p50_ns / 1e6],
        "95 % of p50 ms": [end / 1e6 for end in interval_95(p50s) or ()],
        "p90 ms": [middle(ranks(one, 90)) / 1e6],
        "p99 ms": [middle(ranks(one, 99)) / 1e6] if min(len(e.samples_ns) for e in launches) >= 100 else [],
        "min ms": [min(min(each.samples_ns) for each in launches) / 1e6],
        "max ms": [max(max(each.samples_ns) for each in launches) / 1e6],
        "mean ms": [mean_ns / 1e6],
        "inputs per s": [one.job.workload.batch * 1e9 / mean_ns],
        "size KiB": [size / 1024],
        "size MiB": [size / MIB],
        "memory MiB": _largest(launches, lambda each: each.memory.peak_bytes),
        "+model MiB": _largest(launches, lambda e: _more(e.memory.runtime_bytes, e.memory.model_bytes)),
        "+runtime MiB": _largest(launches, lambda e: _more(e.memory.start_bytes, e.memory.runtime_bytes)),
        "load ms": [middle([each.load_ns for each in launches if each.load_ns is not None]) / 1e6],
        "first ms": [
            middle([e.first_inference_ns for e in launches if e.first_inference_ns is not None]) / 1e6
        ],
        "launches": [len(launches), max(one.job.workload.launches, len(one.launches))],
        "samples": [sum(len(each.samples_ns) for each in launches)],
    }
    if fp32 is not None:
        found["speed-up ×"] = [middle(ranks(fp32, 50)) / p50_ns]
        found["smaller ×"] = [fp32.artifact.size_bytes / size]
    return found | _of_the_board(launches) | _of_outputs(one)


def _largest(launches: Iterable[Launch], figure: Callable[[Launch], int | None]) -> list[float]:
    known = [value for each in launches if (value := figure(each)) is not None]
    return [max(known) / MIB] if known else []


def _more(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _of_the_board(launches: Sequence[Launch]) -> dict[str, Sequence[float]]:
    tracks = [each.track for each in launches if each.track]
    heat = [track.temperature_max_c for track in tracks if track.temperature_max_c is not None]
    clocks = [_fastest(track) for track in tracks if track.clocks_khz]
    loads = [track.gpu_load.mean for track in tracks if track.gpu_load]
    taken = energy.of_launches(list(launches))
    return {
        "heat °C": [max(heat)] if heat else [],
        "clock MHz": [statistics.fmean(clocks) / 1000] if clocks else [],
        "GPU %": [100 * statistics.fmean(loads)] if loads else [],
        "energy mJ": [taken.net_mj] if taken and taken.net_mj is not None else [],
        "gross mJ": [taken.gross_mj] if taken else [],
    }


def _fastest(track: Track) -> float:
    return max(clock.mean for name, clock in track.clocks_khz.items() if name.startswith("cpu"))


def _of_outputs(one: Measurement) -> dict[str, Sequence[float]]:
    found: dict[str, Sequence[float]] = {
        "parity dB": [min(each.snr_db for each in one.device_parity.outputs)]
    }
    known = one.accuracy
    if known is not None and known.value is not None:
        found["accuracy %"] = [100 * known.value]
        ends = [end for end in (known.low, known.high) if end is not None]
        found["95 % of accuracy %"] = [100 * end for end in ends]
    return found
