"""What the variants of a recipe are worth on its samples: likeness to the model, accuracy, and how sure.

All answer the same samples, part by part, in ONNX Runtime: the model, every variant, and its int8 forms. Any
two of them are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench import accuracy as rules
from edgebench import model
from edgebench.accuracy import TOP1, Scores
from edgebench.compress.qdq import outputs
from edgebench.compress.recipe import Recipe
from edgebench.errors import UserError
from edgebench.likeness import Alike, Likeness
from edgebench.model import batches, read_inputs
from edgebench.model import dataset as datasets
from edgebench.pipeline.base import CONTROLLER, MODEL_FILE, Step, Workbench
from edgebench.pipeline.compressing import Compressed
from edgebench.records import Accuracy, ModelInfo, Record, replace

PART = 64  # inferences between two looks
Array = NDArray[Any]
Feed = dict[str, Array]


class Worth(Record, frozen=True):
    """One file on the samples: a variant, or its int8 `form` (a preset's name; "": the variant itself).

    `accuracy` is against the model; None where the samples have no labels or the outputs are no classes.
    """

    variant: str
    form: str
    likeness: Likeness
    accuracy: Accuracy | None


class Difference(Record, frozen=True):
    """How much more accurate `one` is than `other`, on the same samples."""

    one: str
    other: str
    found: Accuracy


class Weighed(Record, frozen=True):
    """All variants on one set; `chosen_by`: the set is one that steps chose by, so that it flatters them."""

    source: str
    n: int
    chosen_by: bool
    worths: tuple[Worth, ...]
    differences: tuple[Difference, ...]


class _Samples(NamedTuple):
    """What is answered: inferences, how many samples each holds, and labels where they are known."""

    source: str
    feeds: list[Feed]
    at_once: int
    n: int
    labels: Array | None
    chosen_by: bool


class _Side(NamedTuple):
    """One file that answers, and what was collected of it."""

    variant: str
    form: str
    path: Path
    alike: Alike
    right: list[Array]


def weighed(source: Path, made: Sequence[Compressed], recipe: Recipe, bench: Workbench) -> Weighed:
    """The variants on the recipe's test set; without one, on those that steps choose by.

    UserError where the recipe names no samples.
    """
    samples = _samples(recipe, model.inspect(source))
    reference = _Side("fp32", "", source, Alike(), [])
    sides = list(_sides(made, bench))
    for start in range(0, len(samples.feeds), PART):
        feeds = samples.feeds[start : start + PART]
        expected = outputs(source, feeds)
        _collect(reference, samples, start, expected, expected)
        for side in sides:
            note = f"{min(start * samples.at_once, samples.n)} of {samples.n} samples"
            bench.announce(Step("evaluate", CONTROLLER, title(side.variant, side.form), note=note))
            _collect(side, samples, start, expected, outputs(side.path, feeds))
    return Weighed(
        source=samples.source,
        n=samples.n,
        chosen_by=samples.chosen_by,
        worths=tuple(_worth(side, reference, samples.n) for side in sides),
        differences=tuple(_differences(sides, samples.n)),
    )


def title(variant: str, form: str) -> str:
    """A variant, or its form, in words."""
    return f"{variant} for {form}" if form else variant


# --- the samples ----------------------------------------------------------------------------------


def _samples(recipe: Recipe, info: ModelInfo) -> _Samples:
    data = recipe.data
    for path, chosen_by in ((data.test, False), (data.validation, True)):
        if path is not None:
            read = datasets.read(path, data.labels_key, info, classes=True)
            feeds = list(datasets.feeds(read, info, 0, read.feeds))
            return _Samples(path, feeds, read.at_once, read.n, read.labels, chosen_by)
    if data.calibration is not None:
        feeds = list(batches(read_inputs(Path(data.calibration), info), info))
        return _Samples(data.calibration, feeds, 1, len(feeds), None, True)
    raise UserError(f"{recipe.source} names no samples to evaluate on", hint="data: {test: FILE.npz}")


def _sides(made: Sequence[Compressed], bench: Workbench) -> Iterator[_Side]:
    for each in made:
        path = bench.artifacts.path(each.artifact.digest) / MODEL_FILE
        yield _Side(each.variant.name, "", path, Alike(), [])
        for form in each.forms:
            if form.artifact is not None:
                path = bench.artifacts.path(form.artifact.digest) / MODEL_FILE
                yield _Side(each.variant.name, form.preset.name, path, Alike(), [])


# --- answers --------------------------------------------------------------------------------------


def _collect(
    side: _Side, samples: _Samples, start: int, expected: Sequence[Feed], answers: Sequence[Feed]
) -> None:
    """Add a part's answers, sample by sample; what fills the last inference up is left out."""
    first = next(iter(expected[0]))
    for place, (wanted, given) in enumerate(zip(expected, answers, strict=True), start=start):
        count = min(samples.at_once, samples.n - place * samples.at_once)
        for row in range(count):
            one, other = _rows(wanted, row, samples), _rows(given, row, samples)
            side.alike.add(one, other, first)
        if samples.labels is not None:
            own = samples.labels[place * samples.at_once :][:count]
            side.right.append(_right(given[first], own, samples))


def _rows(answer: Feed, row: int, samples: _Samples) -> Feed:
    """A sample's share of each output; all of one that is not cut along the batch."""
    several = samples.at_once > 1
    return {
        name: each[row] if several and each.ndim and each.shape[0] == samples.at_once else each
        for name, each in answer.items()
    }


def _right(output: Array, labels: Array, samples: _Samples) -> Array:
    """Right or wrong by the highest of the classes; nothing where the output holds no classes."""
    rows = output.reshape(samples.at_once, -1) if output.size % samples.at_once == 0 else output[:0]
    classes = [size for size in output.shape[1:] if size != 1]
    if len(rows) != samples.at_once or len(classes) != 1:
        return np.empty(0, bool)
    highest = 0 if samples.labels is None else int(samples.labels.max(initial=0))
    if highest >= rows.shape[1]:
        raise UserError(
            f"{samples.source}: a label is {highest}, and the model has {rows.shape[1]} classes",
            hint="classes are numbered from 0 on",
        )
    return rules.hits(rows[: len(labels)], labels)


# --- judging --------------------------------------------------------------------------------------


def _worth(side: _Side, reference: _Side, n: int) -> Worth:
    likeness = side.alike.result()
    if likeness is None:
        raise UserError("there are no samples to evaluate on", hint="data: {test: FILE.npz}")
    return Worth(
        variant=side.variant, form=side.form, likeness=likeness, accuracy=_compared(side, reference, n)
    )


def _differences(sides: Sequence[_Side], n: int) -> Iterator[Difference]:
    for one, other in combinations(sides, 2):
        found = _compared(other, one, n)
        if found is not None:
            yield Difference(
                one=title(one.variant, one.form), other=title(other.variant, other.form), found=found
            )


def _compared(candidate: _Side, reference: _Side, n: int) -> Accuracy | None:
    scores = [_scores(each, n) for each in (candidate, reference)]
    if scores[0] is None or scores[1] is None:
        return None
    against = title(reference.variant, reference.form)
    return replace(rules.compared(TOP1, scores[0], scores[1], n), against=against)


def _scores(side: _Side, n: int) -> Scores | None:
    each = np.concatenate([np.empty(0, bool), *side.right]).astype(np.float64)
    return Scores(float(each.mean()), each) if len(each) == n else None
