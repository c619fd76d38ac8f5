"""Launches of a cell until its budgets are decided: candidate and baseline side by side on one leased device.

pairs of launches, ABBA -> look at 5, 10, 20 of them -> where those cannot decide, both in one process (duet)

A look is the only moment at which is judged: looking after every launch would raise the false alarms. The
mode "auto" goes over to duets by the spread of the launches and the load of others, never by the difference.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Literal, NamedTuple

from edgebench import exchange
from edgebench.budgets import Budgets
from edgebench.comparison import ALPHA, LOOKS
from edgebench.errors import DeviceError, EdgebenchError, Interrupted
from edgebench.gates import Observed, Verdict, gate, is_unsure_failure, needs_samples, observed
from edgebench.gates import duets as duet_rules
from edgebench.pipeline.base import BUILT_ON_DEVICE, Prepared, Step, Workbench, build_on, title
from edgebench.pipeline.measuring import (
    RERUN,
    Loaded,
    Site,
    begin,
    evaluated,
    finish,
    launch_once,
    may_repeat,
    phases,
    profiled,
    proven,
    push,
    rest,
    stored,
    tell_launched,
    was_rerun,
)
from edgebench.records import Job, Launch, Measurement, replace
from edgebench.statistics import unusable_reason
from edgebench.units import significant
from edgebench.validity import judged

Mode = Literal["auto", "separate", "duet"]
Rival = Prepared | Measurement  # the baseline: made of a file, or an artifact that an earlier run measured

MOST_RERUNS = 2  # of a launch beside the load of others: by the load alone, never by what it measured
STEADY = 2  # so many launches in a row that were loaded in spite of that: the load will not go away


class Ruling(NamedTuple):
    """How a run decides: by which budgets, in which mode, and what else its gate knows.

    `cells`: how many are judged together, which a failure has to survive.
    """

    budgets: Budgets
    mode: Mode
    today: date
    groups: Mapping[str, tuple[str, ...]] = {}
    cells: int = 1


class Trial(NamedTuple):
    """So many pairs of launches, or duets, whatever they show; without a rival of an artifact and itself."""

    pairs: int
    mode: Literal["separate", "duet"] = "separate"
    rival: Prepared | None = None


class Side(NamedTuple):
    """Candidate or baseline: its measurement so far, and what its launches run."""

    measurement: Measurement
    loaded: Loaded


class Duel(NamedTuple):
    """A candidate, what it is compared with, and the duet of the two, as far as there are any.

    `alone`: the baseline is not launched, since it is the same artifact, or one that takes other inputs.
    """

    candidate: Side
    baseline: Side | None = None
    duet: Measurement | None = None
    alone: bool = False


class Both(NamedTuple):
    """What one process loads in a duet."""

    candidate: Loaded
    baseline: Loaded


def decide(
    job: Job, prepared: Prepared, rival: Rival | None, site: Site, bench: Workbench, ruling: Ruling
) -> Measurement:
    """The candidate's measurement, with as many launches as its budgets needed; all is stored as it comes."""
    duel = _begun(job, prepared, rival, site, bench, ruling)
    for look in LOOKS:
        duel, complete = _until(duel, look, site, bench)
        left = _undecided(duel, ruling)
        if any(_wants_duet(each, duel, ruling) for each in left):
            duel = _sung(duel, site, bench, ruling)
            left = _undecided(duel, ruling)
        if not complete or not left:
            break
    return _finished(duel, prepared, site, bench)


def side_by_side(job: Job, prepared: Prepared, site: Site, bench: Workbench, trial: Trial) -> Measurement:
    """The candidate of a trial, its launches stored with its rival's, or the duets of both.

    Of an artifact and itself (A/A) all that differs is the device's noise.
    """
    candidate = Side(*proven(job, prepared, site, bench))
    baseline = _rival(job, candidate, site, bench, trial)
    duel = Duel(candidate, baseline)
    if trial.mode == "separate":
        duel, _ = _until(duel, trial.pairs, site, bench)
        return _finished(duel, prepared, site, bench)
    duet = begin(_like(candidate.measurement, _of_a_duet(duel)), site)
    both = Both(candidate.loaded, baseline.loaded)
    duel, _ = _together(duel._replace(duet=duet), both, trial.pairs, site, bench)
    return _finished(duel if trial.rival else duel._replace(baseline=None), prepared, site, bench)


def _rival(job: Job, candidate: Side, site: Site, bench: Workbench, trial: Trial) -> Side:
    """What the candidate is beside in a trial; only launched alone it has a measurement of its own."""
    marks = {"role": "baseline", "beside": candidate.measurement.id}
    if trial.rival is not None:
        return Side(*proven(job, trial.rival, site, bench, **marks))
    if trial.mode == "duet":
        return candidate
    return Side(begin(_like(candidate.measurement, marks), site), candidate.loaded)


# --- begin and end --------------------------------------------------------------------------------


def _begun(
    job: Job, prepared: Prepared, rival: Rival | None, site: Site, bench: Workbench, ruling: Ruling
) -> Duel:
    """Both sides on the device, each proven.

    The baseline is stored without launches where it is the same artifact, or one with other inputs.
    """
    alpha = ALPHA if rival is None or not _may_sing(job, ruling) else ALPHA / 2
    candidate = Side(*proven(job, prepared, site, bench, looks=LOOKS, alpha=alpha))
    if rival is None:
        return Duel(candidate)
    marks = {"role": "baseline", "beside": candidate.measurement.id, "looks": LOOKS, "alpha": alpha}
    if rival.artifact.digest == prepared.artifact.digest or rival.artifact.inputs != prepared.artifact.inputs:
        silent = begin(_like(candidate.measurement, {**marks, "artifact": rival.artifact}), site)
        return Duel(candidate, Side(silent, candidate.loaded), alone=True)
    if isinstance(rival, Measurement):
        return Duel(candidate, _known_before(rival, candidate, marks, site, bench))
    return Duel(candidate, Side(*proven(job, rival, site, bench, **marks)))


def _known_before(
    rival: Measurement, candidate: Side, marks: Mapping[str, object], site: Site, bench: Workbench
) -> Side:
    """An artifact that was measured before, on the device again: it was proven then."""
    job, inputs = candidate.measurement.job, candidate.loaded.inputs
    placed = push(job, rival.artifact, inputs, site, bench)
    placed, engine = build_on(site.session, rival.artifact, placed, title(job), bench)
    proof = {
        "artifact": rival.artifact,
        "controller_parity": rival.controller_parity,
        "device_parity": rival.device_parity,
        "pushed_bytes": placed.moved_bytes,
        "engine": engine,
    }
    measurement = begin(_like(candidate.measurement, {**marks, **proof}), site)
    return Side(measurement, Loaded(rival.artifact, inputs, placed))


def _like(candidate: Measurement, changes: Mapping[str, object]) -> Measurement:
    """A new measurement of the same job in the same session."""
    fresh = replace(candidate, id=secrets.token_hex(8), launches=(), status="partial")
    return replace(fresh, accuracy=None, warnings=(), **changes)


def _finished(duel: Duel, prepared: Prepared, site: Site, bench: Workbench) -> Measurement:
    """The candidate's measurement with its status; those beside it end first, so that none is left half."""
    for other in (duel.baseline.measurement if duel.baseline else None, duel.duet):
        if other is not None:
            finish(other, site)
    measurement, loaded = duel.candidate
    if site.profile:
        measurement = profiled(measurement.job, prepared, loaded.placed, site, bench, measurement)
    return finish(evaluated(measurement, prepared, loaded.placed, site, bench), site)


# --- judging --------------------------------------------------------------------------------------


def _undecided(duel: Duel, ruling: Ruling) -> list[Verdict]:
    """The verdicts that more launches may still decide, or make sure among all cells of the run."""
    return [
        each for each in _verdicts(duel, ruling) if each.more_helps or is_unsure_failure(each, ruling.cells)
    ]


def _verdicts(duel: Duel, ruling: Ruling) -> Sequence[Verdict]:
    baseline = duel.baseline
    return gate(
        [_observed(duel.candidate.measurement, ruling)],
        ruling.budgets,
        [] if baseline is None else [_observed(baseline.measurement, ruling)],
        today=ruling.today,
        duets=[] if duel.duet is None else [_observed(duel.duet, ruling)],
    ).cells


def _observed(measurement: Measurement, ruling: Ruling) -> Observed:
    groups = ruling.groups.get(measurement.job.device, ())
    return observed(exchange.entry(measurement, groups), with_samples=needs_samples(ruling.budgets))


# --- pairs ----------------------------------------------------------------------------------------


def _until(duel: Duel, pairs: int, site: Site, bench: Workbench) -> tuple[Duel, bool]:
    """So many pairs, or launches of the candidate where there is no other side; False: no more will come."""
    while len(_complete(duel)) < pairs:
        number = 1 + max((each.pair or 0 for each in _launches(duel) if each.pair is not None), default=-1)
        duel, complete = _pair(duel, number, site, bench)
        if not complete:
            return duel, False
    return duel, True


def _complete(duel: Duel) -> set[int]:
    """The pairs of which every launch is valid."""
    found = [_valid_pairs(side) for side in _sides(duel)]
    return set.intersection(*found)


def _valid_pairs(side: Side) -> set[int]:
    launches = side.measurement.launches
    return {each.pair for each in launches if each.pair is not None and not unusable_reason(each)}


def _sides(duel: Duel) -> tuple[Side, ...]:
    """The sides that are launched: the candidate alone where nothing differs from it."""
    if duel.baseline is None or duel.alone:
        return (duel.candidate,)
    return (duel.baseline, duel.candidate)


def _launches(duel: Duel) -> Iterator[Launch]:
    for side in _sides(duel):
        yield from side.measurement.launches


def _pair(duel: Duel, number: int, site: Site, bench: Workbench) -> tuple[Duel, bool]:
    """One more pair, baseline first and candidate first by turns; False where a launch did not come out."""
    sides = _sides(duel)
    for side in sides if number % 2 == 0 else reversed(sides):
        launched, valid = _launched(side, number, site, bench)
        is_candidate = launched.measurement.role == "candidate"
        duel = duel._replace(candidate=launched) if is_candidate else duel._replace(baseline=launched)
        if not valid:
            return duel, False
    return duel, True


def _launched(side: Side, pair: int, site: Site, bench: Workbench) -> tuple[Side, bool]:
    """A side with one more valid launch; False where none came, however often it was tried."""
    reruns = 0
    while True:
        measurement, loaded = side
        rest(measurement, site, bench)
        launch = replace(launch_once(measurement, loaded, site, bench), pair=pair)
        if reruns < MOST_RERUNS and _is_loaded(launch) and not _load_is_steady(measurement):
            launch, reruns = _spoilt_by_load(launch), reruns + 1
        side = side._replace(measurement=stored(measurement, launch, site))
        tell_launched(side.measurement, site, bench)
        if not unusable_reason(launch):
            return side, True
        if not may_repeat(side.measurement, site.target):
            return side, False


def _is_loaded(launch: Launch) -> bool:
    return not unusable_reason(launch) and (launch.foreign_load or 0.0) > duet_rules.LOADED_CORES


def _load_is_steady(measurement: Measurement) -> bool:
    """Whether the last launches that count were loaded although they had been run again."""
    last = [each for each in measurement.launches if not was_rerun(each)][-STEADY:]
    return len(last) == STEADY and all(_is_loaded(each) for each in last)


def _spoilt_by_load(launch: Launch) -> Launch:
    cores = significant(launch.foreign_load or 0.0, 2)
    reason = f"other processes kept {cores} cores busy: {RERUN}"
    return replace(launch, valid=False, invalid_reason=reason)


# --- duets ----------------------------------------------------------------------------------------


def _may_sing(job: Job, ruling: Ruling) -> bool:
    """Whether duets are allowed and can be: a program such as trtexec loads one engine at a time."""
    return ruling.mode != "separate" and job.runtime not in BUILT_ON_DEVICE


def _wants_duet(verdict: Verdict, duel: Duel, ruling: Ruling) -> bool:
    """Whether an undecided verdict goes over to a duet: asked for, or 20 pairs will hardly decide it."""
    job = duel.candidate.measurement.job
    if duel.duet is not None or len(_sides(duel)) < 2 or not _may_sing(job, ruling):
        return False
    if verdict.word == "fail" or not duet_rules.tells(verdict.metric, verdict.kind):
        return False
    return ruling.mode == "duet" or duet_rules.takes_over(verdict)


def _sung(duel: Duel, site: Site, bench: Workbench, ruling: Ruling) -> Duel:
    """The duel with a duet, looked at after 5, 10 and 20 launches; where there can be none it is told."""
    candidate, baseline = duel.candidate, duel.baseline
    if baseline is None:
        return duel
    both = Both(candidate.loaded, baseline.loaded)
    duel = duel._replace(duet=begin(_like(candidate.measurement, _of_a_duet(duel)), site))
    for look in LOOKS:
        duel, complete = _together(duel, both, look, site, bench)
        left = [each for each in _undecided(duel, ruling) if duet_rules.tells(each.metric, each.kind)]
        if not complete or not left:
            break
    return duel


def _of_a_duet(duel: Duel) -> dict[str, object]:
    """What a duet's measurement says of itself."""
    baseline = duel.baseline or duel.candidate
    return {
        "role": "duet",
        "beside": duel.candidate.measurement.id,
        "baseline_digest": baseline.loaded.artifact.digest,
    }


def _together(duel: Duel, both: Both, launches: int, site: Site, bench: Workbench) -> tuple[Duel, bool]:
    """So many valid launches of the duet; False where no more will come."""
    duet = duel.duet
    while duet is not None and _valid(duet) < launches:
        rest(duet, site, bench)
        try:
            launch = _sing(duet, both, site, bench)
        except EdgebenchError as error:
            if _ends_the_job(error) or site.session.is_closed:
                raise
            bench.announce(Step("note", site.session.device.name, f"no duet: {error.message}"))
            return duel._replace(duet=replace(duet, warnings=(f"no duet: {error.message}",))), False
        duet = stored(duet, launch, site)
        tell_launched(duet, site, bench)
        duel = duel._replace(duet=duet)
        if unusable_reason(launch) and not may_repeat(duet, site.target):
            return duel, False
    return duel, True


def _ends_the_job(error: EdgebenchError) -> bool:
    return isinstance(error, Interrupted) or (isinstance(error, DeviceError) and error.retryable)


def _sing(duet: Measurement, both: Both, site: Site, bench: Workbench) -> Launch:
    """One launch of both in one process; which is loaded and timed first changes by turns."""
    number = len(duet.launches) + 1
    launch = site.session.duet(
        both.candidate.artifact,
        both.candidate.placed,
        both.baseline.artifact,
        both.baseline.placed,
        both.candidate.inputs,
        duet.job.workload,
        number,
        phases(duet, bench),
        baseline_first=number % 2 == 1,
    )
    return replace(judged(launch, site.target.limits), pair=number - 1)


def _valid(measurement: Measurement) -> int:
    return sum(not unusable_reason(each) for each in measurement.launches)
