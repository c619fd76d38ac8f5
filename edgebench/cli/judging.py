"""One question to a gate: what is judged, by what, against what; answered device by device."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from typing import NamedTuple

from edgebench import evidence as evidence_files
from edgebench import releases
from edgebench.budgets import Budgets
from edgebench.cli.output import warn
from edgebench.cli.sources import Cells, Source, Sources, uncollected
from edgebench.errors import UserError
from edgebench.evidence import Evidence, Inconclusive, KnownNoise
from edgebench.gates import DeviceNoise, Gate, Known, Part, concluded, judged, needs_samples
from edgebench.gates.noise import known_noise
from edgebench.records import Judgement, Run
from edgebench.store import Store

LAST_FLOORS = 100  # of a device: more than a year of weekly A/A


class Question(NamedTuple):
    """`baseline` None: what was measured beside. `problem`: why the baseline may be none, or ""."""

    candidate: Source
    budgets: Budgets
    today: date
    baseline: Source | None = None
    problem: str = ""


def question(candidate: str, baseline: str | None, budgets: Budgets, sources: Sources) -> Question:
    """What is asked by name: the baseline that is typed, else what was measured beside, else the file's."""
    found = sources.named(candidate, with_samples=needs_samples(budgets))
    today = datetime.now(UTC).date()
    name = baseline or (None if has_own_baseline(found, sources.store) else budgets.baseline)
    if name is None:
        return Question(found, budgets, today, problem=problem_of_own(found, sources.store))
    try:
        against = sources.named(name)
    except UserError as error:
        if baseline is not None or name != releases.LATEST_PASSED:
            raise
        warn(error.message)  # the first release of all has nothing to be compared with
        return Question(found, budgets, today)
    return Question(found, budgets, today, against, problem_of(against.run, name, sources.store))


def answered(asked: Question, store: Store) -> Gate:
    """The verdict; what is known of each device's noise is taken from the store."""
    with uncollected():
        parts = (judged_on(each, asked, store) for each in asked.candidate.devices())
        return concluded(parts, asked.budgets, today=asked.today)


def judged_on(device: str, asked: Question, store: Store) -> Part:
    """The verdicts on the cells of one device."""
    cells = asked.candidate.of(device)
    against = Cells(()) if asked.baseline is None else asked.baseline.of(device)
    own = cells.baselines if asked.baseline is None else ()
    known = Known(_noise(device, store), asked.problem)
    before = (*against.candidates, *own)
    return judged(cells.candidates, asked.budgets, before, known=known, duets=cells.duets)


def evidence(asked: Question, text: str, inconclusive: Inconclusive, sources: Sources) -> Evidence:
    """All that leads to the verdict, with the text of the budgets."""
    baseline = asked.baseline
    known = [
        KnownNoise(device=device, runtime=runtime, known=noise)
        for each in asked.candidate.devices()
        for (device, runtime), noise in _noise(each, sources.store).items()
    ]
    told = evidence_files.Question(
        day=asked.today.isoformat(),
        budgets=asked.budgets.source,
        candidate=asked.candidate.name,
        baseline="" if baseline is None else baseline.name,
        inconclusive=inconclusive,
        noise=tuple(known),
        problem=asked.problem,
    )
    before = None if baseline is None else sources.file(baseline.name)
    return Evidence(told, text, sources.file(asked.candidate.name), before)


def _noise(device: str, store: Store) -> dict[tuple[str, str], DeviceNoise]:
    return known_noise(store.noise_floors(device, LAST_FLOORS))


def has_own_baseline(candidate: Source, store: Store) -> bool:
    """Whether a baseline was measured beside any of the cells."""
    if candidate.run is not None:
        return store.has_role(candidate.run.id, "baseline")
    return any(candidate.of(device).baselines for device in candidate.devices())


def problem_of(run: Run | None, name: str, store: Store) -> str:
    """Why a stored run may be no baseline: its own gate failed."""
    return "" if run is None else releases.problem_of(name, store.judgement(run.id))


def problem_of_own(candidate: Source, store: Store) -> str:
    """The same of the run whose artifacts were measured beside a run's own."""
    plan = {} if candidate.run is None else candidate.run.plan.get("gate") or {}
    run, name = plan.get("baseline_run"), plan.get("baseline")
    return problem_of(store.run(run), str(name), store) if run else ""


def keep(made: Gate, asked: Question, store: Store) -> None:
    """Store what a gate said of a stored run, so that its release knows."""
    run = asked.candidate.run
    if run is None:
        return
    store.add_judgement(
        Judgement(
            run=run.id,
            judged_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            verdict=made.verdict,
            exit_code=made.exit_code,
            baseline="" if asked.baseline is None else asked.baseline.name,
            budgets=asked.budgets.source,
            counts=dict(Counter(each.word for each in made.cells)),
        )
    )
