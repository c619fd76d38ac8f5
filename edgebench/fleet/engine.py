"""Runs the jobs of a plan: prepare once, then every device in parallel and one job at a time on each.

This computer, when it is a device itself, is measured alone, after all others: pushing takes its processor.
Every job ends in a Measurement or in a Failure that names its owner.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from edgebench.device.leases import Patience
from edgebench.device.session import Lease, Session
from edgebench.errors import BugError, DeviceBusy, DeviceError, EdgebenchError, Interrupted
from edgebench.pipeline import Cell, Prepared, Site, Step, Workbench, measure, open_device, prepare, title
from edgebench.records import Device, Failure, Job, Target
from edgebench.store import Store
from edgebench.units import format_duration

ATTEMPTS = 2  # a dropped connection or a crashed probe is tried once more, continuing at the next launch
CLEAN_UP_S = 15.0


class Assignment(NamedTuple):
    """One job with what it is prepared from."""

    job: Job
    cell: Cell


class Options(NamedTuple):
    """How a run treats its devices. `wait_s`: how long a busy board is waited for."""

    max_devices: int = 16
    wait_s: float = 0.0


class Engine:
    """Executes assignments against real devices, saving each result as it comes."""

    def __init__(self, run: str, bench: Workbench, store: Store, options: Options) -> None:
        self._run = run
        self._bench = bench
        self._store = store
        self._options = options
        self._stop = threading.Event()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def execute(
        self, assignments: Sequence[Assignment], devices: Mapping[str, Device], targets: Mapping[str, Target]
    ) -> None:
        """Run everything; Interrupted after the devices are cleaned when the user stops it."""
        ready = self._prepare_all(assignments)
        remote = [name for name in _in_order(ready) if devices[name].transport != "local"]
        local = [name for name in _in_order(ready) if devices[name].transport == "local"]
        work = {name: [each for each in ready if each[0].job.device == name] for name in (*remote, *local)}

        def on_device(name: str) -> Callable[[], None]:
            device = devices[name]
            return lambda: self._device(device, targets[device.target], work[name])

        self._in_parallel([on_device(name) for name in remote])
        for name in local:
            self._in_parallel([on_device(name)])

    # --- preparing ---

    def _prepare_all(self, assignments: Sequence[Assignment]) -> list[tuple[Assignment, Prepared]]:
        """Each distinct cell once; one that cannot be prepared fails its jobs; no device is touched."""
        done: dict[Cell, Prepared | EdgebenchError] = {}  # a failure is remembered too: it would fail again
        ready = []
        for assignment in assignments:
            self._check_stop()
            if assignment.cell not in done:
                done[assignment.cell] = self._prepare(assignment.cell)
            result = done[assignment.cell]
            if isinstance(result, EdgebenchError):
                self._fail(assignment.job, "prepare", result)
            else:
                ready.append((assignment, result))
        return ready

    def _prepare(self, cell: Cell) -> Prepared | EdgebenchError:
        try:
            return prepare(cell, self._bench)
        except Interrupted:
            raise
        except EdgebenchError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a bug in one cell must not take the others with it
            return _bug(error)

    # --- measuring ---

    def _in_parallel(self, tasks: Sequence[Callable[[], None]]) -> None:
        if not tasks:
            return
        pool = ThreadPoolExecutor(min(len(tasks), self._options.max_devices), thread_name_prefix="device")
        pending: set[Future[None]] = {pool.submit(task) for task in tasks}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            self._abort(pending)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self._check_stop()

    def _abort(self, pending: Iterable[Future[None]]) -> None:
        """Drop every connection: the probes see it and clear up; then wait for our threads."""
        self._stop.set()
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.abort()
        wait(pending, timeout=CLEAN_UP_S)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Interrupted("the run was stopped", hint=f"edgebench run --resume {self._run}")

    def _device(self, device: Device, target: Target, work: Sequence[tuple[Assignment, Prepared]]) -> None:
        """All jobs of one device under one lease; the lease is taken anew after a broken session."""
        site: Site | None = None
        try:
            for assignment, prepared in work:
                site = self._job(assignment.job, prepared, device, target, site)
                if self._stop.is_set():
                    return
        finally:
            self._release(device)

    def _job(
        self, job: Job, prepared: Prepared, device: Device, target: Target, site: Site | None
    ) -> Site | None:
        """One job to its measurement or failure; the open site that can serve the next job, or None."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                site = site or self._open(device, target)
                measure(job, prepared, site, self._bench)
                return site
            except EdgebenchError as error:
                if isinstance(error, DeviceError):
                    self._release(device)
                    site = None
                    if error.retryable and not isinstance(error, DeviceBusy) and attempt < ATTEMPTS:
                        continue
                if not self._stop.is_set():
                    self._fail(job, "measure", error)
                return site
            except Exception as error:  # noqa: BLE001 - a bug in one job must not take the others with it
                self._release(device)
                self._fail(job, "measure", _bug(error))
                return None
        return site

    def _open(self, device: Device, target: Target) -> Site:
        lease = Lease(run=self._run, purpose="edgebench run")
        self._bench.announce(Step("connect", device.name, device.address or "this computer"))
        patience = Patience(self._options.wait_s, self._waiting(device), self._stop.wait)
        session, facts = open_device(device, target, self._bench.home, lease, patience)
        with self._lock:
            self._sessions[device.name] = session
        if self._stop.is_set():
            session.abort()
        return Site(self._run, session, facts, target, self._store, self._begun())

    def _waiting(self, device: Device) -> Callable[[DeviceBusy, float], None]:
        """Says who holds a busy board and how long it has been waited for."""

        def announce(busy: DeviceBusy, waited_s: float) -> None:
            who, how_long = in_use(busy)
            self._bench.announce(
                Step("wait", device.name, who, note=f"{how_long}waited {format_duration(waited_s)}")
            )

        return announce

    def _begun(self) -> dict[Job, str]:
        """Jobs with launches of an interrupted measurement, which is continued."""
        jobs = self._store.open_jobs(self._run)
        return {each.job: each.measurement_id for each in jobs if each.measurement_id is not None}

    def _release(self, device: Device) -> None:
        with self._lock:
            session = self._sessions.pop(device.name, None)
        if session is not None:
            session.close()

    def _fail(self, job: Job, stage: str, error: EdgebenchError) -> None:
        failure = Failure(
            run=self._run,
            job=job,
            owner=error.owner,
            stage=stage,
            message=error.message,
            hint=error.hint,
            exit_code=error.exit_code,
            detail=error.detail[-8192:],
        )
        self._store.add_failure(failure)
        launches = job.workload.launches
        self._bench.announce(Step("failed", job.device, title(job), total=launches, note=error.message))


def in_use(busy: DeviceBusy) -> tuple[str, str]:
    """Who holds a busy board, and since when and for how long at most (with a comma behind it)."""
    holder = busy.holder
    if holder is None:
        return "in use by somebody who does not say so", ""
    parts = []
    if holder.since_s is not None:
        parts.append(f"since {format_duration(holder.since_s)}, ")
    if holder.left_s is not None:
        parts.append(f"for at most {format_duration(holder.left_s)} more, ")
    who = f"{holder.user} on {holder.controller} (run {holder.run}, {holder.purpose})"
    return f"in use by {who}", "".join(parts)


def _bug(error: Exception) -> EdgebenchError:
    trace = "".join(traceback.format_exception(error))
    return BugError(f"{type(error).__name__}: {error}", hint="please report it with the detail", detail=trace)


def _in_order(ready: Sequence[tuple[Assignment, Prepared]]) -> list[str]:
    return list(dict.fromkeys(assignment.job.device for assignment, _ in ready))
