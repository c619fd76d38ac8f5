"""From a proven artifact to its measurement on a device.

push -> parity on the device -> launches, each stored at once
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from edgebench.device.leases import IMPATIENT, Patience
from edgebench.device.session import Lease, Placed, Session, open_session
from edgebench.errors import (
    DeviceError,
)
from edgebench.pipeline.base import (
    Prepared,
    Step,
    Workbench,
    demand,
    judge,
    title,
)
from edgebench.records import (
    Device,
    Facts,
    Job,
    Launch,
    Measurement,
    ParityReport,
    Target,
    replace,
)
from edgebench.store import Store
from edgebench.targets import mismatches
from edgebench.validity import judged

if TYPE_CHECKING:
    pass


class Site(NamedTuple):
    """Where a job is measured, where its results go, and measurements begun by interrupted sessions (ids)."""

    run: str
    session: Session
    facts: Facts
    target: Target
    store: Store
    begun: Mapping[Job, str]


def open_device(
    device: Device, target: Target, home: Path, lease: Lease, patience: Patience = IMPATIENT
) -> tuple[Session, Facts]:
    """A leased session on a device that is what its target says; DeviceError where it is not."""
    session = open_session(device, home=home, lease=lease, patience=patience)
    try:
        facts = session.facts()
        wrong = mismatches(target, facts)
        if wrong:
            raise DeviceError(
                f"{device.name} is not what its target {target.name} says: {' '.join(wrong)}",
                hint=f"edgebench devices doctor {device.name}, or give it another target in the inventory",
            )
    except BaseException:
        session.close()
        raise
    return session, facts


def measure(job: Job, prepared: Prepared, site: Site, bench: Workbench) -> Measurement:
    """The measurement of one job, every launch stored as it comes; continues one that was interrupted."""
    placed = push(job, prepared, site, bench)
    report = check_on_device(job, prepared, placed, site, bench)
    measurement = begin(job, prepared, placed, report, site)
    for number in range(len(measurement.launches) + 1, job.workload.launches + 1):
        launch = launch_once(job, prepared, placed, site, bench, number)
        site.store.add_launch(measurement.id, launch)
        measurement = replace(measurement, launches=(*measurement.launches, launch))
        bench.announce(Step("launched", job.device, title(job), number, job.workload.launches))
    return finish(measurement, site)


def push(job: Job, prepared: Prepared, site: Site, bench: Workbench) -> Placed:
    """Artifact, inputs and runtime on the device; only what it lacks travels."""
    bench.announce(Step("push", job.device, title(job)))
    folder = bench.artifacts.path(prepared.artifact.digest)
    return site.session.place(prepared.artifact, folder, prepared.inputs, site.facts)


def check_on_device(
    job: Job, prepared: Prepared, placed: Placed, site: Site, bench: Workbench
) -> ParityReport:
    """The device's own outputs against the reference; ModelError where they differ."""
    bench.announce(Step("parity", job.device, title(job)))
    outputs = site.session.infer(prepared.artifact, placed, prepared.inputs, job.workload.threads)
    reference = bench.reference(prepared.variant, prepared.inputs)
    bounds = bench.bounds(prepared.variant, prepared.inputs, job.runtime, job.precision)
    report = judge(reference, outputs, bounds, job.device, prepared.inputs_kind)
    demand(report, prepared.artifact)
    return report


def begin(job: Job, prepared: Prepared, placed: Placed, report: ParityReport, site: Site) -> Measurement:
    """A new measurement in the store, or the one that an interrupted session began with this artifact."""
    begun = site.begun.get(job)
    if begun is not None:
        known = site.store.measurement(begun)
        if known.artifact.digest == prepared.artifact.digest:
            return known
    measurement = Measurement(
        id=secrets.token_hex(8),
        run=site.run,
        job=job,
        artifact=prepared.artifact,
        facts=site.facts,
        controller_parity=prepared.parity,
        device_parity=report,
        launches=(),
        status="partial",
        warnings=prepared.parity.warnings,
        pushed_bytes=placed.moved_bytes,
    )
    site.store.begin_measurement(measurement)
    return measurement


def launch_once(
    job: Job, prepared: Prepared, placed: Placed, site: Site, bench: Workbench, number: int
) -> Launch:
    """One launch, judged by the state of the board; a pause before it where the workload asks for one."""
    if number > 1 and job.workload.cooldown_s:
        bench.announce(Step("cool down", job.device, title(job), number, job.workload.launches))
        time.sleep(job.workload.cooldown_s)

    def phase(name: str) -> None:
        bench.announce(Step("launch", job.device, title(job), number, job.workload.launches, note=name))

    launch = site.session.launch(prepared.artifact, placed, prepared.inputs, job.workload, number, phase)
    return judged(launch, site.target.limits)


def finish(measurement: Measurement, site: Site) -> Measurement:
    """The measurement with its final status: invalid where no launch counts."""
    status: Literal["ok", "invalid"] = "ok" if any(each.valid for each in measurement.launches) else "invalid"
    site.store.finish_measurement(measurement.id, status, measurement.warnings)
    return replace(measurement, status=status)
