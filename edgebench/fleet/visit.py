"""One device and all its jobs, one at a time under one lease; what may pass is tried again, with pauses.

A device that cannot be opened, fails its health check, or loses its connection in one job after the other is
given up for the run: its other jobs fail at once with that reason, and nobody waits for it again and again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from random import SystemRandom

from edgebench.device.leases import Patience as BusyPatience
from edgebench.device.session import Lease, Session
from edgebench.errors import (
    DeviceBusy,
    DeviceError,
    EdgebenchError,
    InfrastructureError,
    Interrupted,
    ModelError,
    RuntimeDied,
)
from edgebench.fleet.base import Book, Options, Ready, bug
from edgebench.health import judged
from edgebench.pipeline import (
    Prepared,
    Site,
    Step,
    Workbench,
    decide,
    examine,
    measure,
    not_passed,
    side_by_side,
    tally,
    title,
)
from edgebench.records import Device, Facts, HealthCheck, Job, Measurement, Target
from edgebench.units import format_duration

OWN_LEASE_S = 60.0  # a dropped session of ours holds the lease until its probe notices the silence
HEALTH_LOOKS, HEALTH_PAUSE_S = 3, 2.0  # a band is missed by chance too: the board gets more than one look
LOST_JOBS = 2  # so many jobs in a row that lost the connection, and the device is given up


_CHANCE = SystemRandom()


class Place:
    """A device with its target and the open session on it, if any. `drop` may come from any thread.

    `health` is the known tiny model for it; None: it is not checked.
    """

    def __init__(self, device: Device, target: Target, health: Prepared | None = None) -> None:
        self.device = device
        self.target = target
        self.health = health
        self.site: Site | None = None
        self._session: Session | None = None
        self._lock = threading.Lock()

    def opened(self, session: Session) -> None:
        """Take note of the session that is open now."""
        with self._lock:
            self._session = session

    def close(self) -> tuple[str, ...]:
        """End the session politely, if there is one; what it tells of undoing the board's preparation."""
        self.site = None
        with self._lock:
            session, self._session = self._session, None
        if session is None:
            return ()
        told = len(session.notes)
        session.close()
        return session.notes[told:]

    def drop(self) -> None:
        """Drop the connection at once."""
        with self._lock:
            session = self._session
        if session is not None:
            session.abort()


class Visit:
    """Does the jobs of one device; each ends in a measurement or in a failure."""

    def __init__(
        self, place: Place, work: Sequence[Ready], book: Book, bench: Workbench, options: Options
    ) -> None:
        self.place = place
        self._name = place.device.name
        self._work = list(work)
        self._book = book
        self._bench = bench
        self._options = options
        self._stage = "connect"
        self._lost: EdgebenchError | None = None  # why the device is given up
        self._lost_jobs = 0
        self._was_open = False
        self._is_healthy = False
        self._tries = 0  # at the job that is first in the work
        self._began_s = 0.0

    def run(self) -> float | None:
        """Do the jobs; None at their end, or the moment (monotonic) to call this again for another attempt.

        A device that fails waits outside: its place among those at work is another's meanwhile.
        """
        try:
            while self._work and not (self._book.stopped or self._book.halted):
                again_s = self._next(self._work[0])
                if again_s is not None:
                    return again_s
                self._work.pop(0)
        finally:
            self._close()
        return None

    def _close(self) -> None:
        """End the session; what could not be undone of the board's preparation is told."""
        self._tell(self.place.close())

    def _tell(self, notes: Sequence[str]) -> None:
        for note in notes:
            self._bench.announce(Step("note", self._name, note))

    def _next(self, ready: Ready) -> float | None:
        if self._lost is not None:
            self._book.fail(ready.job, self._stage, self._lost)
            return None
        again_s = self._try(ready)
        if again_s is None:
            self._tries = 0
            self._say_given_up(len(self._work) - 1)
        return again_s

    def _say_given_up(self, left: int) -> None:
        if self._lost is not None and left and not self._book.stopped:
            what = "1 more job is not tried" if left == 1 else f"{left} more jobs are not tried"
            self._bench.announce(Step("given up", self._name, what, note=self._lost.message))

    # --- one job ---

    def _try(self, ready: Ready) -> float | None:
        """One attempt at a job; the moment of the next one, or None when the job has ended."""
        self._tries += 1
        if self._tries == 1:
            self._began_s = time.monotonic()
        try:
            self._attempt(ready)
        except Interrupted:
            raise
        except EdgebenchError as error:
            if isinstance(error, DeviceError):
                self._close()
            if self._book.stopped:
                return None
            if self._options.retries.allows(error, self._tries, time.monotonic() - self._began_s):
                return self._again(ready.job, error)
            self._failed(ready.job, error)
        except Exception as error:  # noqa: BLE001 - a bug in one job must not take the others with it
            self._close()
            self._book.fail(ready.job, self._stage, bug(error))
        return None

    def _attempt(self, ready: Ready) -> None:
        site = self.place.site or self._open()
        self._stage = "measure"
        measurement = self._measured(ready, site)
        self._lost_jobs = 0
        if tally(measurement).valid == 0 and self.place.health is not None:
            self._look_again(self.place.health, site)

    def _measured(self, ready: Ready, site: Site) -> Measurement:
        job, prepared, rival = ready
        ruling, trial = self._options.ruling, self._options.trial
        if trial is not None:
            return side_by_side(job, prepared, site, self._bench, trial)
        if ruling is not None:
            return decide(job, prepared, rival, site, self._bench, ruling)
        return measure(job, prepared, site, self._bench)

    def _failed(self, job: Job, error: EdgebenchError) -> None:
        """Store the failure; the device is given up when it was not to be opened, or lost job after job."""
        stage = self._stage
        if stage != "measure":
            self._lost = error
        elif isinstance(error, DeviceError) and error.retryable and not isinstance(error, RuntimeDied):
            self._lost_jobs += 1
            if self._lost_jobs >= LOST_JOBS:
                self._lost, self._stage = _lost_again(self._name, error, self._lost_jobs), "connect"
        self._book.fail(job, stage, error)

    def _again(self, job: Job, error: EdgebenchError) -> float:
        """The moment of the next attempt, which is told with the reason."""
        retries = self._options.retries
        most = retries.attempts_for(error) if isinstance(error, DeviceError) else self._tries
        delay_s = retries.delay_s(self._tries, _CHANCE.random())
        told = error.message.removeprefix(f"{self._name}: ")
        note = f"{told}; trying again in {delay_s:.0f} s ({self._tries + 1} of {most})"
        self._bench.announce(Step("retry", self._name, title(job), note=note))
        return time.monotonic() + delay_s

    # --- the session ---

    def _open(self) -> Site:
        """A leased session on the device, which is healthy: looked at once in a run."""
        self._stage = "connect"
        device, target = self.place.device, self.place.target
        self._bench.announce(Step("connect", device.name, device.address or "this computer"))
        session, facts = self._leased()
        self._was_open = True
        self.place.opened(session)
        self._tell(session.notes)
        if self._book.stopped:
            self.place.drop()
        book = self._book
        site = Site(
            book.run, session, facts, target, book.store, self._begun(), book.pause, self._options.profile
        )
        if self.place.health is not None and not self._is_healthy:
            self._stage = "health"
            self._check_health(self.place.health, session, facts)
            self._is_healthy = True
        self.place.site = site
        return site

    def _leased(self) -> tuple[Session, Facts]:
        """An open session; a busy device is waited for: as asked, or for a dropped session of ours."""
        wait_s = max(self._options.wait_s, OWN_LEASE_S if self._was_open else 0.0)
        lease = Lease(run=self._book.run, purpose="edgebench run")
        patience = BusyPatience(wait_s, self._say_busy, self._pause)
        return self._options.opener(self.place.device, self.place.target, self._bench.home, lease, patience)

    def _pause(self, seconds: float) -> bool:
        """Wait, and go on waiting; Interrupted when the run is stopped."""
        self._book.pause(seconds)
        return False

    def _say_busy(self, busy: DeviceBusy, waited_s: float) -> None:
        """Who holds a busy board, and how long it has been waited for."""
        who, how_long = in_use(busy)
        note = f"{how_long}waited {format_duration(waited_s)}"
        self._bench.announce(Step("wait", self._name, who, note=note))

    def _begun(self) -> dict[Job, str]:
        """The device's jobs with launches of an interrupted measurement, which is continued."""
        jobs = self._book.store.open_jobs(self._book.run, self._name)
        return {each.job: each.measurement_id for each in jobs if each.measurement_id is not None}

    # --- health ---

    def _check_health(self, health: Prepared, session: Session, facts: Facts) -> None:
        """Nothing where the known tiny model lands in the device's band; else a DeviceError for the run.

        A check that cannot be made is told and left out: the jobs will say what is wrong.
        """
        earlier = self._book.store.health_checks(self._name)
        if earlier and not earlier[0].passed:
            note = f"it failed the last one, in run {earlier[0].run}: {earlier[0].reason}"
            self._bench.announce(Step("health check", self._name, "once more", note=note))
        try:
            check = self._best_look(health, session, facts, earlier)
        except (DeviceError, ModelError, InfrastructureError) as error:
            if isinstance(error, DeviceError) and error.retryable:
                raise
            self._bench.announce(Step("health check", self._name, "left out", note=error.message))
            return
        self._book.store.add_health_check(check)
        if not check.passed:
            raise _quarantined(check)

    def _best_look(
        self, health: Prepared, session: Session, facts: Facts, earlier: Sequence[HealthCheck]
    ) -> HealthCheck:
        """The first check that passes, or the last of several that do not."""
        look = 1
        while True:
            check = judged(self._examined(health, session, facts), earlier, self.place.target.limits)
            if check.passed or look == HEALTH_LOOKS:
                return check
            look += 1
            self._book.pause(HEALTH_PAUSE_S)

    def _examined(self, health: Prepared, session: Session, facts: Facts) -> HealthCheck:
        """One look; a runtime that dies of the tiny model is a check that did not pass."""
        try:
            return examine(health, session, facts, self._book.run, self._bench)
        except RuntimeDied as error:
            told = error.message.removeprefix(f"{self._name}: ")
            reason = f"{health.artifact.runtime} did not survive the known tiny model: {told}"
            return not_passed(health, session, self._book.run, reason)

    def _look_again(self, health: Prepared, site: Site) -> None:
        """After a measurement without one valid launch: is it the board? Then its other jobs are spared."""
        try:
            self._stage = "health"
            self._check_health(health, site.session, site.facts)
        except DeviceError as error:
            self._close()
            if error.retryable:  # the link dropped: the next job opens it, and looks
                self._is_healthy = False
            else:
                self._lost = error


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
    who = f"in use by {holder.user} on {holder.controller} (run {holder.run}, {holder.purpose})"
    return who, "".join(parts)


def _quarantined(check: HealthCheck) -> DeviceError:
    return DeviceError(
        f"{check.device}: quarantined for this run: {check.reason}",
        hint=f"edgebench devices doctor {check.device}; the next run checks again, "
        "--no-health-check measures all the same",
    )


def _lost_again(name: str, error: EdgebenchError, jobs: int) -> DeviceError:
    told = error.message.removeprefix(f"{name}: ")
    return DeviceError(
        f"{name}: given up for this run: {jobs} jobs in a row lost the connection, the last one with: {told}",
        hint=error.hint or f"edgebench devices doctor {name}",
        detail=error.detail,
    )
