"""INT8 with some layers float: those whose quantization costs most, until a budget holds.

Every layer is weighed alone: the outputs' signal-to-noise ratio where it alone is quantized. The costliest
become float again, as many as the budget needs, found by halving. A layer is made float in the QDQ graph
itself: it reads what it read before anything was quantized, so that what is measured is what is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from edgebench import accuracy as rules
from edgebench.accuracy import TOP1, Scores
from edgebench.compress.base import LayerCost, Made, Sensitivity, Settings, Task, file_digest
from edgebench.compress.graph import drop_unused, raised
from edgebench.compress.qdq import (
    MIN_OPSET,
    Budget,
    StaticOptions,
    Work,
    begin,
    budget_of,
    budget_problem,
    outputs,
    quantized,
    settings_used,
    snr_db,
)
from edgebench.errors import BugError, ModelError, UserError, did_you_mean
from edgebench.records import Accuracy, ModelInfo

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgebench.model.dataset import Dataset

_GRID = ("QuantizeLinear", "DequantizeLinear")
_NAMED_IN_LINEAGE = 32
_FLOAT_AGAIN = ".float"
_OUTPUT = "output "  # before the name of one, among the names of layers


class MixedOptions(StaticOptions, frozen=True):
    """As int8-static, and a budget: `max_drop` of top-1 ("1 pp") and `min_snr` of the outputs ("25 dB").

    `max_drop` is judged on labelled validation samples by the class of the output `output` (the first).
    """

    max_drop: float | str | None = None
    min_snr: float | str | None = None
    output: str = ""

    def label(self) -> str:
        """The variant's name."""
        return "int8-mixed"

    def problem(self) -> str:
        """What is wrong with the budget, or ""."""
        if self.max_drop is None and self.min_snr is None:
            return "it has no budget; max_drop: 1 pp (labelled validation samples), or min_snr: 25 dB"
        return budget_problem(self.max_drop, self.min_snr)


class Int8Mixed:
    """float32 -> int8, but for the layers that cost more than the budget has."""

    name = "int8-mixed"
    options = MixedOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("int8-qdq",)
    needs_calibration = True

    def run(self, model: ModelProto, task: Task) -> Made:
        """The QDQ model with its table; ModelError where only a float model keeps the budget."""
        info, options, settings = task
        budget = budget_of(options.max_drop, options.min_snr)
        if settings.calibration is None:
            raise BugError("int8-mixed was started without calibration inputs")
        judged = None if budget.max_drop is None else _labelled(settings, info, options)
        with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
            work = begin(raised(model, info, MIN_OPSET), info, options, settings, Path(folder))
            search = _Search(work._replace(keep_relu=True), budget, judged)
            table, network = _kept(search, info)
        kept = [each.node for each in table.layers if each.kept_float]
        used = settings_used(work) | {"budget": table.budget, "layers": len(table.layers), "float": len(kept)}
        if kept:
            used["kept_float"] = kept[:_NAMED_IN_LINEAGE]
        if settings.validation is not None and judged is not None:
            used["validation"] = file_digest(settings.validation)
        return Made(network, used, file_digest(settings.calibration), table)


# --- searching ------------------------------------------------------------------------------------


class _Labelled(NamedTuple):
    """Validation samples, and which output answers them."""

    dataset: Dataset
    info: ModelInfo
    output: str


class _Found(NamedTuple):
    """What a network with so many float layers loses."""

    network: ModelProto
    snr_db: float
    accuracy: Accuracy | None


class _Search:
    """Builds and judges networks with more or fewer float layers, each once."""

    def __init__(self, work: Work, budget: Budget, labelled: _Labelled | None) -> None:
        import onnx

        self.work = work
        self.budget = budget
        self.labelled = labelled
        self.prepared = onnx.load(work.prepared)
        self.full = onnx.load(
            quantized(work, "all" if work.options.operators == "auto" else work.options.operators).path
        )
        self.layers = _quantized_layers(self.full)
        self.reference = None if labelled is None else _scores(work.prepared, labelled)
        self._found: dict[frozenset[str], _Found] = {}

    def alone_db(self, name: str) -> float:
        """The outputs' signal-to-noise ratio where that layer alone is quantized."""
        path = self._write(self._with_float(frozenset(self.layers) - {name}))
        return snr_db(self.work, path)

    def judge(self, kept: frozenset[str]) -> _Found:
        """The network with these layers float, and what it loses."""
        if kept not in self._found:
            network = self._with_float(kept)
            path = self._write(network)
            accuracy = None
            if self.labelled is not None and self.reference is not None:
                scores = _scores(path, self.labelled)
                accuracy = rules.compared(TOP1, scores, self.reference, self.labelled.dataset.n)
            self._found[kept] = _Found(network, snr_db(self.work, path), accuracy)
        return self._found[kept]

    def holds(self, kept: frozenset[str]) -> bool:
        """Whether the budget holds with these layers float."""
        found = self.judge(kept)
        snr_holds = self.budget.min_snr_db is None or found.snr_db >= self.budget.min_snr_db
        drop = None if found.accuracy is None else found.accuracy.drop
        return snr_holds and (self.budget.max_drop is None or (drop or 0.0) <= self.budget.max_drop)

    def _write(self, network: ModelProto) -> Path:
        import onnx

        path = self.work.prepared.with_name("tried.onnx")
        onnx.save(network, path)
        return path

    def _with_float(self, kept: frozenset[str]) -> ModelProto:
        """The QDQ network in which these layers read what they read before."""
        made = type(self.full)()
        made.CopyFrom(self.full)
        before = {node.name: list(node.input) for node in self.prepared.graph.node}
        stored = {tensor.name: tensor for tensor in self.prepared.graph.initializer}
        wanted: dict[str, str] = {}  # a float weight or bias -> its name beside the quantized one
        for node in made.graph.node:
            if node.name in kept:
                for name in before[node.name]:
                    if name in stored:
                        wanted[name] = f"{name}{_FLOAT_AGAIN}"
                del node.input[:]
                node.input.extend(wanted.get(name, name) for name in before[node.name])
        for name, own in wanted.items():
            made.graph.initializer.append(stored[name])
            made.graph.initializer[-1].name = own
        _free_outputs(made, kept)
        drop_unused(made)
        return made


def _quantized_layers(network: ModelProto) -> dict[str, str]:
    """Name -> operator of the nodes that read a dequantized value; and outputs that are dequantized."""
    dequantized = {node.output[0] for node in network.graph.node if node.op_type == "DequantizeLinear"}
    layers = {
        node.name: node.op_type
        for node in network.graph.node
        if node.op_type not in _GRID and dequantized & set(node.input)
    }
    return layers | {f"{_OUTPUT}{name}": "output" for name in _rounded_outputs(network)}


def _rounded_outputs(network: ModelProto) -> dict[str, str]:
    """Output -> the float value that it is rounded from; those that a node reads too are left out."""
    makers = {name: node for node in network.graph.node for name in node.output}
    read = {name for node in network.graph.node for name in node.input}
    found = {}
    for value in network.graph.output:
        last = makers.get(value.name)
        if last is None or last.op_type != "DequantizeLinear" or value.name in read:
            continue
        before = makers.get(last.input[0])
        if before is not None and before.op_type == "QuantizeLinear" and before.input[0] in makers:
            found[value.name] = before.input[0]
    return found


def _free_outputs(network: ModelProto, kept: frozenset[str]) -> None:
    """Let these outputs be what they are rounded from, in place."""
    freed = {value: name for name, value in _rounded_outputs(network).items() if f"{_OUTPUT}{name}" in kept}
    for place in reversed(range(len(network.graph.node))):
        node = network.graph.node[place]
        if node.op_type == "DequantizeLinear" and node.output[0] in freed.values():
            del network.graph.node[place]
            continue
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = freed.get(name, name)


def _kept(search: _Search, info: ModelInfo) -> tuple[Sensitivity, ModelProto]:
    """The table of all layers and the network with the fewest costliest ones float that keeps the budget."""
    costs = sorted(
        ((search.alone_db(name), name, operator) for name, operator in search.layers.items()),
        key=lambda cost: (cost[0], cost[1]),
    )
    names = [name for _, name, _ in costs]
    count = fewest(len(names), lambda count: search.holds(frozenset(names[:count])))
    if count == len(names):
        raise ModelError(
            f"{info.name}: no layer can be int8 within the budget ({search.budget.told()})",
            hint="a wider budget, other calibration samples, or fp16",
        )
    kept = frozenset(names[:count])
    found = search.judge(kept)
    table = Sensitivity(
        budget=search.budget.told(),
        layers=tuple(
            LayerCost(node=name, operator=operator, snr_db=cost_db, kept_float=name in kept)
            for cost_db, name, operator in costs
        ),
        snr_db=found.snr_db,
        accuracy=found.accuracy,
    )
    return table, found.network


def fewest(most: int, holds: Callable[[int], bool]) -> int:
    """The smallest count from 0 to `most` that holds, where more never hurts; `most` itself is not asked."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


# --- labelled samples -----------------------------------------------------------------------------


def _labelled(settings: Settings, info: ModelInfo, options: MixedOptions) -> _Labelled:
    """The validation samples; UserError where there are none, or they do not fit."""
    from edgebench.model import dataset

    if settings.validation is None:
        raise UserError(
            "max_drop needs labelled validation samples",
            hint="data: {validation: FILE.npz} in the recipe; or min_snr: 25 dB, which needs none",
        )
    names = [each.name for each in info.outputs]
    if options.output and options.output not in names:
        raise UserError(
            f'{info.name} has no output "{options.output}"', hint=did_you_mean(options.output, names)
        )
    made = dataset.read(str(settings.validation), settings.labels_key, info, classes=True)
    return _Labelled(made, info, options.output or names[0])


def _scores(path: Path, labelled: _Labelled) -> Scores:
    """Right or wrong for each validation sample."""
    from edgebench.model import dataset

    feeds = list(dataset.feeds(labelled.dataset, labelled.info, 0, labelled.dataset.feeds))
    rows = _rows([each[labelled.output] for each in outputs(path, feeds)], labelled)
    highest = int(labelled.dataset.labels.max())
    if highest >= rows.shape[1]:
        raise UserError(
            f'{labelled.dataset.source}: a label is {highest}, and "{labelled.output}" has {rows.shape[1]} '
            "classes",
            hint="classes are numbered from 0 on; output: NAME names another output",
        )
    each = rules.hits(rows, labelled.dataset.labels).astype(np.float64)
    return Scores(float(each.mean()), each)


def _rows(answers: Sequence[Any], labelled: _Labelled) -> Any:
    """A row of classes for each sample."""
    at_once, n = labelled.dataset.at_once, labelled.dataset.n
    flat = [answer.reshape(at_once, -1) for answer in answers if answer.size % at_once == 0]
    if len(flat) != len(answers) or len({each.shape[1] for each in flat}) != 1 or flat[0].shape[1] < 2:
        raise UserError(
            f'the output "{labelled.output}" does not hold a number a class for each sample',
            hint="output: NAME names another output; or min_snr: 25 dB, which needs no classes",
        )
    return np.concatenate(flat)[:n]
