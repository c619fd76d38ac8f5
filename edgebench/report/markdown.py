"""The report as GitHub-flavoured Markdown: for a step summary, a pull request, a wiki page.

Names and messages come from devices and files of others, so they are escaped: they can neither end a table
cell nor become a link, an image, markup, a formula, HTML or a mention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from edgebench.report import layers
from edgebench.report.base import (
    CLAIM_HEADINGS,
    UNKNOWN,
    Report,
    Row,
    claim_lines,
    clean,
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
from edgebench.report.sheet import Sheet

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "\\": "&#92;"}
_SPECIAL = re.compile(r"[&<>|\\`*~\[\]#$!]|(?<!\w)_|_(?!\w)|@(?=\w)")  # inside a word "_" marks nothing up
_BLOCK_START = re.compile(r"^(?:[-+=]|\d+[.)])")
WORD_JOINER = "\u2060"  # invisible; GitHub notifies people by the rendered text, which no escape changes


def render(report: Report) -> str:
    """The whole report as Markdown, ending in a newline."""
    blocks = (_head, _results, _claims, _profiles, _failures, _missing, _warnings, _devices, _legend)
    return "\n".join(line for block in blocks for line in block(report)) + "\n"


RESERVE = 300  # bytes for the sentence that says what was left out


def fitted(report: Report, most_bytes: int) -> str:
    """The report in at most so many bytes: the gravest parts whole, the last that fits cut between two lines.

    What is left out is counted in the last line. GitHub drops a larger summary, and refuses a larger comment.
    """
    whole = render(report)
    if len(whole.encode()) <= most_bytes:
        return whole
    blocks = (_head, _results, _claims, _profiles, _failures, _missing, _warnings, _devices, _legend)
    gravest = (_head, _failures, _claims, _results, _missing, _warnings, _devices, _legend, _profiles)
    room, left_out = most_bytes - RESERVE, 0
    kept: dict[int, list[str]] = {}
    for block in gravest:
        lines = list(block(report))
        fitting = _fitting(lines, room)
        room -= sum(len(line.encode()) + 1 for line in lines[:fitting])
        kept[blocks.index(block)] = lines[:fitting]
        left_out += len(lines) - fitting
    text = "\n".join(line for at in sorted(kept) for line in kept[at])
    return (
        f"{text}\n\n{left_out} lines are left out here; edgebench report {escape(report.run.id)} shows all.\n"
    )


def _fitting(lines: Sequence[str], room: int) -> int:
    """How many of the lines fit."""
    for at, line in enumerate(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            return at
    return len(lines)


def table(sheet: Sheet) -> str:
    """One table as Markdown."""
    rule = ("---:" if at in sheet.numeric else "---" for at in range(len(sheet.headings)))
    lines = [_cells(map(escape, sheet.headings)), _cells(rule)]
    return "\n".join([*lines, *(_cells(map(escape, row)) for row in sheet.rows)]) + "\n"


def escape(text: str) -> str:
    """The text as it stands, for a place inside a line or a table cell of Markdown."""
    return _SPECIAL.sub(_escaped, clean(text))


def _escaped(match: re.Match[str]) -> str:
    found = match[0]
    if found == "@":
        return found + WORD_JOINER
    return _ENTITIES.get(found, "\\" + found)


def _head(report: Report) -> Iterator[str]:
    yield f"# Run {escape(report.run.id)}"
    yield ""
    yield escape(headline(report.run))
    yield ""
    yield f"**{escape(outcome(report.counts))}**"


def _results(report: Report) -> Iterator[str]:
    for model, rows in groupby(report.rows, key=lambda row: row.job.model):
        yield from ("", f"## {escape(name(model))}")
        yield from _model(list(rows))


def _model(rows: Sequence[Row]) -> Iterator[str]:
    """One table per device; all tables of a model have the same columns and units."""
    shown = [column for column in columns(rows) if any(column.text(row) != UNKNOWN for row in rows)]
    for _, group in groupby(rows, key=lambda row: row.job.device):
        members = list(group)
        job = members[0].job
        yield from ("", f"### {escape(name(job.device))} ({escape(name(job.target))})", "")
        yield _cells(escape(column.heading) for column in shown)
        yield _cells("---:" if column.numeric else "---" for column in shown)
        for row in members:
            yield _cells(escape(column.text(row)) for column in shown)


def _cells(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _claims(report: Report) -> Iterator[str]:
    if not report.claims:
        return
    yield from ("", "## Claims", "")
    yield _cells(CLAIM_HEADINGS)
    yield _cells(("---",) * len(CLAIM_HEADINGS))
    for line in claim_lines(report):
        yield _cells(map(escape, line))


def _profiles(report: Report) -> Iterator[str]:
    for row in report.rows:
        if row.profile is None:
            continue
        yield from ("", f"## Where the time goes: {escape(label(row.job))}", "")
        yield _cells(layers.HEADINGS)
        yield _cells(("---:", "---:", "---", "---", "---"))
        for line in layers.lines(row.profile):
            yield _cells(map(escape, line))
        yield ""
        yield from (_item(remark) for remark in layers.remarks(row.profile))


def _failures(report: Report) -> Iterator[str]:
    if not report.failures:
        return
    yield from ("", f"## Failures ({len(report.failures)})", "")
    yield _cells(("job", "owner", "stage", "what happened", "next"))
    yield _cells(("---",) * 5)
    for failure, concern in grouped(report.failures):
        texts = (concern.who(), failure.owner, name(failure.stage), failure.message, next_step(failure))
        yield _cells(map(escape, texts))


def _missing(report: Report) -> Iterator[str]:
    if not report.missing:
        return
    yield from ("", f"## Not run ({len(report.missing)})", "")
    yield from (_item(label(job)) for job in report.missing)
    for line in not_run(report):
        yield from ("", escape(line[:1].upper() + line[1:]))


def _warnings(report: Report) -> Iterator[str]:
    found = concerns(report.rows)
    if found:
        yield from ("", "## Warnings", "")
    for title, each in found:
        yield f"- **{title}**"
        yield from (f"  {_item(concern.detail)} — {escape(concern.who())}" for concern in each)


def _devices(report: Report) -> Iterator[str]:
    if report.devices:
        yield from ("", "## Devices", "")
    for sheet in report.devices:
        who = f"**{escape(name(sheet.device))}** ({escape(name(sheet.target))})"
        yield f"- {who}: {escape(device_line(sheet))}"
    if report.devices:
        yield f"- {escape(origin(report.run))}"


def _legend(report: Report) -> Iterator[str]:
    words = legend(report.rows)
    if words:
        yield from ("", "## Legend", "")
    yield from (f"- {escape(word)}: {escape(meaning)}" for word, meaning in words.items())


def _item(text: str) -> str:
    """A list item whose text cannot begin another list, a heading or a rule."""
    escaped = escape(text)
    return f"- {_BLOCK_START.sub(lambda match: '&#8203;' + match[0], escaped)}"
