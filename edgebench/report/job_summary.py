"""A gate as GitHub shows it: Markdown for the job's summary, and annotations as workflow commands."""

from __future__ import annotations

from collections.abc import Iterator

from edgebench.gates import Gate, Verdict
from edgebench.report.base import clean
from edgebench.report.gate_words import bound, cell, counts, ordered

# GitHub drops a summary of more than 1024 KiB as a whole
MOST_BYTES = 900 << 10
MOST_ROWS = 50
# GitHub shows ten annotations of a kind in a step
MOST_ANNOTATIONS = 10
SIGNS = {"pass": "✅", "fail": "❌", "error": "⛔", "invalid": "⛔"}


def render(gate: Gate) -> str:
    """Markdown with the worst cells first, within the size that GitHub takes."""
    rows = [_row(each) for each in ordered(gate.cells)]
    for most in (MOST_ROWS, 20, 5, 0):
        text = "\n".join([*_head(gate), *_table(rows[:most], len(rows) - most), *_remarks(gate)])
        if len(text.encode()) <= MOST_BYTES:
            break
    return text + "\n"


def workflow_commands(gate: Gate) -> str:
    """GitHub's workflow commands: an error for each failure that blocks, a warning for what is undecided."""
    lines: list[str] = []
    for kind, words in (
        ("error", ("fail", "error", "invalid")),
        ("warning", ("inconclusive", "not-comparable", "missing")),
    ):
        found = [each for each in ordered(gate.cells) if each.word in words and each.blocks]
        for each in found[:MOST_ANNOTATIONS]:
            title = _escaped(f"{each.word}: {bound(each)}", property_=True)
            lines.append(f"::{kind} title={title}::{_escaped(f'{cell(each.subject)}: {clean(each.reason)}')}")
    return "".join(line + "\n" for line in lines)


def _head(gate: Gate) -> Iterator[str]:
    yield f"## {SIGNS.get(gate.verdict, '❔')} edgebench gate: {gate.verdict}"
    yield ""
    yield counts(gate)


def _table(rows: list[str], left: int) -> Iterator[str]:
    if rows:
        yield from ("", "| | cell | limit | why |", "|---|---|---|---|", *rows)
    if left > 0:
        yield from ("", f"and {left} more; all of them are in gate.json")


def _remarks(gate: Gate) -> Iterator[str]:
    if gate.unmatched:
        yield from ("", f"Budgets that match no cell: {', '.join(map(_plain, gate.unmatched[:20]))}")
    if gate.unlimited:
        yield from ("", f"Cells without a budget: {', '.join(map(_plain, gate.unlimited[:20]))}")


def _row(verdict: Verdict) -> str:
    shown = f"{SIGNS.get(verdict.word, '❔')} {verdict.word}{' (waived)' if verdict.waived else ''}"
    why = (
        verdict.reason
        if verdict.word == "pass" or not verdict.next
        else f"{verdict.reason}. Next: {verdict.next}"
    )
    return f"| {shown} | {_plain(cell(verdict.subject))} | {_plain(bound(verdict))} | {_plain(why)} |"


def _plain(text: str) -> str:
    """Text that neither ends a table's cell nor is taken for markup."""
    escaped = clean(text)
    for character in "\\`*_{}[]<>|#":
        escaped = escaped.replace(
            character, f"\\{character}" if character not in "<>" else {"<": "&lt;", ">": "&gt;"}[character]
        )
    return escaped


def _escaped(text: str, *, property_: bool = False) -> str:
    """Text inside a workflow command: its own separators escaped as GitHub wants them."""
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")] + ([(":", "%3A"), (",", "%2C")] if property_ else [])
    for before, after in pairs:
        text = text.replace(before, after)
    return text
