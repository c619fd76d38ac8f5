"""`make models`: deployed kinds of networks x runtimes x precisions through edgebench, and the table of it.

    python -m tests.models.table [--only NAME]... [--runtime R]... [--precision P]... [--show]

Each cell has a time limit, in a process that is replaced when it dies. Rows are kept in table.json beside
this file as they come, and docs/models.md is written from them. Without --only: all networks.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from edgebench import model
from edgebench.fleet.plan import own_precision
from tests.convert.support import pnnx_home
from tests.models.cells import Row, Task, broken_or
from tests.models.sources import GROUPS, NETWORKS, Source, source

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "models.md"
KEPT = Path(__file__).with_name("table.json")
RUNTIMES = ("onnxruntime", "openvino", "ncnn", "coreml")
PRECISIONS = ("fp32", "fp16", "int8")
ALL_PRECISIONS = (*PRECISIONS, "int8-dynamic")
CELL_LIMIT_S = 900.0
BAD = ("WRONG", "BROKEN")
OUTCOMES = ("pass", "refused", *BAD)
PACKAGES = ("onnx", "onnxruntime", "openvino", "ncnn", "coremltools", "numpy")


def main() -> int:
    """Take what was asked for; the exit status says whether anything was wrong or broken."""
    asked = _arguments()
    rows = {_key(row): row for row in kept()}
    for row in () if asked.show else taken(asked):
        rows[_key(row)] = row
        keep(ordered(rows.values()))
    keep(ordered(rows.values()))
    bad = [row for row in rows.values() if row.outcome in BAD]
    for row in bad:
        print(f"{row.outcome}: {row.network} {row.precision} on {row.runtime}: {row.reason}")
    return int(bool(bad))


def kept() -> list[Row]:
    """The rows of the last run, none where there was none."""
    return msgspec.json.decode(KEPT.read_bytes(), type=list[Row]) if KEPT.is_file() else []


def keep(rows: Sequence[Row]) -> None:
    """The rows and the page they make, saved."""
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    DOCUMENT.write_text(document(rows), "utf-8")


def taken(asked: argparse.Namespace) -> Iterator[Row]:
    """A row for every cell, as they come."""
    with tempfile.TemporaryDirectory(prefix="edgebench-models-") as folder, _judge(Path(folder)) as judge:
        for network in asked.only or NETWORKS:
            try:
                found = source(network, Path(folder))
            except pytest.skip.Exception as skipped:
                print(f"left out: {network}: {skipped}", file=sys.stderr)
                continue
            for task in tasks(network, found, asked):
                row = judge.row(task)
                print(_line(row))
                sys.stdout.flush()
                yield row


def tasks(network: str, found: Source, asked: argparse.Namespace) -> Iterator[Task]:
    """The cells of a network: a float32 file in every precision, one that is compressed already as it is."""
    own = own_precision(model.inspect(found.path))
    as_is = own != "fp32"
    precisions = (own,) if as_is else PRECISIONS
    for runtime in asked.runtime or RUNTIMES:
        for precision in precisions:
            if precision in (asked.precision or precisions):
                yield Task(
                    network,
                    str(found.path),
                    found.shapes,
                    runtime,
                    precision,
                    feed=found.feed,
                    constants=found.constants,
                    as_is=as_is,
                )


def _line(row: Row) -> str:
    snr = "" if row.snr_db is None else f"{row.snr_db} / {row.float_snr_db} dB"
    return (
        f"{row.seconds:6.1f} {row.outcome:8} {row.network} {row.runtime} {row.precision} {snr} {row.reason}"
    )


class _Judge:
    """A process that takes cells, started anew after one that died or was too slow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worker: subprocess.Popen[bytes] | None = None

    def row(self, task: Task) -> Row:
        """The row of a cell; BROKEN where there is no answer in time."""
        if self._worker is None:
            self._worker = self._start()
        started = time.monotonic()
        answer = _ask(self._worker, msgspec.json.encode(task) + b"\n")
        if answer is not None:
            return msgspec.json.decode(answer, type=Row)
        self.end()
        told = {
            "outcome": "BROKEN",
            "owner": "bug",
            "reason": f"died, or no answer within {CELL_LIMIT_S:g} s",
        }
        return broken_or(task, time.monotonic() - started, told)

    def _start(self) -> subprocess.Popen[bytes]:
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        if not (home / "tools").exists():
            (home / "tools").symlink_to(pnnx_home() / "tools")
        return subprocess.Popen(
            [sys.executable, "-m", "tests.models.cells", str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"EDGEBENCH_HOME": str(home), "TMPDIR": str(self._folder)},
            start_new_session=True,
        )

    def end(self) -> None:
        """Nothing is left running."""
        if self._worker is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._worker.pid, signal.SIGKILL)
        self._worker.wait()
        self._worker = None


@contextmanager
def _judge(folder: Path) -> Iterator[_Judge]:
    judge = _Judge(folder)
    try:
        yield judge
    finally:
        judge.end()


def _ask(worker: subprocess.Popen[bytes], question: bytes) -> bytes | None:
    """A worker's answer, or None when it died or was too slow."""
    if worker.stdin is None or worker.stdout is None:
        return None
    try:
        worker.stdin.write(question)
        worker.stdin.flush()
    except BrokenPipeError:
        return None
    received, deadline = bytearray(), time.monotonic() + CELL_LIMIT_S
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while not received.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            chunk = os.read(worker.stdout.fileno(), 1 << 16)
            if not chunk:
                return None
            received += chunk
    return bytes(received)


# --- the page -----------------------------------------------------------------------------------


ABOUT = """\
Each cell takes edgebench's own path: canonical form, compression, conversion, parity. A number is a **pass**:
the signal-to-noise ratio in dB of the worst output against the same variant in ONNX Runtime with graph
optimisations off. Every pass was proven again by other means: the file as it was given, in a plain ONNX
Runtime session, against the artifact, on inputs that edgebench had not seen (there, one value may err twice
as far as parity allows); the number behind the stroke is the worst output of that. In int8 it shows what
quantization costs this network (the generated ones have random weights, and eight samples are all there is
for calibration): a property of the network, not of the conversion. Core ML artifacts are computed by
edgebench's interpreter from the saved package (reference-verified). "taken": when a row's oldest number was.

Published networks are fed with what they are built for, made by `tests/models/feeds.py`: writing, pictures,
voices, spectra, words. The `light-` ones come without weights, and got seeded ones. `-set` was made with
`--set sr=16000`. Files that are compressed already are taken as they are, in the precision they have; the
last section has such files on purpose, made by ONNX Runtime's own quantizers and float16 converter.

**no** is a refusal: no artifact was given out, for the reason in the footnote, which names who must act.
**WRONG** would be an artifact given out that the second proof contradicts, **BROKEN** our own fault."""


def document(rows: Sequence[Row]) -> str:
    """The page of these rows: Markdown."""
    counts = Counter(row.outcome for row in rows)
    reasons: dict[str, int] = {}
    lines = [line for group in _groups(rows) for line in _section(group, rows, reasons)]
    tools = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            "# Networks through every runtime",
            "",
            f"Made by `make models` with {tools}.",
            "",
            ABOUT,
            "",
            f"{len(rows)} cells: {', '.join(f'{counts[each]} {each}' for each in OUTCOMES)}.",
            "",
            *lines,
            "## Reasons",
            "",
            *(f"{number}. {reason}" for reason, number in reasons.items()),
            "",
        ]
    )


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    there = {row.network for row in rows}
    return [(title, sorted(there & set(names))) for title, names in GROUPS.items()]


def _section(group: tuple[str, list[str]], rows: Sequence[Row], reasons: dict[str, int]) -> list[str]:
    title, networks = group
    if not networks:
        return []
    cells = {_key(row): row for row in rows}
    head = ["network", "precision", *RUNTIMES, "taken"]
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for network in networks:
        for precision in ALL_PRECISIONS:
            found = [cells.get((network, runtime, precision)) for runtime in RUNTIMES]
            if not any(found):
                continue
            day = min((row.day for row in found if row), default="")  # of the oldest of its numbers
            shown = [_cell(row, reasons) for row in found]
            lines.append(f"| {network} | {precision} | {' | '.join(shown)} | {day} |")
    return [*lines, ""]


def _cell(row: Row | None, reasons: dict[str, int]) -> str:
    if row is None:
        return "not taken"
    if row.outcome == "pass":
        return f"{row.snr_db:.0f} / {row.float_snr_db:.0f}"
    # the network's name stands in the line already; without it the same reason is one footnote
    reason = f"{row.owner}: {row.reason.removeprefix(row.network).removeprefix(':').strip()}"
    number = reasons.setdefault(reason, len(reasons) + 1)
    return f"{'no' if row.outcome == 'refused' else row.outcome} ({number})"


def ordered(rows: Iterable[Row]) -> list[Row]:
    """By network, runtime and precision, as the page has them."""
    return sorted(rows, key=lambda row: (row.network, RUNTIMES.index(row.runtime), row.precision))


def _key(row: Row) -> tuple[str, str, str]:
    return row.network, row.runtime, row.precision


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.models.table", description=__doc__)
    parser.add_argument("--only", action="append", choices=NETWORKS)
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--precision", action="append", choices=ALL_PRECISIONS)
    parser.add_argument("--show", action="store_true", help="only write the page again from the rows kept")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
