"""What would keep TensorRT from building a model, found in a moment and without a GPU: every problem at once.

The build on the device stays the judge: what passes here may pass there. Sources: the operator tables of
`ops.json`, and the parser and builder sources of the versions they name.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from edgebench.convert.tensorrt import operators, qdq
from edgebench.convert.tensorrt.base import Board, Finding, Severity, operator_table
from edgebench.convert.tensorrt.graph import Network

if TYPE_CHECKING:
    from onnx import ModelProto

OLDEST_OPSET_OF_10 = 9
_FORBIDDEN_IN_NAMES = (
    ",'\"{}"  # trtexec splits at commas and takes quotes off; braces are a plan's placeholders
)
_MAX_INT32 = 2**31 - 1
_INT64, _DOUBLE = 7, 11  # onnx.proto, TensorProto.DataType
FLOAT_INSTEAD = "ask for fp16 of the float model: edgebench convert FLOAT_MODEL --precision fp16"


def preflight(model: ModelProto, board: Board, precision: str) -> tuple[Finding, ...]:
    """Everything found, in the order board, model, nodes; no refusal among them: it may be built.

    `model` is in canonical form (static, shapes inferred); it is not changed, and weights are not read but
    for zero points, scales and indices. `precision` is fp32, fp16 or int8.
    """
    network = Network(model)
    table = operator_table(board.version)
    return tuple(
        chain(
            _table_remark(table.remark),
            _precision(network, board, precision),
            _opset(network, board),
            _inputs(network, board),
            _outputs(network, board),
            _constants(network, board),
            operators.findings(network, board, table),
            qdq.findings(network, board, table),
        )
    )


def whole(severity: Severity, rule: str, message: str, hint: str) -> Finding:
    """A finding about the model or the board as a whole."""
    return Finding(severity=severity, rule=rule, node="", operator="", message=message, hint=hint)


def _table_remark(remark: str) -> Iterator[Finding]:
    if remark:
        yield whole("warning", "operator-table", remark, "the build on the device decides")


# --- precision ----------------------------------------------------------------------------------


def _precision(network: Network, board: Board, precision: str) -> Iterator[Finding]:
    quantized = qdq.has_pairs(network)
    if precision not in ("fp32", "fp16", "int8"):
        message = f"TensorRT takes no {precision} model"
        yield whole("refusal", "precision", message, "ask for fp32, fp16 or int8")
    elif (precision == "int8" or quantized) and not board.has_int8:
        message = (
            f"a GPU of compute capability {board.capability} does not compute with 8-bit integers: "
            "TensorRT refuses to build Q/DQ networks for it"
        )
        yield whole("refusal", "int8-hardware", message, FLOAT_INSTEAD)
    elif precision == "int8" and not quantized:
        message = (
            "the model holds no Q/DQ pairs; with --int8 alone TensorRT makes up ranges and computes garbage"
        )
        hint = "give calibration inputs, so that the model is quantized: --calibration FILE.npz"
        yield whole("refusal", "int8-ranges", message, hint)
    elif precision != "int8" and quantized:
        message = f"the model is quantized, so it cannot be built as {precision}"
        yield whole("refusal", "precision", message, "ask for int8, or give the float model")


def _opset(network: Network, board: Board) -> Iterator[Finding]:
    if board.version >= (10, 0, 0) and network.opset < OLDEST_OPSET_OF_10:
        message = f"the model has opset {network.opset}; {board.name} takes 9 and newer"
        yield whole("refusal", "opset", message, "export the network with opset_version=13")


# --- inputs, outputs, constants -----------------------------------------------------------------


def _inputs(network: Network, board: Board) -> Iterator[Finding]:
    for name in network.inputs:
        yield from _border("input", name, network, board)
        typed = network.typed(name)
        dims = typed.dims if typed is not None else None
        open_dims = dims is None or any(isinstance(size, str) for size in dims)
        if open_dims:
            shown = ",".join(map(str, dims)) if dims is not None else "?"
            message = f'the shape of input "{name}" is not fixed ({shown})'
            yield whole(
                "refusal", "dynamic", message, f"fix it: --shape {name}=1,3,224,224 with your own sizes"
            )
        elif dims is not None and 0 in dims:
            message = f'input "{name}" holds no element: {list(dims)}'
            yield whole("refusal", "empty", message, "give every axis a size from 1 on")


def _outputs(network: Network, board: Board) -> Iterator[Finding]:
    for name in network.outputs:
        yield from _border("output", name, network, board)
        typed = network.typed(name)
        if typed is not None and (typed.dims is None or any(isinstance(size, str) for size in typed.dims)):
            message = f'the size of output "{name}" depends on the input'
            yield whole("warning", "dynamic", message, "the build on the device decides")


def _border(what: str, name: str, network: Network, board: Board) -> Iterator[Finding]:
    if not name.isprintable() or any(letter in name for letter in _FORBIDDEN_IN_NAMES):
        message = f"the name of {what} {name!r} cannot be given to trtexec"
        yield whole(
            "refusal", "name", message, f"rename the {what}: letters, digits, dot, dash, slash, underscore"
        )
    typed = network.typed(name)
    if typed is None or typed.kind in _border_types(board):
        return
    message = f'{what} "{name}" is {typed.kind.lower()}, which {board.name} does not take'
    hint = f"cast it in the model; it takes {', '.join(kind.lower() for kind in _border_types(board))}"
    yield whole("refusal", "border-type", message, hint)


def _border_types(board: Board) -> tuple[str, ...]:
    """The element types of inputs and outputs. UINT8 came with 10, where it may only be cast."""
    old = ("FLOAT", "FLOAT16", "INT32", "INT64", "BOOL")
    return old if board.version < (10, 0, 0) else (*old, "UINT8", "BFLOAT16")


def _constants(network: Network, board: Board) -> Iterator[Finding]:
    for name, tensor in network.stored.items():
        if tensor.data_type == _INT64 and board.casts_int64:
            yield from _clamped(name, network, board)
        elif tensor.data_type == _DOUBLE:
            message = f'the constant "{name}" is double; TensorRT reads it as float32'
            yield whole("warning", "double", message, "store it as float32")


def _clamped(name: str, network: Network, board: Board) -> Iterator[Finding]:
    value = network.value(name)
    if value is not None and value.size and (value.max() > _MAX_INT32 or value.min() < -_MAX_INT32 - 1):
        message = f'the constant "{name}" has integers beyond 32 bits; {board.name} clamps them'
        yield whole("warning", "int64", message, "store smaller ones; harmless where they mean 'to the end'")
