"""One answer as a table, Markdown, CSV, JSON or Parquet, on stdout or in a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from edgebench.cli.output import emit_json, note, print_table
from edgebench.cli.showing import write_bytes, write_whole
from edgebench.errors import UserError
from edgebench.report.markdown import table as markdown_table
from edgebench.report.sheet import Sheet, to_csv

FORMATS = ("table", "md", "csv", "json", "parquet")


class Wish(NamedTuple):
    """In which form, and where to; None is stdout."""

    form: str = "table"
    output: str | None = None


class Answer(NamedTuple):
    """A table for people; the same with whole numbers for programs, under what key in JSON."""

    sheet: Sheet
    key: str
    plain: Sequence[dict[str, Any]]
    head: dict[str, Any]


def give(answer: Answer, wish: Wish) -> None:
    """Print or write an answer."""
    if wish.form == "parquet":
        _parquet(answer, wish)
        return
    if wish.output is None:
        _print(answer, wish.form)
        return
    text = _text(answer, "csv" if wish.form == "table" and wish.output.endswith(".csv") else wish.form)
    write_whole(Path(wish.output), text.rstrip("\n"))
    note(f"written: {wish.output}")


def _print(answer: Answer, form: str) -> None:
    if form == "json":
        emit_json(_document(answer))
    elif form == "table":
        print_table(answer.sheet.headings, answer.sheet.rows, right=answer.sheet.numeric)
    else:
        click.echo(_text(answer, form), nl=False)


def _text(answer: Answer, form: str) -> str:
    if form == "csv":
        return to_csv(answer.sheet)
    if form == "md":
        return markdown_table(answer.sheet)
    if form == "json":
        import msgspec

        return msgspec.json.format(msgspec.json.encode(_document(answer)), indent=2).decode() + "\n"
    return "".join(f"{'  '.join(row)}\n" for row in (answer.sheet.headings, *answer.sheet.rows))


def _document(answer: Answer) -> dict[str, Any]:
    return {"schema": 1, **answer.head, answer.key: list(answer.plain)}


def _parquet(answer: Answer, wish: Wish) -> None:
    if wish.output is None:
        raise UserError("Parquet is no text for a terminal", hint="name a file: -o FILE.parquet")
    import io

    arrow, writer = parquet_library()
    made = io.BytesIO()
    writer.write_table(arrow.Table.from_pylist([_columns(row) for row in answer.plain]), made)
    write_bytes(Path(wish.output), made.getvalue())
    note(f"written: {wish.output}")


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    """Names that SQL takes without quotes."""
    return {re.sub(r"[^a-z0-9_]", "_", key): value for key, value in row.items()}


def parquet_library() -> tuple[Any, Any]:
    """The library for columns and its Parquet writer; UserError where the extra is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError("Parquet needs pyarrow", hint="pip install 'edgebench[analytics]'") from error
    return pa, pq
