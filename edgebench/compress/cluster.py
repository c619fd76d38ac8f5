"""Weight clustering: the weights of a tensor take few values, so that what is packed for sending is smaller.

The file itself is as large as before and runs as before; only its packed form shrinks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
import numpy as np

from edgebench.compress.base import Made, Options, Task
from edgebench.compress.graph import all_weights
from edgebench.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto

    Array = NDArray[Any]

MAX_ROUNDS = 50


class ClusterOptions(Options, frozen=True):
    """`values`: how many values each tensor keeps, 0 among them where it has zeros (pruned ones stay 0)."""

    values: Annotated[int, msgspec.Meta(ge=2, le=65536)] = 256

    def label(self) -> str:
        """The variant's name: "clustered-256"."""
        return f"clustered-{self.values}"


class Cluster:
    """Replaces each weight by the nearest of a few values of its tensor, found by k-means."""

    name = "cluster"
    options = ClusterOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "mixed")
    makes: ClassVar[tuple[str, ...]] = ()
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model with clustered weights; ModelError when it has no matrix of weights."""
        found = list(all_weights(model.graph))
        if not found:
            raise ModelError(
                f"{task.info.name} has no weights of two or more dimensions to cluster",
                hint="take the model as it is",
            )
        for tensor in found:
            _cluster(tensor, task.options.values)
        return Made(model, {"values": task.options.values, "tensors": len(found)})


def _cluster(tensor: TensorProto, count: int) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    flat = values.reshape(-1).astype(np.float64)
    kept = flat != 0
    if not np.isfinite(flat).all() or not kept.any():
        return
    made = np.zeros_like(flat)
    centres = _centres(np.sort(flat[kept]), count - (1 if not kept.all() else 0))
    made[kept] = _nearest(flat[kept], centres)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(made.astype(values.dtype).reshape(values.shape), name))


def _centres(ordered: Array, count: int) -> Array:
    """The means of `count` groups of ascending numbers, by Lloyd's rounds from equal shares: no chance.

    In one dimension a group is a range, so sums of ranges are differences of running sums.
    """
    if np.unique(ordered).size <= count:
        return np.unique(ordered)
    running = np.concatenate(([0.0], np.cumsum(ordered)))
    centres = np.unique(ordered[((np.arange(count) + 0.5) * ordered.size / count).astype(np.int64)])
    for _ in range(MAX_ROUNDS):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate(([0], edges, [ordered.size]))
        sizes = np.diff(bounds)
        full = sizes > 0
        moved = (running[bounds[1:]] - running[bounds[:-1]])[full] / sizes[full]
        if moved.size == centres.size and np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _nearest(values: Array, centres: Array) -> Array:
    made: Array = centres[np.searchsorted((centres[1:] + centres[:-1]) / 2, values)]
    return made
