"""From a proven artifact to its measurement on a device.

push -> parity on the device -> launches, each stored at once; invalid ones are repeated after a pause
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from edgebench.device.session import Lease, Placed, Session, open_session
from edgebench.errors import DeviceError
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
from edgebench.statistics import unusable_reason
from edgebench.store import Store
from edgebench.targets import mismatches
from edgebench.validity import is_cool, judged, may_pass, pause_s, was_hot

COOL_POLL_S = 5.0
LONGEST_COOLING_S = 600.0


class Site(NamedTuple):
    """Where a job is measured, where its results go, and measurements begun by interrupted sessions (ids).

    `pause` waits so many seconds, or raises Interrupted when the run is stopped meanwhile.
    """

    run: str
    session: Session
    facts: Facts
    target: Target
    store: Store
    begun: Mapping[Job, str]
    pause: Callable[[float], object] = time.sleep


def open_device(device: Device, target: Target, home: Path, lease: Lease) -> tuple[Session, Facts]:
    """A leased session on a device that is what its target says; DeviceError where it is not."""
    session = open_session(device, home=home, lease=lease)
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
    while wants_launch(measurement, site.target):
        rest(measurement, site, bench)
        launch = launch_once(measurement, prepared, placed, site, bench)
        site.store.add_launch(measurement.id, launch)
        measurement = replace(measurement, launches=(*measurement.launches, launch))
        tell_launched(measurement, site, bench)
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


class Tally(NamedTuple):
    """How a measurement's launches stand; `total` is how many it comes to if the rest is valid."""

    valid: int
    invalid: int
    total: int


def tally(measurement: Measurement) -> Tally:
    """The launches of a measurement, counted."""
    invalid = sum(bool(unusable_reason(each)) for each in measurement.launches)
    valid = len(measurement.launches) - invalid
    return Tally(valid, invalid, invalid + max(valid, measurement.job.workload.launches))


def wants_launch(measurement: Measurement, target: Target) -> bool:
    """Whether one more launch is due: a planned one, or the repeat of an invalid one while there are any."""
    workload, counted = measurement.job.workload, tally(measurement)
    if counted.valid >= workload.launches or counted.invalid > workload.max_invalid:
        return False
    return all(may_pass(each, target.limits) for each in measurement.launches if unusable_reason(each))


def rest(measurement: Measurement, site: Site, bench: Workbench) -> None:
    """The pause before a further launch: longer after an invalid one, until it is cool after a hot one."""
    if not measurement.launches:
        return
    job, last = measurement.job, measurement.launches[-1]
    spoilt = bool(unusable_reason(last))
    seconds = job.workload.cooldown_s
    if spoilt:
        seconds = pause_s(seconds, tally(measurement).invalid)
    if seconds:
        bench.announce(_step("cool down", measurement, len(measurement.launches) + 1))
        site.pause(seconds)
    if spoilt and was_hot(last, site.target.limits):
        _cool_down(measurement, site, bench)


def _cool_down(measurement: Measurement, site: Site, bench: Workbench) -> None:
    """Wait until the board is cool enough, but not for ever: the next launch is judged like any other."""
    number, waited_s = len(measurement.launches) + 1, 0.0
    while waited_s < LONGEST_COOLING_S:
        now = site.session.conditions()
        if is_cool(now, site.target.limits):
            return
        state = "throttled" if now.temperature_c is None else f"{now.temperature_c:.0f} °C"
        if not waited_s:
            note = f"{state}, waiting {LONGEST_COOLING_S / 60:.0f} min at most"
            bench.announce(_step("too hot", measurement, number, note))
        bench.announce(_step("cool down", measurement, number, state))
        site.pause(COOL_POLL_S)
        waited_s += COOL_POLL_S


def launch_once(
    measurement: Measurement, prepared: Prepared, placed: Placed, site: Site, bench: Workbench
) -> Launch:
    """One launch, judged by the state of the board."""
    number = len(measurement.launches) + 1

    def phase(name: str) -> None:
        bench.announce(_step("launch", measurement, number, name))

    workload = measurement.job.workload
    launch = site.session.launch(prepared.artifact, placed, prepared.inputs, workload, number, phase)
    return judged(launch, site.target.limits)


def tell_launched(measurement: Measurement, site: Site, bench: Workbench) -> None:
    """Announce a launch that is stored; why it is invalid, and whether it is repeated."""
    number, counted = len(measurement.launches), tally(measurement)
    bench.announce(_step("launched", measurement, number))
    reason = unusable_reason(measurement.launches[-1])
    if not reason:
        return
    if wants_launch(measurement, site.target):
        most = measurement.job.workload.max_invalid
        bench.announce(
            _step("repeat", measurement, number, f"{reason}; repeat {counted.invalid} of at most {most}")
        )
    else:
        bench.announce(_step("invalid", measurement, number, f"{reason}; it is not repeated any more"))


def _step(stage: str, measurement: Measurement, number: int, note: str = "") -> Step:
    return Step(
        stage, measurement.job.device, title(measurement.job), number, tally(measurement).total, note=note
    )


def finish(measurement: Measurement, site: Site) -> Measurement:
    """The measurement with its final status: ok with as many valid launches as were planned, else invalid."""
    planned, counted = measurement.job.workload.launches, tally(measurement)
    status: Literal["ok", "invalid"] = "ok" if counted.valid >= planned else "invalid"
    warnings = measurement.warnings
    if status == "invalid":
        warnings += (f"{counted.valid} of {planned} launches are valid, {counted.invalid} were invalid",)
    site.store.finish_measurement(measurement.id, status, warnings)
    return replace(measurement, status=status, warnings=warnings)
