"""Prints the table of training steps for docs/benchmarks.md: `make training-figures`, an hour or
more.

Two data sets that packages ship, three seeds each, everything through the public functions and the ONNX files
that they write. Networks are chosen by the validation set; the test set is only reported on.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from torch import nn

from edgebench import accuracy, compress
from edgebench.compress import training
from edgebench.compress.training import ChannelPrune, Distill, FineTune, Qat, Trained, TrainSettings
from edgebench.records import Accuracy
from examples.networks.residual import ResNet
from examples.networks.shuffle import ShuffleNet
from examples.samples import Split, digits, mnist, moved_by_a_pixel

HERE = "tests.compress.training.figures"
SEEDS = (0, 1, 2)
CALIBRATION = 64
# The forms in which runtimes execute int8, all made of the same float file.
PRESETS = {
    "U8S8 (x86)": "int8-static:activation=uint8",
    "S8S8 (ARM)": "int8-static:activation=int8",
    "TensorRT's": "int8-static:preset=tensorrt",
}
Steps = list[tuple[str, Any]]


# --- what is trained --------------------------------------------------------------------------------


def _factory(module: nn.Module, split: Split) -> dict[str, Any]:
    return {
        "module": module,
        **split.loaders(64),
        "example": split.train[0][:2],
        "augment": moved_by_a_pixel,
        "inputs": ["image"],
        "outputs": ["logits"],
    }


def digits_teacher() -> dict[str, Any]:
    """0.7 million weights on pictures of 8x8."""
    return _factory(ResNet(width=32, blocks=(2, 2, 2)), digits())


def mnist_teacher() -> dict[str, Any]:
    """0.2 million weights on pictures of 28x28."""
    return _factory(ResNet(width=16, blocks=(2, 2, 2)), mnist())


def student() -> nn.Module:
    """Few weights, of channel shuffles."""
    return ShuffleNet(width=8, units=(1, 1))


class Case(NamedTuple):
    """A data set, its teacher, and how long to train."""

    name: str
    factory: str
    split: Split
    teacher_epochs: int
    student_epochs: int
    tuning_epochs: int


def _cases() -> list[Case]:
    return [
        Case("digits, 8x8", f"{HERE}:digits_teacher", digits(), 30, 40, 20),
        Case("MNIST's first 5000, 28x28", f"{HERE}:mnist_teacher", mnist(), 8, 12, 5),
    ]


def _variants(case: Case) -> dict[str, Steps]:
    first: Steps = [("fine-tune", FineTune(epochs=case.teacher_epochs, learning_rate=2e-3))]
    prune = ("channel-prune", ChannelPrune(ratio=0.5))
    own = {"epochs": case.tuning_epochs, "learning_rate": 1e-3}
    qat = ("qat", Qat(epochs=max(2, case.tuning_epochs // 4)))
    learn = {"student": f"{HERE}:student", "epochs": case.student_epochs, "learning_rate": 3e-3}
    return {
        "teacher": first,
        "50 % of channels pruned, tuned": [*first, prune, ("fine-tune", FineTune(**own))],
        "the same, taught by the teacher": [
            *first,
            prune,
            ("fine-tune", FineTune(**own, teacher="original")),
        ],
        "teacher, qat": [*first, qat],
        "student alone": [*first, ("distill", Distill(**learn, teacher="none"))],
        "student distilled": [*first, ("distill", Distill(**learn))],
        "pruned, taught, qat": [
            *first,
            prune,
            ("fine-tune", FineTune(**own, teacher="original")),
            ("qat", Qat(epochs=qat[1].epochs, teacher="original")),
        ],
    }


# --- what is measured -------------------------------------------------------------------------------


class Result(NamedTuple):
    """One variant of one seed: which test pictures it answers rightly, its work and its size."""

    right: np.ndarray
    macs: int
    size_bytes: int


def _results(case: Case, folder: Path, seed: int) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for name, steps in _variants(case).items():
        out = folder / f"{len(found)}.onnx"
        _say(f"{case.name}, seed {seed}: {name}")
        settings = TrainSettings(work=folder / "work", seed=seed, device="cpu", threads=1)
        made = training.train(case.factory, steps, settings, out=out)
        found[name] = _result(case, out, made)
        if "qat" in name or name == "teacher":
            found |= _quantized(case, out, name, made)
    return found


def _quantized(case: Case, model: Path, name: str, made: Trained) -> dict[str, Result]:
    calibration = model.with_name("calibration.npz")
    np.savez(calibration, image=case.split.validation[0][:CALIBRATION].numpy())
    found = {}
    for preset, step in PRESETS.items():
        out = model.with_name("quantized.onnx")
        compress.apply(model, [step], compress.Settings(calibration=calibration), out=out)
        found[f"{name}, int8 {preset}"] = _result(case, out, made)
    return found


def _result(case: Case, model: Path, made: Trained) -> Result:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    pictures, labels = (each.numpy() for each in case.split.test)
    logits = np.concatenate([session.run(None, {"image": part})[0] for part in np.array_split(pictures, 10)])
    return Result(accuracy.hits(logits, labels), made.macs[1], model.stat().st_size)


# --- what is printed --------------------------------------------------------------------------------


def _table(case: Case, seeds: Sequence[dict[str, Result]]) -> Iterable[str]:
    n = len(case.split.test[0])
    yield f"**{case.name}**: {len(seeds)} seeds, {n} test pictures"
    yield ""
    yield "| variant | top-1, % (each seed) | drop to the teacher, points (95 %) | MACs, % | file, kB |"
    yield "|---|---|---|---|---|"
    for name in seeds[0]:
        own = [each[name] for each in seeds]
        teachers = [each["teacher"] for each in seeds]
        drop = _difference(teachers, own)
        yield (
            f"| {name} | {_percent(own)} | {_interval(drop)} | "
            f"{100 * own[0].macs / teachers[0].macs:.0f} | {own[0].size_bytes / 1000:.0f} |"
        )
    yield ""
    alone, taught = ([each[name] for each in seeds] for name in ("student alone", "student distilled"))
    gain = _difference(taught, alone)
    singles = (_of_one(one, other) for one, other in zip(taught, alone, strict=True))
    each = ", ".join(f"{100 * (found.drop or 0):+.2f} (p {found.p_value:.3g})" for found in singles)
    yield (
        f"Distilled against alone: {_interval(gain)} points, p = {gain.p_value:.3g} (paired t over the "
        f"pictures, each the mean of the seeds); seed by seed, McNemar: {each}."
    )
    yield ""


def _difference(reference: Sequence[Result], candidate: Sequence[Result]) -> Accuracy:
    """How much better the reference is: each picture's mean over the seeds, paired over the pictures."""
    sides = [np.mean([each.right for each in side], axis=0) for side in (candidate, reference)]
    return _compared(*sides)


def _of_one(reference: Result, candidate: Result) -> Accuracy:
    return _compared(candidate.right.astype(float), reference.right.astype(float))


def _compared(candidate: np.ndarray, reference: np.ndarray) -> Accuracy:
    scores = [accuracy.Scores(float(each.mean()), each) for each in (candidate, reference)]
    return accuracy.compared("top1", *scores, len(candidate))


def _percent(results: Sequence[Result]) -> str:
    values = [100 * float(each.right.mean()) for each in results]
    return f"{np.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def _interval(found: Accuracy) -> str:
    if found.drop is None or found.drop_low is None or found.drop_high is None:
        return "0.00"
    return f"{100 * found.drop:.2f} ({100 * found.drop_low:.2f} to {100 * found.drop_high:.2f})"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> None:
    """Train everything, print the tables; of one data set alone where the argument begins its name."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for case in _cases():
        if not case.name.lower().startswith(wanted):
            continue
        with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
            seeds = []
            for seed in SEEDS:
                place = Path(folder) / str(seed)
                place.mkdir()
                seeds.append(_results(case, place, seed))
            print("\n".join(_table(case, seeds)), flush=True)


if __name__ == "__main__":
    main()
