"""A scenario, run: data and teacher -> the variants of its recipe, measured on this computer -> its claims.

All of it is what the command line does; here only the teacher is trained first, since a recipe compresses a
model that is there, and the sets are written as files. A second run takes all training from where it is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgebench import settings
from edgebench.compress import recipe as recipes
from edgebench.compress import training
from examples.samples import Split

HERE = Path(__file__).parent
FOLDER = Path(".edgebench") / "examples"
CALIBRATION = 64  # pictures of the validation set that int8 finds its ranges on
TEACHER = "teacher"  # the variant of a recipe that trains the model itself


class Scenario(NamedTuple):
    """The package of an example, its data, and the variant that TensorRT's plan is made of."""

    name: str
    split: Callable[[], Split]
    for_tensorrt: str | None = None
    target: str = "jetson-orin-nano"


def run(scenario: Scenario, arguments: Sequence[str]) -> int:
    """The exit code of `edgebench run`; everything is written below the folder that the first argument is."""
    folder = Path(arguments[0]) if arguments else FOLDER / scenario.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.yaml", "plan.yaml"):
        shutil.copyfile(HERE / scenario.name / name, folder / name)
    _write_sets(scenario.split(), folder)
    _train_teacher(scenario, folder)
    code = _edgebench("run", "--plan", str(folder / "plan.yaml"))
    return code or _tensorrt(scenario, folder)


def _write_sets(split: Split, folder: Path) -> None:
    """Labelled samples, and some without labels for int8."""
    for name, (inputs, labels) in zip(split._fields, split, strict=True):
        np.savez_compressed(folder / f"{name}.npz", image=inputs.numpy(), labels=labels.numpy())
    np.savez_compressed(folder / "calibration.npz", image=split.validation[0][:CALIBRATION].numpy())


def _train_teacher(scenario: Scenario, folder: Path) -> None:
    """teacher.onnx; its checkpoints lie where the recipe's variants look for what they begin with."""
    recipe = recipes.read(folder / "recipe.yaml")
    steps = [(each.name, each.options) for each in recipe.chosen([TEACHER])[0].training]
    asked = training.TrainSettings(
        work=settings.load(Path(), os.environ).home / "training",
        seed=recipe.seed,
        device=recipe.training.device,
        name=scenario.name,
        opset=recipe.training.opset,
        threads=recipe.training.threads,
    )
    factory = f"examples.{scenario.name}.task:teacher"
    training.train(factory, steps, asked, out=folder / "teacher.onnx", tell=_tell)


def _tell(progress: training.Progress) -> None:
    sys.stderr.write(
        f"\r{progress.step}: epoch {progress.epoch} of {progress.epochs}, loss {progress.loss:.4f}, "
        f"score {progress.score:.4f}, {progress.left_s:.0f} s left   "
    )
    if progress.epoch == progress.epochs:
        sys.stderr.write("\n")


def _tensorrt(scenario: Scenario, folder: Path) -> int:
    """The plan that a board builds its engine by; no board is touched."""
    if scenario.for_tensorrt is None:
        return 0
    model, recipe = str(folder / "teacher.onnx"), str(folder / "recipe.yaml")
    out = folder / "variants"
    code = _edgebench("compress", model, "--recipe", recipe, "--only", scenario.for_tensorrt, "-o", str(out))
    made = str(out / f"{scenario.name}-{scenario.for_tensorrt}.onnx")
    calibration = str(folder / "calibration.npz")
    return code or _edgebench(
        "convert",
        made,
        *("--to", "tensorrt", "--precision", "int8", "--target", scenario.target),
        *("--calibration", calibration, "--inputs", calibration, "-o", str(folder / "tensorrt")),
    )


def _edgebench(*arguments: str) -> int:
    sys.stderr.write(f"edgebench {' '.join(arguments)}\n")
    return subprocess.run([sys.executable, "-m", "edgebench", *arguments], check=False).returncode
