"""How fast and small all three combined are here: pruned, distilled and quantized, beside the float teacher.

    make training-figures                                          # keeps the networks in FOLDER
    python -m tests.compress.training.combined FOLDER [--write]    # needs runtimes and no PyTorch

One run of edgebench on this computer with one thread: the teacher and its combination, of each seed, by every
runtime that is here. Its claims are what is printed; nothing else is computed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import page

SMALLER, FASTER, LOST = 8.0, 1.5, 0.01
SLOW_MS = 1.0  # of the float network: below, a runtime's own overhead is what is measured
RUNTIMES = ("onnxruntime", "openvino", "ncnn")
PLAN = """\
runtimes: [{runtimes}]
on: local
workload: {{launches: 7, threads: 1, min_samples: 200, min_duration_s: 1}}
claims:
  - int8 is {smaller:g}x smaller than fp32
  - int8 is {faster:g}x faster than fp32
  - accuracy drop of int8 < {lost:g} %
"""
Rows = dict[tuple[str, str, str], Any]


def _document(folder: Path, name: str) -> Any:
    """What `edgebench run --json` says of the networks whose names begin so."""
    text = (folder / "models.yaml").read_text()
    head, *models = text.split("  - ")
    kept = [f"  - {each}" for each in models if f"{name}" in each.partition("/")[0]]
    plan = folder / "plan.yaml"
    rest = PLAN.format(runtimes=", ".join(RUNTIMES), smaller=SMALLER, faster=FASTER, lost=100 * LOST)
    plan.write_text(head + "".join(kept) + rest)
    command = [sys.executable, "-m", "edgebench", "run", "--plan", str(plan), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout)


def _lines(document: Any) -> Iterator[str]:
    measured = document["measurements"]
    rows: Rows = {(each["model"], each["runtime"], each["precision"]): each for each in measured}
    yield "| network | runtime | teacher float, ms | combined int8, ms | faster | smaller | drop, points |"
    yield "|---|---|---|---|---|---|---|"
    models = dict.fromkeys(model for model, _, _ in rows)
    for model in models:
        for runtime in RUNTIMES:
            if (model, runtime, "int8") in rows:
                yield _row(document, rows, model, runtime)
    yield ""
    for model in models:
        yield _verdict(document, rows, model)
    for failure in document["failures"]:
        yield f"- not measured: {failure['model']} on {failure['runtime']}: {failure['message']}"


def _row(document: Any, rows: Rows, model: str, runtime: str) -> str:
    teacher, combined = rows[model, runtime, "fp32"], rows[model, runtime, "int8"]
    cells = [_latency(teacher), _latency(combined)]
    found = [_claim(document, model, runtime, what) for what in ("faster", "smaller", "drop")]
    cells += [f"{_number(each)}: {each['verdict']}" for each in found]
    return f"| {model} | {runtime} | {' | '.join(cells)} |"


def _latency(row: Any) -> str:
    told = row["latency_ms"]
    return f"{told['p50']:.3f} ({told['p50_low']:.3f} to {told['p50_high']:.3f})"


def _claim(document: Any, model: str, runtime: str, what: str) -> Any:
    return next(
        each
        for each in document["claims"]
        if (each["model"], each["runtime"]) == (model, runtime) and what in each["claim"]
    )


def _number(claim: Any) -> str:
    factor, unit = (100, "") if "drop" in claim["claim"] else (1, "x")
    ends = (claim["ci_low"], claim["ci_high"])
    interval = "" if None in ends else f" ({factor * ends[0]:.2f} to {factor * ends[1]:.2f})"
    return f"{factor * claim['value']:.2f}{unit}{interval}"


def _verdict(document: Any, rows: Rows, model: str) -> str:
    """By the fastest runtime of each side: that is what would be shipped."""
    best = {}
    for precision in ("fp32", "int8"):
        own = [runtime for runtime in RUNTIMES if (model, runtime, precision) in rows]
        best[precision] = min(own, key=lambda each: rows[model, each, precision]["latency_ms"]["p50"])
    slow, fast = (rows[model, best[each], each]["latency_ms"]["p50"] for each in ("fp32", "int8"))
    small, lost = (_claim(document, model, best["int8"], what) for what in ("smaller", "drop"))
    holds = slow / fast >= FASTER and small["value"] >= SMALLER and lost["value"] < LOST
    word = "holds" if holds and slow >= SLOW_MS else "DOES NOT HOLD"
    return (
        f"- {word}: {model}, each side by its fastest runtime: {small['value']:.1f}x smaller and "
        f"{slow / fast:.2f}x faster ({slow:.3f} ms on {best['fp32']}, {fast:.3f} ms on {best['int8']}) at a "
        f"drop of {_number(lost)} points."
    )


def main() -> None:
    """Measure and print; `--write` keeps the table in docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.compress.training.combined")
    parser.add_argument("folder", type=Path, help="what make training-figures kept")
    parser.add_argument("--name", default="mnist", help="how the names of the networks begin")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/benchmarks.md")
    given = parser.parse_args()
    lines = list(_lines(_document(given.folder, given.name)))
    asked = f"Asked: at least {SMALLER:g}x smaller and {FASTER:g}x faster at under {100 * LOST:g} point, the "
    asked += f"float network taking {SLOW_MS:g} ms or more. Command: `make training-figures`, "
    asked += f"{datetime.now(UTC):%Y-%m-%d}; one thread, 7 launches, 95 % intervals."
    print("\n".join([asked, "", *lines]))
    if given.write:
        page.keep(page.COMBINED, [asked, "", *lines])


if __name__ == "__main__":
    main()
