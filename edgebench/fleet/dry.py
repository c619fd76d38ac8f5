"""What a run would do and how long it would take, told without a device and without a run.

Only the controller is looked at: what is on a device already, and which runtime wheels fit it, is not known
before it is connected, and is not guessed.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median

from edgebench.errors import EdgebenchError
from edgebench.fleet.base import Assignment
from edgebench.pipeline import BUILT_ON_DEVICE, Workbench, foreseen
from edgebench.records import Device, Job, Launch, Measurement, Record, Workload
from edgebench.store import Store


class DryJob(Record, frozen=True):
    """One job as it would go. None is unknown before it is converted or connected.

    `push_bytes` is the artifact, if the device has nothing of it. `seconds` is the time of the launches: what
    an earlier measurement of the same job took (`measured_before`), else the least that its workload takes.
    `problem` says why it would fail, where that is known already.
    """

    job: Job
    is_converted: bool
    push_bytes: int | None
    is_built_on_device: bool
    seconds: float
    measured_before: bool
    problem: str = ""


class DryRun(Record, frozen=True):
    """All jobs of a plan as they would go; `seconds` is the whole run, devices side by side."""

    jobs: tuple[DryJob, ...]
    seconds: float


def look_ahead(
    assignments: Sequence[Assignment],
    devices: Mapping[str, Device],
    max_devices: int,
    bench: Workbench,
    store: Store,
) -> DryRun:
    """The dry run of some assignments."""
    jobs = tuple(_job(each, bench, store) for each in assignments)
    return DryRun(jobs=jobs, seconds=_whole_s(jobs, devices, max_devices))


def _job(assignment: Assignment, bench: Workbench, store: Store) -> DryJob:
    job = assignment.job
    artifact, problem = None, ""
    try:
        artifact = foreseen(assignment.cell, bench)
    except EdgebenchError as error:
        problem = error.message
    took_s = next(filter(None, map(_launch_s, store.measured_before(job))), None)
    return DryJob(
        job=job,
        is_converted=artifact is not None,
        push_bytes=None if artifact is None else artifact.size_bytes,
        is_built_on_device=job.runtime in BUILT_ON_DEVICE,
        seconds=_least_s(job.workload) if took_s is None else took_s * job.workload.launches,
        measured_before=took_s is not None,
        problem=problem,
    )


def _least_s(workload: Workload) -> float:
    return workload.launches * workload.min_duration_s + (workload.launches - 1) * workload.cooldown_s


def _launch_s(measurement: Measurement) -> float | None:
    """From the beginning of one launch to that of the next, as it was in an earlier measurement."""
    gaps = [
        (_begun(after) - _begun(before)).total_seconds()
        for before, after in pairwise(measurement.launches)
        if before.session == after.session and "unknown" not in (before.started_utc, after.started_utc)
    ]
    return median(gaps) if gaps else None


def _begun(launch: Launch) -> datetime:
    return datetime.fromisoformat(launch.started_utc)


def _whole_s(jobs: Sequence[DryJob], devices: Mapping[str, Device], max_devices: int) -> float:
    """So many devices at a time, in their order; this computer alone, after all others."""
    each_s: dict[str, float] = {}
    for one in jobs:
        each_s[one.job.device] = each_s.get(one.job.device, 0.0) + one.seconds
    workers = [0.0] * max(1, max_devices)
    here_s = 0.0
    for name, seconds in each_s.items():
        if devices[name].transport == "local":
            here_s += seconds
        else:
            heapq.heapreplace(workers, workers[0] + seconds)
    return max(workers) + here_s
