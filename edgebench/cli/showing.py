"""A stored run as a report record, as text, as a file: what several commands end with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from edgebench.cli.output import terminal_width
from edgebench.errors import InfrastructureError
from edgebench.report import exposition, markdown, terminal
from edgebench.report.base import Report, columns, name
from edgebench.report.build import build
from edgebench.report.document import document
from edgebench.report.sheet import Sheet, to_csv
from edgebench.store import Store


def build_report(store: Store, run_name: str) -> Report:
    """The report of a stored run."""
    run = store.run(run_name)
    return build(run, store.each_measurement(run.id), store.failures(run.id), store.profiles(run.id))


def render(built: Report, form: str, *, colour: bool = False) -> str:
    """The report in one of its forms."""
    if form == "markdown":
        return markdown.render(built)
    if form == "prometheus":
        return exposition.render(built).rstrip("\n")
    if form == "csv":
        return to_csv(numbers(built)).rstrip("\n")
    if form == "json":
        import msgspec

        return msgspec.json.format(msgspec.json.encode(document(built)), indent=2).decode()
    return terminal.render(built, width=terminal_width(), colour=colour)


def numbers(built: Report) -> Sheet:
    """All rows with all columns, as they are printed."""
    shown = columns(built.rows) if built.rows else ()
    rows = [
        (name(row.job.device), name(row.job.model), *(column.text(row) for column in shown))
        for row in built.rows
    ]
    return Sheet(("device", "model", *(column.heading for column in shown)), rows)


def write_whole(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file piece by piece, completely or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.writelines(parts)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # there may be no folder to remove it from
            part.unlink()
        raise InfrastructureError(
            f"{path} cannot be written: {error.strerror}", hint="choose another file with -o"
        ) from error
