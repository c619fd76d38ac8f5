"""Which variants are worth having on each device, and which one to ship within a budget. Pure.

An option is one measured cell. Two options of a model on a device are told apart by the 95 % intervals of
accuracy, p50, p99, size, peak memory and energy:

    dominated   another is surely better in one figure, and in none worse, not even by the figures themselves
    unsure      another is surely better in one figure, and where it is worse the intervals overlap
    front       neither

So that a lead which may be noise never takes an option out, and is not sold as one either. What is not known
of both is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from edgebench import exchange
from edgebench.accuracy import TOP1
from edgebench.errors import UserError, did_you_mean
from edgebench.gates import Observed, observed
from edgebench.records import Accuracy, Measurement, Record, replace
from edgebench.report.base import Row, form
from edgebench.statistics import interval_95
from edgebench.units import (
    NS_PER_MS,
    format_bytes,
    format_ms,
    parse_bytes,
    parse_percent,
    parse_time_ns,
    significant,
)

Metric = Literal["accuracy", "p50", "p99", "size", "memory", "energy"]
METRICS: tuple[Metric, ...] = ("accuracy", "p50", "p99", "size", "memory", "energy")
Place = Literal["front", "unsure", "dominated"]
Answer = Literal["ship", "inconclusive", "nothing"]
Kept = Literal["kept", "unsure", "broken", "unknown"]

DROP = "drop"  # a budget's metric besides: accuracy lost against the reference
_BUDGET = re.compile(r"\s*([a-z0-9]+)\s*(<=|<|>=|>)\s*(.+?)\s*")
_ENERGY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(uJ|µJ|mJ|J)")
_MILLIJOULES = {"uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3}


class Figure(Record, frozen=True):
    """One figure with its 95 % interval, in ns, bytes, mJ or a share; no interval: it is exact (size).

    Of memory the ends are the least and the greatest peak of the launches. `sure` false: an interval there
    should be, and none is known.
    """

    value: float
    low: float | None = None
    high: float | None = None
    sure: bool = True

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; of an exact figure itself."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


class Option(Record, frozen=True):
    """One measured cell as a choice: which form of a model, on which device, and its figures by metric.

    `place` and `by`: whether it is on its device's front, and what dominates it.
    """

    id: str
    device: str
    target: str
    model: str
    variant: str
    runtime: str
    precision: str
    name: str
    figures: dict[str, Figure]
    accuracy: Accuracy | None = None
    place: Place = "front"
    by: str = ""


class Limit(NamedTuple):
    """One budget: a metric and the most, or of accuracy the least, that it may be."""

    text: str
    metric: str
    value: float


class Holding(Record, frozen=True):
    """Whether an option keeps one budget on one device, with the figure in words."""

    budget: str
    device: str
    kept: Kept
    told: str


class Choice(Record, frozen=True):
    """What to ship on a kind of device: an option's name and runtime, or nothing, and why.

    `holdings` are its budgets on every device; `rejected` says of each other option why it is not the one.
    """

    target: str
    model: str
    devices: tuple[str, ...]
    answer: Answer
    name: str
    runtime: str
    reason: str
    holdings: tuple[Holding, ...] = ()
    rejected: dict[str, str] = {}


# --- from measurements ----------------------------------------------------------------------------


def options(rows: Iterable[Row], measurements: Mapping[str, Measurement]) -> tuple[Option, ...]:
    """The rows with figures as options, each with its place. `measurements`: by the rows' ids."""
    cells = {name: observed(exchange.entry(each)) for name, each in measurements.items()}
    return options_of(rows, cells)


def options_of(rows: Iterable[Row], cells: Mapping[str, Observed]) -> tuple[Option, ...]:
    """The same of figures that are known already, by the rows' ids; rows without any are left out."""
    known = [(row, cells.get(row.id)) for row in rows if row.status in ("ok", "partial")]
    return placed([_option(row, cell) for row, cell in known if cell is not None])


def _option(row: Row, cell: Observed) -> Option:
    job, launches = row.job, cell.launches
    net_mj = None if row.energy is None else row.energy.net_mj
    figures = {
        "accuracy": _of_accuracy(row.accuracy),
        "p50": _of_launches([each.p50_ns for each in launches], row.summary.p50_ns),
        "p99": _of_launches([each.p99_ns for each in launches], row.summary.p99_ns),
        "size": None if row.run_bytes is None else Figure(value=float(row.run_bytes)),
        "memory": _of_peaks([each.peak_bytes for each in launches]),
        "energy": _of_launches([each.energy_mj for each in launches], net_mj),
    }
    return Option(
        id=row.id,
        device=job.device,
        target=job.target,
        model=job.model,
        variant=job.variant,
        runtime=job.runtime,
        precision=job.precision,
        name=form(job),
        figures={name: figure for name, figure in figures.items() if figure is not None},
        accuracy=row.accuracy,
    )


def _of_accuracy(found: Accuracy | None) -> Figure | None:
    if found is None:
        return None
    return Figure(value=found.value, low=found.low, high=found.high, sure=found.low is not None)


def _of_launches(values: Sequence[float | None], middle: float | None) -> Figure | None:
    """The figure of a measurement with the interval of its launches; None where some launch lacks it."""
    known = [each for each in values if each is not None]
    if middle is None or not known or len(known) < len(values):
        return None
    ends = interval_95(known)
    if ends is None:
        return Figure(value=float(middle), sure=False)
    return Figure(value=float(middle), low=ends[0], high=ends[1])


def _of_peaks(values: Sequence[int | None]) -> Figure | None:
    known = [each for each in values if each is not None]
    if not known or len(known) < len(values):
        return None
    return Figure(value=float(max(known)), low=float(min(known)), high=float(max(known)))


# --- the front ------------------------------------------------------------------------------------


def placed(found: Sequence[Option]) -> tuple[Option, ...]:
    """The options with their places among those of the same model on the same device."""
    rivals = by_device(found)
    return tuple(
        _placed(each, [one for one in rivals[each.device, each.model] if one is not each]) for each in found
    )


def by_device(found: Iterable[Option]) -> dict[tuple[str, str], list[Option]]:
    """The options that stand against each other: those of a model on a device."""
    groups: dict[tuple[str, str], list[Option]] = {}
    for each in found:
        groups.setdefault((each.device, each.model), []).append(each)
    return groups


def _placed(option: Option, others: Sequence[Option]) -> Option:
    unsure = ""
    for other in others:
        place = _against(option, other)
        if place == "dominated":
            return replace(option, place=place, by=title(other))
        if place == "unsure" and not unsure:
            unsure = title(other)
    return replace(option, place="unsure", by=unsure) if unsure else option


def title(option: Option) -> str:
    """An option in words: "int8 on ncnn"."""
    return f"{option.name} on {option.runtime}"


def _against(option: Option, other: Option) -> Place:
    """The option's place if there were only the other."""
    surely_better = behind = False
    for metric in METRICS:
        lead = _lead(metric, other, option)
        if lead is None:
            continue
        if lead == "behind":
            return "front"
        surely_better = surely_better or lead == "ahead"
        behind = behind or lead == "maybe behind"
    if not surely_better:
        return "front"
    return "unsure" if behind else "dominated"


def _lead(metric: Metric, one: Option, other: Option) -> str | None:
    """How `one` stands to `other` in a metric: ahead, level (or maybe ahead), maybe behind, behind."""
    mine, yours = _comparable(metric, one, other)
    if mine is None or yours is None:
        return None
    sign = -1.0 if metric == "accuracy" else 1.0
    if mine.sure and yours.sure:
        my_ends, your_ends = (sorted(sign * end for end in each.ends) for each in (mine, yours))
        if my_ends[1] < your_ends[0]:
            return "ahead"
        if my_ends[0] > your_ends[1]:
            return "behind"
    return "maybe behind" if sign * mine.value > sign * yours.value else "level"


def _comparable(metric: Metric, one: Option, other: Option) -> tuple[Figure | None, Figure | None]:
    """The two figures. Accuracy as what is lost against the same reference on the same samples, if it is.

    Such differences are paired, and their intervals narrower.
    """
    mine, yours = one.accuracy, other.accuracy
    if metric == "accuracy" and mine is not None and yours is not None and _is_paired(mine, yours):
        return _kept_of(mine), _kept_of(yours)
    return one.figures.get(metric), other.figures.get(metric)


def _is_paired(mine: Accuracy, yours: Accuracy) -> bool:
    same = (mine.against, mine.dataset, mine.metric) == (yours.against, yours.dataset, yours.metric)
    return same and None not in (_kept_of(mine), _kept_of(yours))


def _kept_of(found: Accuracy) -> Figure | None:
    if found.drop is None or found.drop_low is None or found.drop_high is None:
        return None
    return Figure(value=-found.drop, low=-found.drop_high, high=-found.drop_low)


# --- budgets --------------------------------------------------------------------------------------


def parse_budget(text: str) -> tuple[Limit, ...]:
    """The limits of "p99 <= 20 ms, size <= 5 MiB, drop <= 1 pp"; UserError for another text."""
    return tuple(_limit(part.strip()) for part in text.split(",") if part.strip())


def _limit(text: str) -> Limit:
    example = "p99 <= 20 ms, size <= 5 MiB, accuracy >= 97 %, drop <= 1 pp, memory <= 64 MiB, energy <= 5 mJ"
    found = _BUDGET.fullmatch(text)
    if found is None:
        raise UserError(f'"{text[:60]}" is no budget', hint=f'--budget "{example}"')
    metric, sign, quantity = found[1], found[2], found[3]
    known = (*METRICS, DROP)
    if metric not in known:
        raise UserError(f'"{text[:60]}": there is no metric {metric[:30]}', hint=did_you_mean(metric, known))
    if (sign[0] == ">") != (metric == "accuracy"):
        wanted = ">=" if metric == "accuracy" else "<="
        raise UserError(
            f'"{text[:60]}" asks for the worse', hint=f"{metric} {wanted} {quantity[:20]}: {example}"
        )
    return Limit(f"{metric} {sign} {quantity}", metric, _PARSERS[metric](quantity))


def _energy(text: str) -> float:
    found = _ENERGY.fullmatch(text)
    if found is None:
        raise UserError(f'"{text[:40]}" is not an energy', hint="a number and a unit, one of: uJ, mJ, J")
    return float(found[1]) * _MILLIJOULES[found[2]]


def _share(text: str) -> float:
    value = parse_percent(text.replace("pp", "%"))
    if value > 1:
        raise UserError(f'"{text[:40]}" is more than all', hint="write for example 97 %")
    return value


_PARSERS: Mapping[str, Callable[[str], float]] = {
    "accuracy": _share,
    DROP: _share,
    "p50": parse_time_ns,
    "p99": parse_time_ns,
    "size": parse_bytes,
    "memory": parse_bytes,
    "energy": _energy,
}


def _holding(option: Option, limit: Limit) -> Holding:
    figure = option.figures.get(limit.metric)
    if limit.metric == DROP:
        kept = None if option.accuracy is None else _kept_of(option.accuracy)
        figure = None if kept is None else Figure(value=-kept.value, low=-kept.ends[1], high=-kept.ends[0])
    if figure is None:
        return Holding(budget=limit.text, device=option.device, kept="unknown", told="not measured")
    sign = -1.0 if limit.metric == "accuracy" else 1.0
    low, high = sorted(sign * end for end in figure.ends)
    bound = sign * limit.value
    word: Kept = "kept" if high <= bound else "broken" if low > bound else "unsure"
    if not figure.sure and word != "broken":
        word = "unsure"
    return Holding(budget=limit.text, device=option.device, kept=word, told=shown(limit.metric, figure))


def shown(metric: str, figure: Figure) -> str:
    """A figure in words with its interval."""
    value = _SHOWN[metric](figure.value)
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return value if figure.sure else f"{value} (no interval)"
    return f"{value} ({_SHOWN[metric](figure.low)} to {_SHOWN[metric](figure.high)})"


def compact(metric: Metric, figure: Figure) -> str:
    """A figure without its unit, its interval in brackets; sizes and memory with their unit and alone."""
    factor = {"accuracy": 100.0, "p50": 1 / NS_PER_MS, "p99": 1 / NS_PER_MS, "energy": 1.0}.get(metric)
    if factor is None:
        return format_bytes(figure.value)
    value = significant(factor * figure.value)
    if figure.low is None or figure.high is None:
        return f"{value} (?)"
    return f"{value} ({significant(factor * figure.low)}–{significant(factor * figure.high)})"


def figures_of(options: Sequence[Option]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headings with units, and a row an option: every figure that is known of any, with its interval."""
    known = [metric for metric in METRICS if any(metric in each.figures for each in options)]
    return (
        tuple(", ".join(filter(None, (metric, _unit(options, metric)))) for metric in known),
        tuple(tuple(cell(each, metric) for metric in known) for each in options),
    )


def cell(option: Option, metric: Metric) -> str:
    """An option's figure without its unit (sizes and memory have it), or "-"."""
    figure = option.figures.get(metric)
    if figure is None:
        return "-"
    if metric != "accuracy" or not has_score(option):
        return compact(metric, figure)
    ends = [significant(end) for end in figure.ends]
    return f"{significant(figure.value)} ({'–'.join(ends)})" if ends[0] != ends[1] else ends[0]


def unit(option: Option, metric: Metric) -> str:
    """What stands behind such a figure: none where the accuracy is a score of the user's own."""
    return "" if metric == "accuracy" and has_score(option) else _UNITS.get(metric, "")


def _unit(options: Sequence[Option], metric: Metric) -> str:
    return next((unit(each, metric) for each in options if metric in each.figures), "")


def has_score(option: Option) -> bool:
    """Whether the accuracy is a metric of the user's own, and no share."""
    return option.accuracy is not None and option.accuracy.metric != TOP1


_UNITS: Mapping[str, str] = {"accuracy": "%", "p50": "ms", "p99": "ms", "energy": "mJ"}
_SHOWN: Mapping[str, Callable[[float], str]] = {
    "accuracy": lambda value: f"{significant(100 * value)} %",
    DROP: lambda value: f"{significant(100 * value)} pp",
    "p50": format_ms,
    "p99": format_ms,
    "size": format_bytes,
    "memory": format_bytes,
    "energy": lambda value: f"{significant(value)} mJ",
}


# --- choosing -------------------------------------------------------------------------------------


class _Candidate(NamedTuple):
    """One form of a model on all devices of a target, with its budgets there."""

    each: tuple[Option, ...]
    holdings: tuple[Holding, ...]

    @property
    def word(self) -> Kept:
        """The worst of its budgets."""
        words = {holding.kept for holding in self.holdings}
        order: tuple[Kept, ...] = ("broken", "unknown", "unsure", "kept")
        return next((word for word in order if word in words), "kept")


def choose(found: Sequence[Option], limits: Sequence[Limit], prefer: Metric) -> tuple[Choice, ...]:
    """For each kind of device and model what to ship: the best by `prefer` of those that keep all budgets.

    A budget has to be kept on every device of the kind; an option that was not measured on all of them is
    none. Where none keeps them surely, the answer is inconclusive, and names the one that may.
    """
    groups: dict[tuple[str, str], list[Option]] = {}
    for each in found:
        groups.setdefault((each.target, each.model), []).append(each)
    return tuple(_choice(group, limits, prefer) for group in groups.values())


def _choice(group: Sequence[Option], limits: Sequence[Limit], prefer: Metric) -> Choice:
    devices = tuple(dict.fromkeys(each.device for each in group))
    every = _candidates(group, limits)
    whole = [each for each in every if len({one.device for one in each.each}) == len(devices)]
    measured = [each for each in whole if all(prefer in one.figures for one in each.each)]
    blank = Choice(
        target=group[0].target,
        model=group[0].model,
        devices=devices,
        answer="nothing",
        name="",
        runtime="",
        reason=_nothing(every, whole, measured, prefer),
        rejected={title(each.each[0]): _broken(each) for each in every},
    )
    for answer, word in (("ship", "kept"), ("inconclusive", "unsure")):
        fitting = [each for each in measured if each.word == word]
        if fitting:
            best = min(fitting, key=lambda each: _rank(each, prefer))
            return _chosen(replace(blank, answer=answer), best, every, fitting, prefer)
    if any(each.word == "unknown" for each in measured):
        return replace(blank, answer="inconclusive", reason="a budget is about what was not measured")
    return blank


def _candidates(group: Sequence[Option], limits: Sequence[Limit]) -> list[_Candidate]:
    forms: dict[tuple[str, str, str], list[Option]] = {}
    for each in group:
        forms.setdefault((each.variant, each.runtime, each.precision), []).append(each)
    return [
        _Candidate(tuple(same), tuple(_holding(one, limit) for one in same for limit in limits))
        for same in forms.values()
    ]


def _rank(candidate: _Candidate, prefer: Metric) -> tuple[float, float, str]:
    """The worst device's figure, then the size, then the name: the same answer each time."""
    sign = -1.0 if prefer == "accuracy" else 1.0
    worst = max(sign * each.figures[prefer].value for each in candidate.each)
    size = candidate.each[0].figures.get("size")
    return worst, 0.0 if size is None else size.value, title(candidate.each[0])


def _chosen(
    blank: Choice,
    best: _Candidate,
    every: Sequence[_Candidate],
    fitting: Sequence[_Candidate],
    prefer: Metric,
) -> Choice:
    option = best.each[0]
    figures = ", ".join(f"{each.device} {shown(prefer, each.figures[prefer])}" for each in best.each)
    rank = {"accuracy": "most accurate", "size": "smallest"}.get(prefer, f"lowest {prefer}")
    one = len(fitting) == 1
    count = "the only one" if one else f"{rank} of the {len(fitting)}"
    may = "may keep every budget (intervals reach beyond)"
    kept = may if blank.answer != "ship" else "keeps every budget" if one else "keep every budget"
    reason = f"{count} that {kept}; {prefer}: {figures}"
    if not best.holdings:
        reason = f"{rank} of {len(fitting)}; {prefer}: {figures}"
    if option.place == "unsure":
        reason += f"; {option.by} may be better in all"
    return replace(
        blank,
        name=option.name,
        runtime=option.runtime,
        reason=reason,
        holdings=best.holdings,
        rejected={
            title(each.each[0]): _broken(each) or _behind(each, best, prefer)
            for each in every
            if each is not best
        },
    )


def _broken(candidate: _Candidate) -> str:
    """The budgets that a candidate does not surely keep, in words."""
    words = {"broken": "breaks", "unsure": "may break", "unknown": "not known:"}
    told = [
        f"{words[each.kept]} {each.budget} on {each.device}: {each.told}"
        for each in candidate.holdings
        if each.kept in words
    ]
    return "; ".join(told)


def _behind(candidate: _Candidate, best: _Candidate, prefer: Metric) -> str:
    """Why one that keeps every budget is not the one."""
    if {each.device for each in candidate.each} < {each.device for each in best.each}:
        return "not measured on every device"
    first = candidate.each[0]
    if prefer not in first.figures:
        return f"{prefer} is not known"
    lead = _lead(prefer, best.each[0], first)
    sure = "" if lead == "ahead" else ", intervals overlap"
    return f"{prefer} {shown(prefer, first.figures[prefer])}{sure}"


def _nothing(
    every: Sequence[_Candidate], whole: Sequence[_Candidate], measured: Sequence[_Candidate], prefer: Metric
) -> str:
    if not whole:
        return f"none of {len(every)} was measured on every device"
    if not measured:
        return f"{prefer} is not known of any"
    return f"none of {len(measured)} keeps every budget"
