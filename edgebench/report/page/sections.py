"""The parts of the page below the matrix: charts and tables of everything that a run holds. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgebench import comparison
from edgebench.budgets import METRICS, show
from edgebench.gates.compare import Compared
from edgebench.records import ParityReport
from edgebench.report.base import (
    CLAIM_HEADINGS,
    Row,
    claim_lines,
    clean,
    concerns,
    device_line,
    grouped,
    label,
    legend,
    name,
    next_step,
    worst_output,
)
from edgebench.report.differences import Before, harm_ratio
from edgebench.report.front import by_device
from edgebench.report.gate_words import bound, ordered, word
from edgebench.report.history import History, Line, Odd, jump_words
from edgebench.report.page.base import Fold, Section, Subjects, Table, column_name, counted
from edgebench.report.svg import bars, forest, ladder, pareto, strips, timeline, trend
from edgebench.report.svg.base import Chart
from edgebench.units import NS_PER_MS, format_ms, significant

MOST_ROWS = 300
MOST_BARS = 40
MOST_FRONTS = 24
MOST_LAYERS = 20
MOST_PROFILES = 8
MOST_ODD = 50
LITTLE = 0.02  # a change that is sure and that a board may have from one day to the next
TYPICAL = "Times are geometric means over launches, which is what is tested; the matrix shows their medians."
DRAWN_FROM = (
    "Latency of every launch, memory step by step, the board meanwhile, layers where a profile was taken. "
    "Strips are drawn from 33 quantiles a launch; what is judged is taken from all samples."
)


def sections(subjects: Subjects) -> list[Section]:
    """All parts that have something to say, in the order of the page."""
    makers = (
        _failures,
        _gate,
        _comparison,
        _measurements,
        _fronts,
        _gain,
        _claims,
        _parity,
        _trends,
        _environment,
        _warnings,
        _legend,
    )
    return [made for maker in makers if (made := maker(subjects)) is not None]


def _cut(rows: Sequence[tuple[str, ...]], most: int = MOST_ROWS) -> tuple[tuple[str, ...], ...]:
    return tuple(rows[:most])


def _more(count: int, most: int = MOST_ROWS) -> str:
    return f" The first {most} of {count:,}." if count > most else ""


# --- what went wrong ------------------------------------------------------------------------------


def _failures(subjects: Subjects) -> Section | None:
    report = subjects.report
    if not report.failures and not report.missing:
        return None
    rows = [
        (concern.who(), failure.owner, name(failure.stage), clean(failure.message), next_step(failure))
        for failure, concern in grouped(report.failures)
    ]
    tables = []
    if rows:
        headings = ("cells", "owner", "stage", "what happened", "next step")
        tables.append(Table(f"Failures, one line a cause.{_more(len(rows))}", headings, _cut(rows)))
    if report.missing:
        lines = [(label(job),) for job in report.missing]
        why = f" {name(report.run.stopped)}." if report.run.stopped else ""
        told = f"Not run: {counted(len(lines), 'cell')}.{why}{_more(len(lines))} "
        told += f"Next: edgebench run --resume {name(report.run.id)}"
        tables.append(Table(told, ("cell",), _cut(lines)))
    return Section("failures", "Failures", tables=tuple(tables))


def _gate(subjects: Subjects) -> Section | None:
    gate = subjects.gate
    if gate is None or not gate.cells:
        return None
    told = [each for each in ordered(gate.cells) if each.word != "pass"] or ordered(gate.cells)
    rows = [
        (
            word(each),
            label(each.subject),
            bound(each),
            "-" if each.observed is None else show(each.metric, each.observed),
            clean(f"{each.reason}. Next: {each.next}" if each.next else each.reason),
        )
        for each in told
    ]
    kept = len(gate.cells) - len(told)
    also = f" {counted(kept, 'limit')} kept." if kept else ""
    table = Table(
        f"Verdicts, the worst first.{also}{_more(len(rows))} {TYPICAL}",
        ("verdict", "cell", "limit", "observed", "why"),
        _cut(rows),
    )
    return Section("gate", "Verdicts", tables=(table,))


def _warnings(subjects: Subjects) -> Section | None:
    rows = [
        (title, each.detail, each.who()) for title, said in concerns(subjects.report.rows) for each in said
    ]
    if not rows:
        return None
    table = Table(
        f"Warnings, the gravest first.{_more(len(rows))}", ("warning", "what was seen", "cells"), _cut(rows)
    )
    return Section("warnings", "Warnings", tables=(table,))


# --- against the baseline -------------------------------------------------------------------------


def _comparison(subjects: Subjects) -> Section | None:
    before = subjects.before
    if before is None:
        return None
    timed = [each for each in before.compared if each.metric == "latency.p50" and each.ratio is not None]
    return Section(
        "comparison",
        f"Against {name(before.name)}",
        " ".join(_of_both(before, has_common=bool(timed))),
        charts=(_forest(timed, before.name),) if timed else (),
        tables=tuple(_changes(before)),
        folded=(*_every_metric(before), *_layers(before)),
    )


def _of_both(before: Before, *, has_common: bool) -> Iterator[str]:
    """Why there may be less to compare than a reader expects, and whether nothing changed."""
    if not has_common:
        yield f"{name(before.name)} and this run have no measured cell in common."
    if before.gone:
        yield f"Measured in {name(before.name)} alone: {_few(before.gone)}."
    if before.added:
        yield f"Measured in this run alone: {_few(before.added)}."
    if before.gone and before.added:
        yield "A device that got another name counts as another device."
    if not before.changes:
        yield f"Nothing that is known changed since {name(before.name)}."


def _few(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(map(name, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _changes(before: Before) -> Iterator[Table]:
    rows = [(change.what, change.before, change.after, clean(change.who())) for change in before.changes]
    if rows:
        told = f"What changed since {name(before.name)}.{_more(len(rows))}"
        yield Table(told, ("what", "before", "now", "where"), _cut(rows))


def _every_metric(before: Before) -> Iterator[Fold]:
    rows = tuple(_compared_row(each) for each in before.compared[:MOST_ROWS])
    if rows:
        headings = ("cell", "metric", "before", "now", "ratio", "95 %", "verdict")
        told = f"Every metric of every common cell, the surest harm first.{_more(len(before.compared))}"
        yield Fold("every-metric", told, tables=(Table(TYPICAL, headings, rows, (2, 3, 4)),))


def _layers(before: Before) -> Iterator[Fold]:
    """Where both runs have a profile."""
    headings = ("layer", "before, ms", "now, ms", "added, ms")
    for number, (cell_name, found) in enumerate(before.layers[:MOST_PROFILES]):
        rows = tuple(
            (clean(each.name), _ms(each.before_ns), _ms(each.after_ns), f"{each.added_ns / NS_PER_MS:+.4f}")
            for each in found[:MOST_LAYERS]
        )
        told = f"Layers of {clean(cell_name)}, the largest change first"
        yield Fold(f"layers-before-{number}", told, tables=(Table("", headings, rows, (1, 2, 3)),))


def _forest(timed: Sequence[Compared], baseline: str) -> Chart:
    shown = timed[:MOST_BARS]
    harmed = sum(each.verdict == "slower" for each in timed)
    apart = sum(each.verdict == "not-comparable" for each in timed)
    much = sum(each.verdict == "slower" and (each.ratio or 1.0) > 1 + LITTLE for each in timed)
    found = f"{counted(len(timed), 'cell')} in both, {harmed:,} surely slower"
    if harmed:
        found += f", {much:,} of them by more than {100 * LITTLE:.0f} %"
    if apart:
        found += (
            f"; {apart:,} not comparable, because what they ran on changed: their ratios are for looking only"
        )
    words = forest.Words(
        f"p50 against {name(baseline)}",
        "ratio of p50 to the baseline's, × (logarithmic)",
        f"{found}; the surest harm on top. Right of 1 is slower; bars are 95 % intervals."
        f"{_more(len(timed), MOST_BARS)}",
    )
    ratios = [
        forest.Ratio(
            label(each.subject),
            each.ratio or 1.0,
            each.ci_low,
            each.ci_high,
            each.verdict,
            _style(each),
            each.verdict if each.verdict in ("slower", "faster") else "",
        )
        for each in shown
    ]
    return forest.chart("forest", words, ratios)


def _style(each: Compared) -> str:
    ratio = harm_ratio(each) or 1.0
    if each.verdict in ("inconclusive", "same", "not-comparable") or abs(ratio - 1) <= LITTLE:
        return "plain"
    return "harm" if ratio > 1 else "gain"


def _compared_row(each: Compared) -> tuple[str, ...]:
    ends = "-" if each.ci_low is None or each.ci_high is None else f"{each.ci_low:.3f}–{each.ci_high:.3f}"
    return (
        label(each.subject),
        each.metric,
        "-" if each.before is None else show(each.metric, each.before),
        "-" if each.after is None else show(each.metric, each.after),
        "-" if each.ratio is None else significant(each.ratio),
        ends,
        clean(f"{each.verdict}: {each.reason}" if each.reason else each.verdict),
    )


def _ms(value_ns: int | None) -> str:
    return "-" if value_ns is None else significant(value_ns / NS_PER_MS)


# --- what was measured ----------------------------------------------------------------------------


def _measurements(subjects: Subjects) -> Section | None:
    rows = subjects.report.rows
    if not rows:
        return Section("measurements", "Measurements", "Nothing was measured, so there is nothing to draw.")
    folds: list[Fold] = []
    for at, row in enumerate(rows):
        if row.id in subjects.details:
            charts = tuple(_of_row(subjects, row, at))
            title = f"{label(row.job)}: {_headline(row)}"
            if charts:
                folds.append(Fold(f"d{at}", title, charts, is_open=not folds))
    left = len(rows) - len(folds)
    lead = DRAWN_FROM
    if left and folds:
        lead += f" {counted(left, 'more cell')} are among the raw numbers only, to keep this file small."
    return Section("measurements", "Measurements", lead, folded=tuple(folds))


def _headline(row: Row) -> str:
    if row.summary.p50_ns is None:
        return row.status
    return f"p50 {format_ms(row.summary.p50_ns)}" + ("" if row.status == "ok" else f", {row.status}")


def _of_row(subjects: Subjects, row: Row, at: int) -> Iterator[Chart]:
    known = subjects.details[row.id]
    if known.launches:
        yield strips.chart(f"lat{at}", "Latency, launch by launch", known.launches)
    if known.ladder:
        yield ladder.chart(f"mem{at}", "Memory, step by step", known.ladder)
    if known.board.temperature_c or known.board.clock_mhz:
        yield timeline.chart(f"time{at}", "The board meanwhile", known.board)
    if row.profile is not None and row.profile.layers:
        yield bars.chart(f"layers{at}", "Where the time goes", row.profile)


def _fronts(subjects: Subjects) -> Section | None:
    groups = sorted(by_device(subjects.options).items())
    panels = [(names, options) for names, options in groups if len(options) > 1]
    if not panels:
        return None
    charts = [
        pareto.chart(f"front{number}", f"{name(model)} on {name(device)}", options)
        for number, ((device, model), options) in enumerate(panels[:MOST_FRONTS], 1)
    ]
    lead = (
        "Which forms are worth having on a device, by the 95 % intervals of accuracy, p50, p99, size, memory "
        "and energy, where they are known of both. Filled green: on the front. Hollow: perhaps, since "
        "another may be better within what was measured. Blue: another is surely better in one of them and "
        "worse in none. Bars are 95 % intervals, larger dots larger files. edgebench choose --budget says "
        "which to ship."
    )
    return Section("fronts", "Pareto fronts", lead + _more(len(panels), MOST_FRONTS), tuple(charts))


def _gain(subjects: Subjects) -> Section | None:
    """How many times faster int8 is than fp32, everywhere that both were measured."""
    rows = subjects.report.rows
    fp32 = {_peers(row): row for row in rows if row.job.precision == "fp32" and row.job.variant == "fp32"}
    pairs = [
        (fp32[_peers(row)], row)
        for row in rows
        if row.job.precision.startswith("int8") and _peers(row) in fp32
    ]
    ratios = [made for one, other in pairs if (made := _speedup(one, other)) is not None]
    if not ratios:
        return None
    ratios.sort(key=lambda each: each.value)
    slower = sum(each.value < 1 for each in ratios)
    words = forest.Words(
        "INT8 against fp32",
        "times faster than fp32 (p50), × (logarithmic)",
        f"int8 is slower than fp32 in {slower} of {counted(len(ratios), 'cell')}; right of 1 is faster. "
        f"Bars: 95 % intervals over launches.{_more(len(ratios), MOST_BARS)}",
    )
    return Section("gain", "INT8 gain", charts=(forest.chart("gain", words, ratios[:MOST_BARS]),))


def _peers(row: Row) -> tuple[object, ...]:
    job = row.job
    return job.model, job.device, job.runtime, job.workload.batch, job.workload.threads


def _speedup(fp32: Row, int8: Row) -> forest.Ratio | None:
    first, second = fp32.summary.launch_p50_ns, int8.summary.launch_p50_ns
    if not first or not second or fp32.summary.p50_ns is None or not int8.summary.p50_ns:
        return None
    logs = [[math.log(value) for value in side if value > 0] for side in (second, first)]
    estimate = comparison.welch(*logs)
    low = None if estimate is None else math.exp(estimate.lower(comparison.ALPHA / 2))
    high = None if estimate is None else math.exp(estimate.upper(comparison.ALPHA / 2))
    value = fp32.summary.p50_ns / int8.summary.p50_ns
    job = int8.job
    style = "plain" if low is None or high is None or low <= 1 <= high else "gain" if value > 1 else "harm"
    size = "" if int8.size_ratio is None else f"{int8.size_ratio:.2f}× smaller"
    where = f"{column_name(job)} · {name(job.device)}"
    return forest.Ratio(where, value, low, high, size, style, size and f"· {size}")


# --- claims, parity, environment ------------------------------------------------------------------


def _claims(subjects: Subjects) -> Section | None:
    lines = claim_lines(subjects.report)
    if not lines:
        return None
    table = Table(
        f"What the plan claims, and what was found.{_more(len(lines))}", CLAIM_HEADINGS, _cut(lines)
    )
    return Section("claims", "Claims", tables=(table,))


PARITY_HEADINGS = (
    "cell",
    "where",
    "worst output",
    "SNR, dB",
    "largest error",
    "cosine",
    "needed SNR, dB",
    "parity",
)


def _parity(subjects: Subjects) -> Section | None:
    rows = [
        line
        for row in subjects.report.rows
        for parity in (row.controller_parity, row.device_parity)
        if (line := _parity_row(row, parity)) is not None
    ]
    if not rows:
        return None
    failed = sum(row[-1] != "passed" for row in rows)
    told = f"{counted(failed, 'proof')} failed." if failed else "Every output is within its bound."
    table = Table(
        f"Outputs against the reference, the worst of each. {told}{_more(len(rows))}",
        PARITY_HEADINGS,
        _cut(sorted(rows, key=lambda row: row[-1] == "passed")),
        (3, 4, 5, 6),
    )
    return Section("parity", "Parity", tables=(table,))


def _parity_row(row: Row, parity: ParityReport) -> tuple[str, ...] | None:
    worst = worst_output(parity)
    if worst is None:
        return None
    exact = worst.max_abs == 0
    bound_ = worst.bound or parity.bound
    return (
        f"{column_name(row.job)} · {name(row.job.device)}",
        name(parity.where) + ("" if parity.computed_by == "runtime" else " (interpreter)"),
        name(worst.name),
        "exact" if exact else _figure(worst.snr_db),
        _figure(worst.max_abs),
        _figure(worst.cosine, 6),
        _figure(bound_.min_snr_db),
        "passed" if parity.passed else clean(f"failed: {worst.reason}"),
    )


def _figure(value: float, digits: int = 3) -> str:
    return significant(value, digits) if math.isfinite(value) else "-"


def _environment(subjects: Subjects) -> Section | None:
    report = subjects.report
    if not report.devices:
        return None
    rows = [(name(sheet.device), name(sheet.target), device_line(sheet)) for sheet in report.devices]
    prints = Table(
        f"The boards as they were.{_more(len(rows))}", ("device", "kind", "what it is"), _cut(rows)
    )
    if subjects.before is None:
        lead = "There is no baseline, so it cannot be said what changed: --baseline RUN names one."
    else:
        lead = f"What changed since {name(subjects.before.name)} is told above, under “Against”."
    return Section("environment", "Environment", lead, tables=(prints,))


def _legend(subjects: Subjects) -> Section | None:
    words = legend(subjects.report.rows)
    if not words:
        return None
    return Section(
        "legend", "What the words mean", tables=(Table("", ("word", "meaning"), tuple(words.items())),)
    )


# --- over releases --------------------------------------------------------------------------------


def _trends(subjects: Subjects) -> Section | None:
    history = subjects.history
    if history is None:
        return None
    charts = [_trend(line, history.metric, f"trend{at}") for at, line in enumerate(history.lines, 1)]
    folds = [
        Fold(
            f"over-{number}",
            f"{metric} of the same cells",
            tuple(_trend(line, metric, f"trend{number}0{at}") for at, line in enumerate(lines, 1)),
        )
        for number, (metric, lines) in enumerate(history.others.items(), 1)
    ]
    tables = [*_drifts(history), *_odd(history)]
    if not charts and not tables:
        return None
    lead = "Advice only: between two sessions a board differs by itself, and no verdict stands on this."
    if charts:
        lead += " Of many cells the worst; edgebench history MODEL --metric METRIC has all."
    return Section("trends", "Over releases", lead, tuple(charts), tuple(tables), tuple(folds))


def _trend(line: Line, metric: str, key: str) -> Chart:
    """One cell's metric over the releases."""
    unit, factor = _unit_of(metric, line)
    jumps = {jump.at: jump_words(jump) for jump in line.jumps}
    places = [
        trend.Place(
            at, point.value * factor, _times(point.low, factor), _times(point.high, factor), jumps.get(at, "")
        )
        for at, point in enumerate(line.points)
    ]
    told = "; ".join(f"{words} ({name(line.points[at].label)})" for at, words in jumps.items())
    finding = f"{len(places)} releases or runs. " + (
        f"Change points (advice): {told}." if told else "No change point."
    )
    names = [point.label for point in line.points]
    axis = f"{metric}, {unit}"
    return trend.chart(key, (line.name, axis, finding), names, [trend.Series(line.name, places)])


def _unit_of(metric: str, line: Line) -> tuple[str, float]:
    """The unit that an axis shows, and what makes values it."""
    unit = METRICS[metric].unit
    if unit == "bytes":
        largest = max(point.value for point in line.points)
        return ("MiB", 1 / 1024**2) if largest >= 1024**2 else ("KiB", 1 / 1024)
    known = {"time": ("ms", 1 / NS_PER_MS), "ratio": ("%", 100.0), "per-second": ("1/s", 1.0)}
    return known.get(unit, (unit, 1.0))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _drifts(history: History) -> Iterator[Table]:
    rows = tuple(
        (
            name(each.device),
            name(each.runtime),
            f"{100 * each.change:+.1f} %",
            str(each.sessions),
            name(each.since_utc[:10]),
        )
        for each in history.drifts
    )
    if rows:
        headings = ("device", "runtime", "change", "sessions", "since")
        yield Table("Boards whose own level (A/A) drifted.", headings, rows, (2, 3))


def _odd(history: History) -> Iterator[Table]:
    """One line a board: the cells in which it is the odd one, the furthest first."""
    boards: dict[tuple[str, str], list[Odd]] = {}
    for each in history.odd:
        boards.setdefault((each.device, each.target), []).append(each)
    rows = [
        (
            name(device),
            name(target),
            clean(cells[0].cell) + (f" and {counted(len(cells) - 1, 'other cell')}" if cells[1:] else ""),
            significant(cells[0].ratio),
            str(cells[0].sisters),
        )
        for (device, target), cells in boards.items()
    ]
    if rows:
        headings = ("device", "kind", "cell", "times its sisters' median", "sisters")
        told = f"The odd one of several boards of a kind.{_more(len(rows), MOST_ODD)}"
        yield Table(told, headings, _cut(rows, MOST_ODD), (3, 4))
