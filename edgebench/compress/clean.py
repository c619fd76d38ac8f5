"""Removal of what computes nothing: nodes that no output needs, unused weights, Identity, idle Dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgebench.compress.base import Made, Options, Task
from edgebench.compress.graph import drop_unused

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


class CleanOptions(Options, frozen=True):
    """Nothing to choose."""

    def label(self) -> str:
        """The variant's name."""
        return "clean"


class Clean:
    """Removes nodes and weights that no output needs, and nodes that only pass their input on."""

    name = "clean"
    options = CleanOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8-qdq", "int8-dynamic", "mixed")
    makes: ClassVar[tuple[str, ...]] = ()
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:  # noqa: ARG002
        """The model without them; outputs do not change."""
        passed = _bypass(model.graph)
        nodes, tensors = drop_unused(model)
        return Made(model, {"nodes": nodes, "passed_on": passed, "weights": tensors})


def _bypass(graph: GraphProto) -> int:
    """How many idle nodes are read by nobody any more, in place; those that make an output stay."""
    outputs = {value.name for value in graph.output}
    inner = {name for node in graph.node for name in _names_inside(node)}
    source: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = source.get(name, name)
        if _is_idle(node) and not {node.output[0]} & (outputs | inner):
            source[node.output[0]] = node.input[0]
    return len(source)


def _is_idle(node: NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Dropout":
        return not any(node.output[1:]) and not any(node.input[2:])
    return node.op_type == "Identity"


def _names_inside(node: NodeProto) -> set[str]:
    """What graphs inside of a node read: names that must stay."""
    from edgebench.model.base import nodes, subgraphs

    found = {name for inner in subgraphs(node) for each in nodes(inner) for name in each.input}
    return found | {value.name for inner in subgraphs(node) for value in inner.output}
