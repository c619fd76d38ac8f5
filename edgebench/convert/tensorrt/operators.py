"""Rules about single nodes: is the operator imported, in this form, with these types, within these limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from edgebench.convert.tensorrt.base import (
    Board,
    Finding,
    OperatorTable,
    first_version_with,
    never_quantized_operators,
)
from edgebench.convert.tensorrt.graph import (
    DEQUANTIZE,
    QUANTIZE,
    TYPES,
    Network,
    attributes,
    beyond,
    finding,
    input_name,
)
from edgebench.model.base import DEFAULT_DOMAINS

if TYPE_CHECKING:
    from onnx import NodeProto

OTHERS = "or use onnxruntime on the same board"
_STATIC = "give the float model: TensorRT takes int8 as static Q/DQ pairs (--precision int8)"
_WAYS_OUT = {
    "DynamicQuantizeLinear": _STATIC,
    "MatMulInteger": _STATIC,
    "ConvInteger": _STATIC,
    "QLinearConv": "quantize the float model in QDQ form instead (QuantFormat.QDQ)",
    "QLinearMatMul": "quantize the float model in QDQ form instead (QuantFormat.QDQ)",
    "NonMaxSuppression": "--cut-nms ends the model before it and returns its boxes and scores",
    "LayerNormalization": "export with opset 13 to 16, which writes it as ReduceMean, Sub, Pow, Sqrt and Div",
    "HardSwish": "export with opset 13, which writes it as HardSigmoid and Mul",
    "Gelu": "export it as Erf (opset 13 to 19)",
    "Mish": "export it as Softplus, Tanh and Mul (opset 13 to 17)",
    "GridSample": "do the sampling outside the model",
    "NonZero": "return its input and find the indices outside the model",
}
# the inputs whose type is an operator's own; all others: the first
_TYPED_INPUT = {"Where": 1, "OneHot": 2}
_MAX_TOPK = 3840
_SPATIAL_AXES = (4, 5)  # ranks of 2D and 3D pooling and convolution inputs


def findings(network: Network, board: Board, table: OperatorTable) -> Iterator[Finding]:
    """Everything that single nodes break."""
    newer = {id(node) for node in beyond(network, table.opset_max)}
    for node in network.nodes:
        if node.domain not in DEFAULT_DOMAINS:
            yield _foreign(node, board)
        elif node.op_type not in table.operators:
            yield _unknown(node, board)
        else:
            if id(node) in newer:
                yield _too_new(node, network, board, table)
            yield from chain(
                _doubtful(node, board, table),
                _limits(node, network, board, table),
                _unwritten(node, network),
                _types(node, network, board, table),
            )


def _foreign(node: NodeProto, board: Board) -> Finding:
    return finding(
        "refusal",
        "domain",
        node,
        f"{board.name} has no importer for operators of the domain {node.domain}; it would need a plugin",
        f"export the network with plain ONNX operators, without a runtime's own fusions, {OTHERS}",
    )


def _unknown(node: NodeProto, board: Board) -> Finding:
    later = first_version_with(node.op_type, board.version)
    never = node.op_type in never_quantized_operators()
    message = f"{board.name} does not import it"
    if later:
        message += f"; TensorRT {later} does"
    elif never:
        message += ", nor does any other version"
    way = _WAYS_OUT.get(node.op_type, "write it with simpler operators in the model")
    return finding("refusal", "operator", node, message, way if never else f"{way}, {OTHERS}")


def _too_new(node: NodeProto, network: Network, board: Board, table: OperatorTable) -> Finding:
    return finding(
        "refusal",
        "opset",
        node,
        f"it is used as opset {network.opset} defines it, which cannot be written in opset "
        f"{table.opset_max}, the newest that {board.name} was made for",
        f"export the network with opset_version={table.opset_max}, {OTHERS}",
    )


def _doubtful(node: NodeProto, board: Board, table: OperatorTable) -> Iterator[Finding]:
    if node.op_type in table.doubtful:
        yield finding(
            "warning",
            "doubtful",
            node,
            f"{board.name} has an importer for it, but its documentation says unsupported",
            "the build on the device decides",
        )


# --- types --------------------------------------------------------------------------------------


def _types(node: NodeProto, network: Network, board: Board, table: OperatorTable) -> Iterator[Finding]:
    """The documented element types. Q and DQ have rules of their own."""
    known = table.types.get(node.op_type)
    name = input_name(node, _TYPED_INPUT.get(node.op_type, 0))
    typed = network.typed(name) if name else None
    if known is None or typed is None or typed.kind == "UNDEFINED" or node.op_type in (QUANTIZE, DEQUANTIZE):
        return
    kind = _as_read(typed.kind, board)
    if kind in known:
        return
    message = f'"{name}" is {typed.kind.lower()}; {board.name} takes {", ".join(sorted(known))} there'
    if kind in ("INT32", "INT64", "BOOL") and typed.dims is not None and len(typed.dims) <= 1:
        hint = "a short integer list is computed while building; the build on the device decides"
        yield finding("warning", "type", node, message, hint)
    else:
        yield finding("refusal", "type", node, message, f"cast it to float32 before the node, {OTHERS}")


def _as_read(kind: str, board: Board) -> str:
    """TensorRT's name of an element type, as the parser reads it."""
    name = TYPES.get(kind, kind)
    return "INT32" if name == "INT64" and board.casts_int64 else name


# --- limits -------------------------------------------------------------------------------------

Check = Callable[["NodeProto", Network], str]


class Limit(NamedTuple):
    """A documented limit, by words of its sentence: what breaks it (empty: nothing does), and a way out."""

    words: str
    check: Check
    hint: str


def _limits(node: NodeProto, network: Network, board: Board, table: OperatorTable) -> Iterator[Finding]:
    text = table.limits.get(node.op_type, "")
    for limit in LIMITS if text else ():
        if limit.words not in text:
            continue
        broken = limit.check(node, network)
        if broken:
            yield finding(
                "refusal", "limit", node, f"{broken}; {board.name}: {text}", f"{limit.hint}, {OTHERS}"
            )


def _unwritten(node: NodeProto, network: Network) -> Iterator[Finding]:
    """Limits that no version documents; TensorRT RTX 1.7's parser refuses ONNX's own test cases for them."""
    for operator, check, hint in UNWRITTEN:
        broken = check(node, network) if operator == node.op_type else ""
        if broken:
            message = f"{broken}, which TensorRT's parser refuses"
            yield finding("refusal", "unwritten-limit", node, message, f"{hint}, {OTHERS}")


def _stored(*places: int) -> Check:
    """Whether the inputs at these places, where they are given, are constants."""

    def check(node: NodeProto, network: Network) -> str:
        for place in places:
            name = input_name(node, place)
            if name and not network.is_constant(name):
                return f'its input "{name}" is computed'
        return ""

    return check


def _rank(*allowed: int, place: int = 0) -> Check:
    def check(node: NodeProto, network: Network) -> str:
        rank = network.rank(input_name(node, place))
        return "" if rank is None or rank in allowed else f"its input has {rank} axes"

    return check


def _equals(attribute: str, default: object, *allowed: object) -> Check:
    def check(node: NodeProto, network: Network) -> str:  # noqa: ARG001 - every check takes both
        value = attributes(node).get(attribute, default)
        return "" if value in allowed else f"its {attribute} is {value}"

    return check


def _ones(attribute: str) -> Check:
    def check(node: NodeProto, network: Network) -> str:  # noqa: ARG001 - as above
        value = attributes(node).get(attribute, ())
        return "" if all(each == 1 for each in value) else f"its {attribute} are {list(value)}"

    return check


def _outputs(most: int) -> Check:
    def check(node: NodeProto, network: Network) -> str:
        wanted = {*network.readers, *network.outputs}
        used = [name for name in node.output[most:] if name in wanted]
        return f'its output "{used[0]}" is used' if used else ""

    return check


def _constant_axes(node: NodeProto, network: Network) -> str:
    place = {"Slice": 3, "Pad": 3}.get(node.op_type, 1)
    return _stored(place)(node, network)


def _float_range(node: NodeProto, network: Network) -> str:
    typed = network.typed(input_name(node, 0))
    if typed is not None and typed.kind.startswith(("INT", "UINT")):
        return ""
    return _stored(0, 1, 2)(node, network)


def _given_float_range(node: NodeProto, network: Network) -> str:
    given = [name for name in node.input if name in network.inputs]
    return _float_range(node, network) if given else ""


def _same_directions(node: NodeProto, network: Network) -> str:  # noqa: ARG001 - as above
    given = attributes(node)
    names = [name.decode() if isinstance(name, bytes) else name for name in given.get("activations", ())]
    half = len(names) // 2
    if given.get("direction", "forward") != "bidirectional" or names[:half] == names[half:]:
        return ""
    return f"its two directions use {', '.join(names[:half])} and {', '.join(names[half:])}"


def _topk_k(node: NodeProto, network: Network) -> str:
    value = network.value(input_name(node, 1))
    if value is None or value.size != 1 or int(value.reshape(-1)[0]) < _MAX_TOPK:
        return ""
    return f"its K is {int(value.reshape(-1)[0])}"


def _dropout(node: NodeProto, network: Network) -> str:
    name = input_name(node, 2)
    value = network.value(name) if name else None
    if not name or (value is not None and not value.any()):
        return ""
    return "its training_mode is not a constant false"


def _einsum(node: NodeProto, network: Network) -> str:
    equation = str(attributes(node).get("equation", "")).replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if "..." in equation:
        return f'its equation "{equation}" has an ellipsis'
    if any(len(set(term)) < len(term) for term in terms):
        return f'its equation "{equation}" takes a diagonal'
    sizes: dict[str, int] = {}
    for place, term in enumerate(terms):
        typed = network.typed(input_name(node, place))
        for letter, size in zip(term, (typed.dims or ()) if typed else (), strict=False):
            if isinstance(size, int) and sizes.setdefault(letter, size) != size:
                return f'its inputs are broadcast along "{letter}"'
    return ""


def _static(node: NodeProto, network: Network) -> str:
    typed = network.typed(input_name(node, 0))
    fixed = typed is None or (typed.dims is not None and all(isinstance(size, int) for size in typed.dims))
    return "" if fixed else "the shape of its input is not fixed"


def _resize_axes(node: NodeProto, network: Network) -> str:
    axes, rank = attributes(node).get("axes"), network.rank(input_name(node, 0))
    return (
        ""
        if axes is None or rank is None or list(axes) == list(range(rank))
        else f"its axes are {list(axes)}"
    )


def _deform_pads(node: NodeProto, network: Network) -> str:  # noqa: ARG001 - as above
    pads = list(attributes(node).get("pads", ()))
    half = len(pads) // 2
    return "" if pads[:half] == pads[half:] else f"its pads are {pads}"


def _always(reason: str) -> Check:
    def check(node: NodeProto, network: Network) -> str:  # noqa: ARG001 - as above
        return reason

    return check


def _no_model_input(place: int) -> Check:
    def check(node: NodeProto, network: Network) -> str:
        name = input_name(node, place)
        return f'its input "{name}" is an input of the model' if name in network.inputs else ""

    return check


def _float_modulo(node: NodeProto, network: Network) -> str:
    typed = network.typed(input_name(node, 0))
    whole = typed is None or typed.kind.startswith(("INT", "UINT"))
    return "" if whole or attributes(node).get("fmod", 0) else "its numbers are floating and its fmod is 0"


_STORE = "make it a constant in the model"
_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_NEAREST = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
LIMITS = (
    Limit("2D or 3D", _rank(*_SPATIAL_AXES), "write it with two axes, one of size 1"),
    Limit("Weights W must be an initializer", _stored(1), _STORE),
    Limit("Scales scale and biases B must be initializers", _stored(1, 2), _STORE),
    Limit("Input rank must be >=3 & <=5", _rank(3, 4, 5), "reshape its input"),
    Limit("axes must be an initializer", _constant_axes, _STORE),
    Limit("axes must be a constant tensor", _constant_axes, _STORE),
    Limit("axis must be an initializer", _stored(1), _STORE),
    Limit("K input must be an initializer", _stored(1), _STORE),
    Limit("K input must be less than 3840", _topk_k, "ask for fewer elements"),
    Limit("sorted must be 1", _equals("sorted", 1, 1), "set sorted to 1"),
    Limit("depth must be a build-time constant", _stored(1), _STORE),
    Limit("max_output_boxes_per_class, iou_threshold, and score_threshold", _stored(2, 3, 4), _STORE),
    Limit(
        "padded to [max_output_boxes_per_class, 3]",
        _always("its output would have another shape than ONNX says"),
        "cut it off the model and return its inputs (boxes and scores)",
    ),
    Limit("seed value is ignored", _always("its outputs would be others at each run"), "make it an input"),
    Limit("Indices output tensor unsupported", _outputs(1), "leave its second output out"),
    Limit("Only the first output Y is supported", _outputs(1), "leave its other outputs out"),
    Limit("dilations must be empty or all ones", _ones("dilations"), "leave the dilations out"),
    Limit(
        "must be the same for both the forward and reverse pass", _same_directions, "use the same for both"
    ),
    Limit("input_forget attribute must be 0", _equals("input_forget", 0, 0), "set input_forget to 0"),
    Limit("layout attribute must be 0", _equals("layout", 0, 0), "set layout to 0"),
    Limit("is_training must be", _dropout, "export the network for inference"),
    Limit("Ellipsis and diagonal", _einsum, "write it as Transpose, Reshape and MatMul"),
    Limit("Floating point inputs are only supported if", _float_range, _STORE),
    Limit("Dynamic input shapes are unsupported", _static, "fix the shape: --shape NAME=1,3,224,224"),
    Limit("input must have static dimensions", _static, "fix the shape: --shape NAME=1,3,224,224"),
    Limit(
        "Supported resize transformation modes",
        _equals("coordinate_transformation_mode", "half_pixel", *_RESIZE_MODES),
        f"use {', '.join(_RESIZE_MODES)}",
    ),
    Limit("Supported resize modes", _equals("mode", "nearest", "nearest", "linear"), "use nearest or linear"),
    Limit(
        "Supported nearest modes",
        _equals("nearest_mode", "round_prefer_floor", *_NEAREST),
        f"use {', '.join(_NEAREST)}",
    ),
    Limit("Antialiasing is not supported", _equals("antialias", 0, 0), "set antialias to 0"),
    Limit(
        "Supported aspect ratio policy",
        _equals("keep_aspect_ratio_policy", "stretch", "stretch"),
        "use stretch",
    ),
    Limit("axes must be an iota vector", _resize_axes, "leave its axes out"),
    Limit(
        "reduction is not supported", _equals("reduction", "none", "none"), "write the reduction as operators"
    ),
    Limit("Input must be 4D input", _rank(4), "reshape its input"),
    Limit("input must have 1D or 2D spatial dimensions", _rank(3, 4), "reshape its input"),
    Limit("pads for the beginning and end", _deform_pads, "pad its input with a Pad node"),
)
UNWRITTEN: tuple[tuple[str, Check, str], ...] = (
    ("BatchNormalization", _equals("training_mode", 0, 0), "export the network for inference"),
    ("LpPool", _equals("p", 2, 1, 2), "use a p of 1 or 2"),
    ("Mod", _float_modulo, "set fmod to 1"),
    ("Range", _given_float_range, _STORE),
    ("Resize", _stored(2), _STORE),
    ("STFT", _stored(1), _STORE),
    ("Squeeze", _no_model_input(1), _STORE),
    ("TensorScatter", _equals("mode", "linear", "linear"), "use the mode linear"),
    ("Unsqueeze", _no_model_input(1), _STORE),
    ("Upsample", _stored(1), _STORE),
)
# sentences of ops.json that no check is for, and why
UNCHECKED = {
    "x_zero_point must be zero": "the rules for Q and DQ",
    "y_zero_point must be 0": "the rules for Q and DQ",
    "Output tensors of the two conditional branches": "shapes of inner graphs are rarely known",
    "Scan output length cannot be dynamic": "known only while building",
    "The shape of Loop carried dependencies": "known only while building",
    "axis dimension of input must be a build-time constant": "shapes are static before this is asked",
    "sparse_value, value_string, and value_strings": "sparse tensors and strings are refused at the door",
    "Broadcasting between inputs is not supported": "checked with the sentence about ellipses before it",
}
