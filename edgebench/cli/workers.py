"""The cells of a large stored run, judged by several processes, some devices each.

Judging is plain Python, which keeps one core busy however many there are.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from typing import NamedTuple

from edgebench.budgets import Budgets
from edgebench.cli.judging import Question, judged_on
from edgebench.cli.sources import Sources, opened, uncollected
from edgebench.gates import Gate, Part, concluded, needs_samples
from edgebench.settings import Settings
from edgebench.tools import usable_cores

LEAST_JOBS = 10_000  # below, there is hardly a second to be won
MOST_WORKERS = 2  # each takes 100 MiB, and the verdicts of 100,000 cells 240
SHARES = 12  # of the devices for each process: little is in memory, and at the end none waits long


class Task(NamedTuple):
    """Some devices of a question about stored runs, which a process of its own opens by their ids."""

    settings: Settings
    candidate: str
    baseline: str | None
    budgets: Budgets
    today: date
    problem: str
    devices: Sequence[str]


def answered_together(asked: Question, sources: Sources, settings: Settings) -> Gate | None:
    """The verdict, as `judging.answered` has it; None where one process is as quick."""
    workers = _workers(asked, sources)
    if workers < 2:
        return None
    with uncollected():
        return concluded(_parts(_tasks(asked, settings, workers), workers), asked.budgets, today=asked.today)


def _workers(asked: Question, sources: Sources) -> int:
    """How many processes a question is worth."""
    if asked.candidate.run is None or (asked.baseline is not None and asked.baseline.run is None):
        return 1  # of a file, which is in memory already
    if sources.store.count_jobs(asked.candidate.run.id) < LEAST_JOBS:
        return 1
    return min(usable_cores(), MOST_WORKERS, len(asked.candidate.devices()))


def _tasks(asked: Question, settings: Settings, workers: int) -> list[Task]:
    devices = asked.candidate.devices()
    size = math.ceil(len(devices) / (SHARES * workers))
    known = (asked.candidate, asked.baseline)
    candidate, baseline = (each.run.id if each and each.run else None for each in known)
    return [
        Task(
            settings,
            str(candidate),
            baseline,
            asked.budgets,
            asked.today,
            asked.problem,
            devices[begin : begin + size],
        )
        for begin in range(0, len(devices), size)
    ]


def _parts(tasks: Sequence[Task], workers: int) -> Iterator[Part]:
    # processes that start afresh inherit neither an open database nor a thread's locks
    fresh = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=fresh, initializer=_uninterrupted)
    try:
        for made in pool.map(_judged, tasks):
            yield from made
    finally:
        pool.shutdown(cancel_futures=True)


def _uninterrupted() -> None:
    """Ctrl-C reaches every process of a terminal: the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _judged(task: Task) -> list[Part]:
    with uncollected(), opened(task.settings) as sources:
        candidate = sources.named(task.candidate, with_samples=needs_samples(task.budgets))
        baseline = None if task.baseline is None else sources.named(task.baseline)
        asked = Question(candidate, task.budgets, task.today, baseline, task.problem)
        return [judged_on(each, asked, sources.store) for each in task.devices]
