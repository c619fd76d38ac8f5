"""Two runs beside each other: ratios by certainty of harm, what changed, layers that take longer. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from edgebench import comparison
from edgebench.gates.compare import Compared
from edgebench.records import Job, Profile, Record, replace
from edgebench.report.base import Report, Row, form, name

HARM = ("slower", "larger")  # "more" and "less" are good or bad by their metric
SHOWN_NAMES = 4


class Change(Record, frozen=True):
    """One thing that is otherwise than in the baseline, and in which cells or on which devices."""

    what: str
    before: str
    after: str
    where: tuple[str, ...]

    def who(self) -> str:
        """The first places by name, the others as a number."""
        shown = ", ".join(self.where[:SHOWN_NAMES])
        more = len(self.where) - SHOWN_NAMES
        return f"{shown} and {more} more" if more > 0 else shown


class LayerChange(Record, frozen=True):
    """The time of one layer in both; None where only one of them has it."""

    name: str
    before_ns: int | None
    after_ns: int | None

    @property
    def added_ns(self) -> int:
        """How much longer it takes now."""
        return (self.after_ns or 0) - (self.before_ns or 0)


class Before(Record, frozen=True):
    """An earlier run: its name, how every common cell compares, what changed, layers by cell.

    `gone` and `added`: devices of one of the two runs alone.
    """

    name: str
    run: str
    compared: tuple[Compared, ...]
    changes: tuple[Change, ...]
    layers: tuple[tuple[str, tuple[LayerChange, ...]], ...] = ()
    gone: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


class Side(NamedTuple):
    """A report and the name it goes by."""

    name: str
    report: Report


def before(baseline: Side, report: Report, compared: Sequence[Compared]) -> Before:
    """What a page says of the baseline of a run."""
    pairs = list(_pairs(baseline.report.rows, report.rows))
    shown = _with_ratios(compared, pairs)
    return Before(
        name=baseline.name,
        run=baseline.report.run.id,
        compared=tuple(sorted(shown, key=harm_first)),
        changes=tuple(_changes(baseline.report, report, pairs)),
        layers=tuple(_layers(pairs)),
        gone=_only(baseline.report, report),
        added=_only(report, baseline.report),
    )


def _only(report: Report, other: Report) -> tuple[str, ...]:
    """The devices that were measured in the first and not in the other."""
    devices, others = ({row.job.device for row in each.rows} for each in (report, other))
    return tuple(sorted(devices - others))


def _with_ratios(compared: Iterable[Compared], pairs: Iterable[tuple[Row, Row]]) -> Iterator[Compared]:
    """What is not comparable gets a ratio of p50 to look at, too; its verdict stays."""
    known = {_key(other.job): (one, other) for one, other in pairs}
    for each in compared:
        subject = each.subject
        key = subject.device, subject.model, subject.variant, subject.runtime, subject.precision
        if each.ratio is None and each.metric == "latency.p50" and key in known:
            yield _with_ratio(each, *known[key])
        else:
            yield each


def _with_ratio(each: Compared, one: Row, other: Row) -> Compared:
    old, new = ([math.log(value) for value in row.summary.launch_p50_ns if value > 0] for row in (one, other))
    if not old or not new:
        return each
    found = comparison.welch(old, new)
    shift = statistics.fmean(new) - statistics.fmean(old) if found is None else found.shift
    return replace(
        each,
        before=math.exp(statistics.fmean(old)),
        after=math.exp(statistics.fmean(new)),
        ratio=math.exp(shift),
        ci_low=None if found is None else math.exp(found.lower(comparison.ALPHA / 2)),
        ci_high=None if found is None else math.exp(found.upper(comparison.ALPHA / 2)),
    )


# --- order ----------------------------------------------------------------------------------------


def harm_first(each: Compared) -> tuple[float, float, str]:
    """Sorts by how sure it is that something got worse: by the interval's end that says so least."""
    sure = harm_for_sure(each)
    return -sure, -(harm_ratio(each) or 0.0), each.subject.device


def harm_ratio(each: Compared) -> float | None:
    """How many times worse: above 1 is harm, whichever way the metric goes."""
    if each.ratio is None or not each.ratio > 0:
        return None
    return 1 / each.ratio if each.metric == "throughput" else each.ratio


def harm_for_sure(each: Compared) -> float:
    """The least harm that the interval leaves, as a logarithm; without an interval the ratio, and less."""
    ratio = harm_ratio(each)
    if ratio is None:
        return -math.inf
    ends = [end for end in (each.ci_low, each.ci_high) if end is not None and end > 0]
    if len(ends) < 2:
        return math.log(ratio) - (0.0 if each.verdict in ("larger", "smaller", "same") else 1.0)
    least = 1 / ends[1] if each.metric == "throughput" else ends[0]
    return math.log(least)


# --- what changed ---------------------------------------------------------------------------------


def _pairs(before: Iterable[Row], after: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    known = {_key(row.job): row for row in before}
    for row in after:
        if _key(row.job) in known:
            yield known[_key(row.job)], row


def _key(job: Job) -> tuple[str, ...]:
    return job.device, job.model, job.variant, job.runtime, job.precision


def _where(row: Row) -> str:
    return f"{name(row.job.model)} {form(row.job)} · {name(row.job.runtime)}"


OF_CELL: tuple[tuple[str, Callable[[Row], str | None]], ...] = (
    ("artifact", lambda row: row.artifact_digest[:12]),
    ("threads", lambda row: row.effective.get("threads")),
)
OF_DEVICE: tuple[tuple[str, Callable[[Row], str | None]], ...] = (
    ("kernel", lambda row: row.facts.kernel),
    ("system", lambda row: row.facts.os_release),
    ("board", lambda row: row.facts.board or row.facts.cpu),
    ("power mode", lambda row: row.facts.power_mode),
    ("governor", lambda row: row.before.governor),
    ("memory, bytes", lambda row: None if row.facts.memory_bytes is None else str(row.facts.memory_bytes)),
)


def _changes(old: Report, new: Report, pairs: Sequence[tuple[Row, Row]]) -> Iterator[Change]:
    found: dict[tuple[str, str, str], dict[str, None]] = {}

    def see(what: str, before: str | None, after: str | None, where: str) -> None:
        if before != after:
            key = what, name(before or "unknown"), name(after or "unknown")
            found.setdefault(key, {})[where] = None

    for one, other in pairs:
        for what, read in OF_CELL:
            see(what, read(one), read(other), _where(other))
        see(
            f"{name(other.job.runtime)} version", one.runtime_version, other.runtime_version, other.job.device
        )
        for what, read in OF_DEVICE:
            see(what, read(one), read(other), other.job.device)
    if old.run.edgebench_version != new.run.edgebench_version:
        see("edgebench", old.run.edgebench_version, new.run.edgebench_version, "this computer")
    if old.run.controller != new.run.controller:
        see("controller", old.run.controller, new.run.controller, "the runs")
    for (what, before, after), where in found.items():
        yield Change(what=what, before=before, after=after, where=tuple(map(name, where)))


# --- layers ---------------------------------------------------------------------------------------


def _layers(pairs: Sequence[tuple[Row, Row]]) -> Iterator[tuple[str, tuple[LayerChange, ...]]]:
    for one, other in pairs:
        if one.profile is not None and other.profile is not None:
            yield f"{_where(other)} · {name(other.job.device)}", layer_changes(one.profile, other.profile)


def layer_changes(before: Profile, after: Profile) -> tuple[LayerChange, ...]:
    """Every layer of both by the nodes it computes, else by its name; what became slower first."""
    old, new = _times(before), _times(after)
    names = dict.fromkeys([*new, *old])
    found = [LayerChange(name=each, before_ns=old.get(each), after_ns=new.get(each)) for each in names]
    return tuple(sorted(found, key=lambda each: -abs(each.added_ns)))


def _times(profile: Profile) -> dict[str, int]:
    times: dict[str, int] = {}
    for layer in profile.layers:
        label = ", ".join(layer.nodes[:2]) or layer.name
        times[label] = times.get(label, 0) + layer.mean_ns
    return times
