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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import page

SMALLER, FASTER, LOST = 8.0, 1.5, 0.01
SLOW_MS = 1.0  # of the float network: below, a runtime's own overhead is what is measured
COMBINED = "tuned-channels-50-tuned-qat"  # what training calls the steps that figures.py takes
RUNTIMES = ("onnxruntime", "openvino", "ncnn")
MODELS = """\
  - {{path: {name}/teacher.onnx, precisions: [fp32], dataset: {name}/test.npz}}
  - path: {name}/{network}.onnx
    precisions: [int8]
    inputs: {name}/calibration.npz
    calibration: {name}/calibration.npz
    dataset: {name}/test.npz
"""
PLAN = """\
runtimes: [{runtimes}]
on: local
workload: {{launches: 7, threads: 1, min_samples: 200, min_duration_s: 1}}
claims:
  - {combined} is {smaller:g}x smaller than fp32
  - {combined} is {faster:g}x faster than fp32
  - accuracy drop of {combined} < {lost:g} %
"""
Rows = dict[tuple[str, str, str], Any]  # by network, runtime and precision


def edgebench(*words: str) -> Any:
    """What a command says with --json; SystemExit where it made nothing."""
    command = [sys.executable, "-m", "edgebench", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    document = json.loads(done.stdout)
    if "error" in document:
        raise SystemExit(f"edgebench {words[0]} ended with {done.returncode}: {document}")
    return document


def kept(folder: Path, network: str) -> list[str]:
    """The data sets and seeds, such as "mnist-0", that a network was kept of."""
    return sorted(each.parent.name for each in folder.glob(f"*/{network}.onnx"))


def measured(folder: Path, names: Sequence[str], network: str, rest: str) -> Any:
    """What `edgebench run --json` says of a network in int8 and its float teacher, by the plan's `rest`."""
    plan = folder / f"{network}.yaml"
    models = "".join(MODELS.format(name=name, network=network) for name in names)
    plan.write_text(f"version: 1\nmodels:\n{models}{rest}")
    return edgebench("run", "--plan", str(plan), "--json")


def _document(folder: Path, name: str) -> Any:
    """The run of the networks whose names begin so."""
    limits = {"smaller": SMALLER, "faster": FASTER, "lost": 100 * LOST}
    rest = PLAN.format(runtimes=", ".join(RUNTIMES), combined=COMBINED, **limits)
    names = [each for each in kept(folder, "combined") if each.startswith(name)]
    return measured(folder, names, "combined", rest)


def _lines(document: Any) -> Iterator[str]:
    rows: Rows = {
        (each["model"], each["runtime"], each["precision"]): each for each in document["measurements"]
    }
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
    """By the runtime that gains most, among those whose float network is slow enough to tell."""
    floats = {each: rows[model, each, "fp32"] for each in RUNTIMES if (model, each, "fp32") in rows}
    both = [each for each in floats if (model, each, "int8") in rows and _ms(floats[each]) >= SLOW_MS]
    quickest = min(floats, key=lambda each: _ms(floats[each]))
    if not both:
        return f"- DOES NOT HOLD: {model}: no runtime takes {SLOW_MS:g} ms for the float network."
    held = {each: _held(document, model, each) for each in both}
    best = max(both, key=lambda each: (held[each], _ms(floats[each]) / _ms(rows[model, each, "int8"])))
    small, fast, lost = (_claim(document, model, best, what) for what in ("smaller", "faster", "drop"))
    fastest = _ms(floats[quickest]) / _ms(rows[model, best, "int8"])
    return (
        f"- {'holds' if held[best] else 'DOES NOT HOLD'}: {model} on {best}: {small['value']:.1f}x smaller, "
        f"{_number(fast)} faster, at a drop of {_number(lost)} points ({lost['verdict']}); against the float "
        f"network on its fastest runtime ({quickest}, {_ms(floats[quickest]):.3f} ms) {fastest:.2f}x faster."
    )


def _held(document: Any, model: str, runtime: str) -> bool:
    """Size and speed verified, the drop under the limit as measured; whether that is sure, its claim says."""
    small, fast, lost = (_claim(document, model, runtime, what) for what in ("smaller", "faster", "drop"))
    return {small["verdict"], fast["verdict"]} == {"verified"} and lost["value"] < LOST


def _ms(row: Any) -> float:
    return float(row["latency_ms"]["p50"])


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
