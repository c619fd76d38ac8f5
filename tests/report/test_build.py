"""Rows, ratios, counts and device sheets, made from measurements and failures."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgebench.records import Measurement, Workload, replace, to_json
from edgebench.report import markdown, terminal
from edgebench.report.base import Report, Row, grouped
from edgebench.report.build import build, planned_jobs
from tests.report import fixtures
from tests.report.fixtures import job, measurement, powered


def _row(report: Report, **wanted: str) -> Row:
    (found,) = [
        row for row in report.rows if all(getattr(row.job, key) == value for key, value in wanted.items())
    ]
    return found


def test_every_planned_job_is_counted_once() -> None:
    counts = build(*fixtures.troubled()).counts
    parts = (counts.ok, counts.partial, counts.invalid, counts.emulated, counts.failed, counts.missing)
    assert parts == (5, 2, 1, 1, 2, 1)
    assert counts.planned == sum(parts)


def test_the_order_does_not_depend_on_the_order_of_arrival() -> None:
    run, measurements, failures = fixtures.troubled()
    expected = build(run, measurements, failures)
    random.Random(5).shuffle(measurements)
    assert build(run, measurements, list(reversed(failures))) == expected
    first = [(row.job.runtime, row.job.precision, row.job.variant) for row in expected.rows[:5]]
    assert first == [
        ("ncnn", "fp32", "fp32"),
        ("ncnn", "fp16", "fp32"),
        ("onnxruntime", "fp32", "fp32"),
        ("onnxruntime", "fp32", "pruned-50"),
        ("onnxruntime", "int8", "int8-static"),
    ]


def test_a_job_that_was_never_reached_is_missing_not_gone() -> None:
    run, measurements, failures = fixtures.troubled()
    (missing,) = build(run, measurements, failures).missing
    assert (missing.model, missing.variant, missing.device) == ("mobilenet-v2", "int8-static", "local")


@pytest.mark.parametrize(
    "plan", [{}, {"jobs": "none"}, {"jobs": [{"model": 3}]}, {"jobs": [3]}, {"jobs": None}]
)
def test_a_plan_without_jobs_has_no_missing_jobs(plan: dict[str, Any]) -> None:
    assert planned_jobs(replace(fixtures.run(), plan=plan)) == []


def test_a_plan_may_hold_more_than_the_jobs() -> None:
    cell = job()
    plan = {"jobs": [{"job": to_json(cell), "model": {"path": "m.onnx"}, "precision": None}]}
    assert planned_jobs(replace(fixtures.run(), plan=plan)) == [cell]


def test_ratios_are_against_fp32_on_the_same_device_and_runtime() -> None:
    measured = [
        measurement(job(), samples=([400] * 700,) * 5, size_bytes=400),
        measurement(job(variant="int8-static", precision="int8"), samples=([100] * 700,) * 5, size_bytes=110),
        measurement(job(runtime="ncnn", precision="fp16"), samples=([50] * 700,) * 5, size_bytes=10),
    ]
    report = build(fixtures.run(), measured, [])
    int8 = _row(report, variant="int8-static")
    assert (int8.speedup, int8.size_ratio) == (4.0, pytest.approx(400 / 110))
    assert _row(report, precision="fp32").speedup == 1.0
    alone = _row(report, runtime="ncnn")
    assert (alone.speedup, alone.size_ratio) == (None, None)


def test_two_references_are_none() -> None:
    measured = [measurement(job()), replace(measurement(job()), id="again")]
    assert {row.speedup for row in build(fixtures.run(), measured, []).rows} == {None}


def test_another_batch_or_thread_count_is_no_reference() -> None:
    other = replace(job(precision="fp16"), workload=Workload(threads=1))
    report = build(fixtures.run(), [measurement(job()), measurement(other)], [])
    assert _row(report, precision="fp16").speedup is None


def test_an_unusable_reference_gives_a_size_but_no_speed() -> None:
    run, measurements, failures = fixtures.troubled()
    invalid = _row(build(run, measurements, failures), device="zero-01", runtime="onnxruntime")
    assert (invalid.status, invalid.size_ratio, invalid.speedup) == ("invalid", 1.0, None)


def test_status_follows_the_usable_launches() -> None:
    def status(**changes: Any) -> str:
        made = replace(measurement(job(), samples=([10] * 700,) * 5), **changes)
        return build(fixtures.run(), [made], []).rows[0].status

    whole = measurement(job(), samples=([10] * 700,) * 5)
    spoilt = replace(whole.launches[0], valid=False, invalid_reason="hot")
    assert status() == "ok"
    assert status(status="partial") == "partial"
    assert status(status="invalid") == "invalid"
    assert status(launches=whole.launches[:3]) == "partial"
    assert status(launches=(spoilt, *whole.launches[1:])) == "partial"
    assert status(launches=(spoilt,)) == "invalid"
    assert status(launches=()) == "invalid"
    assert status(facts=replace(whole.facts, emulated=True)) == "emulated"
    assert status(facts=replace(whole.facts, emulated=None)) == "ok"


def test_unusable_launches_are_told_by_reason() -> None:
    whole = measurement(job(), samples=([10] * 700,) * 5)
    hot = [replace(one, valid=False, invalid_reason="too hot") for one in whole.launches[:2]]
    row = build(fixtures.run(), [replace(whole, launches=(*hot, *whole.launches[2:]))], []).rows[0]
    assert row.unusable == ("2 of 5 launches: too hot",)
    none = build(fixtures.run(), [replace(whole, launches=())], []).rows[0]
    assert none.unusable == ("no launch came to its end",)


def test_a_device_sheet_shows_runtimes_governors_and_the_temperature_range() -> None:
    sheets = build(*fixtures.calm()).devices
    assert [sheet.device for sheet in sheets] == ["pi5-01", "zero-01"]
    sheet = sheets[0]
    assert sheet.runtimes == {"ncnn": "1.0.20250503", "onnxruntime": "1.22.1"}
    assert (sheet.governors, sheet.temperature_before_c, sheet.temperature_after_c) == (
        ("performance",),
        52.0,
        55.0,
    )


def test_failures_only_and_nothing_at_all() -> None:
    run, _, failures = fixtures.troubled()
    report = build(fixtures.run(), [], failures)
    assert (report.rows, report.counts.failed, report.counts.planned) == ((), 2, 2)
    assert build(fixtures.run(), [], []).counts.planned == 0
    assert build(run, [], []).counts.missing == 12


def test_a_failure_that_meets_many_jobs_is_said_once() -> None:
    jobs = [job(device=name) for name in ("a", "b", "c", "d")]
    same = [fixtures.failure(each, "model", "prepare", "operator Foo", "export without Foo") for each in jobs]
    other = fixtures.failure(jobs[0], "device", "measure", "a: gone", "look at it")
    said = grouped([*same, other])
    assert [(first.message, len(concern.jobs)) for first, concern in said] == [
        ("operator Foo", 4),
        ("a: gone", 1),
    ]
    assert said[0][1].who().endswith("; and 1 more")


# --- heat, clocks, energy -------------------------------------------------------------------------


def report_of(*measurements: Measurement) -> Report:
    return build(fixtures.run([one.job for one in measurements]), list(measurements), [])


def test_energy_heat_and_clock_are_shown_where_they_are_known() -> None:
    report = report_of(powered())
    (row,) = report.rows
    assert row.energy is not None
    assert row.energy.gross_mj == pytest.approx(28.0)
    assert row.energy.net_mj == pytest.approx(16.0)
    assert (row.temperature_max_c, row.clock_khz, row.gpu_load) == (61.5, 2.4e6, 0.953)
    for shown in (terminal.render(report, width=250, colour=False), markdown.render(report)):
        for text in ("energy", "gross", "16.0", "28.0", "heat", "62", "clock", "2400", "GPU", "95"):
            assert text in shown
        assert "launch 2: 3 over-current events" in shown


def test_columns_that_no_row_fills_are_not_there() -> None:
    plain = terminal.render(report_of(measurement()), width=250, colour=False)
    warm = terminal.render(report_of(powered(rails=False)), width=250, colour=False)
    for text in ("energy", "gross", "heat", "GPU", "clock"):
        assert text not in plain
    assert "heat" in warm
    assert "energy" not in warm


def test_an_invalid_measurement_has_no_energy() -> None:
    one = powered()
    spoilt = tuple(replace(each, valid=False, invalid_reason="81 °C") for each in one.launches)
    report = report_of(replace(one, launches=spoilt, status="invalid"))
    (row,) = report.rows
    assert (row.energy, row.temperature_max_c, row.clock_khz, row.gpu_load) == (None, None, None, None)
    assert "3 of 3 launches: 81 °C" in terminal.render(report, width=120, colour=False)
