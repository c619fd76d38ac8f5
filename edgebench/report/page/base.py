"""What the parts of the page share: what it is made of, cells by name, colours with readable text. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple
from unicodedata import bidirectional

from markupsafe import Markup, escape

from edgebench.budgets import Subject
from edgebench.gates import Gate, Verdict
from edgebench.records import Job, Judgement
from edgebench.report.base import UNKNOWN, Column, Report, Row, clean, columns, form, name
from edgebench.report.details import Detail
from edgebench.report.differences import Before
from edgebench.report.front import Option
from edgebench.report.history import History
from edgebench.report.svg.base import Chart

State = Literal["ok", "partial", "invalid", "emulated", "failed", "refused", "missing"]
CellKey = tuple[str, str, str, str, str]

SHORT = 40  # characters; longer texts are kept from making a table's column too wide
FIRST_RTL = "\u0590"
RTL = ("R", "AL", "AN")


class Subjects(NamedTuple):
    """Everything a page is made of.

    `gate`: the verdicts, where they are known; `judgement`: the last gate's word. `releases`: the names that
    the run goes by. `details`: by the ids of their measurements. `options`: cells with their places on the
    front of their device.
    """

    report: Report
    gate: Gate | None = None
    judgement: Judgement | None = None
    releases: tuple[str, ...] = ()
    before: Before | None = None
    details: Mapping[str, Detail] = {}
    history: History | None = None
    options: Sequence[Option] = ()


class Section(NamedTuple):
    """One part of the page: charts and tables, or a sentence that says why there are none."""

    key: str
    title: str
    lead: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Fold, ...] = ()


class Fold(NamedTuple):
    """Charts and tables under a line that opens them."""

    key: str
    title: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    is_open: bool = False


class Table(NamedTuple):
    """A table with a caption; columns whose numbers are in `numeric` are aligned right."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()


def key_of(job: Job) -> CellKey:
    """What tells cells apart in the page."""
    return job.device, job.model, job.variant, job.runtime, job.precision


def key_of_subject(subject: Subject) -> CellKey:
    """The same of a judged cell."""
    return subject.device, subject.model, subject.variant, subject.runtime, subject.precision


def verdicts_by_cell(gate: Gate | None) -> dict[CellKey, list[Verdict]]:
    """The verdicts of every judged cell."""
    found: dict[CellKey, list[Verdict]] = {}
    for each in gate.cells if gate else ():
        found.setdefault(key_of_subject(each.subject), []).append(each)
    return found


def isolated(text: str) -> Markup:
    """A name or message for the page: clean, escaped, and its direction of writing its own.

    What is written from left to right and short needs no element of its own: a large page has many.
    """
    plain = clean(text)
    wraps = len(plain) > SHORT or any(each >= FIRST_RTL and bidirectional(each) in RTL for each in plain)
    return Markup("<bdi>{}</bdi>").format(plain) if wraps else escape(plain)


def column_name(job: Job) -> str:
    """A cell's name without its device."""
    return f"{name(job.model)} {form(job)} · {name(job.runtime)}"


def filled_columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns in which any of the rows has something."""
    return tuple(each for each in columns(rows) if any(each.text(row) != UNKNOWN for row in rows))


def counted(count: int, word: str) -> str:
    """In words: "1 cell", "3 cells"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


# --- colours --------------------------------------------------------------------------------------

# a ratio of 1 is in the middle; below is better than the limit or the baseline
EDGES = (0.5, 0.7, 0.85, 0.95, 1.05, 1.18, 1.43, 2.0)
LIGHT = ("#1f5fa8", "#4a8ac9", "#8fb9e3", "#cfe1f4", "#eeeeea", "#f9dcc2", "#f0ae7d", "#d9703f", "#a83a16")
DARK = ("#6aaeff", "#4583c9", "#2f5d92", "#26405e", "#33353a", "#5a422c", "#8a5a2e", "#c9752f", "#ffa04d")


def step_of(ratio: float | None) -> int | None:
    """The colour of a ratio, 0 to 8; None where there is none."""
    if ratio is None or not math.isfinite(ratio):
        return None
    return sum(ratio >= edge for edge in EDGES)


def text_on(colour: str) -> str:
    """Black or white, whichever can be read better on a colour."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, colour))


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG 2 defines it: 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def steps_css(prefix: str, colours: Sequence[str]) -> str:
    """The rules that colour the steps."""
    return "".join(
        f"{prefix}.q{at}{{background:{colour};color:{text_on(colour)}}}" for at, colour in enumerate(colours)
    )


def legend_of_steps() -> list[tuple[str, str]]:
    """Class and words of every step: "under 0.5", "0.95 to 1.05", "over 2"."""
    words = [f"< {EDGES[0]:g}"]
    words += [f"{low:g}–{high:g}" for low, high in itertools.pairwise(EDGES)]
    words.append(f"≥ {EDGES[-1]:g}")
    return [(f"q{at}", told) for at, told in enumerate(words)]


def worst_ratio(verdicts: Iterable[Verdict]) -> float | None:
    """How far a cell is from its limits: of latency where it has such, else of anything; 1 is the limit."""
    found = worst_verdict(verdicts)
    return None if found is None else found[0]


def worst_verdict(verdicts: Iterable[Verdict]) -> tuple[float, Verdict] | None:
    """The same with the verdict that it is of."""
    known = [(ratio, each) for each in verdicts if (ratio := _of_limit(each)) is not None]
    timed = [pair for pair in known if pair[1].metric.startswith("latency.")]
    return max(timed or known, key=lambda pair: pair[0], default=None)


def _of_limit(verdict: Verdict) -> float | None:
    if verdict.kind == "regress":
        return verdict.ratio if verdict.metric.startswith("latency.") else None
    if verdict.observed is None or not verdict.limit > 0 or not verdict.observed > 0:
        return None
    ratio = verdict.observed / verdict.limit
    return ratio if verdict.kind == "max" else 1 / ratio
