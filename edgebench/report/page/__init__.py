"""One run as one HTML file that needs nothing else: no network, no server, no other file. Pure.

Names, messages and numbers come from other machines: everything is escaped, nothing in the file can load or
send anything, and the style and the script are allowed by their hashes alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgebench.gates import Gate
from edgebench.report.base import Report, Row, name
from edgebench.report.page.base import (
    DARK,
    LIGHT,
    Subjects,
    Table,
    filled_columns,
    isolated,
    key_of,
    legend_of_steps,
    steps_css,
    verdicts_by_cell,
    worst_ratio,
)
from edgebench.report.page.matrix import MARKS, WORDS, matrix
from edgebench.report.page.sections import sections
from edgebench.report.page.summary import summary

__all__ = ["Subjects", "render", "worth_drawing"]

TEMPLATES = Path(__file__).parent / "templates"
DRAWN = 36  # cells with charts of their own: about 1 MB
MOST_CHARACTERS = 2_800_000  # so that a mail takes it
STACKED = 5  # columns of a table whose rows become cards on a phone; wider ones scroll
LONG = 30  # rows; a longer table scrolls in a box of its own
RAW_ROWS = 150  # in the file as a table; all of them are in its data, and come when asked for


def render(subjects: Subjects, most: int = MOST_CHARACTERS) -> str:
    """The whole page; the same subjects give the same bytes. Cells go undrawn where it gets too long."""
    text = _rendered(subjects)
    while subjects.details and len(text) > most:
        fewer = list(subjects.details.items())[: len(subjects.details) // 2]
        subjects = subjects._replace(details=dict(fewer))
        text = _rendered(subjects)
    return text


def _rendered(subjects: Subjects) -> str:
    style, script = _style(), _text("page.js")
    grid = matrix(subjects)
    made = (
        _environment()
        .get_template("page.html")
        .render(
            summary=summary(subjects),
            matrix=grid,
            steps=legend_of_steps(),
            marks=[(mark, WORDS[state]) for state, mark in MARKS.items()],
            sections=sections(subjects),
            raw=_raw(subjects.report),
            total=len(subjects.report.rows),
            created=name(subjects.report.run.created_utc[:10]),
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            policy=_policy(style, script),
            data=_json(grid.data),
        )
    )
    return made.rstrip("\n") + "\n"


def worth_drawing(report: Report, gate: Gate | None) -> tuple[str, ...]:
    """The ids of the measurements that get charts of their own: all of a few, of many the worst."""
    judged = verdicts_by_cell(gate)

    def rank(row: Row) -> tuple[bool, bool, float]:
        verdicts = judged.get(key_of(row.job), [])
        fails = any(each.word == "fail" for each in verdicts)
        return not fails, row.status == "ok", -(worst_ratio(verdicts) or 0.0)

    return tuple(row.id for row in sorted(report.rows, key=rank)[:DRAWN])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["said"] = isolated
    environment.globals |= {"STACKED": STACKED, "LONG": LONG}
    return environment


@cache
def _text(file: str) -> str:
    return (TEMPLATES / file).read_text(encoding="utf-8")


@cache
def _style() -> str:
    """The style sheet with the colours of the steps; dark ones on screens only, so that paper stays white."""
    light = steps_css("", LIGHT)
    dark = steps_css(":root[data-theme=dark] ", DARK)
    follows = steps_css(":root:not([data-theme=light]) ", DARK)
    return (
        f"{_text('page.css')}{light}@media screen{{{dark}}}"
        f"@media screen and (prefers-color-scheme:dark){{{follows}}}"
    )


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded or sent; this style and this script alone count."""
    return (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _json(data: object) -> Markup:
    """JSON that neither ends its element nor begins a comment."""
    plain = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)  # noqa: S704 - ASCII without markup


def _raw(report: Report) -> Table:
    """The first rows as they are printed everywhere; the script adds the others from the data."""
    shown = filled_columns(report.rows)
    rows = tuple(
        (name(row.job.device), name(row.job.model), *(column.text(row) for column in shown))
        for row in report.rows[:RAW_ROWS]
    )
    numeric = tuple(at + 2 for at, column in enumerate(shown) if column.numeric)
    return Table("", ("device", "model", *(column.heading for column in shown)), rows, numeric)
