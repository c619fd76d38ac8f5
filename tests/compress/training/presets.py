"""What int8 after qat keeps through the artifact of every runtime: each has a form of its own.

    make training-figures                                         # keeps the networks in FOLDER
    python -m tests.compress.training.presets FOLDER [--write]    # needs runtimes and no PyTorch

ONNX Runtime, OpenVINO and NCNN answer the test set in a run of edgebench on this computer. Core ML's package
is answered by edgebench's interpreter, and TensorRT's form by ONNX Runtime, since neither runs here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from edgebench import accuracy, compress
from edgebench.convert.coreml.interpreter import interpret
from tests.bench import page
from tests.compress.training.combined import RUNTIMES, edgebench, kept, measured

LOST, SMALL = 0.005, 3.5
BATCH = 4  # of Core ML's package, whose sizes are fixed; a part of all sets' sizes
INTERPRETED, BY_ONNX_RUNTIME = "Core ML, interpreted", "TensorRT's form, in ONNX Runtime"
REST = """\
runtimes: [{runtimes}]
on: local
workload: {{launches: 5, threads: 1, min_samples: 50, min_duration_s: 0}}
"""


class Kept(NamedTuple):
    """A network before and after, on one runtime: shares of right answers, bytes of both artifacts."""

    teacher: float
    int8: float
    float_bytes: int
    int8_bytes: int


def _lines(folder: Path, names: list[str]) -> Iterator[str]:
    found: dict[str, list[Kept]] = {}
    rest = REST.format(runtimes=", ".join(RUNTIMES))
    rows = measured(folder, names, "qat", rest)["measurements"]
    for name in names:
        for runtime in RUNTIMES:
            found.setdefault(runtime, []).append(_on(rows, name, runtime))
        found.setdefault(INTERPRETED, []).append(_core_ml(folder / name))
        found.setdefault(BY_ONNX_RUNTIME, []).append(_tensorrt(folder / name))
    yield "| runtime | float, % | int8 after qat, % (each seed) | drop, points | smaller | |"
    yield "|---|---|---|---|---|---|"
    for runtime, seeds in found.items():
        yield _row(runtime, seeds)


def _row(runtime: str, seeds: list[Kept]) -> str:
    teacher, int8 = (np.mean([getattr(each, side) for each in seeds]) for side in ("teacher", "int8"))
    each = ", ".join(f"{100 * seed.int8:.2f}" for seed in seeds)
    # TensorRT's form has float weights behind Q: its engine is what is small
    ratios = [seed.float_bytes / seed.int8_bytes for seed in seeds if seed.int8_bytes]
    smaller = f"{min(ratios):.2f}x" if ratios else "-"
    fails = {"drop": teacher - int8 > LOST, "size": min(ratios, default=SMALL) < SMALL}
    short = [what for what, is_short in fails.items() if is_short]
    word = f"DOES NOT HOLD: {', '.join(short)}" if short else "holds"
    return (
        f"| {runtime} | {100 * teacher:.2f} | {100 * int8:.2f} ({each}) | {100 * (teacher - int8):.2f} | "
        f"{smaller} | {word} |"
    )


def _on(rows: list[Any], name: str, runtime: str) -> Kept:
    mine = {each["precision"]: each for each in rows if (each["model"], each["runtime"]) == (name, runtime)}
    if mine.keys() != {"fp32", "int8"}:
        raise SystemExit(f"{name} on {runtime}: measured are {sorted(mine)}, not fp32 and int8")
    teacher, int8 = mine["fp32"], mine["int8"]
    return Kept(
        teacher["accuracy"]["value"],
        int8["accuracy"]["value"],
        teacher["artifact_bytes"],
        int8["artifact_bytes"],
    )


def _core_ml(folder: Path) -> Kept:
    with tempfile.TemporaryDirectory(prefix="edgebench-") as made:
        teacher = _package(folder, "teacher", "fp32", Path(made))
        int8 = _package(folder, "qat", "int8", Path(made))
        return Kept(
            _share(folder, lambda batch: next(iter(interpret(teacher, {"image": batch}).values()))),
            _share(folder, lambda batch: next(iter(interpret(int8, {"image": batch}).values()))),
            _size(teacher),
            _size(int8),
        )


def _package(folder: Path, name: str, precision: str, out: Path) -> Path:
    """The package of Core ML for batches, made and proven by `edgebench convert`."""
    with np.load(folder / "test.npz") as held:
        shape = ",".join(str(size) for size in (BATCH, *held["image"].shape[1:]))
    given = ("--precision", precision, "--shape", f"image={shape}", "-o", str(out / name))
    if precision == "int8":
        given += ("--calibration", str(folder / "calibration.npz"))
    edgebench("convert", str(folder / f"{name}.onnx"), "--to", "coreml", *given, "--json")
    return next((out / name).rglob("*.mlpackage"))


def _size(package: Path) -> int:
    return sum(each.stat().st_size for each in package.rglob("*") if each.is_file())


def _tensorrt(folder: Path) -> Kept:
    with tempfile.TemporaryDirectory(prefix="edgebench-") as made:
        out = Path(made) / "int8.onnx"
        settings = compress.Settings(calibration=folder / "calibration.npz")
        compress.apply(folder / "qat.onnx", ["int8-static:preset=tensorrt"], settings, out=out)
        teacher, int8 = (_by_onnx_runtime(folder, path) for path in (folder / "teacher.onnx", out))
        return Kept(teacher, int8, 0, 0)


def _by_onnx_runtime(folder: Path, path: Path) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return _share(folder, lambda batch: session.run(None, {"image": batch})[0])


def _share(folder: Path, answer: Any) -> float:
    """The share of the test set that is answered rightly."""
    with np.load(folder / "test.npz") as held:
        pictures, labels = held["image"], held["labels"]
    parts = [pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH)]
    logits = np.concatenate([answer(part) for part in parts])
    return float(accuracy.hits(logits, labels).mean())


def main() -> None:
    """Measure and print; `--write` keeps the tables in docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.compress.training.presets")
    parser.add_argument("folder", type=Path, help="what make training-figures kept")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/benchmarks.md")
    given = parser.parse_args()
    told = f"Asked: within {100 * LOST:g} points of float, and {SMALL:g}x smaller. Command: "
    told += f"`make training-figures`, {datetime.now(UTC):%Y-%m-%d}. Float and int8 are answered by the "
    told += "runtime that is named, both through its own artifact; the mean of the seeds is judged."
    lines = [told]
    every = kept(given.folder, "qat")
    for short in dict.fromkeys(name.rpartition("-")[0] for name in every):
        names = [name for name in every if name.startswith(f"{short}-")]
        lines += ["", f"**{short}**: {len(names)} seeds", "", *_lines(given.folder, names)]
    print("\n".join(lines))
    if given.write:
        page.keep(page.PRESETS, lines)


if __name__ == "__main__":
    main()
