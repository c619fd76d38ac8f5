"""Magnitude pruning: the smallest weights of every tensor become zero, anywhere or two of each four.

Files compress better and sparse hardware may profit; dense runtimes run as before. Without fine-tuning,
accuracy falls: measure it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec
import numpy as np

from edgebench.compress.base import Made, Options, Task
from edgebench.compress.graph import all_weights, layers, store_constants
from edgebench.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

    from edgebench.compress.graph import Weight

GROUP, KEPT = 4, 2  # of each four weights two stay: what sparse tensor cores of NVIDIA's Ampere skip


class PruneOptions(Options, frozen=True):
    """Which weights become zero.

    `share` of each tensor's, the smallest ones; with `pattern` "2:4" the two smallest of each four along the
    input channels, and the share is a half.
    """

    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    pattern: Literal["any", "2:4"] = "any"

    def label(self) -> str:
        """The variant's name: "pruned-50", "pruned-2-4"."""
        return "pruned-2-4" if self.pattern == "2:4" else f"pruned-{100 * self.share:g}"

    def problem(self) -> str:
        """A share beside 2:4, which is a half."""
        if self.pattern == "2:4" and self.share != KEPT / GROUP:
            return f"2:4 zeroes a half of the weights, and share is {self.share:g}; leave out one of them"
        return ""


class Prune:
    """Zeroes the weights of smallest magnitude, tensor by tensor; vectors (biases, scales) are left alone."""

    name = "prune"
    options = PruneOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "mixed")
    makes: ClassVar[tuple[str, ...]] = ()
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model with zeroed weights; ModelError when it has no matrix of weights."""
        options: PruneOptions = task.options
        if options.pattern == "2:4":
            return _two_of_four(model, task)
        pruned = [_prune(tensor, options.share) for tensor in all_weights(model.graph)]
        if not pruned:
            raise ModelError(
                f"{task.info.name} has no weights of two or more dimensions to prune",
                hint="take the model as it is",
            )
        return Made(model, {"share": options.share, "by": "magnitude", "tensors": len(pruned)})


def _two_of_four(model: ModelProto, task: Task) -> Made:
    store_constants(model)
    found = {each.tensor.name: each for each in layers(model)}
    fitting = [each for each in found.values() if each.tensor.dims[each.inner] % GROUP == 0]
    if not fitting:
        raise ModelError(
            f"{task.info.name} has no layer whose input channels come in fours",
            hint="prune:share=0.5 zeroes weights anywhere",
        )
    for each in fitting:
        _thin(each)
    left = [each.node.name or each.node.output[0] for each in found.values() if each not in fitting]
    used = {"pattern": "2:4", "by": "magnitude", "tensors": len(fitting)}
    return Made(model, used | ({"left": left} if left else {}))


def _thin(weight: Weight) -> None:
    """Zero the two smallest of each four along the input channels; of equal ones the first go."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight.tensor).copy()
    rows = np.moveaxis(values, weight.inner, -1)
    groups = rows.reshape(-1, GROUP)
    smallest = np.argsort(np.abs(groups), axis=1, kind="stable")[:, : GROUP - KEPT]
    thinned = groups.copy()
    np.put_along_axis(thinned, smallest, 0, axis=1)
    made = np.moveaxis(thinned.reshape(rows.shape), -1, weight.inner)
    name = weight.tensor.name
    weight.tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(made), name))


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
