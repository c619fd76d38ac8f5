"""What a teacher is worth to a student: the same small network, trained alone and distilled, as long.

A part of `make training-figures`. Epochs, augmentation and alpha were chosen by the validation sets; the test
sets are only reported on. The digits' setting is the one whose first three seeds said p = 0.10, here with
eight fresh seeds. `--write` keeps the tables in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats
from torch import nn

from edgebench.compress import training
from edgebench.compress.training import Distill, FineTune, TrainSettings
from examples.networks.residual import ResNet
from examples.networks.shuffle import ShuffleNet
from examples.samples import Split, bent, digits, mnist
from tests.bench import page
from tests.compress.training.figures import (
    Rights,
    Steps,
    claim,
    difference,
    factory,
    interval,
    percent,
    right,
)

HERE = "tests.compress.training.students"
ALPHA = 0.1


def digits_teacher() -> dict[str, Any]:
    """0.7 million weights on pictures of 8x8."""
    return factory(ResNet(width=32, blocks=(2, 2, 2)), digits())


def mnist_teacher() -> dict[str, Any]:
    """0.4 million weights on pictures of 28x28."""
    return factory(ResNet(width=24, blocks=(2, 2, 2)), mnist(), bent)


def student() -> nn.Module:
    """Few weights, of channel shuffles."""
    return ShuffleNet(width=8, units=(1, 1))


class Case(NamedTuple):
    """A data set, who learns it from whom, how long, and how often."""

    name: str
    teacher: str
    split: Split
    teacher_epochs: int
    epochs: int
    learning_rate: float
    seeds: range


def _cases() -> list[Case]:
    return [
        Case("digits, 8x8", "digits_teacher", digits(), 30, 100, 3e-3, range(3, 11)),
        Case("MNIST's first 5000, 28x28", "mnist_teacher", mnist(), 8, 12, 3e-3, range(5)),
    ]


class Right(NamedTuple):
    """Which test pictures each of one seed's networks answers rightly."""

    teacher: Rights
    alone: Rights
    distilled: Rights


def _trained(case: Case, seed: int) -> Right:
    first: Steps = [("fine-tune", FineTune(epochs=case.teacher_epochs, learning_rate=2e-3))]
    own = {"epochs": case.epochs, "learning_rate": case.learning_rate, "alpha": ALPHA}
    learn = {"student": f"{HERE}:student", **own}
    each = (
        first,
        [*first, ("distill", Distill(**learn, teacher="none"))],
        [*first, ("distill", Distill(**learn))],
    )
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        settings = TrainSettings(Path(folder) / "work", seed=seed, device="cpu", name="net", threads=1)
        out = Path(folder) / "network.onnx"
        found = []
        for steps in each:
            training.train(f"{HERE}:{case.teacher}", steps, settings, out=out)
            found.append(right(case.split, out))
    return Right(*found)


def _lines(case: Case) -> Iterator[str]:
    seeds = [_trained(case, seed) for seed in case.seeds]
    n = len(case.split.test[0])
    yield f"**{case.name}**: {len(case.seeds)} seeds, {n} test pictures, {case.epochs} epochs"
    yield ""
    yield "| network | top-1, % (each seed) |"
    yield "|---|---|"
    teachers, alone, distilled = (list(side) for side in zip(*seeds, strict=True))
    for name, side in (("teacher", teachers), ("student alone", alone), ("student distilled", distilled)):
        yield f"| {name} | {percent(side)} |"
    gain = difference(distilled, alone)
    yield ""
    yield claim(
        (gain.drop or 0.0) > 0 and (gain.p_value or 1.0) < 0.05,
        "the student distilled is better than the same student alone (p < 0.05)",
        f"{interval(gain)} points, p = {gain.p_value:.2g} (paired t over the pictures, each the mean of "
        f"the seeds); taken over the seeds instead, p = {_over_seeds(distilled, alone):.2g}",
    )
    yield ""


def _over_seeds(one: list[Rights], other: list[Rights]) -> float:
    """The p-value of paired t over the seeds' own shares: whether other trainings would say the same."""
    return float(stats.ttest_rel(*([each.mean() for each in side] for side in (one, other))).pvalue)


def main() -> None:
    """Train and print; of one data set alone where the argument begins its name."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    parser = argparse.ArgumentParser(prog=f"python -m {HERE}")
    parser.add_argument("name", nargs="?", default="", help="how the name of the one data set begins")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/benchmarks.md")
    given = parser.parse_args()
    told = (
        f"Command: `make training-figures`, {datetime.now(UTC):%Y-%m-%d}. Both learn as long, from the same "
    )
    lines = [f"{told}pictures; alpha {ALPHA:g}.", ""]
    for case in _cases():
        if case.name.lower().startswith(given.name.lower()):
            for line in _lines(case):
                print(line, flush=True)
                lines.append(line)
    if given.write:
        page.keep(page.STUDENTS, lines)


if __name__ == "__main__":
    main()
