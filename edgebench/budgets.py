"""`budgets.yaml` -> the limits of each cell, and which line gave them: a closed schema. Pure.

A budget matches cells by name; the more literal characters its match has, the stronger it is, then the later
one in the file. Limits merge by metric and kind: a stronger budget changes what it names and leaves the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from edgebench import documents
from edgebench.documents import At, Document, quoted
from edgebench.errors import ConfigError, UserError, did_you_mean
from edgebench.records import Job, Record
from edgebench.units import format_bytes, format_ms, parse_bytes, parse_percent, parse_time_ns, significant

VERSION = 1
Severity = Literal["block", "warn", "info"]
Kind = Literal["max", "min", "regress"]
FIELDS = ("target", "device", "group", "model", "variant", "runtime", "precision")


class Metric(NamedTuple):
    """One figure that a budget can limit: its unit, and whether more is better."""

    unit: Literal["time", "bytes", "ratio", "per-second", "dB", "mJ"]
    more_is_better: bool = False
    relative: bool = True


METRICS: Mapping[str, Metric] = {
    "latency.p50": Metric("time"),
    "latency.p90": Metric("time"),
    "latency.p95": Metric("time"),
    "latency.p99": Metric("time"),
    "throughput": Metric("per-second", more_is_better=True),
    "load_time": Metric("time"),
    "first_inference": Metric("time"),
    "memory_peak": Metric("bytes"),
    "artifact_size": Metric("bytes"),
    "accuracy_drop": Metric("ratio", relative=False),
    "parity.snr": Metric("dB", more_is_better=True, relative=False),
    "energy_per_inference": Metric("mJ"),
    "deadline_misses": Metric("ratio", relative=False),
}


# --- what stands in the file ---------------------------------------------------------------------


class LimitEntry(Record, frozen=True):
    """Keys under `limits.METRIC`. `max` and `min` are absolute, `regress` is relative to the baseline.

    `period` is the time between two frames, for `deadline_misses`.
    """

    max: str | None = None
    min: str | None = None
    regress: str | None = None
    severity: Severity | None = None
    period: str | None = None


class MatchEntry(Record, frozen=True):
    """Keys under `match`: names with `*` and `?`, or lists of them; what is left out matches everything."""

    target: str | tuple[str, ...] = "*"
    device: str | tuple[str, ...] = "*"
    group: str | tuple[str, ...] = "*"
    model: str | tuple[str, ...] = "*"
    variant: str | tuple[str, ...] = "*"
    runtime: str | tuple[str, ...] = "*"
    precision: str | tuple[str, ...] = "*"


class WaiverEntry(Record, frozen=True):
    """Keys under `waive`: until then a failure is a warning, and who answers for it."""

    until: str
    reason: str
    owner: str


class BudgetEntry(Record, frozen=True):
    """One entry of `budgets`. `extends`: budgets whose limits it takes over and may change."""

    name: str
    match: MatchEntry = MatchEntry()
    limits: dict[str, LimitEntry] = {}
    severity: Severity | None = None
    extends: tuple[str, ...] = ()
    waive: WaiverEntry | None = None


class DefaultsEntry(Record, frozen=True):
    """Keys under `defaults`."""

    severity: Severity = "block"


class BaselineEntry(Record, frozen=True):
    """Keys under `baseline`: a release's name or latest-passed, and whether it is measured again beside."""

    release: str
    mode: Literal["interleaved", "stored"] = "interleaved"


class BudgetsFile(Record, frozen=True):
    """The whole file. `baseline`: a release's name, or latest-passed."""

    version: int
    budgets: tuple[BudgetEntry, ...]
    defaults: DefaultsEntry = DefaultsEntry()
    baseline: str | BaselineEntry | None = None


# --- what comes out ------------------------------------------------------------------------------


class Subject(Record, frozen=True):
    """What a budget is matched with: the names of one cell."""

    target: str
    device: str
    groups: tuple[str, ...]
    model: str
    variant: str
    runtime: str
    precision: str


def subject_of(job: Job) -> Subject:
    """The names of a job's cell, without the groups of its device."""
    return Subject(
        target=job.target,
        device=job.device,
        groups=(),
        model=job.model,
        variant=job.variant,
        runtime=job.runtime,
        precision=job.precision,
    )


class Waiver(Record, frozen=True):
    """A failure that is let through until a day."""

    until: str
    reason: str
    owner: str

    def holds(self, today: date) -> bool:
        """Whether the day has not passed."""
        return today <= date.fromisoformat(self.until)


class Limit(Record, frozen=True):
    """One limit of one cell, in the metric's own unit (ns, bytes, 1/s, dB, mJ; shares as numbers).

    `text` is the limit as it was written, `budget` and `line` where.
    """

    metric: str
    kind: Kind
    value: float
    text: str
    severity: Severity
    budget: str
    source: str
    line: int
    period_ns: int | None = None

    @property
    def origin(self) -> str:
        """Where it was written: "budgets.yaml:7 (all-edge)"."""
        return f"{self.source}:{self.line} ({self.budget})"


class Budget(NamedTuple):
    """One budget with its own and its inherited limits; the heavier match is the stronger one."""

    name: str
    match: MatchEntry
    limits: tuple[Limit, ...]
    waiver: Waiver | None
    weight: int


class Budgets(NamedTuple):
    """All budgets of a file, in the order of the file."""

    source: str
    budgets: tuple[Budget, ...]
    baseline: str | None = None
    baseline_is_stored: bool = False

    def matching(self, subject: Subject) -> tuple[Budget, ...]:
        """The budgets that match a cell, the strongest last."""
        found = [each for each in self.budgets if matches(each.match, subject)]
        return tuple(sorted(found, key=lambda each: each.weight))  # stable: of equals the later one wins

    def limits(self, subject: Subject) -> tuple[Limit, ...]:
        """The limits of one cell in the order of METRICS: of each metric and kind the strongest budget's."""
        return merged(self.matching(subject))

    def waiver(self, subject: Subject) -> Waiver | None:
        """The strongest waiver of one cell, expired or not."""
        waivers = [each.waiver for each in self.matching(subject) if each.waiver is not None]
        return waivers[-1] if waivers else None


def merged(matching: Sequence[Budget]) -> tuple[Limit, ...]:
    """The limits of budgets that match one cell, the strongest last, in the order of METRICS."""
    found: dict[tuple[str, str], Limit] = {}
    for budget in matching:
        found |= {(limit.metric, limit.kind): limit for limit in budget.limits}
    order = list(METRICS)
    return tuple(sorted(found.values(), key=lambda limit: (order.index(limit.metric), limit.kind)))


def matches(match: MatchEntry, subject: Subject) -> bool:
    """Whether all names of a cell fit; of its groups one is enough."""
    for field in FIELDS:
        patterns = _patterns(getattr(match, field))
        if "*" in patterns:
            continue
        names = (subject.groups or ("",)) if field == "group" else (getattr(subject, field),)
        if not any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
            return False
    return True


def parse(text: str, source: str) -> Budgets:
    """The budgets that a YAML text holds; ConfigError with file, line and nearest key for anything wrong."""
    document = documents.load_with_lines(text, BudgetsFile, source=source)
    file = document.value
    if file.version != VERSION:
        message = f"version is {file.version}; this edgebench reads version {VERSION}"
        raise document.error(("version",), message, hint=f"write version: {VERSION}")
    if not file.budgets:
        raise document.error(("budgets",), "budgets is empty", hint="docs/gates.md shows the smallest one")
    own: dict[str, tuple[Limit, ...]] = {}
    made: list[Budget] = []
    for place, entry in enumerate(file.budgets):
        at: At = ("budgets", place)
        _check_entry(document, at, entry, own)
        inherited = [limit for name in entry.extends for limit in own[name]]
        merged = {(limit.metric, limit.kind): limit for limit in inherited}
        merged |= {(limit.metric, limit.kind): limit for limit in _limits(document, at, entry)}
        _check_order(document, at, entry, tuple(merged.values()))
        own[entry.name] = tuple(merged.values())
        made.append(
            Budget(
                entry.name, entry.match, own[entry.name], _waiver(document, at, entry), _weight(entry.match)
            )
        )
    _check_contradictions(document, made)
    baseline = file.baseline
    if isinstance(baseline, str):
        baseline = BaselineEntry(release=baseline)
    if baseline is None:
        return Budgets(source, tuple(made))
    if not baseline.release.strip():
        raise document.error(("baseline",), "baseline is empty", hint="name a release, or latest-passed")
    return Budgets(source, tuple(made), baseline.release, baseline.mode == "stored")


def show(metric: str, value: float) -> str:
    """A value of a metric as people read it."""
    unit = METRICS[metric].unit
    if unit == "time":
        return format_ms(value)
    if unit == "bytes":
        return format_bytes(value)
    if unit == "ratio":
        return f"{significant(100 * value)} %"
    return f"{significant(value)} {'/s' if unit == 'per-second' else unit}"


# --- rules ---------------------------------------------------------------------------------------


def _check_entry(
    document: Document[BudgetsFile], at: At, entry: BudgetEntry, before: Mapping[str, object]
) -> None:
    if not entry.name or not entry.name.isprintable() or len(entry.name) > 100:
        raise document.error((*at, "name"), f"{quoted(entry.name)} cannot be a budget's name")
    if entry.name in before:
        raise document.error(
            (*at, "name"), f"there are two budgets called {quoted(entry.name)}", hint="rename one"
        )
    for place, name in enumerate(entry.extends):
        if name not in before:
            message = f"extends names {quoted(name)}, and no budget above it has that name"
            raise document.error((*at, "extends", place), message, hint=did_you_mean(name, before))
    if not (entry.limits or entry.extends or entry.waive):
        raise document.error(
            at, f"the budget {quoted(entry.name)} limits nothing", hint="add limits: or waive:"
        )
    for field in FIELDS:
        patterns = _patterns(getattr(entry.match, field))
        if not patterns or not all(patterns):
            raise document.error((*at, "match", field), f"match.{field} is empty", hint='write "*" for all')


def _limits(document: Document[BudgetsFile], at: At, entry: BudgetEntry) -> Iterator[Limit]:
    for metric, each in entry.limits.items():
        place: At = (*at, "limits", metric)
        if metric not in METRICS:
            raise document.error(
                place, f"there is no metric {quoted(metric)}", hint=did_you_mean(metric, METRICS)
            )
        severity = each.severity or entry.severity or document.value.defaults.severity
        kinds: tuple[tuple[Kind, str | None], ...] = (
            ("max", each.max),
            ("min", each.min),
            ("regress", each.regress),
        )
        if all(text is None for _, text in kinds):
            raise document.error(place, f"{metric} has no limit", hint="write max, min or regress")
        for kind, text in kinds:
            if text is not None:
                yield Limit(
                    metric=metric,
                    kind=kind,
                    value=_value(document, (*place, kind), metric, kind, text),
                    text=text,
                    severity=severity,
                    budget=entry.name,
                    source=document.source,
                    line=document.line(*place, kind),
                    period_ns=_period_ns(document, place, metric, each),
                )


def _value(document: Document[BudgetsFile], at: At, metric: str, kind: Kind, text: str) -> float:
    known = METRICS[metric]
    if kind == "regress" and not known.relative:
        raise document.error(
            at, f"{metric} takes no regress: it is relative already", hint="write max or min"
        )
    try:
        value = parse_percent(text) if kind == "regress" else _absolute(known, text)
    except UserError as error:
        raise document.error(at, f"{metric}.{kind}: {error.message}", hint=error.hint) from error
    positive = kind != "regress" and known.unit in ("time", "per-second", "mJ")
    highest = 1.0 if known.more_is_better and kind == "regress" else 10.0 if kind == "regress" else 1e18
    if not math.isfinite(value) or value >= highest or (positive and value <= 0):
        message = f"{metric}.{kind} is {quoted(text)}, which cannot be meant"
        raise document.error(at, message, hint="budgets suggest RUN shows limits of that size that hold")
    return value


def _absolute(metric: Metric, text: str) -> float:
    if metric.unit == "time":
        return float(parse_time_ns(text))
    if metric.unit == "bytes":
        return float(parse_bytes(text))
    if metric.unit == "ratio":
        return parse_percent(text.replace("pp", "%"))
    number, _, unit = text.strip().rpartition(" ")
    wanted = {"per-second": "/s", "dB": "dB", "mJ": "mJ"}[metric.unit]
    try:
        if unit == wanted and float(number) >= 0:
            return float(number)
    except ValueError:
        pass
    raise UserError(f"{quoted(text)} is no number with its unit", hint=f'write for example "20 {wanted}"')


def _period_ns(document: Document[BudgetsFile], at: At, metric: str, entry: LimitEntry) -> int | None:
    if metric != "deadline_misses":
        if entry.period is not None:
            raise document.error(
                (*at, "period"), f"{metric} has no period", hint="it belongs to deadline_misses"
            )
        return None
    if entry.period is None:
        raise document.error(
            at, "deadline_misses needs a period", hint="the time between frames: period: 33 ms"
        )
    try:
        period_ns = parse_time_ns(entry.period)
    except UserError as error:
        raise document.error((*at, "period"), f"period: {error.message}", hint=error.hint) from error
    if period_ns <= 0:
        raise document.error(
            (*at, "period"), "a period of nothing", hint="the time between frames: period: 33 ms"
        )
    return period_ns


def _waiver(document: Document[BudgetsFile], at: At, entry: BudgetEntry) -> Waiver | None:
    if entry.waive is None:
        return None
    try:
        date.fromisoformat(entry.waive.until)
    except ValueError as error:
        message = f"waive.until is {quoted(entry.waive.until)}, which is no day"
        raise document.error((*at, "waive", "until"), message, hint="write it as 2027-01-31") from error
    for key in ("reason", "owner"):
        if not getattr(entry.waive, key).strip():
            raise document.error(
                (*at, "waive", key), f"waive.{key} is empty", hint="say why, and who answers for it"
            )
    return Waiver(until=entry.waive.until, reason=entry.waive.reason, owner=entry.waive.owner)


def _check_order(
    document: Document[BudgetsFile], at: At, entry: BudgetEntry, limits: tuple[Limit, ...]
) -> None:
    """A floor above the ceiling can never be kept."""
    values = {(limit.metric, limit.kind): limit for limit in limits}
    for (metric, kind), limit in values.items():
        other = values.get((metric, "max"))
        if kind == "min" and other is not None and limit.value > other.value:
            message = f"{quoted(entry.name)} wants {metric} of at least {limit.text} and at most {other.text}"
            raise document.error((*at, "limits", metric), message, hint="one of the two is a mistake")


def _check_contradictions(document: Document[BudgetsFile], budgets: list[Budget]) -> None:
    """Two budgets with the same match that disagree: no rule says which is meant."""
    seen: dict[tuple[object, str, str], Limit] = {}
    for budget in budgets:
        match = tuple(_patterns(getattr(budget.match, field)) for field in FIELDS)
        for limit in budget.limits:
            before = seen.setdefault((match, limit.metric, limit.kind), limit)
            if before.value != limit.value and limit.budget == budget.name:
                message = (
                    f"{limit.metric}.{limit.kind} is {limit.text}, and {before.text} on line {before.line} "
                    f"({before.budget}) for the very same cells"
                )
                raise ConfigError(
                    document.source, limit.line, message, hint="remove one, or match something else"
                )


def _patterns(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _weight(match: MatchEntry) -> int:
    """How much a match says: the literal characters of all its patterns, of a list those of its shortest."""
    return sum(
        min(
            (sum(char not in "*?" for char in pattern) for pattern in _patterns(getattr(match, field))),
            default=0,
        )
        for field in FIELDS
    )
