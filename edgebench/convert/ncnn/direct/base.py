"""The blobs and layers of a network in the making, and what every rule is written in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.convert.ncnn.param import FLOAT16, FLOAT32
from edgebench.errors import ModelError

Array = NDArray[Any]
Shape = tuple[int, ...]

MAX_RANK = 4
MAX_MATRIX = 1 << 22  # elements of a constant that stands for a movement of values
MAX_RESIZED = 512  # of one axis: its matrix comes from numpy and Python loops
MAX_LAYERS = 5000
HALF_STEP = 2.0**-11  # what float16 rounds away, of the largest weight
LARGE = 1e38  # stretches any difference beyond 1
OTHERS = "use onnxruntime or openvino"

# BinaryOp and UnaryOp, param 0; Reduction, param 0: from ncnn's source
BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Max": 4, "Min": 5, "Pow": 6}
UNARY = {
    "Abs": 0, "Neg": 1, "Floor": 2, "Ceil": 3, "Sqrt": 5, "Exp": 7, "Log": 8, "Sin": 9, "Cos": 10, "Tan": 11,
    "Asin": 12, "Acos": 13, "Atan": 14, "Reciprocal": 15, "Tanh": 16, "Round": 18,
}  # fmt: skip
REDUCTIONS = {
    "ReduceSum": 0, "ReduceSumSquare": 2, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5, "ReduceProd": 6,
    "ReduceL1": 7, "ReduceL2": 8, "ReduceLogSum": 9, "ReduceLogSumExp": 10,
}  # fmt: skip
# Permute, param 0: which old axis (w, h, d, c) each new one (w, h, d, c) is
_ORDERS = {
    2: ["wh", "hw"],
    3: ["whc", "hwc", "wch", "cwh", "hcw", "chw"],
    4: [
        "whdc", "hwdc", "wdhc", "dwhc", "hdwc", "dhwc", "whcd", "hwcd", "wchd", "cwhd", "hcwd", "chwd",
        "wdch", "dwch", "wcdh", "cwdh", "dcwh", "cdwh", "hdcw", "dhcw", "hcdw", "chdw", "dchw", "cdhw",
    ],
}  # fmt: skip
_AXES = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}  # outermost first, as ONNX counts


class Mat(NamedTuple):
    """A blob: the shape that ONNX gives it, and the axes that the Mat really has.

    Both hold the same values in the same order, so that a Reshape of ONNX costs nothing, and tensors of more
    than four axes exist as long as a layer can take them with some axes joined.
    """

    name: str
    shape: Shape
    dims: Shape


Value = Mat | Array


class Layer(NamedTuple):
    """One line of the param file."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: dict[int, Any]


class Node(NamedTuple):
    """One ONNX node with its inputs at hand; None for an input left out."""

    op: str
    inputs: list[Value | None]
    attributes: dict[str, Any]
    outputs: int
    opset: int

    def constant(self, place: int) -> Array | None:
        """The constant input at a place, None where there is none; ModelError when it is not constant."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if isinstance(value, Mat):
            raise refused(f"{self.op} whose input {place} is not constant")
        return value

    def ints(self, place: int, name: str) -> list[int] | None:
        """Whole numbers that are an input in newer opsets and an attribute in older ones."""
        if name in self.attributes:
            return [int(each) for each in self.attributes[name]]
        value = self.constant(place)
        return None if value is None else [int(each) for each in value.reshape(-1)]


def refused(what: str) -> ModelError:
    """The error of what has no exact form here."""
    return ModelError(f"ncnn has no exact form of {what}", hint=OTHERS)


class Net:
    """Layers in the making; the methods are what the rules below are written in."""

    def __init__(self, *, half: bool = False) -> None:
        self.layers: list[Layer] = []
        self.weights: list[bytes] = []
        self._count = 0
        self._half = half

    # --- files ---

    def param_text(self) -> str:
        """The param file, with a Split layer wherever a blob is read more than once."""
        layers = self._split()
        blobs = sum(len(layer.outputs) for layer in layers)
        lines = ["7767517", f"{len(layers)} {blobs}"]
        for number, layer in enumerate(layers):
            words = [layer.kind, f"l{number}", str(len(layer.inputs)), str(len(layer.outputs))]
            words += (
                [*layer.inputs, *layer.outputs, *map(_parameter, *zip(*layer.params.items(), strict=True))]
                if (layer.params)
                else [*layer.inputs, *layer.outputs]
            )
            lines.append(" ".join(words))
        return "\n".join(lines) + "\n"

    def _split(self) -> list[Layer]:
        readers = Counter(name for layer in self.layers for name in layer.inputs)
        served: Counter[str] = Counter()
        placed: list[Layer] = []
        for layer in self.layers:
            inputs = []
            for name in layer.inputs:
                inputs.append(name if readers[name] == 1 else f"{name}_{served[name]}")
                served[name] += 1
            placed.append(layer._replace(inputs=tuple(inputs)))
            for name in layer.outputs:
                if readers[name] > 1:
                    copies = tuple(f"{name}_{number}" for number in range(readers[name]))
                    placed.append(Layer("Split", (name,), copies, {}))
        return placed

    def stored(self, weights: Array) -> Array:
        """Weights as the file holds them: float16's, where that was asked for and costs only its rounding."""
        values = np.ascontiguousarray(weights, np.float32)
        if not self._half:
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = values.astype(np.float16).astype(np.float32)
            lost = np.abs(rounded - values)
        most = float(np.abs(values).max(initial=0.0))
        return rounded if np.all(lost <= most * HALF_STEP) else values

    def tagged(self, weights: Array) -> None:
        """Write weights that a layer reads behind a tag, which says how they are stored."""
        values = self.stored(weights)
        tag, data = FLOAT32, values.astype("<f4").tobytes()
        if self._exact_in_half(values):
            tag, data = FLOAT16, values.astype("<f2").tobytes()
        self.weights.append(tag.to_bytes(4, "little") + data + bytes(-len(data) % 4))

    def raw(self, values: Array) -> None:
        """Write values that a layer reads as float32 (biases)."""
        self.weights.append(np.ascontiguousarray(values, "<f4").tobytes())

    def _exact_in_half(self, values: Array) -> bool:
        if not self._half:
            return False
        with np.errstate(over="ignore"):
            return np.array_equal(values.astype(np.float16).astype(np.float32), values)

    # --- blobs ---

    def input(self, name: str, shape: Shape) -> Mat:
        """A graph input."""
        self.layers.append(Layer("Input", (), (name,), {}))
        return Mat(name, shape, _bounded(shape))

    def output(self, value: Mat, name: str) -> None:
        """Give a blob the name of a graph output, with all its axes."""
        self.layers.append(Layer("Noop", (self.with_dims(value, value.shape).name,), (name,), {}))

    def add(self, kind: str, inputs: Sequence[Mat], dims: Shape, **params: Any) -> Mat:
        """A layer's single output; `params` are p0=..., p1=... by ncnn's numbers."""
        return self.several(kind, inputs, [dims], **params)[0]

    def several(self, kind: str, inputs: Sequence[Mat], dims: Sequence[Shape], **params: Any) -> list[Mat]:
        """All outputs of a layer."""
        made = []
        for each in dims:
            self._count += 1
            made.append(Mat(f"b{self._count}", each, _bounded(each)))
        if self._count > MAX_LAYERS:
            raise refused("so large a network without pnnx")
        numbers = {int(key[1:]): value for key, value in params.items()}
        names = tuple(each.name for each in inputs), tuple(each.name for each in made)
        self.layers.append(Layer(kind, *names, numbers))
        return made

    def mat(self, value: Value) -> Mat:
        """The value as a blob: constants become MemoryData."""
        if isinstance(value, Mat):
            return value
        array = np.ascontiguousarray(finite(value), np.float32).reshape(value.shape)
        if np.isnan(array).any() or array.size > MAX_MATRIX:
            raise refused("a constant that is NaN or very large")
        joined = array.shape if array.ndim <= MAX_RANK else (array.size,)
        sizes = _sizes(joined)
        if self._exact_in_half(array):  # another constant may be an index or a bound: it keeps all digits
            self.tagged(array)
            sizes["p21"] = 0
        else:
            self.raw(array)
        return self.add("MemoryData", [], joined, **sizes)._replace(shape=array.shape)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The same values in another shape; the blob stays as it is."""
        return value._replace(shape=tuple(shape)) if isinstance(value, Mat) else np.reshape(value, shape)

    def with_dims(self, value: Value, dims: Shape) -> Mat:
        """The value as a blob that has these axes."""
        mat = self.mat(value)
        wanted = _bounded(dims)
        if mat.dims == wanted:
            return mat
        return self.add("Reshape", [mat], wanted, **_sizes(wanted))

    # --- arithmetic ---

    def binary(self, op: str, left: Value, right: Value) -> Value:
        """Elementwise, broadcast as ONNX does; ncnn broadcasts as ONNX only where ranks are equal."""
        if not isinstance(left, Mat) and not isinstance(right, Mat):
            return _NUMPY[op](np.asarray(left, np.float32), np.asarray(right, np.float32))
        shape = np.broadcast_shapes(left.shape, right.shape)
        full = [(1,) * (len(shape) - len(each.shape)) + each.shape for each in (left, right)]
        whole = [tuple(a == b for a, b in zip(each, shape, strict=True)) for each in full]
        groups = _groups(list(zip(*whole, strict=True)), shape)
        sides = [
            self.with_dims(self.reshape(each, sizes), _joined(sizes, groups))
            for each, sizes in zip((left, right), full, strict=True)
        ]
        made = self.add("BinaryOp", sides, _joined(shape, groups), p0=BINARY[op])
        return self.reshape(made, shape)

    def scalar(self, op: str, value: Value, number: float) -> Value:
        """`binary` with one number on the right."""
        if not isinstance(value, Mat):
            return self.binary(op, value, np.array(number, np.float32))
        made = self.add("BinaryOp", [value], value.dims, p0=BINARY[op], p1=1, p2=float(number))
        return self.reshape(made, value.shape)

    def unary(self, op: str, value: Value) -> Value:
        """One function of every element."""
        return self.layer("UnaryOp", value, p0=UNARY[op])

    def layer(self, kind: str, value: Value, **params: Any) -> Value:
        """A layer that works on every element alone."""
        mat = self.mat(value)
        return self.reshape(self.add(kind, [mat], mat.dims, **params), mat.shape)

    def clip(self, value: Value, low: float, high: float) -> Value:
        """Values kept between two bounds."""
        return self.layer("Clip", value, p0=float(low), p1=float(high))

    def reduce(self, op: str, value: Value, axes: Sequence[int], *, keep: bool) -> Value:
        """A reduction over some axes; over all where none are given."""
        mat = self.mat(value)
        rank = len(mat.shape)
        chosen = {axis % rank for axis in axes} or set(range(rank))
        status = [(place in chosen,) for place in range(rank)]
        groups = _groups(status, mat.shape)
        source = self.with_dims(mat, _joined(mat.shape, groups))
        over = [place for place, group in enumerate(groups) if group[0] in chosen]
        dims = tuple(1 if place in over else size for place, size in enumerate(source.dims))
        made: Value = source
        if over:
            made = self.add("Reduction", [source], dims, p0=REDUCTIONS[op], p1=0, p3=over, p4=1, p5=1)
        kept = [1 if place in chosen else size for place, size in enumerate(mat.shape)]
        gone = [size for place, size in enumerate(mat.shape) if place not in chosen]
        return self.reshape(made, tuple(kept if keep else gone))

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Axes in another order; those that stay together move as one."""
        mat = self.mat(value)
        shape = tuple(mat.shape[place] for place in order)
        moving = [place for place in order if mat.shape[place] != 1]
        runs: list[list[int]] = []
        for place in moving:
            between = range(runs[-1][-1] + 1, place) if runs else ()
            if runs and runs[-1][-1] < place and all(mat.shape[each] == 1 for each in between):
                runs[-1].append(place)
            else:
                runs.append([place])
        if len(runs) < 2:
            return self.reshape(mat, shape)
        if len(runs) > MAX_RANK:
            return self._transpose_in_two(mat, order)
        ranked = sorted(runs)
        source = self.with_dims(mat, tuple(math.prod(mat.shape[each] for each in run) for run in ranked))
        names = _AXES[len(runs)]
        wanted = "".join(names[ranked.index(run)] for run in reversed(runs))
        dims = tuple(math.prod(mat.shape[each] for each in run) for run in runs)
        made = self.add("Permute", [source], dims, p0=_ORDERS[len(runs)].index(wanted))
        return self.reshape(made, shape)

    def _transpose_in_two(self, mat: Mat, order: Sequence[int]) -> Value:
        """First the outermost axis that is not in its place: what moves are four groups; then the others."""
        at = next(place for place, axis in enumerate(order) if axis != place)
        others = [axis for axis in range(at, len(order)) if axis != order[at]]
        first = [*range(at), order[at], *others]
        return self.transpose(self.transpose(mat, first), [first.index(axis) for axis in order])

    def matmul(self, left: Value, right: Value) -> Value:
        """ONNX's MatMul for operands of rank 2 or more; all batches as one axis."""
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
        a = self.with_dims(self.expand(left, (*batch, rows, inner)), _matrices(batch, rows, inner))
        b = self.with_dims(self.expand(right, (*batch, inner, columns)), _matrices(batch, inner, columns))
        made = self.add("MatMul", [a, b], _matrices(batch, rows, columns))
        return self.reshape(made, (*batch, rows, columns))

    def expand(self, value: Value, shape: Shape) -> Value:
        """Broadcast to a shape."""
        full = np.broadcast_shapes(value.shape, shape)
        return value if full == value.shape else self.binary("Mul", value, np.ones(full, np.float32))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values side by side along an axis."""
        if len(values) == 1:
            return values[0]
        parts = []
        for each in values:
            outer, inner = math.prod(each.shape[:axis]), math.prod(each.shape[axis + 1 :])
            parts.append(self.with_dims(each, (outer, each.shape[axis], inner)))
        total = sum(part.dims[1] for part in parts)
        made = self.add("Concat", parts, (parts[0].dims[0], total, parts[0].dims[2]), p0=1)
        return self.reshape(made, (*values[0].shape[:axis], total, *values[0].shape[axis + 1 :]))

    def along(self, value: Value, axis: int, matrix: Array) -> Value:
        """Values of one axis mixed: y[..., m, ...] = sum over n of x[..., n, ...] * matrix[n, m]."""
        axis %= len(value.shape)
        count, made = matrix.shape
        if made == 0:
            raise refused("an empty tensor")
        if count == made and np.array_equal(matrix, np.eye(count)):
            return value
        if matrix.size > MAX_MATRIX:
            raise refused("a movement of so many values")
        outer, inner = math.prod(value.shape[:axis]), math.prod(value.shape[axis + 1 :])
        shape = (*value.shape[:axis], made, *value.shape[axis + 1 :])
        if outer == 1:
            columns = self.reshape(value, (count, inner))
            return self.reshape(self.matmul(np.ascontiguousarray(matrix.T, np.float32), columns), shape)
        turned = self.transpose(self.reshape(value, (outer, count, inner)), (0, 2, 1))
        mixed = self.matmul(self.reshape(turned, (outer * inner, count)), matrix.astype(np.float32))
        return self.reshape(self.transpose(self.reshape(mixed, (outer, inner, made)), (0, 2, 1)), shape)

    def pick(self, value: Value, axis: int, indices: Sequence[int]) -> Value:
        """The elements of an axis at these places; -1 gives zero."""
        size = value.shape[axis]
        if size * len(indices) > MAX_MATRIX:
            raise refused("a movement of so many values")
        matrix = np.zeros((size, len(indices)), np.float32)
        for place, index in enumerate(indices):
            if index >= 0:
                matrix[index, place] = 1
        return self.along(value, axis, matrix)

    # --- truth values ---

    def less(self, left: Value, right: Value) -> Value:
        """1 where left < right, else 0."""
        return self.clip(self.scalar("Mul", self.binary("Sub", right, left), LARGE), 0, 1)

    def equal(self, left: Value, right: Value) -> Value:
        """1 where both are the same, else 0."""
        distance = self.unary("Abs", self.binary("Sub", left, right))
        return self.negation(self.clip(self.scalar("Mul", distance, LARGE), 0, 1))

    def negation(self, value: Value) -> Value:
        """0 for 1 and 1 for 0."""
        return self.scalar("Add", self.scalar("Mul", value, -1.0), 1.0)


def _bounded(shape: Shape) -> Shape:
    if len(shape) > MAX_RANK:
        raise refused(f"a tensor of {len(shape)} axes")
    if 0 in shape:
        raise refused("an empty tensor")
    return tuple(int(size) for size in shape) or (1,)


def _groups(status: Sequence[tuple[bool, ...]], shape: Shape) -> list[list[int]]:
    """Neighbouring axes of one status joined; axes of one element join whatever is there."""
    groups: list[list[int]] = []
    last: tuple[bool, ...] | None = None
    for place, (kind, size) in enumerate(zip(status, shape, strict=True)):
        if size == 1:
            continue
        if kind == last:
            groups[-1].append(place)
        else:
            groups.append([place])
        last = kind
    return groups


def _joined(shape: Shape, groups: Sequence[Sequence[int]]) -> Shape:
    """The sizes of joined axes."""
    return tuple(math.prod(shape[place] for place in group) for group in groups) or (1,)


def _matrices(batch: Shape, rows: int, columns: int) -> Shape:
    count = math.prod(batch)
    return (rows, columns) if count == 1 else (count, rows, columns)


def _sizes(shape: Shape) -> dict[str, int]:
    """Params w, h, d and c of MemoryData and Reshape."""
    keys = {"w": "p0", "h": "p1", "d": "p11", "c": "p2"}
    full = shape or (1,)
    return {keys[axis]: size for axis, size in zip(_AXES[len(full)], full, strict=True)}


def _parameter(key: int, value: Any) -> str:
    if isinstance(value, list):
        return f"-{23300 + key}={len(value)}," + ",".join(map(str, value))
    return f"{key}={value:.9e}" if isinstance(value, float) else f"{key}={value}"


_NUMPY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Max": np.maximum,
    "Min": np.minimum, "Pow": np.power,
}  # fmt: skip


Rule = Callable[[Net, Node], "Value | list[Value]"]


def given(node: Node) -> list[Value]:
    """The inputs that are there."""
    return [each for each in node.inputs if each is not None]


def first(node: Node) -> Value:
    """The first input."""
    return given(node)[0]


def finite(value: Value) -> Value:
    """Infinite constants (masks) as very large numbers: zero times infinity would be NaN."""
    if isinstance(value, Mat):
        return value
    return np.nan_to_num(np.asarray(value, np.float32), nan=np.nan, posinf=1e30, neginf=-1e30)
