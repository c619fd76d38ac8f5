"""A board must run a known tiny model rightly, and as quickly as before, or the run leaves it alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import ConfigError
from edgebench.fleet.engine import Engine
from edgebench.health import LEAST_CHECKS, LEAST_RATIO, band, judged
from edgebench.pipeline import Prepared, Step, health_cell, prepare
from edgebench.pipeline.examining import WORKLOAD
from edgebench.records import HealthCheck, Limits, replace
from edgebench.store import Store, sqlite_url
from edgebench.targets import parse
from tests.commands import DIGITS, QUICK, Cli
from tests.fleet.boards import assert_clean, entry, write_inventory
from tests.fleet.netns import FleetDevice
from tests.fleet.recorded import Bench, unreachable

CHECK = HealthCheck(
    device="nano",
    run="r",
    checked_utc="2026-11-25T18:00:00Z",
    runtime="replay",
    subject="edgebench-health 1",
    passed=True,
    p10_ns=1000,
)


def checks(*p10s_ns: int) -> list[HealthCheck]:
    return [replace(CHECK, p10_ns=each) for each in p10s_ns]


# --- the band ------------------------------------------------------------------------------------


def test_the_first_checks_are_only_recorded() -> None:
    for known in range(LEAST_CHECKS):
        assert band(CHECK, checks(*[1000] * known), Limits()) is None
        assert judged(replace(CHECK, p10_ns=10**9), checks(*[1000] * known), Limits()).passed


def test_the_band_is_around_the_median() -> None:
    found = band(CHECK, checks(990, 1000, 1010, 5000), Limits())
    assert found is not None
    assert found.low_ns < 990
    assert 1010 < found.high_ns < 1500


@pytest.mark.parametrize(
    ("p10_ns", "passed"), [(1000, True), (1300, True), (800, True), (1500, False), (600, False)]
)
def test_outside_of_the_band_a_check_fails(p10_ns: int, passed: bool) -> None:
    got = judged(replace(CHECK, p10_ns=p10_ns), checks(*[1000] * 5), Limits())
    assert got.passed is passed
    assert got.low_ns == 1000 / LEAST_RATIO
    if not passed:
        assert "than its band 0.000741 to 0.00135 ms (from 5 earlier checks)" in got.reason
        assert ("slower" if p10_ns > 1000 else "faster") in got.reason


def test_only_what_is_comparable_makes_a_band() -> None:
    others = [
        *[replace(each, subject="another runtime") for each in checks(*[10] * 5)],
        *[replace(each, passed=False) for each in checks(*[10] * 5)],
        *[replace(each, foreign_load=1.0) for each in checks(*[10] * 5)],
        *[replace(each, p10_ns=None) for each in checks(*[10] * 5)],
    ]
    assert band(CHECK, others, Limits()) is None


def test_a_busy_board_says_nothing_of_its_health() -> None:
    busy = replace(CHECK, p10_ns=10**6, foreign_load=0.9)
    assert judged(busy, checks(*[1000] * 5), Limits()) == busy


def test_a_target_may_fix_the_band() -> None:
    limits = Limits(health_low_ms=1.0, health_high_ms=2.0)
    assert judged(replace(CHECK, p10_ns=1_500_000), [], limits).passed
    wrong = judged(replace(CHECK, p10_ns=2_500_000), checks(*[2_500_000] * 9), limits)
    assert not wrong.passed
    assert "band 1.00 to 2.00 ms (set by its target)" in wrong.reason


@given(st.lists(st.integers(1, 10**9), min_size=LEAST_CHECKS, max_size=30))
def test_a_band_holds_its_median_and_is_never_everything(p10s_ns: list[int]) -> None:
    found = band(CHECK, checks(*p10s_ns), Limits())
    assert found is not None
    middle = float(np.median(p10s_ns[:20]))
    assert found.low_ns < middle < found.high_ns <= 3.001 * middle


TARGET_TEXT = (Path(__file__).parents[2] / "targets" / "linux-x86_64.yaml").read_text()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("health_low_ms: 1", "belong together"),
        ("health_high_ms: 1", "belong together"),
        ("health_low_ms: 3\n  health_high_ms: 2", "not below"),
        ("health_low_ms: 0\n  health_high_ms: 2", "health_low_ms is 0"),
    ],
)
def test_a_wrong_band_of_a_target_is_refused(limits: str, told: str) -> None:
    lines = [
        line
        for line in TARGET_TEXT.splitlines()
        if not line.startswith(("limits:", "  max_temperature_c", "  memory_mib", "  max_foreign"))
    ]
    with pytest.raises(ConfigError, match=told):
        parse("\n".join([*lines, "limits:", f"  {limits}"]) + "\n", "linux-x86_64.yaml")


# --- the tiny model ------------------------------------------------------------------------------


def test_the_tiny_model_is_the_same_each_time_and_goes_the_usual_way(lab: Bench, tmp_path: Path) -> None:
    target = lab.targets["linux-x86_64"]
    cell = health_cell(target, {"ncnn", "onnxruntime"}, lab.bench.home)
    assert cell is not None
    assert cell.runtime == "onnxruntime"
    other = health_cell(target, set(), tmp_path)
    assert other is not None
    assert Path(other.model_path).read_bytes() == Path(cell.model_path).read_bytes()
    onnx.checker.check_model(onnx.load(cell.model_path), full_check=True)
    assert prepare(cell, lab.bench).parity.passed
    assert WORKLOAD.launches == 1
    assert WORKLOAD.max_warmup_s + WORKLOAD.max_duration_s < 5


def test_it_runs_in_what_the_jobs_use_anyway(lab: Bench) -> None:
    target = lab.targets["linux-x86_64"]
    cell = health_cell(target, {"ncnn"}, lab.bench.home)
    assert cell is not None
    assert cell.runtime == "ncnn"
    nothing = replace(target, runtimes={"tensorrt": target.runtimes["onnxruntime"]})
    assert health_cell(nothing, {"tensorrt"}, lab.bench.home) is None


# --- what a run does with it ---------------------------------------------------------------------


def measured(lab: Bench, health: Prepared, *names: str, each: int = 2) -> Engine:
    return lab.run(lab.jobs(*names, each=each), *names, health=dict.fromkeys(names, health))


def broken(lab: Bench, folder: Path) -> Prepared:
    """The recording of a board that computes something else."""
    folder.mkdir()
    record = json.loads((lab.bench.artifacts.path(lab.prepared.artifact.digest) / "replay.json").read_text())
    for outputs in record["outputs"]:
        name = outputs["logits"]
        right = np.load(lab.bench.artifacts.path(lab.prepared.artifact.digest) / name)
        np.save(folder / name, right[:, ::-1])
    (folder / "replay.json").write_text(json.dumps(record))
    artifact = lab.bench.artifacts.put(folder, replace(lab.prepared.artifact, key=str(folder)))
    return lab.prepared._replace(conversion=lab.prepared.conversion._replace(artifact=artifact))


def remember(lab: Bench, *p10s_ns: int) -> None:
    """Earlier checks of the board nano, like the one it has."""
    known = lab.store.health_checks("nano")[0]
    for p10_ns in p10s_ns:
        lab.store.add_health_check(replace(known, p10_ns=p10_ns))


def test_a_healthy_board_is_checked_once_in_a_run_and_measured(lab: Bench) -> None:
    measured(lab, lab.health, "nano", each=3)
    (check,) = lab.store.health_checks("nano")
    assert check.passed
    assert check.p10_ns == 7_000_000
    assert "replay recorded" in check.subject
    assert len(lab.store.measurements(lab.store.run().id)) == 3


def test_a_board_outside_of_its_band_is_quarantined_and_the_others_go_on(lab: Bench) -> None:
    ready = lab.jobs("nano", "pi5", each=2)
    alike = [each for each in ready if each.job.device == "nano"]
    lab.run(alike[:1], "nano", health={"nano": lab.health})
    remember(lab, *[100_000_000] * 5)
    health = dict.fromkeys(("nano", "pi5"), lab.health)
    lab.run([each for each in ready if each not in alike[:1]], "nano", "pi5", health=health)
    (failure,) = lab.store.failures(lab.store.run().id)
    assert (failure.owner, failure.stage, failure.exit_code) == ("device", "health", 4)
    assert "nano: quarantined for this run: the known tiny model took 7.00 ms" in failure.message
    assert "faster than its band" in failure.message
    assert "edgebench devices doctor nano" in failure.hint
    last = lab.store.health_checks("nano")[0]
    assert not last.passed
    assert len(lab.store.measurements(lab.store.run().id)) == 3


def test_a_quarantine_by_a_run_ends_with_a_check_that_passes(lab: Bench) -> None:
    ready = lab.jobs("nano", each=3)
    lab.run(ready[:1], "nano", health={"nano": lab.health})
    remember(lab, *[100_000_000] * 5)
    lab.run(ready[1:2], "nano", health={"nano": lab.health})
    assert len(lab.store.failures(lab.store.run().id)) == 1
    remember_again = [
        7_000_000
    ] * 15  # the board was given a new cooler, say: many checks agree on another band
    known = next(each for each in lab.store.health_checks("nano") if each.passed)
    for p10_ns in remember_again:
        lab.store.add_health_check(replace(known, p10_ns=p10_ns))
    lab.store.add_health_check(replace(known, passed=False, reason="it was slow", run="earlier"))
    lab.run(ready[2:], "nano", health={"nano": lab.health})
    assert lab.store.health_checks("nano")[0].passed
    notes = [step.note for step in lab.told("health check") if step.what == "once more"]
    assert notes == ["it failed the last one, in run earlier: it was slow"]
    assert len(lab.store.measurements(lab.store.run().id)) == 2


def test_a_board_that_computes_something_else_is_quarantined(lab: Bench, tmp_path: Path) -> None:
    measured(lab, broken(lab, tmp_path / "wrong"), "nano", each=3)
    found = lab.store.failures(lab.store.run().id)
    assert len(found) == 3
    assert {each.message for each in found} == {found[0].message}
    assert "the known tiny model computes something else: output" in found[0].message
    assert lab.store.measurements(lab.store.run().id) == ()
    (check,) = lab.store.health_checks("nano")
    assert (check.passed, check.p10_ns) == (False, None)


def test_without_a_check_a_board_is_measured_all_the_same(lab: Bench) -> None:
    lab.run(lab.jobs("nano"), "nano")
    assert lab.store.health_checks("nano") == ()
    assert len(lab.store.measurements(lab.store.run().id)) == 1


def test_a_link_that_drops_in_the_check_is_no_verdict(lab: Bench) -> None:
    tries: list[str] = []

    def once(name: str) -> None:
        tries.append(name)
        if len(tries) == 1:
            raise unreachable(name)

    lab.before_opening = once
    measured(lab, lab.health, "nano", each=1)
    assert len(lab.store.health_checks("nano")) == 1
    assert len(lab.store.measurements(lab.store.run().id)) == 1


def test_after_a_measurement_without_a_valid_launch_the_board_is_looked_at(lab: Bench) -> None:
    """Its other jobs are spared when it is the board."""
    lab.targets["linux-x86_64"] = replace(lab.targets["linux-x86_64"], limits=Limits(memory_mib=1))

    def grow_slow(step: Step) -> None:
        lab.steps.append(step)
        if step.stage == "invalid" and len(lab.told("invalid")) == 2:
            remember(lab, *[100_000_000] * 9)

    ready = lab.jobs("nano", each=4)
    lab.bench.announce = grow_slow
    lab.run(ready, "nano", health={"nano": lab.health})
    run = lab.store.run()
    assert [each.status for each in lab.store.measurements(run.id)] == ["invalid", "invalid"]
    found = lab.store.failures(run.id)
    assert [each.job.model for each in found] == ["digits-2", "digits-3"]
    assert all("quarantined for this run" in each.message for each in found)


@pytest.mark.fleet
def test_a_board_over_ssh_is_checked_before_its_first_job(
    cli: Cli, board: FleetDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEBENCH_HEALTH_CHECK")
    write_inventory(cli, entry("checked-board", board))
    for _ in range(2):
        cli("run", DIGITS, "--to", "onnxruntime", *QUICK)
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        checks = store.health_checks("checked-board")
    assert len(checks) == 2
    assert len({each.subject for each in checks}) == 1
    for check in checks:
        assert check.passed
        assert check.p10_ns is not None
        assert 1_000 < check.p10_ns < 1_000_000_000
    assert_clean(board)
