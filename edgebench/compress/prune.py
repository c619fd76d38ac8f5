"""Magnitude pruning: the smallest weights of every tensor become zero.

Files compress better and sparse hardware may profit; dense runtimes run as before. Without fine-tuning,
accuracy falls: measure it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
import numpy as np

from edgebench.compress.base import Made, Options, Task
from edgebench.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

_GRAPH_ATTRIBUTE = 5  # onnx.proto, AttributeProto.AttributeType
_FLOATS = (1, 10)  # FLOAT, FLOAT16


class PruneOptions(Options, frozen=True):
    """`share` of each tensor's weights that becomes zero."""

    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5

    def label(self) -> str:
        """The variant's name: "pruned-50"."""
        return f"pruned-{100 * self.share:g}"


class Prune:
    """Zeroes the weights of smallest magnitude, tensor by tensor; vectors (biases, scales) are left alone."""

    name = "prune"
    options = PruneOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "mixed")
    makes: ClassVar[tuple[str, ...]] = ()
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model with zeroed weights; ModelError when it has no matrix of weights."""
        pruned = [_prune(tensor, task.options.share) for tensor in _weights(model.graph)]
        if not pruned:
            raise ModelError(
                f"{task.info.name} has no weights of two or more dimensions to prune",
                hint="take the model as it is",
            )
        return Made(model, {"share": task.options.share, "by": "magnitude", "tensors": len(pruned)})


def _weights(graph: GraphProto) -> Iterator[TensorProto]:
    """Float tensors with at least two dimensions larger than 1, stored or in Constant nodes."""
    for tensor in graph.initializer:
        if _is_weight(tensor):
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and _is_weight(attribute.t):
                yield attribute.t
            if attribute.type == _GRAPH_ATTRIBUTE:
                yield from _weights(attribute.g)


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_type in _FLOATS and sum(size > 1 for size in tensor.dims) >= 2


def _prune(tensor: TensorProto, share: float) -> int:
    """How many weights became zero; of equal magnitudes the first in memory go."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).copy()
    flat = values.reshape(-1)
    count = round(share * flat.size)
    flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return count
