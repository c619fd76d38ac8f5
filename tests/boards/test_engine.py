"""Devices side by side, one job at a time on each; what fails on one holds up no other."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import DeviceBusy, DeviceError, Interrupted, ModelError, RuntimeDied
from edgebench.fleet.base import Options, Retries
from edgebench.fleet.engine import Engine
from edgebench.records import Failure, replace
from edgebench.report.build import build
from tests.fleet.recorded import RUN, SOON, Bench, unreachable

MANY = tuple(f"board-{number:02d}" for number in range(1, 21))


def failures(lab: Bench) -> dict[tuple[str, str], Failure]:
    return {(each.job.device, each.job.model): each for each in lab.store.failures(RUN)}


def counted(lab: Bench) -> dict[str, int]:
    """The report's counts; they add up to the plan."""
    run = lab.store.run(RUN)
    counts = build(run, lab.store.measurements(RUN), lab.store.failures(RUN)).counts
    parts = {
        "ok": counts.ok,
        "partial": counts.partial,
        "invalid": counts.invalid,
        "emulated": counts.emulated,
        "failed": counts.failed,
        "refused": counts.refused,
        "missing": counts.missing,
    }
    assert sum(parts.values()) == counts.planned == len(run.plan["jobs"])
    assert sum(counts.failed_by.values()) == counts.failed
    return {name: count for name, count in parts.items() if count}


# --- order and parallelism -----------------------------------------------------------------------


def test_twenty_devices_do_all_their_jobs_one_at_a_time_each(lab: Bench) -> None:
    lab.run(lab.jobs(*MANY, each=2), *MANY, max_devices=4)
    assert counted(lab) == {"ok": 40}
    assert Counter(lab.opened) == dict.fromkeys(MANY, 1)  # one lease for all jobs of a device
    assert 2 <= lab.most_open <= 4
    assert lab.open_now == []
    for name in MANY:
        launches = [step.what for step in lab.told("launched", name)]
        assert launches == ["digits-0 fp32 on replay"] * 2 + ["digits-1 fp32 on replay"] * 2


def test_a_device_at_a_time_is_one_after_the_other(lab: Bench) -> None:
    names = MANY[:4]
    lab.run(lab.jobs(*names), *names, max_devices=1)
    assert (lab.most_open, lab.opened) == (1, list(names))


def test_this_computer_is_measured_alone_and_last(lab: Bench) -> None:
    names = (*MANY[:3], "here")
    ready = lab.jobs("here", *MANY[:3])
    open_when_here_came: list[list[str]] = []
    lab.before_opening = lambda name: (
        open_when_here_came.append(list(lab.open_now)) if name == "here" else None
    )
    devices = lab.devices(*names)

    devices["here"] = replace(devices["here"], transport="local")
    Engine(RUN, lab.bench, lab.store, Options(opener=lab.open)).measure(ready, devices, lab.targets, {})
    assert open_when_here_came == [[]]
    assert lab.opened[-1] == "here"
    assert counted(lab) == {"ok": 4}


def test_a_slow_device_holds_up_no_other(lab: Bench) -> None:
    names = MANY[:5]
    others_done = threading.Event()

    def wait_for_the_others(name: str) -> None:
        if name == names[0]:
            assert others_done.wait(60)

    def watch(step: object) -> None:
        lab.steps.append(step)  # type: ignore[arg-type]
        if len({each.device for each in lab.told("launched")}) == 4:
            others_done.set()

    lab.bench.announce = watch
    lab.before_opening = wait_for_the_others
    lab.run(lab.jobs(*names, each=2), *names, max_devices=2)
    assert counted(lab) == {"ok": 10}


# --- what may pass is tried again ----------------------------------------------------------------


def test_a_board_that_comes_back_is_measured(lab: Bench) -> None:
    tries: Counter[str] = Counter()

    def sometimes(name: str) -> None:
        tries[name] += 1
        if tries[name] < 3:
            raise unreachable(name)

    lab.before_opening = sometimes
    lab.run(lab.jobs("nano-02", each=2), "nano-02")
    assert counted(lab) == {"ok": 2}
    notes = [step.note for step in lab.told("retry")]
    assert notes == [f"no answer from nano-02.lab; trying again in 0 s ({number} of 3)" for number in (2, 3)]


def test_a_board_that_never_answers_is_given_up_once_for_all_its_jobs(lab: Bench) -> None:
    def never(name: str) -> None:
        if name == "nano-02":
            raise unreachable(name)

    lab.before_opening = never
    lab.run(lab.jobs("nano-01", "nano-02", each=5), "nano-01", "nano-02")
    assert counted(lab) == {"ok": 5, "failed": 5}
    found = failures(lab)
    assert {each.message for each in found.values()} == {"nano-02: no answer from nano-02.lab"}
    assert {(each.owner, each.stage, each.hint) for each in found.values()} == {
        ("device", "connect", "look at its cable")
    }
    assert len(lab.told("connect", "nano-02")) == 3  # not three times for each job
    (given_up,) = lab.told("given up")
    assert given_up.what == "4 more jobs are not tried"


def test_what_cannot_pass_is_not_tried_again(lab: Bench) -> None:
    def wrong_key(name: str) -> None:
        raise DeviceError(f"{name}: its host key is another", hint="edgebench devices scan")

    lab.before_opening = wrong_key
    lab.run(lab.jobs("nano", each=3), "nano")
    assert counted(lab) == {"failed": 3}
    assert len(lab.told("connect")) == 1
    assert lab.told("retry") == []


def test_a_busy_board_is_waited_for_once_and_not_by_each_job(lab: Bench) -> None:
    def busy(name: str) -> None:
        raise DeviceBusy(f"{name}: leased by somebody", hint="--wait")

    lab.before_opening = busy
    lab.run(lab.jobs("nano", each=3), "nano")
    assert {each.exit_code for each in failures(lab).values()} == {75}
    assert len(failures(lab)) == 3
    assert len(lab.told("connect")) == 1


def test_a_bug_on_one_board_is_told_and_the_others_go_on(lab: Bench) -> None:
    def broken(name: str) -> None:
        if name == "nano-02":
            raise KeyError("oops")

    lab.before_opening = broken
    lab.run(lab.jobs("nano-01", "nano-02"), "nano-01", "nano-02")
    (failure,) = failures(lab).values()
    assert (failure.owner, failure.exit_code) == ("bug", 70)
    assert "oops" in failure.message
    assert "broken" in failure.detail
    assert counted(lab) == {"ok": 1, "failed": 1}


def test_a_board_that_loses_job_after_job_is_given_up(lab: Bench) -> None:
    """It can be opened each time, and the link drops in the middle of each job."""

    def cut(step: object) -> None:
        lab.steps.append(step)  # type: ignore[arg-type]
        if getattr(step, "stage", "") == "push":
            for place in lab_engine[0]._places:
                place.drop()

    ready = lab.jobs("nano", each=5)
    lab.bench.announce = cut
    engine = Engine(RUN, lab.bench, lab.store, Options(opener=lab.open, health=False, retries=SOON))
    lab_engine = [engine]
    engine.measure(ready, lab.devices("nano"), lab.targets, {})
    assert counted(lab) == {"failed": 5}
    found = [failures(lab)["nano", f"digits-{number}"].message for number in range(5)]
    assert len(lab.opened) == 6
    assert all("given up for this run: 2 jobs in a row lost the connection" in each for each in found[2:])
    assert not any("given up" in each for each in found[:2])


# --- stopping ------------------------------------------------------------------------------------


def test_fail_fast_begins_nothing_more(lab: Bench) -> None:
    def never(name: str) -> None:
        if name == "nano-01":
            raise DeviceError(f"{name}: no Python", hint="install it")

    lab.before_opening = never
    engine = lab.run(
        lab.jobs("nano-01", "nano-02", each=3), "nano-01", "nano-02", max_devices=1, fail_fast=True
    )
    assert engine.halted == "stopped by --fail-fast after digits-0 fp32 on replay failed on nano-01"
    assert counted(lab) == {"failed": 1, "missing": 5}
    assert lab.told("connect", "nano-02") == []
    assert len(lab.store.open_jobs(RUN)) == 5


def test_fail_fast_lets_what_runs_end(lab: Bench) -> None:
    going = threading.Event()

    def late(name: str) -> None:
        if name == "nano-01":
            assert going.wait(60)
            raise DeviceError(f"{name}: no Python", hint="install it")

    def watch(step: object) -> None:
        lab.steps.append(step)  # type: ignore[arg-type]
        if getattr(step, "stage", "") == "launch":
            going.set()
        if getattr(step, "stage", "") == "launched" and not lab.told("failed"):
            time.sleep(0.5)  # the failure comes in the middle of the other board's job

    lab.bench.announce = watch
    lab.before_opening = late
    lab.run(lab.jobs("nano-01", "nano-02", each=3), "nano-01", "nano-02", fail_fast=True)
    counts = counted(lab)
    assert counts["failed"] == 1
    assert counts["ok"] >= 1
    assert "partial" not in counts


def test_a_stop_while_waiting_for_another_attempt_is_quick(lab: Bench) -> None:
    def never(name: str) -> None:
        raise unreachable(name)

    lab.before_opening = never
    ready = lab.jobs("nano", each=3)
    options = Options(opener=lab.open, retries=Retries(first_s=200.0, longest_s=200.0), health=False)
    engine = Engine(RUN, lab.bench, lab.store, options)

    def stop_at_the_pause(step: object) -> None:
        if getattr(step, "stage", "") == "retry":
            engine._book.stop()

    lab.bench.announce = engine._book.announce = stop_at_the_pause
    began = time.monotonic()
    with pytest.raises(Interrupted):
        engine.measure(ready, lab.devices("nano"), lab.targets, {})
    assert time.monotonic() - began < 30
    assert lab.store.failures(RUN) == ()
    assert counted(lab) == {"missing": 3}


def test_failed_jobs_are_open_again_when_asked_for(lab: Bench) -> None:
    is_down = [True]

    def down(name: str) -> None:
        if is_down[0]:
            raise DeviceError(f"{name}: no Python", hint="install it")

    lab.before_opening = down
    ready = lab.jobs("nano", each=2)
    lab.run(ready, "nano")
    assert counted(lab) == {"failed": 2}
    assert lab.store.reopen_jobs(RUN, but="plan") == 2
    assert counted(lab) == {"missing": 2}
    is_down[0] = False
    lab.run(ready, "nano")
    assert counted(lab) == {"ok": 2}
    assert lab.store.reopen_jobs(RUN, but="plan") == 0


# --- patience ------------------------------------------------------------------------------------

LINK = DeviceError("x", retryable=True)


def test_pauses_grow_up_to_a_bound() -> None:
    retries = Retries(first_s=2.0, longest_s=10.0)
    assert [retries.longest_delay_s(attempt) for attempt in range(1, 6)] == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert retries.longest_delay_s(10**6) == 10.0


@given(st.integers(1, 50), st.floats(0, 1))
def test_a_pause_is_between_half_and_all(attempt: int, chance: float) -> None:
    retries = Retries()
    whole = retries.longest_delay_s(attempt)
    assert whole / 2 <= retries.delay_s(attempt, chance) <= whole


def test_attempts_are_bounded_in_number_and_time() -> None:
    retries = Retries(attempts=3, died_attempts=2, total_s=100.0)
    assert [retries.allows(LINK, attempt, 0.0) for attempt in (1, 2, 3)] == [True, True, False]
    died = RuntimeDied("x", retryable=True)
    assert [retries.allows(died, attempt, 0.0) for attempt in (1, 2)] == [True, False]
    assert not retries.allows(LINK, 1, 99.0)
    for other in (ModelError("x"), DeviceError("x"), DeviceBusy("x")):
        assert not retries.allows(other, 1, 0.0)


def test_all_the_pauses_together_are_bounded() -> None:
    retries = Retries()
    spent, attempt = 0.0, 1
    while retries.allows(LINK, attempt, spent):
        spent += retries.delay_s(attempt, 1.0)
        attempt += 1
    assert attempt == retries.attempts
    assert spent <= retries.total_s
    pauses = [retries.longest_delay_s(each) for each in range(1, attempt)]
    assert all(before <= after for before, after in pairwise(pauses))


def test_a_board_that_waits_for_another_attempt_takes_nobodys_place(lab: Bench) -> None:
    """One at a time, and the first one comes back only when the second is done."""
    second_done = threading.Event()

    def first_is_down(name: str) -> None:
        if name == "nano-01" and not second_done.is_set():
            raise unreachable(name)

    def watch(step: object) -> None:
        lab.steps.append(step)  # type: ignore[arg-type]
        if len(lab.told("launched", "nano-02")) == 2:
            second_done.set()

    ready = lab.jobs("nano-01", "nano-02")
    lab.bench.announce = watch
    lab.before_opening = first_is_down
    lab.run(ready, "nano-01", "nano-02", max_devices=1, retries=Retries(first_s=6.0, longest_s=6.0))
    assert counted(lab) == {"ok": 2}
    assert lab.opened == ["nano-02", "nano-01"]
