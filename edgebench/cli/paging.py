"""A stored run as one HTML file: what a page is made of, taken from the store; no device is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgebench import budgets as budget_files
from edgebench.cli.asking import cells_by_measurement, lines_of_metrics
from edgebench.cli.judging import Question, answered, question
from edgebench.cli.showing import build_report
from edgebench.cli.sources import Source, Sources
from edgebench.errors import UserError
from edgebench.fleet.gating import gate_of
from edgebench.gates import Gate, Observed
from edgebench.gates.compare import compare
from edgebench.records import Judgement, Run
from edgebench.report.base import Report, Row, form
from edgebench.report.details import detail
from edgebench.report.differences import Before, Side, before
from edgebench.report.front import Option, options_of
from edgebench.report.history import History, Line, Sister, drifts, odd_ones
from edgebench.report.page import Subjects, worth_drawing
from edgebench.store import Store

METRIC = "latency.p50"
OTHER_METRICS = (
    "latency.p99",
    "memory_peak",
    "artifact_size",
    "load_time",
    "energy_per_inference",
    "accuracy_drop",
)
MOST_LINES = 6


class Against(NamedTuple):
    """What a page compares with, as typed: a budgets file's text with its name, and a baseline."""

    budgets: budget_files.Budgets | None = None
    baseline: str | None = None


def subjects(run_name: str, against: Against, sources: Sources) -> Subjects:
    """Everything that the page of a stored run is made of."""
    store = sources.store
    report = build_report(store, run_name)
    run = report.run
    asked = _question(run, against, sources)
    gate = None if asked is None else answered(asked, store)
    judgement = store.judgement(run.id)
    return Subjects(
        report=report,
        gate=gate,
        judgement=judgement,
        releases=tuple(each.name for each in store.releases() if each.run == run.id),
        before=_before(report, _baseline(run, against, asked, judgement, store), sources),
        history=_history(report, gate, sources),
        details={each: detail(store.measurement(each)) for each in worth_drawing(report, gate)},
        options=_options(report, sources),
    )


def _options(report: Report, sources: Sources) -> tuple[Option, ...]:
    """The cells that have rivals, each with its place on the front; a form alone has no front."""
    forms = Counter((row.job.device, row.job.model) for row in report.rows)
    rivals = [row for row in report.rows if forms[row.job.device, row.job.model] > 1]
    return options_of(rivals, cells_by_measurement(sources, report.run.id, {row.id for row in rivals}))


def _question(run: Run, against: Against, sources: Sources) -> Question | None:
    """By the budgets that were named, else by those that the run was gated with."""
    if against.budgets is not None:
        return question(run.id, against.baseline, against.budgets, sources)
    plan = gate_of(run)
    if plan is None:
        return None
    rules = budget_files.parse(plan.budgets, plan.source)
    baseline = against.baseline or (None if sources.store.has_role(run.id, "baseline") else plan.baseline_run)
    return question(run.id, baseline or None, rules, sources)


def _baseline(
    run: Run, against: Against, asked: Question | None, judgement: Judgement | None, store: Store
) -> Side | None:
    """The stored run to compare with: the one that was named, the gate's, or the last gate's."""
    plan = gate_of(run)
    named = against.baseline or (asked.baseline.name if asked and asked.baseline else "")
    told = named or (plan.baseline_run if plan else "") or (judgement.baseline if judgement else "")
    if not told:
        return None
    try:
        found = store.run(told)
    except UserError:
        if against.baseline is not None:
            raise
        return None  # the last gate's baseline may have been a file, or be gone
    return None if found.id == run.id else Side(told, build_report(store, found.id))


def _before(report: Report, side: Side | None, sources: Sources) -> Before | None:
    if side is None:
        return None
    now = sources.named(report.run.id)
    earlier = _candidates(sources.named(side.report.run.id))
    own = [cell for device in now.devices() for cell in now.of(device).baselines]
    return before(side, report, compare([*earlier, *own], _candidates(now)))


def _history(report: Report, gate: Gate | None, sources: Sources) -> History:
    """The cells that are drawn first over all runs, boards that drift, and the odd ones of this run."""
    rows = {row.id: row for row in report.rows}
    found: dict[str, list[Line]] = {metric: [] for metric in (METRIC, *OTHER_METRICS)}
    for each in worth_drawing(report, gate)[:MOST_LINES]:
        job = rows[each].job
        names = {key: getattr(job, key) for key in ("device", "model", "variant", "runtime", "precision")}
        for metric, lines in lines_of_metrics(sources, tuple(found), **names).items():
            found[metric] += [line for line in lines if len(line.points) > 1]
    devices = {row.job.device for row in report.rows}
    floors = [floor for floor in sources.store.noise_floors() if floor.device in devices]
    return History(
        metric=METRIC,
        lines=tuple(found[METRIC]),
        drifts=drifts(floors),
        odd=odd_ones(_sisters(report.rows)),
        others={metric: tuple(found[metric]) for metric in OTHER_METRICS if found[metric]},
    )


def _sisters(rows: Sequence[Row]) -> Iterator[Sister]:
    """p50 of every board, to be compared with others of its kind."""
    for row in rows:
        if row.summary.p50_ns is not None and row.status == "ok":
            cell = f"{row.job.model} {form(row.job)} · {row.job.runtime}"
            yield Sister(
                device=row.job.device, target=row.job.target, cell=cell, value=float(row.summary.p50_ns)
            )


def _candidates(source: Source) -> list[Observed]:
    """The cells that were measured."""
    found = [cell for device in source.devices() for cell in source.of(device).candidates]
    return [cell for cell in found if not cell.failure]
