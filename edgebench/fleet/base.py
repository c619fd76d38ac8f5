"""What the parts of a run share: its jobs, how it treats devices, and the book of what became of each job."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgebench.device.leases import Patience as BusyPatience
from edgebench.device.session import Lease, Session
from edgebench.errors import BugError, DeviceBusy, DeviceError, EdgebenchError, Interrupted, RuntimeDied
from edgebench.pipeline import Announce, Cell, Prepared, Rival, Ruling, Step, Trial, open_device, title
from edgebench.records import Device, Facts, Failure, Job, Target
from edgebench.store import Store

Opener = Callable[[Device, Target, Path, Lease, BusyPatience], tuple[Session, Facts]]


class Assignment(NamedTuple):
    """One job with what it is prepared from, and what its baseline is, where a file is the baseline."""

    job: Job
    cell: Cell
    baseline: Cell | None = None


class Ready(NamedTuple):
    """One job with what it measures, and what a gate compares it with."""

    job: Job
    prepared: Prepared
    rival: Rival | None = None


class Retries(NamedTuple):
    """How often and how long a job is tried again, where another attempt may pass.

    A runtime that died over an artifact gets one more attempt: it is seldom the link, and often the model.
    """

    attempts: int = 3
    died_attempts: int = 2
    first_s: float = 3.0
    longest_s: float = 30.0
    total_s: float = 300.0

    def attempts_for(self, error: DeviceError) -> int:
        """How many attempts there are in all when they end like this."""
        return self.died_attempts if isinstance(error, RuntimeDied) else self.attempts

    def allows(self, error: EdgebenchError, attempt: int, spent_s: float) -> bool:
        """Whether there is an attempt after this one (1, 2, ...), `spent_s` after the first began to fail."""
        if not isinstance(error, DeviceError) or isinstance(error, DeviceBusy) or not error.retryable:
            return False
        return attempt < self.attempts_for(error) and spent_s + self.longest_delay_s(attempt) <= self.total_s

    def longest_delay_s(self, attempt: int) -> float:
        """The pause after an attempt at most: twice as long each time, up to a bound."""
        return min(self.first_s * 2.0 ** min(attempt - 1, 16), self.longest_s)

    def delay_s(self, attempt: int, chance: float) -> float:
        """The pause after an attempt: between half and all of the longest, by a chance from 0 to 1.

        Boards that lost one switch together come back at different moments.
        """
        return self.longest_delay_s(attempt) * (0.5 + 0.5 * chance)


class Options(NamedTuple):
    """How a run treats its devices. `wait_s`: how long a busy board is waited for.

    `fail_fast`: nothing is scheduled any more after the first failure. `health`: whether devices are checked
    by a known tiny model before their first job; None: those that are not this computer. `profile`: the times
    of layers are taken, too. `ruling`: launches go on until budgets are decided.
    `trial`: each artifact is measured against itself.
    """

    max_devices: int = 16
    wait_s: float = 0.0
    fail_fast: bool = False
    health: bool | None = None
    profile: bool = False
    ruling: Ruling | None = None
    trial: Trial | None = None
    retries: Retries = Retries()
    opener: Opener = open_device

    def checks(self, device: Device) -> bool:
        """Whether the device is checked."""
        return device.transport != "local" if self.health is None else self.health


class Book:
    """What became of each job of a run: failures are stored and told. Safe from all threads of the run.

    `halted` says why nothing more is scheduled; `stop` is for now, in the middle of everything.
    """

    def __init__(self, run: str, store: Store, announce: Announce, *, fail_fast: bool = False) -> None:
        self.run = run
        self.store = store
        self.announce = announce
        self._fail_fast = fail_fast
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._halted = ""

    @property
    def halted(self) -> str:
        """Why no further job is begun; "" while they are."""
        return self._halted

    @property
    def stopped(self) -> bool:
        """Whether everything is to end now."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End everything now: pauses end, and nothing counts as a failure any more."""
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Wait; Interrupted when the run is stopped before that."""
        if self._stop.wait(seconds):
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        """What is raised when the run was stopped."""
        return Interrupted("the run was stopped", hint=f"edgebench run --resume {self.run}")

    def fail(self, job: Job, stage: str, error: EdgebenchError) -> None:
        """Store and tell that a job ended in a failure; nothing where that is because the run was stopped."""
        if self.stopped:
            return
        failure = Failure(
            run=self.run,
            job=job,
            owner=error.owner,
            stage=stage,
            message=error.message,
            hint=error.hint,
            exit_code=error.exit_code,
            detail=error.detail[-8192:],
        )
        self.store.add_failure(failure)
        launches = job.workload.launches
        self.announce(Step("failed", job.device, title(job), total=launches, note=error.message))
        if self._fail_fast:
            with self._lock:
                self._halted = (
                    self._halted or f"stopped by --fail-fast after {title(job)} failed on {job.device}"
                )


def bug(error: Exception) -> EdgebenchError:
    """An error that nobody foresaw, with its trace as the detail."""
    trace = "".join(traceback.format_exception(error))
    return BugError(f"{type(error).__name__}: {error}", hint="please report it with the detail", detail=trace)
