"""Runs the jobs of a plan: prepare once, then every device in parallel and one job at a time on each.

This computer, when it is a device itself, is measured alone, after all others: pushing takes its processor.
Every job ends in a Measurement or in a Failure that names its owner, unless the run is stopped before.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from edgebench.errors import EdgebenchError, Interrupted
from edgebench.fleet.base import Assignment, Book, Options, Ready, bug
from edgebench.fleet.visit import Place, Visit
from edgebench.pipeline import Cell, Prepared, Step, Workbench, health_cell, prepare, title
from edgebench.records import Artifact, Device, Job, Measurement, Target
from edgebench.store import Store

CLEAN_UP_S = 15.0
POLL_S = 0.2


class Engine:
    """Executes assignments against real devices, saving each result as it comes."""

    def __init__(self, run: str, bench: Workbench, store: Store, options: Options) -> None:
        self._bench = bench
        self._options = options
        self._book = Book(run, store, bench.announce, fail_fast=options.fail_fast)
        self._places: list[Place] = []

    @property
    def halted(self) -> str:
        """Why jobs were left that could have been run; "" where none were."""
        return self._book.halted

    def execute(
        self,
        assignments: Sequence[Assignment],
        devices: Mapping[str, Device],
        targets: Mapping[str, Target],
        rivals: Mapping[Job, Measurement] | None = None,
    ) -> None:
        """Run everything; Interrupted after the devices are cleaned when the user stops it.

        `rivals`: what earlier runs measured of the jobs, to be measured again beside them.
        """
        made: dict[Cell, Prepared | EdgebenchError] = {}  # a failure is remembered too: it would fail again
        ready = self._with_rivals(self._prepare_all(assignments, made), rivals or {})
        self.measure(ready, devices, targets, self._prepare_health(ready, devices, targets, made))

    def measure(
        self,
        ready: Sequence[Ready],
        devices: Mapping[str, Device],
        targets: Mapping[str, Target],
        health: Mapping[str, Prepared],
    ) -> None:
        """Measure what is prepared. `health`: the known tiny model for each device that is to be checked."""
        names = list(dict.fromkeys(each.job.device for each in ready))
        visits = {name: self._visit(name, ready, devices, targets, health) for name in names}
        here = [name for name in names if devices[name].transport == "local"]
        self._in_parallel([visits[name] for name in names if name not in here])
        for name in here:
            self._in_parallel([visits[name]])

    def _visit(
        self,
        name: str,
        ready: Sequence[Ready],
        devices: Mapping[str, Device],
        targets: Mapping[str, Target],
        health: Mapping[str, Prepared],
    ) -> Visit:
        device = devices[name]
        place = Place(device, targets[device.target], health.get(name))
        self._places.append(place)
        work = [each for each in ready if each.job.device == name]
        return Visit(place, work, self._book, self._bench, self._options)

    # --- preparing ---

    def _prepare_all(
        self, assignments: Sequence[Assignment], made: dict[Cell, Prepared | EdgebenchError]
    ) -> list[Ready]:
        """Each distinct cell once; one that cannot be prepared fails its jobs; no device is touched."""
        ready = []
        for assignment in assignments:
            if self._book.halted:
                break
            result = self._made(assignment.cell, made)
            if isinstance(result, EdgebenchError):
                self._book.fail(assignment.job, "prepare", result)
                continue
            rival = None if assignment.baseline is None else self._made(assignment.baseline, made)
            if isinstance(rival, EdgebenchError):
                self._book.fail(assignment.job, "prepare", _of_the_baseline(rival))
            else:
                ready.append(Ready(assignment.job, result, rival))
        return [] if self._book.halted else ready

    def _with_rivals(self, ready: Sequence[Ready], rivals: Mapping[Job, Measurement]) -> list[Ready]:
        """The same, each with what it is compared with, as far as that artifact is still here."""
        made = []
        for each in ready:
            rival = rivals.get(each.job)
            if rival is not None and not self._has(rival.artifact):
                note = f"the baseline of {title(each.job)} is no longer among the artifacts here"
                self._bench.announce(Step("note", each.job.device, f"{note}: it cannot be measured again"))
                rival = None
            made.append(each if rival is None else each._replace(rival=rival))
        return made

    def _has(self, artifact: Artifact) -> bool:
        """Whether an artifact is in the store, whole."""
        try:
            self._bench.artifacts.get(artifact.digest)
        except EdgebenchError:
            return False
        return True

    def _prepare_health(
        self,
        ready: Sequence[Ready],
        devices: Mapping[str, Device],
        targets: Mapping[str, Target],
        made: dict[Cell, Prepared | EdgebenchError],
    ) -> dict[str, Prepared]:
        """The known tiny model for each device to be checked; one that cannot be is told, and measured."""
        found = {}
        for name in dict.fromkeys(each.job.device for each in ready):
            if not self._options.checks(devices[name]):
                continue
            used = {each.job.runtime for each in ready if each.job.device == name}
            cell = health_cell(targets[devices[name].target], used, self._bench.home)
            result = None if cell is None else self._made(cell, made)
            if isinstance(result, Prepared):
                found[name] = result
            else:
                why = "its target offers no runtime for it" if result is None else result.message
                self._bench.announce(Step("health check", name, "left out", note=why))
        return found

    def _made(self, cell: Cell, made: dict[Cell, Prepared | EdgebenchError]) -> Prepared | EdgebenchError:
        self._check_stop()
        if cell not in made:
            made[cell] = self._prepare(cell)
        return made[cell]

    def _prepare(self, cell: Cell) -> Prepared | EdgebenchError:
        try:
            return prepare(cell, self._bench)
        except Interrupted:
            raise
        except EdgebenchError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a bug in one cell must not take the others with it
            return bug(error)

    # --- measuring ---

    def _in_parallel(self, visits: Sequence[Visit]) -> None:
        """So many visits at a time; one that waits for another attempt makes room for the next meanwhile."""
        if not visits:
            return
        pool = ThreadPoolExecutor(min(len(visits), self._options.max_devices), thread_name_prefix="device")
        running = {pool.submit(visit.run): visit for visit in visits}
        waiting: list[tuple[float, Visit]] = []
        try:
            while running or waiting:
                done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED) if running else ((), ())
                for future in done:
                    visit, again_s = running.pop(future), future.result()
                    if again_s is not None:
                        waiting.append((again_s, visit))
                waiting = self._resume(waiting, running, pool)
        except BaseException:
            self._abort(running)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self._check_stop()

    def _resume(
        self,
        waiting: list[tuple[float, Visit]],
        running: dict[Future[float | None], Visit],
        pool: ThreadPoolExecutor,
    ) -> list[tuple[float, Visit]]:
        """Begin the visits whose moment has come; those that still wait."""
        if waiting and not running:
            with contextlib.suppress(Interrupted):  # told by `_check_stop`
                self._book.pause(
                    min(POLL_S, max(0.0, min(again_s for again_s, _ in waiting) - time.monotonic()))
                )
        left = []
        for again_s, visit in waiting:
            if self._book.stopped or self._book.halted or time.monotonic() >= again_s:
                running[pool.submit(visit.run)] = visit
            else:
                left.append((again_s, visit))
        return left

    def _abort(self, pending: Iterable[Future[float | None]]) -> None:
        """Drop every connection: the probes see it and clear up; then wait for our threads."""
        self._book.stop()
        for place in self._places:
            place.drop()
        wait(pending, timeout=CLEAN_UP_S)

    def _check_stop(self) -> None:
        if self._book.stopped:
            raise self._book.interrupted()


def _of_the_baseline(error: EdgebenchError) -> EdgebenchError:
    """The same error, said of the baseline."""
    error.message = f"the baseline: {error.message}"
    return error
