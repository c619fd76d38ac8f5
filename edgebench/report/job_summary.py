"""A gate as GitHub shows it: Markdown for the job's summary, and annotations as workflow commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgebench.gates import Gate, Verdict
from edgebench.report.base import clean, name
from edgebench.report.gate_words import WORST_FIRST, bound, cell, counts, ordered, word

# GitHub drops a summary of more than 1024 KiB as a whole
MOST_BYTES = 900 << 10
MOST_ROWS = 50
# GitHub shows ten annotations of a kind in a step
MOST_ANNOTATIONS = 10
SIGNS = {"pass": "✅", "fail": "❌", "error": "⛔", "invalid": "⛔"}


def render(gate: Gate) -> str:
    """Markdown with the worst cells first, within the size that GitHub takes."""
    told = _told(gate)
    for most in (MOST_ROWS, 20, 5, 0):
        rows = [_row(each) for each in told[:most]]
        table = _table(rows, len(gate.cells) - len(rows))
        text = "\n".join([*_head(gate), *table, *_devices(gate), *_remarks(gate)])
        if len(text.encode()) <= MOST_BYTES:
            break
    return text + "\n"


def _told(gate: Gate) -> list[Verdict]:
    """The verdicts that get a row: all of a few, of many those that did not pass."""
    found = ordered(gate.cells)
    return found if len(found) <= MOST_ROWS else [each for each in found if each.word != "pass"]


def workflow_commands(gate: Gate) -> str:
    """GitHub's workflow commands: errors for failures, warnings for what is undecided, notices for the rest.

    Where there are more of a kind than GitHub shows, the last one says how many.
    """
    kinds: dict[str, list[Verdict]] = {"error": [], "warning": [], "notice": []}
    for each in ordered(gate.cells):
        if each.word != "pass":
            kinds[_kind(each)].append(each)
    return "".join(f"{line}\n" for kind, found in kinds.items() for line in _commands(kind, found))


def _kind(verdict: Verdict) -> str:
    if verdict.blocks:
        return "error" if verdict.word in ("fail", "error", "invalid") else "warning"
    return "warning" if verdict.severity == "warn" and not verdict.waived else "notice"


def _commands(kind: str, found: list[Verdict]) -> Iterator[str]:
    shown = found if len(found) <= MOST_ANNOTATIONS else found[: MOST_ANNOTATIONS - 1]
    for each in shown:
        title = _escaped(f"{word(each)}: {bound(each)}", property_=True)
        yield f"::{kind} title={title}::{_escaped(f'{cell(each.subject)}: {clean(each.reason)}')}"
    if len(shown) < len(found):
        left = len(found) - len(shown)
        yield f"::{kind} title=edgebench gate::and {left} more; all of them are in gate.json"


def _head(gate: Gate) -> Iterator[str]:
    yield f"## {SIGNS.get(gate.verdict, '❔')} edgebench gate: {gate.verdict}"
    yield ""
    yield counts(gate)


def _table(rows: list[str], left: int) -> Iterator[str]:
    if rows:
        yield from ("", "| | cell | limit | why |", "|---|---|---|---|", *rows)
    if left > 0:
        yield from ("", f"{'and ' if rows else ''}{left} more; all of them are in gate.json")


def _devices(gate: Gate) -> Iterator[str]:
    """Where many cells were judged: how many of each verdict every device has, the worst devices first."""
    if len(gate.cells) <= MOST_ROWS:
        return
    words = [each for each in WORST_FIRST if any(verdict.word == each for verdict in gate.cells)]
    found: dict[str, Counter[str]] = {}
    for verdict in gate.cells:
        found.setdefault(verdict.subject.device, Counter())[verdict.word] += 1
    worst = sorted(found, key=lambda device: [-found[device][each] for each in words])
    yield from ("", f"| device | {' | '.join(words)} |", "|---" * (len(words) + 1) + "|")
    for device in worst[:MOST_ROWS]:
        numbers = " | ".join(str(found[device][each] or "") for each in words)
        yield f"| {_plain(name(device))} | {numbers} |"
    if len(worst) > MOST_ROWS:
        yield from ("", f"and {len(worst) - MOST_ROWS} more devices")


def _remarks(gate: Gate) -> Iterator[str]:
    if gate.unmatched:
        yield from ("", f"Budgets that match no cell: {', '.join(map(_plain, gate.unmatched[:20]))}")
    if gate.unlimited:
        yield from ("", f"Cells without a budget: {', '.join(map(_plain, gate.unlimited[:20]))}")


def _row(verdict: Verdict) -> str:
    shown = f"{SIGNS.get(verdict.word, '❔')} {word(verdict)}"
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
