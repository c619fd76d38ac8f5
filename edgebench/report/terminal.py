"""The report as text for a terminal: a result table that fits the width, then what went wrong and what to do.

No number is ever cut: where there is little room, columns leave in the order of their rank, and where even
the first of them do not fit, each row becomes a few lines of "name value unit".
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgebench.report import layers
from edgebench.report.base import (
    UNKNOWN,
    Column,
    Report,
    Row,
    claim_lines,
    columns,
    concerns,
    device_line,
    grouped,
    headline,
    label,
    legend,
    name,
    next_step,
    not_run,
    origin,
    outcome,
)

MIN_WIDTH = 20
TABLE_WIDTH = 60  # with less, a layer is a line of text
INDENT = 2
GAP = 2
MAIN_RANK = 3  # columns up to this rank are worth folding names for
TEXT_WIDTHS = (32, 24, 16, 12)  # the widest that fits is taken; longer names are folded

STATUS_STYLES = {"ok": "green", "partial": "yellow", "invalid": "red", "emulated": "magenta"}
CLAIM_STYLES = {"verified": "green", "refuted": "red", "inconclusive": "yellow"}
NOTICEABLE = 0.05  # ratios nearer to 1 than this get no colour


def render(report: Report, *, width: int, colour: bool) -> str:
    """The whole report as lines of at most `width` cells, coloured only where `colour` is set."""
    console = _console(max(width, MIN_WIDTH), colour=colour)
    for block in (_head, _results, _claims, _profiles, _failures, _missing, _warnings, _devices, _legend):
        for piece in block(report, console.width):
            console.print(piece, overflow="fold", no_wrap=False)
    file = console.file
    text = file.getvalue() if isinstance(file, io.StringIO) else ""
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _console(width: int, *, colour: bool) -> Console:
    """A console that writes to memory and asks nothing of the real terminal or the environment."""
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        force_jupyter=False,
        color_system="standard" if colour else None,
        no_color=not colour,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )


Piece = Text | Padding


def _title(text: str) -> Text:
    return Text("\n" + text, style="bold")


def _indented(text: Text | Table, by: int = INDENT) -> Padding:
    return Padding(text, (0, 0, 0, by), expand=False)


# --- head and results -----------------------------------------------------------------------------


def _head(report: Report, _width: int) -> Iterator[Piece]:
    counts = report.counts
    clear = counts.planned > 0 and counts.ok == counts.planned
    yield Text(f"Run {headline(report.run)}")
    yield Text(outcome(counts), style="bold green" if clear else "bold yellow")


def _results(report: Report, width: int) -> Iterator[Piece]:
    for model, rows in groupby(report.rows, key=lambda row: row.job.model):
        yield _title(name(model))
        yield from _model(list(rows), width)


def _model(rows: Sequence[Row], width: int) -> Iterator[Piece]:
    table = _fit(rows, width)
    if table is not None:
        yield from _headings(table)
    for _, group in groupby(rows, key=lambda row: row.job.device):
        members = list(group)
        job = members[0].job
        yield Text(f"{name(job.device)} ({name(job.target)})", style="cyan")
        fastest = _fastest(members)
        for row in members:
            yield from _stacked(row, width) if table is None else _lines(row, table, bold=row is fastest)


def _fastest(rows: Sequence[Row]) -> Row | None:
    """The row with the lowest p50, where there is something to compare."""
    timed = [(row.summary.p50_ns, at) for at, row in enumerate(rows) if row.summary.p50_ns is not None]
    return rows[min(timed)[1]] if len(timed) > 1 else None


# --- the table ------------------------------------------------------------------------------------


class Placed(NamedTuple):
    """A column with the width it got, in cells."""

    column: Column
    width: int


def _fit(rows: Sequence[Row], width: int) -> list[Placed] | None:
    """The columns that fit, left to right; None where even the first of them do not."""
    every = [column for column in columns(rows) if column.rank == 0 or _tells(column, rows)]
    sized = _sized(every, rows, width)
    if sized is None:
        return None
    kept: list[Placed] = []
    for placed in sorted(sized, key=lambda placed: placed.column.rank):
        if _total([*kept, placed]) <= width:
            kept.append(placed)
    return [placed for placed in sized if placed in kept]


def _sized(every: Sequence[Column], rows: Sequence[Row], width: int) -> list[Placed] | None:
    """The columns with names as wide as they may be: first so that the main numbers fit, else any."""
    for rank in (MAIN_RANK, 0):
        for text_width in TEXT_WIDTHS:
            sized = [Placed(column, _width(column, rows, text_width)) for column in every]
            if _total([placed for placed in sized if placed.column.rank <= rank]) <= width:
                return sized
    return None


def _tells(column: Column, rows: Sequence[Row]) -> bool:
    return any(column.text(row) != UNKNOWN for row in rows)


def _width(column: Column, rows: Sequence[Row], text_width: int) -> int:
    content = max(cell_len(column.text(row)) for row in rows)
    if not column.numeric:
        content = min(content, text_width)
    return max(content, cell_len(column.title), cell_len(column.unit))


def _total(table: Sequence[Placed]) -> int:
    return INDENT + sum(placed.width for placed in table) + GAP * (len(table) - 1)


def _headings(table: Sequence[Placed]) -> Iterator[Text]:
    for words in ([one.column.title for one in table], [one.column.unit for one in table]):
        yield Text(_line([_pad(word, one) for word, one in zip(words, table, strict=True)]), style="dim")


def _lines(row: Row, table: Sequence[Placed], *, bold: bool) -> Iterator[Text]:
    """One row of the table; folded names make it more than one line."""
    folded = [_fold(one.column.text(row), one.width) for one in table]
    for number in range(max(map(len, folded))):
        line = Text(" " * INDENT)
        for at, (one, parts) in enumerate(zip(table, folded, strict=True)):
            part = parts[number] if number < len(parts) else ""
            line.append(" " * GAP if at else "")
            line.append(_pad(part, one), style=_style(one.column, row, bold=bold))
        yield line


def _fold(text: str, width: int) -> list[str]:
    return chop_cells(text, width) or [""]


def _pad(text: str, placed: Placed) -> str:
    blank = " " * max(0, placed.width - cell_len(text))
    return blank + text if placed.column.numeric else text + blank


def _line(cells: Sequence[str]) -> str:
    return " " * INDENT + (" " * GAP).join(cells)


def _style(column: Column, row: Row, *, bold: bool) -> str:
    if column.title == "status":
        return STATUS_STYLES[row.status]
    if column.title == "p50":
        return "bold" if bold else ""
    if column.title == "parity" and not row.device_parity.passed:
        return "red"
    ratio = {"speed-up": row.speedup, "smaller": row.size_ratio}.get(column.title)
    if ratio is None or abs(ratio - 1) < NOTICEABLE:
        return ""
    return "green" if ratio > 1 else "red"


def _stacked(row: Row, width: int) -> Iterator[Piece]:
    """One row as a few lines, for a terminal too narrow for a table."""
    texts = [column for column in columns([row]) if not column.numeric]
    yield _indented(Text(" · ".join(column.text(row) for column in texts)))
    told = [column for column in columns([row]) if column.numeric and _tells(column, [row])]
    items = [f"{column.title} {column.text(row)} {column.unit}".rstrip() for column in told]
    for line in _packed(items, width - 2 * INDENT):
        yield _indented(Text(line), 2 * INDENT)


def _packed(items: Sequence[str], width: int) -> Iterator[str]:
    """The items on as few lines as they fit, never broken inside one."""
    line = ""
    for item in items:
        longer = f"{line} · {item}" if line else item
        if line and cell_len(longer) > width:
            yield line
            longer = item
        line = longer
    yield line


# --- claims ---------------------------------------------------------------------------------------


def _claims(report: Report, _width: int) -> Iterator[Piece]:
    if report.claims:
        yield _title("Claims")
    for claim, lines in groupby(claim_lines(report), key=lambda line: line[0]):
        yield _indented(Text(claim, style="bold"))
        for _, where, verdict, found in lines:
            line = Text(verdict, style=CLAIM_STYLES[verdict]).append(f" {where}: {found}", style="default")
            yield _indented(line, 2 * INDENT)


# --- where the time goes --------------------------------------------------------------------------


def _profiles(report: Report, width: int) -> Iterator[Piece]:
    for row in report.rows:
        if row.profile is None:
            continue
        yield _title(f"Where the time goes: {label(row.job)}")
        for line in layers.lines(row.profile) if width < TABLE_WIDTH else ():
            text = f"{line.share} % {line.ms} ms {line.unit} {line.kind}: {line.nodes}".rstrip(" :")
            yield _indented(Text(text))
        if width >= TABLE_WIDTH:
            yield _indented(_layer_table(layers.lines(row.profile)))
        for remark in layers.remarks(row.profile):
            yield _indented(Text(remark, style="dim"))


def _layer_table(shown: Sequence[layers.Line]) -> Table:
    grid = Table.grid(padding=(0, GAP, 0, 0))
    for _ in ("%", "ms"):
        grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for _ in ("layer", "nodes"):
        grid.add_column(overflow="fold")
    grid.add_row(*layers.HEADINGS, style="dim")
    for line in shown:
        grid.add_row(*line)
    return grid


# --- what went wrong ------------------------------------------------------------------------------


def _failures(report: Report, _width: int) -> Iterator[Piece]:
    if report.failures:
        yield _title(f"Failures ({len(report.failures)})")
    for failure, concern in grouped(report.failures):
        line = Text("✗ ", style="red").append(concern.who(), style="bold")
        yield _indented(line)
        blame = Text(f"owner: {failure.owner}, stage: {name(failure.stage)}", style="red")
        yield _indented(blame, 2 * INDENT)
        yield _indented(Text(concern.detail), 2 * INDENT)
        yield _indented(Text("next: ", style="bold").append(next_step(failure), style="not bold"), 2 * INDENT)


def _missing(report: Report, _width: int) -> Iterator[Piece]:
    if not report.missing:
        return
    yield _title(f"Not run ({len(report.missing)})")
    for job in report.missing:
        yield _indented(Text(label(job)))
    for line in not_run(report):
        yield _indented(Text(line))


def _warnings(report: Report, _width: int) -> Iterator[Piece]:
    found = concerns(report.rows)
    if found:
        yield _title("Warnings")
    for title, each in found:
        yield _indented(Text(title, style="yellow"))
        for concern in each:
            yield _indented(Text(f"{concern.detail} — ").append(concern.who(), style="dim"), 2 * INDENT)


def _devices(report: Report, _width: int) -> Iterator[Piece]:
    if report.devices:
        yield _title("Devices")
    for sheet in report.devices:
        yield _indented(Text(f"{name(sheet.device)} ({name(sheet.target)})", style="cyan"))
        yield _indented(Text(device_line(sheet)), 2 * INDENT)
    if report.devices:
        yield _indented(Text(origin(report.run), style="dim"))


def _legend(report: Report, _width: int) -> Iterator[Piece]:
    words = legend(report.rows)
    if not words:
        return
    yield _title("Legend")
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for word, meaning in words.items():
        grid.add_row(word, meaning)
    yield _indented(grid)
