"""What training steps are worth, on two data sets that packages ship: a part of `make training-figures`.

Three seeds each, everything through the public functions and the ONNX files that they write. Networks are
chosen by the validation set; the test set is only reported on. `--write` keeps the tables in
docs/benchmarks.md, `--keep FOLDER` the networks, with the plan that measures how fast they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from torch import Tensor, nn

from edgebench import accuracy, compress
from edgebench.compress import training
from edgebench.compress.training import ChannelPrune, FineTune, Qat, Trained, TrainSettings
from edgebench.records import Accuracy
from examples.networks.residual import ResNet
from examples.samples import Split, digits, mnist, moved_by_a_pixel
from tests.bench import page

HERE = "tests.compress.training.figures"
SEEDS = (0, 1, 2)
CALIBRATION = 64
# The forms in which runtimes execute int8, all made of the same float file.
PRESETS = {
    "U8S8 (x86 with VNNI)": "int8-static:activation=uint8",
    "U8S7 (x86)": "int8-static:activation=uint8,reduce_range=true",
    "S8S8 (ARM)": "int8-static:activation=int8",
    "TensorRT's": "int8-static:preset=tensorrt",
}
SMALL = [name for name in PRESETS if "TensorRT" not in name]  # its file has float weights, its engine not
TEACHER, QAT = "teacher", "teacher, qat"
PRUNED, TAUGHT = "50 % of channels pruned, tuned", "the same, taught by the teacher"
ALL_THREE = "pruned, taught, qat"
KEPT = {TEACHER: "teacher", QAT: "qat", ALL_THREE: "combined"}  # for what is measured of them afterwards
Steps = list[tuple[str, Any]]
Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Rights = NDArray[np.bool_]


# --- what is trained --------------------------------------------------------------------------------


def factory(module: nn.Module, split: Split, augment: Augment = moved_by_a_pixel) -> dict[str, Any]:
    """What a recipe's factory returns, of a classifier of pictures."""
    return {
        "module": module,
        **split.loaders(64),
        "example": split.train[0][:2],
        "augment": augment,
        "inputs": ["image"],
        "outputs": ["logits"],
    }


def digits_teacher() -> dict[str, Any]:
    """0.7 million weights on pictures of 8x8."""
    return factory(ResNet(width=32, blocks=(2, 2, 2)), digits())


def mnist_teacher() -> dict[str, Any]:
    """0.7 million weights on pictures of 28x28, well over a millisecond of one x86 core."""
    return factory(ResNet(width=32, blocks=(2, 2, 2)), mnist())


class Case(NamedTuple):
    """A data set, its teacher, and how long to train."""

    short: str
    name: str
    factory: str
    split: Split
    teacher_epochs: int
    tuning_epochs: int


def _cases() -> list[Case]:
    return [
        Case("digits", "digits, 8x8", f"{HERE}:digits_teacher", digits(), 30, 20),
        Case("mnist", "MNIST's first 5000, 28x28", f"{HERE}:mnist_teacher", mnist(), 8, 5),
    ]


def _variants(case: Case) -> dict[str, Steps]:
    first: Steps = [("fine-tune", FineTune(epochs=case.teacher_epochs, learning_rate=2e-3))]
    prune = ("channel-prune", ChannelPrune(ratio=0.5))
    own = {"epochs": case.tuning_epochs, "learning_rate": 1e-3}
    qat = ("qat", Qat(epochs=max(2, case.tuning_epochs // 4)))
    return {
        TEACHER: first,
        PRUNED: [*first, prune, ("fine-tune", FineTune(**own))],
        TAUGHT: [
            *first,
            prune,
            ("fine-tune", FineTune(**own, teacher="original")),
        ],
        QAT: [*first, qat],
        ALL_THREE: [
            *first,
            prune,
            ("fine-tune", FineTune(**own, teacher="original")),
            ("qat", Qat(epochs=qat[1].epochs, teacher="original")),
        ],
    }


# --- what is measured -------------------------------------------------------------------------------


class Result(NamedTuple):
    """One variant of one seed: which test pictures it answers rightly, its work and its size."""

    right: Rights
    macs: int
    size_bytes: int


def _results(case: Case, folder: Path, seed: int) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for name, steps in _variants(case).items():
        out = folder / f"{KEPT.get(name, len(found))}.onnx"
        _say(f"{case.name}, seed {seed}: {name}")
        own_name = f"{case.short}-{seed}"
        settings = TrainSettings(folder / "work", seed=seed, device="cpu", name=own_name, threads=1)
        made = training.train(case.factory, steps, settings, out=out)
        found[name] = _result(case, out, made)
        if name in (TEACHER, QAT, ALL_THREE):
            found |= _quantized(case, out, name, made)
    return found


def _quantized(case: Case, model: Path, name: str, made: Trained) -> dict[str, Result]:
    calibration = model.with_name("calibration.npz")
    np.savez(calibration, image=case.split.validation[0][:CALIBRATION].numpy())
    found = {}
    for preset, step in PRESETS.items():
        out = model.with_name("quantized.onnx")
        compress.apply(model, [step], compress.Settings(calibration=calibration), out=out)
        found[_int8(name, preset)] = _result(case, out, made)
    return found


def _int8(name: str, preset: str) -> str:
    return f"{name}, int8 {preset}"


def _result(case: Case, model: Path, made: Trained) -> Result:
    return Result(right(case.split, model), made.macs[1], model.stat().st_size)


def right(split: Split, model: Path) -> Rights:
    """Which test pictures a network answers rightly."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    pictures, labels = (each.numpy() for each in split.test)
    logits = np.concatenate([session.run(None, {"image": part})[0] for part in np.array_split(pictures, 10)])
    return accuracy.hits(logits, labels)


# --- what is printed --------------------------------------------------------------------------------


def _table(case: Case, seeds: Sequence[dict[str, Result]]) -> Iterator[str]:
    n = len(case.split.test[0])
    yield f"**{case.name}**: {len(seeds)} seeds, {n} test pictures"
    yield ""
    yield "| variant | top-1, % (each seed) | drop to the teacher, points (95 %) | MACs, % | file, kB |"
    yield "|---|---|---|---|---|"
    for name in seeds[0]:
        own = [each[name] for each in seeds]
        teachers = [each[TEACHER] for each in seeds]
        shown = "" if name == TEACHER else interval(_difference(teachers, own))
        yield (
            f"| {name} | {percent([each.right for each in own])} | {shown} | "
            f"{100 * own[0].macs / teachers[0].macs:.0f} | {own[0].size_bytes / 1000:.0f} |"
        )
    yield ""
    yield from _claims(seeds)
    yield ""


def _claims(seeds: Sequence[dict[str, Result]]) -> Iterator[str]:
    """What is asked of the steps, as measured: by the mean over the seeds, with its interval."""

    def of(name: str) -> list[Result]:
        return [each[name] for each in seeds]

    share = of(PRUNED)[0].macs / of(TEACHER)[0].macs
    for name, most in ((PRUNED, 0.015), (TAUGHT, 0.005)):
        lost = _difference(of(TEACHER), of(name))
        holds = (lost.drop or 0.0) <= most and share < 0.4
        what = f"at most {100 * most:g} points below the teacher at under 40 % of its MACs"
        yield claim(holds, f"{name}: {what}", f"{interval(lost)} points at {100 * share:.0f} %")
    lost_int8 = {name: _difference(of(TEACHER), of(_int8(QAT, name))) for name in PRESETS}
    worst = max(lost_int8, key=lambda name: lost_int8[name].drop or 0.0)
    yield claim(
        (lost_int8[worst].drop or 0.0) <= 0.005,
        "int8 after qat is within 0.5 points of float in every form",
        f"most in {worst}: {interval(lost_int8[worst])} points",
    )
    ratio = min(of(TEACHER)[0].size_bytes / of(_int8(QAT, name))[0].size_bytes for name in SMALL)
    weights = of(TEACHER)[0].size_bytes
    yield claim(ratio >= 3.5, "its file is at least 3.5x smaller", f"{ratio:.2f}x of {weights / 1e6:.2f} MB")
    combined = [_int8(ALL_THREE, name) for name in SMALL]
    lost_all = {name: _difference(of(TEACHER), of(name)) for name in combined}
    worst = max(lost_all, key=lambda name: lost_all[name].drop or 0.0)
    ratio = min(weights / of(name)[0].size_bytes for name in combined)
    yield claim(
        (lost_all[worst].drop or 0.0) < 0.01 and ratio >= 8,
        "all three combined are at least 8x smaller at under 1 point",
        f"{ratio:.2f}x; most in {worst}: {interval(lost_all[worst])} points",
    )


def claim(holds: bool, what: str, measured: str) -> str:
    """A line of the page."""
    return f"- {'holds' if holds else 'DOES NOT HOLD'}: {what}: {measured}."


def _difference(reference: Sequence[Result], candidate: Sequence[Result]) -> Accuracy:
    return difference([each.right for each in reference], [each.right for each in candidate])


def difference(reference: Sequence[Rights], candidate: Sequence[Rights]) -> Accuracy:
    """How much better the reference is: each picture's mean over the seeds, paired over the pictures."""
    sides = [np.mean(side, axis=0) for side in (candidate, reference)]
    scores = [accuracy.Scores(float(each.mean()), each) for each in sides]
    return accuracy.compared("top1", *scores, len(sides[0]))


def percent(seeds: Sequence[Rights]) -> str:
    """The share of right answers, mean and each seed."""
    values = [100 * float(each.mean()) for each in seeds]
    return f"{np.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def interval(found: Accuracy) -> str:
    """A difference in points with its interval."""
    if found.drop is None or found.drop_low is None or found.drop_high is None:
        return "0.00"
    return f"{100 * found.drop:.2f} ({100 * found.drop_low:.2f} to {100 * found.drop_high:.2f})"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


# --- what is kept -----------------------------------------------------------------------------------


def _keep(case: Case, made: Path, seed: int, folder: Path) -> None:
    """The float networks with their sets, in the folder."""
    name = f"{case.short}-{seed}"
    (folder / name).mkdir(parents=True, exist_ok=True)
    for each in (*KEPT.values(), "calibration"):
        source = next(made.glob(f"{each}.*"))
        shutil.copyfile(source, folder / name / source.name)
    pictures, labels = (each.numpy() for each in case.split.test)
    np.savez_compressed(folder / name / "test.npz", image=pictures, labels=labels)


def _lines(cases: Iterable[Case], kept: Path | None) -> Iterator[str]:
    for case in cases:
        seeds = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
                seeds.append(_results(case, Path(folder), seed))
                if kept is not None:
                    _keep(case, Path(folder), seed, kept)
        yield from _table(case, seeds)


def _heading() -> list[str]:
    told = f"Command: `make training-figures`, {datetime.now(UTC):%Y-%m-%d}; one thread."
    return [told, ""]


def main() -> None:
    """Train everything, print the tables; of one data set alone where the argument begins its name."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    parser = argparse.ArgumentParser(prog="python -m tests.compress.training.figures")
    parser.add_argument("name", nargs="?", default="", help="how the name of the one data set begins")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep networks and sets there")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/benchmarks.md")
    given = parser.parse_args()
    lines = []
    for line in _lines([each for each in _cases() if each.short.startswith(given.name.lower())], given.keep):
        print(line, flush=True)
        lines.append(line)
    if given.write:
        page.keep(page.TRAINING, [*_heading(), *lines])


if __name__ == "__main__":
    main()
