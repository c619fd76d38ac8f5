"""A QDQ model -> a float model for pnnx and the thresholds that its scales mean; later: layer by layer.

pnnx cannot read QuantizeLinear and DequantizeLinear, so they are taken off:

    weights      become the float values that their codes stand for
    activations  lose their pair; a Clip to what the codes can hold takes its place. ONNX Runtime's quantizer
                 removes Relu and Clip nodes and lets the codes clamp instead: without the Clip the network
                 computes something else. Codes that are symmetric around zero never clamp for an activation

pnnx renames every layer and changes their order, so a layer is found again by its weights: the sha256 of the
exact float values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import ModelError
from edgebench.records import Record

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]

SCALES_FILE = "scales.json"

# operators whose values lie within those of their first input: no second Clip is needed behind them
_KEEPS_BOUNDS = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice")
_ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "HardSigmoid", "Softmax")  # still there, so not removed
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_HINT = "use onnxruntime or openvino for this file, or start from the fp32 model with --calibration"


class Scale(Record, frozen=True):
    """What a QDQ model says of one layer: the largest |input| its codes hold, and which weights it has."""

    node: str
    threshold: float
    weights: tuple[str, ...]  # sha256 of the float values, and of their transpose for matrices


class Scales(Record, frozen=True):
    """All layers of a QDQ model whose input and weights are quantized."""

    layers: tuple[Scale, ...]


class Matched(NamedTuple):
    """Layer name -> threshold, and the ONNX nodes for which no single layer was found."""

    thresholds: dict[str, float]
    lost: tuple[str, ...]


def digest(weights: Array) -> str:
    """What a weight is known by: the sha256 of its float32 values (-0.0 is 0.0)."""
    return hashlib.sha256((weights + np.float32(0)).astype("<f4").tobytes()).hexdigest()


def match(scales: Scales, layers: Mapping[str, Array]) -> Matched:
    """Which layer each scale belongs to; `layers` are the float weights of the layers that can be int8.

    Several layers with the same weights cannot be told apart: theirs are lost too.
    """
    found: dict[str, list[str]] = {}
    for name, weights in layers.items():
        found.setdefault(digest(weights), []).append(name)
    claimed: dict[str, list[Scale]] = {}
    lost = []
    for scale in scales.layers:
        names = {name for one in dict.fromkeys(scale.weights) for name in found.get(one, ())}
        if len(names) == 1:
            claimed.setdefault(names.pop(), []).append(scale)
        else:
            lost.append(scale.node)
    lost += [each.node for several in claimed.values() if len(several) > 1 for each in several]
    thresholds = {name: each[0].threshold for name, each in claimed.items() if len(each) == 1}
    return Matched(thresholds, tuple(lost))


# --- taking Q and DQ off ------------------------------------------------------------------------


def stripped(model: ModelProto) -> tuple[ModelProto, Scales]:
    """The float model and its layers' scales; ModelError where a pair means what ncnn cannot hold."""
    from onnx import ModelProto

    made = ModelProto()
    made.CopyFrom(model)
    strip = _Strip(made)
    scales = strip.run()
    del made.graph.value_info[:]
    return made, scales


class _Grid(NamedTuple):
    """A scale with a zero point and the codes of its type."""

    scale: float
    zero: int
    lowest: int
    highest: int

    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value that the codes hold."""
        return (self.lowest - self.zero) * self.scale, (self.highest - self.zero) * self.scale

    def symmetric(self) -> bool:
        """Whether the codes are signed around zero."""
        return self.zero == 0 and self.lowest < 0

    def threshold(self) -> float:
        """The largest |value| to represent, so that a signed grid around zero stays the same grid in ncnn."""
        if self.symmetric():
            return self.highest * self.scale
        return max(map(abs, self.bounds()))


class _Strip:
    """One pass over a sorted graph."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self._graph = model.graph
        self._opset = max((each.version for each in model.opset_import if each.domain == ""), default=0)
        self._constants: dict[str, Array] = {
            each.name: numpy_helper.to_array(each) for each in model.graph.initializer
        }
        self._names: dict[str, str] = {}  # a tensor of the QDQ model -> the one that replaces it
        self._codes: dict[str, tuple[str, _Grid]] = {}  # output of a QuantizeLinear -> its input and grid
        self._thresholds: dict[str, float] = {}  # a dequantized activation -> its threshold
        self._bounds: dict[str, tuple[float, float]] = {}  # a tensor -> the Clip that it went through
        self._active: set[str] = set()  # what an activation node gives
        self._floats: dict[str, Array] = {}  # what constant codes stand for
        self._nodes: list[NodeProto] = []
        self._scales: list[Scale] = []

    def run(self) -> Scales:
        """Rewrite the graph; the scales of its layers."""
        for node in self._graph.node:
            if node.op_type == "QuantizeLinear":
                self._quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._dequantize(node)
            else:
                self._keep(node)
        self._rewrite()
        return Scales(layers=tuple(self._scales))

    def _quantize(self, node: NodeProto) -> None:
        source = node.input[0]
        if source in self._constants:  # weights that their maker left in float: their codes are constants too
            self._constants[node.output[0]] = self._quantized(node)
            return
        self._codes[node.output[0]] = (self._names.get(source, source), self._grid(node))

    def _dequantize(self, node: NodeProto) -> None:
        codes, name = node.input[0], node.output[0]
        if codes in self._constants:
            self._floats[name] = self._dequantized(node)
            return
        if codes not in self._codes:
            raise _refused(node, "its codes come neither from a constant nor from a QuantizeLinear")
        source, grid = self._codes[codes]
        if self._grid(node) != grid:
            raise _refused(node, "it has another scale than the QuantizeLinear before it")
        self._names[name] = self._clipped(source, grid)
        self._thresholds[name] = grid.threshold()

    def _keep(self, node: NodeProto) -> None:
        self._note_constant(node)
        if any(name in self._codes for name in node.input):
            raise _refused(node, "it computes with codes, without a DequantizeLinear")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise _refused(node, "it has a graph of its own")
        self._note_scale(node)
        for place, name in enumerate(node.input):
            node.input[place] = self._names.get(name, name)
        if node.op_type in _ACTIVATIONS:
            self._active.update(node.output)
        if node.op_type in _KEEPS_BOUNDS and node.input[0] in self._bounds:
            self._bounds[node.output[0]] = self._bounds[node.input[0]]
        self._nodes.append(node)

    def _note_constant(self, node: NodeProto) -> None:
        from onnx import numpy_helper

        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def _note_scale(self, node: NodeProto) -> None:
        if node.op_type not in _WITH_WEIGHTS or len(node.input) < 2:
            return
        data, weight = node.input[:2]
        if data not in self._thresholds or weight not in self._floats:
            return
        values = self._floats[weight]
        digests = [digest(values)] + ([digest(values.T)] if values.ndim == 2 else [])
        name = node.name or node.output[0]
        self._scales.append(Scale(node=name, threshold=self._thresholds[data], weights=tuple(digests)))

    # --- values ---

    def _grid(self, node: NodeProto) -> _Grid:
        """The grid of an activation, which has one scale."""
        scale = self._constant(node, 1)
        zero = self._constant(node, 2) if len(node.input) > 2 and node.input[2] else np.uint8(0)
        if scale.size != 1 or np.size(zero) != 1:
            raise _refused(node, "an activation has a scale for each channel, and ncnn has one for all")
        if np.dtype(zero.dtype).kind not in "iu" or not np.isfinite(scale).all() or scale.item() <= 0:
            raise _refused(node, f"its codes are {zero.dtype} with the scale {scale.item()}")
        codes = np.iinfo(zero.dtype)
        return _Grid(float(scale.item()), int(zero.item()), int(codes.min), int(codes.max))

    def _quantized(self, node: NodeProto) -> Array:
        """round(values / scale) + zero point, within the codes' type."""
        values, (scale, zero) = self._constant(node, 0), self._along_axis(node)
        if zero.dtype.kind not in "iu":
            raise _refused(node, f"its codes are {zero.dtype}")
        codes = np.iinfo(zero.dtype)
        made: Array = np.clip(np.rint(values / scale) + zero, codes.min, codes.max).astype(zero.dtype)
        return made

    def _dequantized(self, node: NodeProto) -> Array:
        """(codes - zero point) * scale, along the node's axis."""
        codes, (scale, zero) = self._constant(node, 0), self._along_axis(node)
        whole = codes.astype(np.int64) - zero.astype(np.int64)
        made: Array = whole.astype(np.float32) * scale
        return made

    def _along_axis(self, node: NodeProto) -> tuple[Array, Array]:
        """Scale and zero point of constant values, in a shape that numpy spreads over them."""
        values, scale = self._constant(node, 0), self._constant(node, 1).astype(np.float32)
        zero = self._constant(node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        attributes = {each.name: each.i for each in node.attribute}
        shape = [1] * values.ndim
        if attributes.get("block_size", 0):
            raise _refused(node, "its weights have scales in blocks")
        if scale.size > 1:
            axis = attributes.get("axis", 1)
            if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
                raise _refused(node, "its scales do not fit its weights")
            shape[axis] = scale.size
        if zero.size not in (1, scale.size):
            raise _refused(node, "its zero points do not fit its scales")
        return scale.reshape(shape), zero.reshape(shape if zero.size > 1 else [1] * values.ndim)

    def _constant(self, node: NodeProto, place: int) -> Array:
        name = node.input[place]
        if name not in self._constants:
            raise _refused(node, f'"{name}" is computed, not a constant')
        return self._constants[name]

    # --- graph ---

    def _clipped(self, source: str, grid: _Grid) -> str:
        """The name of the tensor within what the codes hold: a Clip's output, or the tensor itself."""
        if grid.symmetric() or source in self._active:
            return source
        low, high = grid.bounds()
        known = self._bounds.get(source)
        if known is not None and known[0] >= low - grid.scale and known[1] <= high + grid.scale:
            return source
        name = f"{source}_clipped_{len(self._nodes)}"
        self._nodes.append(self._clip(source, name, low, high))
        self._bounds[name] = (low, high)
        return name

    def _clip(self, source: str, name: str, low: float, high: float) -> NodeProto:
        from onnx import helper

        if self._opset < 11:  # limits were attributes
            return helper.make_node("Clip", [source], [name], name=name, min=low, max=high)
        limits = [f"{name}_low", f"{name}_high"]
        for limit, value in zip(limits, (low, high), strict=True):
            self._floats[limit] = np.array(value, np.float32)
        return helper.make_node("Clip", [source, *limits], [name], name=name)

    def _rewrite(self) -> None:
        from onnx import helper, numpy_helper

        kept = list(self._nodes)
        ends = [each.name for each in self._graph.output if each.name in self._names]
        kept += [helper.make_node("Identity", [self._names[name]], [name]) for name in ends]
        used = {name for node in kept for name in node.input} | {each.name for each in self._graph.output}
        constants = [each for each in self._graph.initializer if each.name in used]
        constants += [
            numpy_helper.from_array(value, name) for name, value in self._floats.items() if name in used
        ]
        _replace(self._graph.initializer, constants)
        _replace(self._graph.node, kept)


def _replace(field: Any, values: Sequence[Any] | Iterable[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _refused(node: NodeProto, why: str) -> ModelError:
    return ModelError(
        f'the {node.op_type} "{node.name or node.output[0]}" cannot be carried over to ncnn: {why}',
        hint=_HINT,
    )
