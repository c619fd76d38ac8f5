"""What a run with a gate was asked for, as it is stored with the run; and what each job is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date

from edgebench import budgets
from edgebench.pipeline import Mode, Ruling
from edgebench.records import Job, Measurement, Record, Run, from_json, replace
from edgebench.store import Store

KEY = "gate"  # in a run's plan


class GatePlan(Record, frozen=True):
    """The budgets as text and where they stood, the mode, and the baseline: a run's id or an ONNX file.

    `baseline` is what was typed, `stored`: it is not measured again.
    """

    budgets: str
    source: str
    mode: Mode = "auto"
    baseline: str = ""
    baseline_run: str = ""
    baseline_model: str = ""
    stored: bool = False


def gate_of(run: Run) -> GatePlan | None:
    """The gate that a run was started with."""
    plain = run.plan.get(KEY)
    return None if plain is None else from_json(GatePlan, plain, source=f"run {run.id}")


def ruling(plan: GatePlan, groups: Mapping[str, tuple[str, ...]], today: date, cells: int) -> Ruling:
    """How a run of so many jobs decides."""
    return Ruling(budgets.parse(plan.budgets, plan.source), plan.mode, today, groups, cells)


def rivals(plan: GatePlan | None, jobs: Iterable[Job], store: Store) -> dict[Job, Measurement]:
    """What the baseline's run measured of each job, on the same device or else on one of the same kind."""
    if plan is None or plan.stored or not plan.baseline_run:
        return {}
    found = [replace(each, launches=()) for each in store.measurements(plan.baseline_run)]
    of_kind = {_names(each.job, each.job.target): each for each in found}
    of_device = {_names(each.job, each.job.device): each for each in found}
    matched = {
        job: of_device.get(_names(job, job.device)) or of_kind.get(_names(job, job.target)) for job in jobs
    }
    return {job: measurement for job, measurement in matched.items() if measurement is not None}


def _names(job: Job, where: str) -> tuple[str, ...]:
    return where, job.model, job.variant, job.runtime, job.precision
