"""From a proven artifact to its measurement on a device.

push -> build on the device, where it must -> parity there -> launches, each stored at once; invalid ones are
repeated after a pause
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgebench import exchange
from edgebench.device.leases import IMPATIENT, Patience
from edgebench.device.session import InputSet, Lease, Placed, Session, open_session
from edgebench.errors import DeviceError, EdgebenchError, Interrupted, printable
from edgebench.gates import observed
from edgebench.gates.figures import VERSION
from edgebench.pipeline.base import (
    Evaluation,
    Prepared,
    Samples,
    Step,
    Workbench,
    build_on,
    demand,
    judge,
    title,
)
from edgebench.pipeline.evaluating import PART_TIMEOUT_S, Part, accuracy
from edgebench.pipeline.profiling import with_nodes
from edgebench.records import (
    Accuracy,
    Artifact,
    Device,
    Engine,
    Facts,
    Job,
    Launch,
    Measurement,
    ParityReport,
    Target,
    encode,
    replace,
)
from edgebench.statistics import half_width, unusable_reason
from edgebench.store import Store
from edgebench.targets import mismatches
from edgebench.units import format_bytes, significant
from edgebench.validity import is_cool, judged, may_pass, pause_s, was_hot

COOL_POLL_S = 5.0
LONGEST_COOLING_S = 600.0


SHOW_EVERY_S = 0.2  # how often a display hears of a long push

PROFILE_REPEATS = 30
MOST_LAUNCHES = 20  # that an interval is waited for to become as narrow as it was asked for
RERUN = "run again"


class Site(NamedTuple):
    """Where a job is measured, where its results go, and measurements begun by interrupted sessions (ids).

    `pause` waits so many seconds, or raises Interrupted when the run is stopped meanwhile.
    `profile`: after the launches of a measurement, one more takes the times of its layers.
    """

    run: str
    session: Session
    facts: Facts
    target: Target
    store: Store
    begun: Mapping[Job, str]
    pause: Callable[[float], object] = time.sleep
    profile: bool = False


def open_device(
    device: Device, target: Target, home: Path, lease: Lease, patience: Patience = IMPATIENT
) -> tuple[Session, Facts]:
    """A leased session on a prepared device that is what its target says; DeviceError where it is not."""
    session = open_session(device, home=home, lease=lease, patience=patience)
    try:
        if device.prepare is not None:
            session.prepare(device.prepare)
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


class Loaded(NamedTuple):
    """What a launch runs: an artifact with its inputs, and where they lie on the device."""

    artifact: Artifact
    inputs: InputSet
    placed: Placed


def measure(job: Job, prepared: Prepared, site: Site, bench: Workbench) -> Measurement:
    """The measurement of one job, every launch stored as it comes; continues one that was interrupted."""
    measurement, loaded = proven(job, prepared, site, bench)
    while wants_launch(measurement, site.target):
        rest(measurement, site, bench)
        launch = launch_once(measurement, loaded, site, bench)
        measurement = stored(measurement, launch, site)
        tell_launched(measurement, site, bench)
    if site.profile:
        measurement = profiled(job, prepared, loaded.placed, site, bench, measurement)
    measurement = evaluated(measurement, prepared, loaded.placed, site, bench)
    return finish(measurement, site)


def proven(
    job: Job, prepared: Prepared, site: Site, bench: Workbench, **marks: Any
) -> tuple[Measurement, Loaded]:
    """A measurement that may begin: on the device, built, and computing the right outputs there.

    `marks` are further fields of the measurement, such as its role.
    """
    placed = push(job, prepared.artifact, prepared.inputs, site, bench)
    placed, engine = build_on(site.session, prepared.artifact, placed, title(job), bench)
    report, effective = check_on_device(job, prepared, placed, site, bench)
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
        warnings=(*prepared.parity.warnings, *site.session.notes),
        pushed_bytes=placed.moved_bytes,
        engine=told_engine(engine, effective),
        prepared=site.session.prepared,
        accuracy=prepared.accuracy,
        **marks,
    )
    return begin(measurement, site), Loaded(prepared.artifact, prepared.inputs, placed)


def stored(measurement: Measurement, launch: Launch, site: Site) -> Measurement:
    """The measurement with one more launch, which is in the store."""
    site.store.add_launch(measurement.id, launch)
    return replace(measurement, launches=(*measurement.launches, launch))


def push(job: Job, artifact: Artifact, inputs: InputSet, site: Site, bench: Workbench) -> Placed:
    """Artifact, inputs and runtime on the device; only what it lacks travels."""
    bench.announce(Step("push", job.device, title(job)))
    shown_s = time.monotonic()

    def progress(moved: int, total: int) -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s > SHOW_EVERY_S:
            shown_s = time.monotonic()
            note = f"{format_bytes(moved)} of {format_bytes(total)}"
            bench.announce(Step("push", job.device, title(job), note=note))

    folder = bench.artifacts.path(artifact.digest)
    placed = site.session.place(artifact, folder, inputs, site.facts, progress)
    if placed.removed:
        bench.announce(Step("made room", job.device, _what_went(placed)))
    return placed


def _what_went(placed: Placed) -> str:
    """What had to go for a push, in a few words."""
    shown = [f"{kind} {name[:12]}" for kind, _, name in (each.what.partition("/") for each in placed.removed)]
    freed = format_bytes(sum(each.freed_bytes for each in placed.removed))
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return f"({freed}): removed {', '.join(shown[:3])}{more}, used least recently"


def check_on_device(
    job: Job, prepared: Prepared, placed: Placed, site: Site, bench: Workbench
) -> tuple[ParityReport, Mapping[str, str]]:
    """The device's own outputs against the reference, and how they were computed; ModelError: they differ."""
    bench.announce(Step("parity", job.device, title(job)))
    computed = site.session.computed(prepared.artifact, placed, prepared.inputs, job.workload.threads)
    reference = bench.reference(prepared.variant, prepared.inputs)
    bounds = bench.bounds(prepared.variant, prepared.inputs, job.runtime, job.precision)
    report = judge(reference, computed.samples, bounds, job.device, prepared.inputs_kind)
    demand(report, prepared.artifact)
    return report, computed.effective


def told_engine(engine: Engine | None, effective: Mapping[str, str]) -> Engine | None:
    """The engine with what was learnt when it computed outputs."""
    if engine is None:
        return None

    def number(name: str) -> int | None:
        text = effective.get(name, "")
        return int(text) if re.fullmatch("[0-9]{1,15}", text) else None

    return replace(
        engine,
        outputs_by=printable(effective.get("outputs_by", ""))[:500],
        gpu_bytes=number("gpu_memory_bytes"),
        load_ns=number("load_ns"),
        first_inference_ns=number("first_inference_ns"),
    )


def begin(measurement: Measurement, site: Site) -> Measurement:
    """The measurement, in the store; or the one that an interrupted session began with this artifact."""
    known = _begun(measurement, site)
    if known is not None and known.artifact.digest == measurement.artifact.digest:
        return known
    site.store.begin_measurement(measurement)
    return measurement


def _begun(measurement: Measurement, site: Site) -> Measurement | None:
    """What an interrupted session began of the same kind, unfinished."""
    if measurement.role != "candidate":
        found = site.store.beside(site.run, measurement.beside, measurement.role)
        return found if found is not None and found.status == "partial" else None
    begun = site.begun.get(measurement.job)
    return None if begun is None else site.store.measurement(begun)


class Tally(NamedTuple):
    """How a measurement's launches stand; `total` is how many it comes to if the rest is valid.

    Those that were run again for the load of others are not among the invalid ones.
    """

    valid: int
    invalid: int
    total: int


def tally(measurement: Measurement) -> Tally:
    """The launches of a measurement, counted."""
    spoilt = [each for each in measurement.launches if unusable_reason(each)]
    valid = len(measurement.launches) - len(spoilt)
    invalid = sum(not was_rerun(each) for each in spoilt)
    return Tally(valid, invalid, len(spoilt) + max(valid, measurement.job.workload.launches))


def was_rerun(launch: Launch) -> bool:
    """Whether a launch was run again because others used the device."""
    return launch.invalid_reason.endswith(RERUN)


def wants_launch(measurement: Measurement, target: Target) -> bool:
    """Whether one more launch is due: a planned one, or the repeat of an invalid one while there are any."""
    workload, counted = measurement.job.workload, tally(measurement)
    if counted.valid >= workload.launches and not is_wide(measurement):
        return False
    return may_repeat(measurement, target)


def is_wide(measurement: Measurement) -> bool:
    """Whether the interval of p50 is wider than asked for, and further launches may make it narrower."""
    workload = measurement.job.workload
    if not workload.precision or tally(measurement).valid >= max(MOST_LAUNCHES, workload.launches):
        return False
    width = half_width(measurement.launches)
    return width is None or width > workload.precision


def may_repeat(measurement: Measurement, target: Target) -> bool:
    """Whether a further launch may come out valid, after those that did not."""
    if tally(measurement).invalid > measurement.job.workload.max_invalid:
        return False
    return all(may_pass(each, target.limits) for each in measurement.launches if unusable_reason(each))


def rest(measurement: Measurement, site: Site, bench: Workbench) -> None:
    """The pause before a further launch: longer after an invalid one, until it is cool after a hot one."""
    if not measurement.launches:
        return
    job, last = measurement.job, measurement.launches[-1]
    spoilt = bool(unusable_reason(last)) and not was_rerun(last)
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


def launch_once(measurement: Measurement, loaded: Loaded, site: Site, bench: Workbench) -> Launch:
    """One launch, judged by the state of the board."""
    number = len(measurement.launches) + 1
    workload, phase = measurement.job.workload, phases(measurement, bench)
    launch = site.session.launch(loaded.artifact, loaded.placed, loaded.inputs, workload, number, phase)
    return judged(launch, site.target.limits)


def phases(measurement: Measurement, bench: Workbench) -> Callable[[str], None]:
    """What announces the phases of the next launch."""
    number = len(measurement.launches) + 1
    return lambda name: bench.announce(_step("launch", measurement, number, name))


def tell_launched(measurement: Measurement, site: Site, bench: Workbench) -> None:
    """Announce a launch that is stored; why it is invalid, and whether it is repeated."""
    number, counted = len(measurement.launches), tally(measurement)
    bench.announce(_step("launched", measurement, number))
    reason = unusable_reason(measurement.launches[-1])
    if not reason:
        return
    if was_rerun(measurement.launches[-1]):
        bench.announce(_step("repeat", measurement, number, reason))
    elif wants_launch(measurement, site.target):
        most = measurement.job.workload.max_invalid
        bench.announce(
            _step("repeat", measurement, number, f"{reason}; repeat {counted.invalid} of at most {most}")
        )
    else:
        bench.announce(_step("invalid", measurement, number, f"{reason}; it is not repeated any more"))


def _step(stage: str, measurement: Measurement, number: int, note: str = "") -> Step:
    role = "" if measurement.role == "candidate" else f" ({measurement.role})"
    what, total = f"{title(measurement.job)}{role}", tally(measurement).total
    return Step(stage, measurement.job.device, what, number, total, note=note)


def profiled(
    job: Job, prepared: Prepared, placed: Placed, site: Site, bench: Workbench, measurement: Measurement
) -> Measurement:
    """The measurement, its profile stored beside it; where there is none, a warning says why.

    Only a run that is being stopped goes no further: it takes the profile when it is resumed.
    """
    bench.announce(Step("profile", job.device, title(job)))
    try:
        taken = site.session.profile(
            prepared.artifact, placed, prepared.inputs, job.workload, PROFILE_REPEATS
        )
    except EdgebenchError as error:
        if isinstance(error, Interrupted) or site.session.is_closed:
            raise
        return _warned(measurement, f"no profile: {error.message}")
    try:
        taken = with_nodes(taken, prepared, bench)
    except EdgebenchError as error:
        measurement = _warned(measurement, f"the profile's layers have no ONNX nodes: {error.message}")
    site.store.add_profile(measurement.id, taken)
    return measurement


def evaluated(
    measurement: Measurement, prepared: Prepared, placed: Placed, site: Site, bench: Workbench
) -> Measurement:
    """The measurement with the accuracy by the device's own outputs, where that was asked for."""
    if prepared.evaluation is None:
        return measurement
    there = accuracy_there(prepared.evaluation, prepared.artifact, placed, site, bench, measurement)
    return replace(measurement, accuracy=there)


def accuracy_there(
    evaluation: Evaluation,
    artifact: Artifact,
    placed: Placed,
    site: Site,
    bench: Workbench,
    measurement: Measurement,
) -> Accuracy:
    """The accuracy by the device's own outputs, after the launches: it would have warmed the board.

    The samples travel part by part; what a part brought before stays there and travels no more.
    """
    folder = bench.artifacts.path(artifact.digest)

    def compute(inputs: InputSet) -> Samples:
        there = site.session.place(artifact, folder, inputs, site.facts)
        there = replace(there, engine=placed.engine)
        threads = measurement.job.workload.threads
        return site.session.infer(artifact, there, inputs, threads, time_s=PART_TIMEOUT_S)

    part = Part(evaluation, artifact, title(measurement.job), measurement.job.device)
    return accuracy(part, compute, bench, fixed=True)


def _warned(measurement: Measurement, warning: str) -> Measurement:
    return replace(measurement, warnings=(*measurement.warnings, warning))


def finish(measurement: Measurement, site: Site) -> Measurement:
    """The measurement with its final status: ok with as many valid launches as were planned, else invalid."""
    planned, counted = measurement.job.workload.launches, tally(measurement)
    status: Literal["ok", "invalid"] = "ok" if counted.valid >= planned else "invalid"
    told = dict.fromkeys(filter(None, (each.effective.get("warning") for each in measurement.launches)))
    warnings = (*measurement.warnings, *(printable(each) for each in told))
    if status == "invalid":
        warnings += (f"{counted.valid} of {planned} launches are valid, {counted.invalid} were invalid",)
    warnings += tuple(_too_wide(measurement))
    site.store.finish_measurement(measurement.id, status, warnings, measurement.accuracy)
    ended = replace(measurement, status=status, warnings=warnings)
    site.store.keep_figures(ended.id, VERSION, encode(observed(exchange.entry(ended))).decode())
    return ended


def _too_wide(measurement: Measurement) -> Iterator[str]:
    """What is said of an interval that did not become as narrow as it was asked for."""
    wanted, width = measurement.job.workload.precision, half_width(measurement.launches)
    if wanted and (width is None or width > wanted):
        shown = "unknown" if width is None else f"±{significant(100 * width, 2)} %"
        yield (
            f"the 95 % interval of p50 is {shown} after {tally(measurement).valid} launches; "
            f"±{significant(100 * wanted, 2)} % was asked for"
        )
