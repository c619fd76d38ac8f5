"""How well an artifact answers a labelled data set, beside the model that it was made of.

Samples are computed part by part, here or on a device, and judged as they come; of right-or-wrong answers
nothing else is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench import accuracy as rules
from edgebench import detection, usercode
from edgebench.accuracy import TOP1, TOP5_CLASSES, Scores
from edgebench.convert.evaluate import evaluates
from edgebench.device.session import InputSet, save_inputs
from edgebench.errors import UserError, did_you_mean
from edgebench.model import dataset as datasets
from edgebench.model.dataset import Dataset
from edgebench.model.inputs import sample_digests, samples_of
from edgebench.pipeline.base import (
    BUILT_ON_DEVICE,
    CONTROLLER,
    Evaluation,
    Labelled,
    Samples,
    Step,
    Workbench,
)
from edgebench.records import Accuracy, Artifact, ModelInfo, Tensor, replace
from edgebench.tools import data_digest
from edgebench.units import format_duration

PART = 128  # inferences in one request to a device
MOST = 1000  # in one request anywhere; no probe takes more
FIRST = 16  # here, to see how fast it goes
PART_S = 15.0  # what a request is to take here
PART_BYTES = 64 << 20  # of inputs and outputs together
PART_TIMEOUT_S = 1800.0
KEPT_BYTES = 2 << 30  # of outputs that a user's metric sees at once

Array = NDArray[Any]
Compute = Callable[[InputSet], Samples]


class Part(NamedTuple):
    """Whose answers are computed, and what displays call that."""

    evaluation: Evaluation
    artifact: Artifact
    what: str
    where: str = CONTROLLER


def dataset_of(asked: Labelled, info: ModelInfo, bench: Workbench) -> Dataset:
    """The data set as the model takes it; UserError where it does not fit. The last one read is kept."""
    _output(asked, info)
    key = (asked.dataset, asked.preprocess, asked.labels_key, asked.metric == TOP1, info.inputs)
    if bench.dataset is None or bench.dataset[0] != key:
        bench.dataset = None  # not two at a time in memory
        bench.announce(Step("data set", CONTROLLER, asked.dataset))
        top1 = asked.metric == TOP1
        read = datasets.read(asked.dataset, asked.labels_key, info, classes=top1, preprocess=asked.preprocess)
        bench.dataset = (key, read)
    return bench.dataset[1]


def refuse_shared(paths: Sequence[str | None], dataset: Dataset, info: ModelInfo, bench: Workbench) -> None:
    """UserError where a file that a variant was chosen by holds samples of the data set it is reported on."""
    for path in filter(None, paths):
        key = (data_digest(Path(path)), dataset.digest)
        if key in bench.apart:
            continue
        known = set(samples_of(Path(path), None, info))
        tested = sample_digests(dataset.arrays | dataset.always, info)
        shared = sum(each in known for each in tested)
        if shared:
            raise UserError(
                f"{shared} of the {len(tested)} samples of {dataset.source} are in {path} too, by which the "
                "model is quantized",
                hint="choosing (calibration, validation) and testing need samples of their own",
            )
        bench.apart.add(key)


def evaluation(
    asked: Labelled, info: ModelInfo, dataset: Dataset, reference: Artifact, bench: Workbench
) -> Evaluation:
    """What accuracy is measured by: the reference's answers are computed, once for all artifacts.

    UserError where the answers cannot be judged: labels beyond the classes, a metric that fails.
    """
    if (reference.inputs, _names(reference.outputs)) != (info.inputs, _names(info.outputs)):
        raise UserError(
            f"{reference.model} has other inputs or outputs than {info.name}, which is compared with it",
            hint="name a reference of the same interface (reference: in the plan), or leave it out",
        )
    against = " ".join(filter(None, (reference.model, reference.variant)))
    todo = Evaluation(asked, dataset, info, Scores(0.0), against)
    folder = bench.artifacts.path(reference.digest)
    part = Part(todo, reference, f"{against}, the reference")
    scores = _scores(part, lambda inputs: bench.computed(reference, folder, inputs).samples, bench)
    return todo._replace(reference=scores)


def accuracy_here(artifact: Artifact, evaluation: Evaluation, what: str, bench: Workbench) -> Accuracy:
    """The accuracy by what the artifact computes on this computer."""
    folder = bench.artifacts.path(artifact.digest)
    part = Part(evaluation, artifact, what)
    return accuracy(part, lambda inputs: bench.infer(artifact, folder, inputs), bench)


def accuracy(part: Part, compute: Compute, bench: Workbench, *, fixed: bool = False) -> Accuracy:
    """The accuracy by what `compute` makes of the samples. `fixed`: in parts that are the same each time."""
    todo, here = part.evaluation, part.where == CONTROLLER
    runtime = part.artifact.runtime
    interpreted = here and (evaluates(runtime) or runtime in BUILT_ON_DEVICE)
    scores = _scores(part, compute, bench, fixed=fixed)
    found = rules.compared(todo.asked.metric, scores, todo.reference, todo.dataset.n)
    return replace(
        found,
        dataset=todo.dataset.digest,
        where=part.where,
        computed_by="interpreter" if interpreted else "runtime",
        against=todo.against,
    )


def _scores(part: Part, compute: Compute, bench: Workbench, *, fixed: bool = False) -> Scores:
    """The scores; computed once in a run of the same files on the same data at the same place."""
    asked, dataset = part.evaluation.asked, part.evaluation.dataset
    key = (part.artifact.digest, dataset.digest, asked.metric, asked.output or "", part.where)
    if key not in bench.scores:
        answers = _answers(part, compute, bench, fixed=fixed)
        graded = _top if asked.metric == TOP1 else _own
        bench.scores[key] = graded(answers, part.evaluation)
    return bench.scores[key]


# --- computing ------------------------------------------------------------------------------------


def _answers(part: Part, compute: Compute, bench: Workbench, *, fixed: bool) -> Iterator[dict[str, Array]]:
    """The outputs of one inference after the other."""
    dataset, info = part.evaluation.dataset, part.evaluation.info
    most = max(
        1, min(PART if fixed else MOST, PART_BYTES // max(1, dataset.feed_bytes + _output_bytes(info)))
    )
    began_s, start, count = time.monotonic(), 0, most if fixed else min(FIRST, most)
    while start < dataset.feeds:
        _tell(part, start, time.monotonic() - began_s, bench)
        part_s = time.monotonic()
        with bench.scratch() as folder:
            stop = min(start + count, dataset.feeds)
            samples = compute(save_inputs(list(datasets.feeds(dataset, info, start, stop)), folder))
        yield from samples
        if not fixed:
            each_s = max(1e-6, (time.monotonic() - part_s) / count)
            count = max(1, min(most, round(PART_S / each_s)))
        start = stop


def _tell(part: Part, feeds: int, spent_s: float, bench: Workbench) -> None:
    dataset = part.evaluation.dataset
    note = f"{min(feeds * dataset.at_once, dataset.n)} of {dataset.n} samples"
    if feeds:
        note += f", about {format_duration(spent_s / feeds * (dataset.feeds - feeds))} left"
    bench.announce(Step("accuracy", part.where, part.what, note=note))


def _output_bytes(info: ModelInfo) -> int:
    """About what the outputs of one inference take; open sizes count as 1."""
    total = 0
    for each in info.outputs:
        size = 8
        for axis in each.shape:
            size *= axis if isinstance(axis, int) else 1
        total += size
    return total


# --- judging --------------------------------------------------------------------------------------


def _top(answers: Iterable[dict[str, Array]], todo: Evaluation) -> Scores:
    """Right or wrong for each sample by the highest output, and by the five highest."""
    output, labels = _output(todo.asked, todo.info), todo.dataset.labels
    right, among_five, place, classes = [], [], 0, 0
    for answer in answers:
        rows = _classes(_rows(answer[output.name], output, todo.dataset), output)
        own = labels[place : place + len(rows)]
        rows, classes = rows[: len(own)], rows.shape[1]
        if own.size and int(own.max()) >= classes:
            raise UserError(
                f"{todo.dataset.source}: a label is {int(own.max())}, "
                f'and "{output.name}" has {classes} classes',
                hint="classes are numbered from 0 on; --output NAME names another output",
            )
        right.append(rules.hits(rows, own))
        among_five.append(rules.hits(rows, own, 5))
        place += len(own)
    each = np.concatenate(right).astype(np.float64)
    top5 = float(np.concatenate(among_five).mean()) if classes >= TOP5_CLASSES else None
    return Scores(float(each.mean()), each, top5)


def _own(answers: Iterable[dict[str, Array]], todo: Evaluation) -> Scores:
    """What the user's metric says of all outputs together."""
    dataset, size_bytes = todo.dataset, 0
    found: dict[str, list[Array]] = {each.name: [] for each in todo.info.outputs}
    for answer in answers:
        for output in todo.info.outputs:
            rows = _rows(answer[output.name], output, dataset)
            found[output.name].append(rows)
            size_bytes += rows.nbytes
        if size_bytes > KEPT_BYTES:
            raise UserError(
                f"the outputs of {dataset.n} samples take more than {KEPT_BYTES:,} bytes, and "
                f"{todo.asked.metric} wants them at once",
                hint="give fewer samples, or a model that returns less",
            )
    outputs = {name: _joined(rows, dataset.n) for name, rows in found.items()}
    metric = todo.asked.metric
    boxes = rules.boxes_function(metric)
    if boxes is not None:
        return detection.mean_average_precision(usercode.call(boxes, outputs), dataset.labels, boxes)
    return rules.scored(usercode.call(metric, outputs, dataset.labels), dataset.n, metric)


def _joined(rows: list[Array], n: int) -> Array | list[Array]:
    """The rows of all samples as one array; as a list where their shapes differ."""
    if len({each.shape[1:] for each in rows}) == 1:
        return np.concatenate(rows)[:n]
    return [row for each in rows for row in each][:n]


def _rows(array: Array, output: Tensor, dataset: Dataset) -> Array:
    """An output of one inference with a row for each of its samples."""
    if output.shape and output.shape[0] == dataset.at_once == array.shape[0]:
        return array
    if dataset.at_once == 1:
        return array[None]
    raise UserError(
        f'the output "{output.name}" [{", ".join(map(str, output.shape))}] does not have the '
        f"{dataset.at_once} samples of a batch on its first axis",
        hint="--batch 1, or name another output: --output NAME",
    )


def _classes(rows: Array, output: Tensor) -> Array:
    """The rows with the classes on the second and last axis."""
    sizes = [size for size in rows.shape[1:] if size != 1]
    if len(sizes) != 1:
        raise UserError(
            f'the output "{output.name}" [{", ".join(map(str, output.shape))}] holds no classes',
            hint="top1 wants one number a class: --output NAME names another output, --metric "
            "MODULE:FUNCTION judges any",
        )
    return rows.reshape(len(rows), sizes[0])


def _output(asked: Labelled, info: ModelInfo) -> Tensor:
    """The output that top1 looks at; UserError where the model has no such."""
    names = _names(info.outputs)
    if asked.output is not None and asked.output not in names:
        raise UserError(f'{info.name} has no output "{asked.output}"', hint=did_you_mean(asked.output, names))
    return info.outputs[names.index(asked.output) if asked.output is not None else 0]


def _names(tensors: Iterable[Tensor]) -> tuple[str, ...]:
    return tuple(each.name for each in tensors)
