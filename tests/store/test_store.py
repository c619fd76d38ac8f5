"""The store, on SQLite and on PostgreSQL: what was stored comes back equal, also after kill -9."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import BugError, InfrastructureError, UserError
from edgebench.records import Launch, Measurement, replace
from edgebench.store import Store, base, new_run_id, sqlite_url
from edgebench.store.opening import place
from tests.store.records import (
    RUN,
    artifact,
    failure,
    job,
    launch,
    launches,
    measurement,
    run,
)


def add(store: Store, whole: Measurement) -> None:
    store.begin_measurement(replace(whole, launches=()))
    for each in whole.launches:
        store.add_launch(whole.id, each)
    store.finish_measurement(whole.id, whole.status, whole.warnings)


def whole(measurement_id: str = "m1", device: str = "local", count: int = 2) -> Measurement:
    return measurement(
        measurement_id, job=job(device), launches=tuple(launch(number) for number in range(count))
    )


# --- runs ---------------------------------------------------------------------------------------


def test_run_ids_are_short_and_sorted_by_time() -> None:
    rng = random.Random(1)
    first = datetime(2026, 11, 23, 22, 44, 55, tzinfo=UTC)
    assert new_run_id(first, rng).startswith("20261123-224455-")
    assert len(new_run_id(first, rng)) == 20
    assert new_run_id(first.astimezone(timezone(timedelta(hours=9))), rng).startswith("20261123-224455-")
    ids = [new_run_id(first + timedelta(seconds=s), rng) for s in range(100)]
    assert ids == sorted(ids)
    assert len({new_run_id(first, rng) for _ in range(50)}) > 45


def test_runs_come_back_newest_first(store: Store) -> None:
    assert store.runs() == ()
    old, new = run("20261123-224455-k3f9"), run("20261124-000000-abcd", plan={"deep": {"é": [1.5, None]}})
    store.add_run(old)
    store.add_run(new)
    assert store.runs() == (new, old)
    assert store.runs(limit=1) == (new,)
    assert store.run() == store.run("latest") == new
    assert store.run("20261123") == store.run(old.id) == old
    store.set_run_status(old.id, "done")
    assert store.run(old.id) == replace(old, status="done")


def test_a_run_that_is_not_there_is_told(store: Store) -> None:
    with pytest.raises(UserError, match="there is no run yet"):
        store.run()
    store.add_run(run("20261123-224455-k3f9"))
    store.add_run(run("20261123-224456-k3f8"))
    with pytest.raises(UserError, match='2 runs begin with "20261123"') as caught:
        store.run("20261123")
    assert "20261123-224456-k3f8" in caught.value.hint
    with pytest.raises(UserError, match="there is no run") as caught:
        store.run("20261123-224455-k3f7")
    assert 'did you mean "20261123-224455-k3f9"' in caught.value.hint
    for name in ("", "%", "_", "2026112_", "x' OR 1=1"):
        with pytest.raises(UserError, match="there is no run"):
            store.run(name)
    for ask in (store.measurements, store.failures, store.open_jobs):
        with pytest.raises(UserError, match="there is no run"):
            ask("nothing")


def test_the_whole_id_wins_over_longer_ones(store: Store) -> None:
    store.add_run(run("night"))
    store.add_run(run("night-2"))
    assert store.run("night").id == "night"


def test_a_run_is_added_once(store: Store) -> None:
    store.add_run(run())
    with pytest.raises(BugError, match="is stored already"):
        store.add_run(run())


# --- measurements -------------------------------------------------------------------------------


def test_measurements_come_back_equal_in_the_order_of_the_plan(store: Store) -> None:
    store.add_run(run())
    store.plan_jobs(RUN, [job("b"), job("a"), job("c")])
    a, b = whole("m-a", "a"), whole("m-b", "b")
    add(store, a)
    add(store, b)
    store.add_failure(failure("c"))
    assert store.measurements(RUN) == (b, a)
    assert store.measurement("m-a") == a
    assert store.failures(RUN) == (failure("c"),)
    assert store.open_jobs(RUN) == ()
    assert store.artifacts() == (artifact(),)


def test_a_job_that_was_not_planned_is_stored_too(store: Store) -> None:
    store.add_run(run())
    add(store, whole("m", "unplanned"))
    store.add_failure(failure("unplanned too"))
    assert len(store.measurements(RUN)) == len(store.failures(RUN)) == 1
    assert store.open_jobs(RUN) == ()


def test_runs_are_kept_apart(store: Store) -> None:
    store.add_run(run("one"))
    store.add_run(run("two"))
    for name in ("one", "two"):
        store.plan_jobs(name, [job()])
        add(store, replace(whole(f"m-{name}"), run=name))
    assert [m.id for m in store.measurements("two")] == ["m-two"]
    assert store.failures("one") == ()


def test_figures_of_a_launch_are_columns(store: Store, url: str) -> None:
    store.add_run(run())
    samples = tuple(range(1000, 0, -1))
    add(store, measurement(launches=(launch(0, samples), launch(1, ()))))
    engine = sa.create_engine(place(url).url)
    with engine.connect() as connection:
        full, empty = connection.execute(sa.select(base.launch).order_by(base.launch.c.number)).all()
    engine.dispose()
    assert (full.n, full.min_ns, full.p50_ns, full.p90_ns, full.p95_ns, full.p99_ns, full.max_ns) == (
        (1000, 1, 500, 900, 950, 990, 1000)
    )
    assert (full.mean_ns, full.temperature_c, full.throttled) == (500.5, 61.5, False)
    assert (full.peak_bytes, full.steady_peak_bytes) == (2**31, None)
    assert (empty.n, empty.p50_ns, empty.mean_ns) == (0, None, None)


@pytest.fixture(scope="module")
def shared_store() -> object:
    with tempfile.TemporaryDirectory() as name, Store(sqlite_url(Path(name, "edgebench.db"))) as store:
        store.add_run(run())
        yield store


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(each=st.lists(launches, max_size=3, unique_by=lambda x: (x.session, x.number)))
def test_any_launches_come_back_equal(shared_store: Store, each: list[Launch]) -> None:
    added = measurement(uuid.uuid4().hex, launches=tuple(each))
    add(shared_store, added)
    assert shared_store.measurement(added.id) == added


def test_odd_texts_come_back(store: Store) -> None:
    store.add_run(run())
    odd = job("a\x00b\udcff \N{SNOWMAN}", model="'; DROP TABLE run; --")
    store.plan_jobs(RUN, [odd])
    (opened,) = store.open_jobs(RUN)
    assert opened.job == odd
    store.add_failure(failure(job=odd, stage="\x00"))
    assert store.failures(RUN)[0].job == odd


def test_calls_in_the_wrong_order_are_bugs(store: Store) -> None:
    with pytest.raises(UserError, match="there is no run"):
        store.begin_measurement(measurement())
    store.add_run(run())
    with pytest.raises(BugError, match="has launches before it begins"):
        store.begin_measurement(whole())
    with pytest.raises(BugError, match="there is no measurement m1"):
        store.add_launch("m1", launch())
    with pytest.raises(BugError, match="there is no measurement m1"):
        store.measurement("m1")
    store.begin_measurement(measurement())
    with pytest.raises(BugError, match="is stored already"):
        store.begin_measurement(measurement())
    store.add_launch("m1", launch(0))
    with pytest.raises(BugError, match="launch 0 of m1 is stored already"):
        store.add_launch("m1", launch(0))
    with pytest.raises(BugError, match="negative"):
        store.add_launch("m1", launch(1, (5, -5)))
    store.add_launch("m1", launch(0, session="session-2"))
    store.finish_measurement("m1", "invalid", ("throttled",))
    with pytest.raises(BugError, match="is finished"):
        store.add_launch("m1", launch(2))
    (stored,) = store.measurements(RUN)
    assert (stored.status, stored.warnings, len(stored.launches)) == ("invalid", ("throttled",), 2)


# --- resuming -----------------------------------------------------------------------------------


def test_open_jobs_say_what_is_left(store: Store) -> None:
    store.add_run(run())
    jobs = [job(device) for device in ("done", "failed", "cut", "stopped", "waiting")]
    store.plan_jobs(RUN, jobs)
    add(store, whole("m-done", "done"))
    store.add_failure(failure("failed"))
    store.begin_measurement(measurement("m-cut", job=job("cut")))
    store.add_launch("m-cut", launch(0))
    store.add_launch("m-cut", launch(1))
    add(store, replace(whole("m-stopped", "stopped", 3), status="partial"))
    store.begin_measurement(measurement("m-stopped-again", job=job("stopped")))
    assert store.open_jobs(RUN) == (
        (job("cut"), "m-cut", 2),
        (job("stopped"), "m-stopped", 3),
        (job("waiting"), None, 0),
    )
    assert store.measurement("m-cut").status == "partial"
    store.plan_jobs(RUN, jobs)
    assert len(store.open_jobs(RUN)) == 3
    store.add_launch("m-stopped", launch(3))
    store.finish_measurement("m-stopped", "ok", ())
    assert [each.job.device for each in store.open_jobs(RUN)] == ["cut", "waiting"]


# --- crowds and crashes -------------------------------------------------------------------------

WRITE = """
import sys
from edgebench.store import Store
from tests.store.records import job, launch, measurement
url, name, count = sys.argv[1:]
with Store(url) as store:
    store.begin_measurement(measurement(name, job=job(name)))
    for number in range(int(count)):
        store.add_launch(name, launch(number, tuple(range(1000 * number, 1000 * number + 500))))
        print(number, flush=True)
    store.finish_measurement(name, "ok", ())
"""


def writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITE, url, name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_processes_and_threads_write_at_the_same_time(url: str) -> None:
    with Store(url) as store:
        store.add_run(run())
        processes = [writer(url, f"process {number}", 15) for number in range(2)]

        def write(name: str) -> None:
            store.begin_measurement(measurement(name, job=job(name)))
            for number in range(15):
                store.add_launch(name, launch(number))
                assert len(store.measurement(name).launches) == number + 1
            store.finish_measurement(name, "ok", ())

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(write, ["thread 0", "thread 1", "thread 2"]))
        assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0, 0]
        measurements = store.measurements(RUN)
        assert store.open_jobs(RUN) == ()
    assert [len(each.launches) for each in measurements] == [15] * 5
    assert all([each.number for each in m.launches] == list(range(15)) for m in measurements)


def test_a_killed_run_keeps_what_it_stored(url: str) -> None:
    with Store(url) as store:
        store.add_run(run())
        store.plan_jobs(RUN, [job("killed")])
    with writer(url, "killed", 100_000) as process:
        assert process.stdout is not None
        confirmed = [int(process.stdout.readline()) for _ in range(10)]
        process.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in process.stdout.read().splitlines() if line]
    with Store(url) as store:
        ((left, measurement_id, count),) = store.open_jobs(RUN)
        assert (left, measurement_id) == (job("killed"), "killed")
        assert count in (len(confirmed), len(confirmed) + 1)  # stored, but not yet said
        (stored,) = store.measurements(RUN)
        assert stored.status == "partial"
        for number, each in enumerate(stored.launches):
            assert each == launch(number, tuple(range(1000 * number, 1000 * number + 500)))
        store.add_launch("killed", launch(count))
        store.finish_measurement("killed", "ok", ())
        assert store.open_jobs(RUN) == ()


def test_a_closed_store_stays_closed(url: str) -> None:
    with Store(url) as store:
        store.add_run(run())
    with pytest.raises(BugError, match="is closed"):
        store.runs()


def test_tampered_samples_are_told(store: Store, url: str) -> None:
    store.add_run(run())
    add(store, whole())
    engine = sa.create_engine(place(url).url)
    with engine.begin() as connection:
        connection.execute(sa.update(base.sample_blob).values(sha256="0" * 64))
    with pytest.raises(InfrastructureError, match="samples of launch 0 of measurement m1 were changed"):
        store.measurements(RUN)
    with engine.begin() as connection:
        connection.execute(sa.delete(base.sample_blob).where(base.sample_blob.c.kind == "samples"))
    engine.dispose()
    with pytest.raises(InfrastructureError, match="no samples are there"):
        store.measurements(RUN)


def test_a_changed_document_is_told(store: Store, url: str) -> None:
    store.add_run(run())
    engine = sa.create_engine(place(url).url)
    with engine.begin() as connection:
        connection.execute(sa.update(base.run).values(document='{"id": 7}'))
    engine.dispose()
    with pytest.raises(InfrastructureError, match="does not hold a valid Run"):
        store.runs()
