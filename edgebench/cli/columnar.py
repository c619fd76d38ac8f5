"""A run's figures as Parquet files in partitions that DuckDB, Polars and others read as one table.

FOLDER/measurements/month=2026-11/target=TARGET/RUN.parquet and the same under launches/: a run that is
exported again replaces its own files and no others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgebench.cli.asking import Known, stored_cells
from edgebench.cli.sheets import parquet_library
from edgebench.cli.showing import write_bytes
from edgebench.cli.sources import Sources
from edgebench.records import Run
from edgebench.report.fleet import LAUNCH_COLUMNS, MEASUREMENT_COLUMNS, launch_rows, measurement_row

TYPES = {"text": "string", "whole": "int64", "number": "float64"}


def write(sources: Sources, run: Run, folder: Path) -> list[Path]:
    """Write the files of one run; their paths."""
    releases = {each.run: each.name for each in reversed(sources.store.releases())}
    by_target: dict[str, list[Known]] = {}
    for known in sorted(stored_cells(sources, run.id), key=lambda known: known.number):
        by_target.setdefault(known.cell.subject.target, []).append(known)
    return [
        path
        for target, cells in by_target.items()
        for path in _target(cells, folder, _place(run, target), releases.get(run.id, ""))
    ]


def _place(run: Run, target: str) -> str:
    """Month and target as partitions; names of others cannot leave the folder."""
    month, kind, file = (quote(part, safe="") for part in (run.created_utc[:7], target, run.id))
    return f"month={month}/target={kind}/{file}.parquet"


def _target(cells: list[Known], folder: Path, place: str, release: str) -> Iterator[Path]:
    heads = [{"run": each.run, "created_utc": each.created_utc, "release": release} for each in cells]
    pairs = list(zip(heads, cells, strict=True))
    measurements = [head | measurement_row(each.cell) for head, each in pairs]
    launches = [head | row for head, each in pairs for row in launch_rows(each.cell)]
    for kind, columns, rows in (
        ("measurements", MEASUREMENT_COLUMNS, measurements),
        ("launches", LAUNCH_COLUMNS, launches),
    ):
        path = folder / kind / place
        write_bytes(path, _parquet(columns, rows))
        yield path


def _parquet(columns: dict[str, str], rows: list[dict[str, Any]]) -> bytes:
    arrow, parquet = parquet_library()
    schema = arrow.schema([(name, getattr(arrow, TYPES[kind])()) for name, kind in columns.items()])
    made = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), made, compression="zstd")
    return made.getvalue()
