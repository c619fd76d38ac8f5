"""A plan, or an interrupted run, becomes stored jobs and assignments for the engine."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from random import SystemRandom
from typing import NamedTuple

import edgebench
from edgebench.compress.presets import processor
from edgebench.convert.onnxruntime import format_options
from edgebench.errors import EXIT_ERROR, UserError
from edgebench.fleet.base import Assignment
from edgebench.fleet.gating import KEY, GatePlan, gate_of
from edgebench.fleet.plan import Expansion, Plan, PlannedJob, PlannedModel
from edgebench.inventory import Inventory
from edgebench.pipeline import BUILT_ON_DEVICE, Cell, Labelled
from edgebench.records import REFUSED, Device, Failure, Job, Run, Target, from_json, replace, to_json
from edgebench.store import Store, new_run_id
from edgebench.tools import own_cpu_features


class Started(NamedTuple):
    """A stored run and what is left to do of it."""

    run: Run
    assignments: tuple[Assignment, ...]


def start(
    plan: Plan,
    expansion: Expansion,
    targets: Mapping[str, Target],
    store: Store,
    gate: GatePlan | None = None,
) -> Started:
    """A new run: stored with all its jobs; those that a target refuses are failures at once."""
    now = datetime.now(UTC)
    refused = [each.job for each in expansion.refused]
    run = Run(
        id=new_run_id(now, SystemRandom()),
        created_utc=now.isoformat(timespec="seconds"),
        status="running",
        plan={
            "plan": to_json(plan),
            "planned": [to_json(each) for each in expansion.jobs],
            "jobs": [to_json(job) for job in (*(each.job for each in expansion.jobs), *refused)],
            **({} if gate is None else {KEY: to_json(gate)}),
        },
        edgebench_version=edgebench.__version__,
        controller=platform.node() or "unknown",
    )
    store.add_run(run)
    store.plan_jobs(run.id, [each.job for each in expansion.jobs] + refused)
    for each in expansion.refused:
        store.add_failure(_refusal(run, each.job, each.reason, each.hint))
    return Started(run, tuple(assignment(each, targets, gate) for each in expansion.jobs))


def resume(
    name: str,
    inventory: Inventory,
    targets: Mapping[str, Target],
    store: Store,
    *,
    retry_failed: bool = False,
) -> Started:
    """An interrupted run with its open jobs; UserError when nothing is left or a device is gone.

    With `retry_failed` jobs that failed or ended invalid are open again; those that a target refuses are not.
    """
    run = store.run(name)
    if retry_failed:
        store.reopen_jobs(run.id, but=REFUSED)
    started = left(name, inventory, targets, store, retry_failed=retry_failed)
    store.set_run_status(run.id, "running")
    return started


def left(
    name: str,
    inventory: Inventory,
    targets: Mapping[str, Target],
    store: Store,
    *,
    retry_failed: bool = False,
) -> Started:
    """What `resume` would do, with nothing changed; the same errors."""
    run = store.run(name)
    planned = [from_json(PlannedJob, each, source=f"run {run.id}") for each in run.plan.get("planned", [])]
    still_open = {each.job for each in store.open_jobs(run.id)}
    if not still_open:
        again = "" if retry_failed else "; --retry-failed tries jobs again that failed or ended invalid"
        raise UserError(f"run {run.id} has no open jobs", hint=f"edgebench report {run.id}{again}")
    todo = [each for each in planned if each.job in still_open]
    for device in sorted({each.job.device for each in todo}):
        inventory.device(device)
    gate = gate_of(run)
    return Started(run, tuple(assignment(each, targets, gate) for each in todo))


def assignment(
    planned: PlannedJob, targets: Mapping[str, Target], gate: GatePlan | None = None
) -> Assignment:
    """The job with what it is prepared from, for its target's processor."""
    job, source = planned.job, planned.model
    target = targets[job.target]
    arch = target.platform.arch
    cell = Cell(
        model_path=source.path,
        runtime=job.runtime,
        precision=job.precision,
        as_is=planned.precision is None,
        name=source.name,
        arch=arch,
        shapes=tuple(sorted(source.shapes.items())),
        constants=tuple(sorted(source.constants.items())),
        batch=job.workload.batch,
        cut_nms=source.cut_nms,
        inputs=source.inputs,
        calibration=source.calibration,
        options=_options(source, job, targets[job.target]),
        labelled=_labelled(source),
        vnni=planned.vnni,
        int8=source.int8 if job.precision == "int8" and planned.precision is not None else "",
        validation=source.validation if source.int8 else None,
        labels_key=source.validation_labels_key,
    )
    baseline = None if gate is None else gate.baseline_model
    return Assignment(job, cell, replace(cell, model_path=baseline) if baseline else None)


def known_vnni(devices: Iterable[Device], store: Store) -> dict[str, bool | None]:
    """Whether the devices' processors have VNNI, by what was last seen there; None: never seen."""
    found: dict[str, bool | None] = {}
    for device in devices:
        facts = None if device.transport == "local" else store.last_facts(device.name)
        here = own_cpu_features() if device.transport == "local" else ()
        found[device.name] = processor("", here if facts is None else facts.cpu_features).vnni
    return found


def _labelled(source: PlannedModel) -> Labelled | None:
    """What accuracy is measured on; None where that is not asked for."""
    if source.dataset is None:
        return None
    return Labelled(
        dataset=source.dataset,
        labels_key=source.labels_key,
        metric=source.metric,
        output=source.output,
        reference=source.reference,
        on_device=source.accuracy_on_device,
        preprocess=source.preprocess,
    )


def _options(source: PlannedModel, job: Job, target: Target) -> tuple[tuple[str, str], ...]:
    """What the converter is told beside the precision.

    ONNX Runtime's format, Core ML's compute units, or for what board an engine is to be.
    """
    if job.runtime == "onnxruntime":
        return format_options(source.ort_format, target.platform.arch)
    if job.runtime == "coreml":
        units = source.compute_units or target.runtimes["coreml"].options.get("compute_units")
        return () if units is None else (("compute_units", str(units)),)
    if job.runtime in BUILT_ON_DEVICE:
        options = target.runtimes[job.runtime].options
        return tuple(sorted((name, str(value)) for name, value in options.items()))
    return ()


def wants_profile(run: Run) -> bool:
    """Whether the run's plan asks for profiles."""
    plan = run.plan.get("plan")
    return isinstance(plan, dict) and plan.get("profile") is True


def planned_launches(assignments: Iterable[Assignment]) -> dict[str, int]:
    """Launches to come on each device, for the progress display."""
    planned: dict[str, int] = {}
    for each in assignments:
        planned[each.job.device] = planned.get(each.job.device, 0) + each.job.workload.launches
    return planned


def _refusal(run: Run, job: Job, reason: str, hint: str) -> Failure:
    return Failure(
        run=run.id, job=job, owner="user", stage=REFUSED, message=reason, hint=hint, exit_code=EXIT_ERROR
    )
