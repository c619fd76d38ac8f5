"""One table in several forms: CSV, Markdown; its terminal form is the command line's. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from edgebench.report.base import clean

FORMULA = ("=", "+", "@", "\t", "\r")  # what a spreadsheet takes for one; "-" where no number follows


class Sheet(NamedTuple):
    """Headings and texts; columns whose numbers are in `numeric` are aligned right."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numeric: tuple[int, ...] = ()


def to_csv(sheet: Sheet) -> str:
    """RFC 4180, with plain line ends; a text that a spreadsheet would compute gets an apostrophe in front."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(sheet.headings)
    writer.writerows([_harmless(text) for text in row] for row in sheet.rows)
    return made.getvalue()


def _harmless(text: str) -> str:
    plain = clean(text)
    risky = plain.startswith(FORMULA) or (plain.startswith("-") and plain != "-" and not _is_number(plain))
    return f"'{plain}" if risky else plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
