"""What a run takes up again: failed and invalid jobs, old documents, earlier measurements, health checks."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from edgebench.records import HealthCheck, Launch, Workload, encode_exact, replace, to_json
from edgebench.store import Store, base
from edgebench.store.rows import job_digest
from tests.store.records import RUN, failure, job, launch, measurement, run


def measured(store: Store, name: str, device: str, status: str = "ok", run_id: str = RUN) -> None:
    store.begin_measurement(measurement(name, job=job(device), run=run_id))
    store.add_launch(name, launch(1))
    store.finish_measurement(name, status)  # type: ignore[arg-type]


def open_devices(store: Store) -> list[str]:
    return [each.job.device for each in store.open_jobs(RUN)]


# --- open again ----------------------------------------------------------------------------------


def test_failed_and_invalid_jobs_are_open_again_and_nothing_else(store: Store) -> None:
    store.add_run(run())
    store.plan_jobs(RUN, [job(each) for each in ("ok", "spoilt", "broken", "refused", "new")])
    measured(store, "1", "ok")
    measured(store, "2", "spoilt", "invalid")
    store.add_failure(failure("broken"))
    store.add_failure(failure("refused", stage="plan"))
    assert open_devices(store) == ["new"]
    assert store.reopen_jobs(RUN, but="plan") == 2
    assert open_devices(store) == ["spoilt", "broken", "new"]
    assert [each.job.device for each in store.failures(RUN)] == ["refused"]
    assert len(store.measurements(RUN)) == 2  # what was measured is kept


def test_an_invalid_measurement_is_not_continued(store: Store) -> None:
    store.add_run(run())
    measured(store, "1", "spoilt", "invalid")
    store.reopen_jobs(RUN, but="plan")
    (left,) = store.open_jobs(RUN)
    assert (left.measurement_id, left.launches) == (None, 0)


def test_a_begun_measurement_of_a_failed_job_is_continued(store: Store) -> None:
    store.add_run(run())
    store.begin_measurement(measurement("1", job=job("nano")))
    store.add_launch("1", launch(1))
    store.add_failure(failure("nano"))
    store.reopen_jobs(RUN, but="plan")
    (left,) = store.open_jobs(RUN)
    assert (left.measurement_id, left.launches) == ("1", 1)


def test_the_last_failure_of_a_job_is_told(store: Store) -> None:
    store.add_run(run())
    for message in ("first", "second"):
        store.add_failure(failure("nano", message=message))
        store.reopen_jobs(RUN, but="plan")
    assert store.failures(RUN) == ()
    store.add_failure(failure("nano", message="third"))
    assert [each.message for each in store.failures(RUN)] == ["third"]


def test_a_job_measured_after_its_failure_has_none(store: Store) -> None:
    store.add_run(run())
    store.add_failure(failure("nano"))
    store.reopen_jobs(RUN, but="plan")
    measured(store, "1", "nano")
    assert store.failures(RUN) == ()
    assert store.reopen_jobs(RUN, but="plan") == 0


def test_other_runs_stay_as_they_are(store: Store) -> None:
    for run_id in (RUN, "other"):
        store.add_run(run(run_id))
        store.add_failure(failure("nano", run=run_id))
    assert store.reopen_jobs(RUN, but="plan") == 1
    assert len(store.failures("other")) == 1


def test_why_a_run_was_stopped_is_kept(store: Store) -> None:
    store.add_run(run())
    store.set_run_status(RUN, "interrupted", "stopped by --fail-fast after x")
    assert (store.run().status, store.run().stopped) == ("interrupted", "stopped by --fail-fast after x")
    store.set_run_status(RUN, "running")
    assert store.run().stopped == ""


# --- stored by an earlier edgebench --------------------------------------------------------------


def test_jobs_of_an_earlier_edgebench_are_the_same_jobs(store: Store) -> None:
    """Its workloads had no `max_invalid` and no `precision`: the job is found, not planned a second time."""
    plain = to_json(job("nano"))
    del plain["workload"]["max_invalid"], plain["workload"]["precision"]
    document = encode_exact(plain)
    assert job_digest(job("nano")) == hashlib.sha256(document.encode("ascii")).hexdigest()
    store.add_run(run())
    store.plan_jobs(RUN, [job("nano")])
    with store._engine.execution_options(edgebench_write=True).begin() as connection:
        connection.execute(sa.update(base.job).values(document=document))
    (left,) = store.open_jobs(RUN)
    assert left.job == job("nano")
    measured(store, "1", "nano")
    assert store.open_jobs(RUN) == ()
    other = replace(job("nano"), workload=Workload(max_invalid=0))
    assert job_digest(other) != job_digest(job("nano"))


# --- measured before -----------------------------------------------------------------------------


def test_earlier_measurements_of_the_same_launches(store: Store) -> None:
    for run_id in ("one", "two", "three"):
        store.add_run(run(run_id))
    measured(store, "1", "nano", run_id="one")
    measured(store, "2", "pi5", run_id="one")
    measured(store, "3", "nano", run_id="two")
    measured(store, "4", "nano", "invalid", run_id="three")
    wanted = replace(job("nano"), workload=Workload(launches=99, max_invalid=0))
    assert [each.id for each in store.measured_before(wanted)] == ["3", "1"]
    assert store.measured_before(wanted, limit=1)[0].launches != ()
    assert store.measured_before(replace(wanted, workload=Workload(min_duration_s=9.0))) == ()
    assert store.measured_before(replace(wanted, precision="fp16")) == ()


# --- health --------------------------------------------------------------------------------------


def check(device: str, number: int) -> HealthCheck:
    return HealthCheck(
        device=device,
        run=RUN,
        checked_utc="2026-11-25T18:00:00Z",
        runtime="onnxruntime",
        subject="tiny",
        passed=number % 2 == 0,
        reason="\x00 slow",
        p10_ns=number,
    )


def test_health_checks_of_a_device_newest_first(store: Store) -> None:
    for number in range(5):
        store.add_health_check(check("nano", number))
        store.add_health_check(check("pi5\x00", number))
    assert store.health_checks("nano", limit=2) == (check("nano", 4), check("nano", 3))
    assert len(store.health_checks("pi5\x00")) == 5
    assert store.health_checks("other") == ()


def test_launch_numbers_go_on_after_invalid_ones(store: Store) -> None:
    store.add_run(run())
    store.begin_measurement(measurement("1", job=job("nano")))
    spoilt: Launch = replace(launch(1), valid=False, invalid_reason="hot")
    store.add_launch("1", spoilt)
    store.add_launch("1", launch(2))
    assert [each.valid for each in store.measurement("1").launches] == [False, True]
