"""The numbers under every chart and in every table of the page, read in Chromium, are the store's.

What the table "Raw numbers" and the matrix show stands in test_numbers.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pytest
from scipy import stats

from edgebench import budgets
from edgebench.cli.paging import Against
from edgebench.records import Job, Launch, Measurement, replace
from edgebench.statistics import interval_95
from tests import browser
from tests.pages.test_browser import CHECKS
from tests.report import pages
from tests.report.arithmetic import MIB, expected, is_printed, printed_numbers, rank, used
from tests.report.fixtures import Example
from tests.report.stored import fill, measurements, page

pytestmark = pytest.mark.xdist_group("browser")


class Table(NamedTuple):
    """One table of the page: the fold it lies in, the chart it belongs to, its words."""

    section: str
    fold: str
    key: str
    title: str
    headings: list[str]
    rows: list[list[str]]


class Seen(NamedTuple):
    """The tables of a page, and what the store holds: of the run, and of its baseline."""

    tables: list[Table]
    now: list[Measurement]
    then: list[Measurement]

    def of(self, section: str, **wanted: str) -> list[Table]:
        """The tables of a section whose field begins with a word."""
        found = [
            each
            for each in self.tables
            if each.section == section
            and all(getattr(each, field).startswith(word) for field, word in wanted.items())
        ]
        assert found, (section, wanted)
        return found

    def named(self, cell: str) -> Measurement:
        """What was measured of the cell that some words begin with."""
        (found,) = (each for each in self.now if cell.startswith(_label(each.job)))
        return found


@pytest.fixture(scope="module")
def seen(chromium: browser.Browser, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    home = tmp_path_factory.mktemp("charts")
    example, profiles = pages.full()
    before = fill(home, _comparable(pages.earlier(example), example))
    run = fill(home, example, profiles)
    rules = budgets.parse(pages.BUDGETS, "budgets.yaml")
    tab = chromium.tab()
    tab.open(page(home, run, Against(rules, before)).as_uri())
    tab.js(CHECKS)
    tables = [Table(*each) for each in tab.js("checks.tables()")]
    return Seen(tables, measurements(home, run), measurements(home, before))


def _comparable(earlier: Example, now: Example) -> Example:
    """The earlier run as if measured with the same kernels and runtimes: all of its metrics are compared."""
    run, made, failures = earlier
    versions = [each.launches[0].runtime_version for each in now[1]]
    same = [
        replace(
            one,
            facts=other.facts,
            launches=tuple(replace(launch, runtime_version=version, session="s0") for launch in one.launches),
        )
        for one, other, version in zip(made, now[1], versions, strict=True)
    ]
    return run, same, failures


def _form(job: Job) -> str:
    """The example's forms: fp32, the same run as fp16, and int8."""
    return job.variant if job.precision in job.variant else f"{job.variant}→{job.precision}"


def _label(job: Job) -> str:
    return f"{job.model} {_form(job)} · {job.runtime} · {job.device}"


def _same(text: str, values: Iterable[float]) -> None:
    numbers, wanted = printed_numbers(text), list(values)
    assert len(numbers) == len(wanted), (text, wanted)
    for number, value in zip(numbers, wanted, strict=True):
        assert is_printed(number, value), (text, number, value)


def _p50s(one: Measurement) -> list[int]:
    return [rank(each.samples_ns, 50) for each in used(one)]


def _typical(one: Measurement, percent: int) -> float:
    """What is tested: the geometric mean of the launches' own quantiles, ns."""
    return math.exp(
        math.fsum(math.log(rank(each.samples_ns, percent)) for each in used(one)) / len(used(one))
    )


def _p50_ns(one: Measurement) -> float:
    return 1e6 * expected(one, None)["p50 ms"][0]


def _ratio(above: Sequence[int], below: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of a ratio of launches' medians, by Welch's t on their logarithms."""
    logs = [[math.log(value) for value in side] for side in (above, below)]
    ends = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    return math.exp(ends.low), math.exp(ends.high)


def test_latency_launch_by_launch(seen: Seen) -> None:
    drawn = seen.of("measurements", key="c-lat")
    for table in drawn:
        launches = seen.named(table.fold).launches
        assert [row[0] for row in table.rows] == [str(each.number) for each in launches]
        for row, launch in zip(table.rows, launches, strict=True):
            taken = launch.samples_ns
            times = (min(taken), rank(taken, 50), rank(taken, 90), rank(taken, 99), max(taken))
            for text, value in zip(row[1:7], (len(taken), *(each / 1e6 for each in times)), strict=True):
                _same(text, [value])
            assert row[7].startswith("yes" if launch.valid else "no: throttled")
    assert {row[7] for table in drawn for row in table.rows} == {"yes", "no: throttled: frequency capped"}


def test_memory_step_by_step(seen: Seen) -> None:
    for table in seen.of("measurements", key="c-mem"):
        known = max(
            (each.memory for each in used(seen.named(table.fold))), key=lambda each: each.peak_bytes or 0
        )
        steps = {
            "process started": known.start_bytes,
            "runtime loaded": known.runtime_bytes,
            "model loaded": known.model_bytes,
            "first inference": known.first_inference_bytes,
            "peak while timed": known.steady_peak_bytes,
            "peak of the launch": known.peak_bytes,
        }
        assert [row[0] for row in table.rows] == [name for name, value in steps.items() if value is not None]
        for name, text in table.rows:
            _same(text, [(steps[name] or 0) / MIB])


def test_the_board_meanwhile(seen: Seen) -> None:
    for table in seen.of("measurements", key="c-time"):
        launches = seen.named(table.fold).launches
        heat, clock = "temperature, °C", "clock cpu0, MHz"
        wanted = [(heat, _readings(each, "temperature_c", 1.0)) for each in launches]
        wanted += [(clock, _readings(each, "clock:cpu0", 1e-3)) for each in launches]
        assert [row[1] for row in table.rows] == [what for what, _ in wanted]
        for (_, _, low, high), (_, values) in zip(table.rows, wanted, strict=True):
            _same(low, [min(values)])
            _same(high, [max(values)])


def _readings(launch: Launch, name: str, factor: float) -> list[float]:
    assert launch.track is not None
    return [factor * value for value in launch.track.series[name] if value is not None]


def test_where_the_time_goes(seen: Seen) -> None:
    (table,) = seen.of("measurements", key="c-layers")
    profile = pages.profile()
    slowest = sorted(profile.layers, key=lambda each: -each.mean_ns)
    assert profile.total_ns is not None
    rest = sum(each.mean_ns for each in slowest[20:])
    between = profile.total_ns - sum(each.mean_ns for each in slowest)
    wanted = [*(each.mean_ns for each in slowest[:20]), rest, *([between] if between > 0 else [])]
    assert [row[0] for row in table.rows[:20]] == [each.name for each in slowest[:20]]
    for row, value in zip(table.rows, wanted, strict=True):
        _same(row[3], [value / 1e6])
        _same(row[4], [100 * value / profile.total_ns])


def test_the_fronts(seen: Seen) -> None:
    found = []
    for table in seen.of("fronts", key="c-front"):
        model, device = table.title.split(" on ")
        assert table.headings[1:] == ["accuracy, %", "p50, ms", "p99, ms", "size", "memory", "on the front"]
        for row in table.rows:
            form, runtime = row[0].split(" on ")
            one = seen.named(f"{model} {form} · {runtime} · {device}")
            _figures(row, one)
            found.append(one.id)
    assert len(found) == len(set(found)) > 10


def _figures(row: Sequence[str], one: Measurement) -> None:
    wanted = expected(one, None)
    _same(row[1], [*wanted["accuracy %"], *wanted["95 % of accuracy %"]])
    for text, percent in ((row[2], 50), (row[3], 99)):
        by_launch = [rank(each.samples_ns, percent) for each in used(one)]
        ends = interval_95(by_launch) or ()
        _same(text, [value / 1e6 for value in (sorted(by_launch)[len(by_launch) // 2], *ends)])
    size, memory = wanted["size KiB"][0], wanted["memory MiB"][0]
    assert row[4].endswith(" KiB")
    assert row[5].endswith(" MiB")
    _same(row[4], [size])
    _same(row[5], [memory])


def test_the_gain_of_int8(seen: Seen) -> None:
    (table,) = seen.of("gain")
    assert len(table.rows) == sum(each.job.precision == "int8" for each in seen.now)
    for row in table.rows:
        int8 = seen.named(row[0])
        fp32 = seen.named(row[0].replace("int8-static", "fp32"))
        _same(row[1], [_p50_ns(fp32) / _p50_ns(int8)])
        if len(used(int8)) > 1:
            low, high = _ratio(_p50s(fp32), _p50s(int8))
            _same(row[2], [low])
            _same(row[3], [high])
        else:
            assert row[2:4] == ["-", "-"]
        _same(row[4], [fp32.artifact.size_bytes / int8.artifact.size_bytes])


def test_the_forest_against_the_baseline(seen: Seen) -> None:
    (table,) = seen.of("comparison", key="c-forest")
    assert len(table.rows) == len(seen.now) == len(seen.then)
    for row in table.rows:
        one = seen.named(row[0])
        other = _then(seen, one)
        _same(row[1], [_typical(one, 50) / _typical(other, 50)])
        if len(used(one)) > 1:
            for text, value in zip(row[2:4], _ratio(_p50s(one), _p50s(other)), strict=True):
                _same(text, [value])
        else:
            assert row[2:4] == ["-", "-"]


def _then(seen: Seen, one: Measurement) -> Measurement:
    (found,) = (each for each in seen.then if each.job == one.job)
    return found


def test_every_metric_against_the_baseline(seen: Seen) -> None:
    (table,) = seen.of("comparison", fold="Every metric")
    compared: dict[str, int] = {}
    for cell, metric, before, now, ratio, *_ in table.rows:
        one = seen.named(cell)
        values = [_of_metric(metric, each) for each in (_then(seen, one), one)]
        if values == [None, None]:
            continue
        old, new = (value for value in values if value is not None)
        for text, value in ((before, old), (now, new)):
            number, _, unit = text.partition(" ")
            assert is_printed(number, value / UNITS[unit]), (cell, metric, text, value)
        _same(ratio, [new / old])
        compared[metric] = compared.get(metric, 0) + 1
    assert compared.keys() >= {"latency.p50", "latency.p90", "memory_peak", "artifact_size"}


UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "B": 1, "KiB": 1024, "MiB": MIB}


def _of_metric(metric: str, one: Measurement) -> float | None:
    """What is compared of a metric, in ns or bytes; None for those that are not computed here."""
    if metric.startswith("latency.p"):
        return _typical(one, int(metric.removeprefix("latency.p")))
    if metric == "memory_peak":
        return MIB * expected(one, None)["memory MiB"][0]
    return float(one.artifact.size_bytes) if metric == "artifact_size" else None


def test_the_verdicts(seen: Seen) -> None:
    (table,) = seen.of("gate")
    for _, cell, bound, shown, reason in table.rows:
        if shown == "-" or not bound.startswith("latency.p50"):
            continue
        one = seen.named(cell)
        number, _, unit = shown.partition(" ")
        assert is_printed(number, _typical(one, 50) / UNITS[unit]), (cell, shown)
        ends = interval_95(_p50s(one))
        if ends is not None and " 95 % interval " in reason:
            told = reason.split("95 % interval ")[1].split(")")[0].split(" to ")
            for text, value in zip(told, ends, strict=True):
                number, _, unit = text.partition(" ")
                assert is_printed(number, value / UNITS[unit]), (cell, reason)


def test_the_claims(seen: Seen) -> None:
    (table,) = seen.of("claims")
    told = 0
    for claim, where, _, found in table.rows:
        model, runtime, device = where.split(" · ")
        int8 = seen.named(f"{model} int8-static · {runtime} · {device}")
        fp32 = seen.named(f"{model} fp32 · {runtime} · {device}")
        if "smaller" in claim:
            assert is_printed(printed_numbers(found)[0], fp32.artifact.size_bytes / int8.artifact.size_bytes)
        elif len(used(int8)) > 1:
            _same(
                found.replace("95 % interval", ""),
                [_p50_ns(fp32) / _p50_ns(int8), *_ratio(_p50s(fp32), _p50s(int8))],
            )
        else:
            continue
        told += 1
    assert told > 8


def test_the_parity(seen: Seen) -> None:
    (table,) = seen.of("parity")
    proofs = [(each, parity) for each in seen.now for parity in (each.controller_parity, each.device_parity)]
    assert len(table.rows) == len(proofs)
    for row in table.rows:
        one = seen.named(row[0])
        parity = one.controller_parity if row[1] == "controller" else one.device_parity
        worst = min(parity.outputs, key=lambda each: each.snr_db)
        assert row[2] == worst.name
        bound = worst.bound or parity.bound
        wanted = (worst.snr_db, worst.max_abs, worst.cosine, bound.min_snr_db)
        for text, value in zip(row[3:7], wanted, strict=True):
            _same(text, [value])


def test_the_trends(seen: Seen) -> None:
    seen_metrics = set()
    for table in seen.of("trends", key="c-trend"):
        metric, _, unit = table.headings[2].partition(", ")
        seen_metrics.add(metric)
        one = seen.named(table.title)
        values = [_in_unit(metric, unit, each) for each in (_then(seen, one), one)]
        assert len(table.rows) == 2
        for row, value in zip(table.rows, values, strict=True):
            if value is not None:
                _same(row[2], [value])
    assert seen_metrics >= {"latency.p50", "latency.p99", "memory_peak", "artifact_size"}


def _in_unit(metric: str, unit: str, one: Measurement) -> float | None:
    known = {"latency.p50": "p50 ms", "latency.p99": "p99 ms"}
    if metric in known:
        found = expected(one, None)[known[metric]]
        return found[0] if found else None
    value = _of_metric(metric, one)
    return None if value is None else value / UNITS[unit]


def test_no_table_with_numbers_was_left_out(seen: Seen) -> None:
    """Of words are the failures, the environment, the warnings and the legend."""
    read = {"gate", "comparison", "measurements", "fronts", "gain", "claims", "parity", "trends"}
    assert {each.section for each in seen.tables} - read == {"failures", "environment", "warnings", "legend"}
