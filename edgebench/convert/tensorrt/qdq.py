"""Rules about int8: which Q/DQ pairs TensorRT takes, and where they must stand.

TensorRT reads int8 with zero point 0 only. A uint8 zero point of 0 passes its parser with a warning and is
then read as int8, so codes from 128 on would saturate: the one trap that must never reach a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from edgebench.convert.tensorrt.base import Board, Finding, OperatorTable
from edgebench.convert.tensorrt.graph import (
    DEQUANTIZE,
    QUANTIZE,
    Network,
    attributes,
    finding,
    input_name,
    kind_of,
)

if TYPE_CHECKING:
    from onnx import NodeProto

AGAIN = "quantize the float model again with symmetric int8: edgebench convert FLOAT_MODEL --precision int8"
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_BLOCK_HINT = "quantize it again without blocks"


class Pair(NamedTuple):
    """A Q or DQ node with what its inputs say. `kind`: the integer type in ONNX's words."""

    node: NodeProto
    kind: str


def has_pairs(network: Network) -> bool:
    """Whether the model is quantized in QDQ form."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in network.nodes)


def findings(network: Network, board: Board, table: OperatorTable) -> Iterator[Finding]:
    """Everything that Q and DQ nodes break, and what would keep int8 from being used."""
    for node in network.nodes:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            pair = Pair(node, kind_of(node, network))
            yield from chain(
                _kind(pair, network, board),
                _zero_point(pair, network, board),
                _scale(pair, network),
                _axis(pair, network, board),
                _placement(pair, network, board, table),
            )
        elif node.op_type in _WEIGHTED:
            yield from _half_quantized(node, network)


def _kind(pair: Pair, network: Network, board: Board) -> Iterator[Finding]:
    node, kind = pair
    if kind == "INT8":
        return
    if kind == "INT32":
        name = input_name(node, 0)
        message = f'"{name}" is an int32 bias behind a DequantizeLinear; {board.name} takes float biases only'
        hint = "store the bias as float32 (QuantizeBias=False)"
        if not network.is_constant(name):
            message, hint = f'{board.name} dequantizes no int32 tensor, and "{name}" is one', AGAIN
        yield finding("refusal", "bias", node, message, hint)
    elif kind == "UINT8":
        zero = network.value(input_name(node, 2))
        if zero is None or not zero.any():
            message = (
                f"its zero point is uint8 0, which {board.name} accepts and then reads as int8: "
                "codes from 128 on would saturate"
            )
        else:
            message = f"it is uint8 with a zero point; {board.name} takes int8 with zero point 0"
        yield finding("refusal", "uint8", node, message, AGAIN)
    else:
        yield finding(
            "refusal", "quantized-type", node, f"it is {kind.lower()}; edgebench gives TensorRT int8", AGAIN
        )


def _zero_point(pair: Pair, network: Network, board: Board) -> Iterator[Finding]:
    name = input_name(pair.node, 2)
    if not name or pair.kind != "INT8":
        return
    zero = network.value(name)
    if zero is None:
        yield finding("refusal", "zero-point", pair.node, f'its zero point "{name}" is computed', AGAIN)
    elif zero.any():
        worst = int(zero.reshape(-1)[abs(zero.astype("int64")).argmax()])
        message = f"its zero point is {worst}; {board.name} takes 0 only"
        yield finding("refusal", "zero-point", pair.node, message, AGAIN)


def _scale(pair: Pair, network: Network) -> Iterator[Finding]:
    import numpy as np

    name = input_name(pair.node, 1)
    scale = network.value(name)
    if scale is None:
        yield finding("refusal", "scale", pair.node, f'its scale "{name}" is computed', AGAIN)
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        yield finding("refusal", "scale", pair.node, "its scale is not above 0 everywhere", AGAIN)


# --- one scale for each channel -----------------------------------------------------------------


def _axis(pair: Pair, network: Network, board: Board) -> Iterator[Finding]:
    """Scales for each channel are for weights, along the axis of the layer's outputs."""
    node = pair.node
    scale = network.value(input_name(node, 1))
    if scale is None or scale.size <= 1 or pair.kind == "INT32":
        return
    if attributes(node).get("block_size", 0):
        message = f"it has a scale for each block; {board.name} takes one for each channel in int8"
        yield finding("refusal", "blocks", node, message, _BLOCK_HINT)
        return
    name = input_name(node, 0)
    if not network.is_constant(name):
        message = f'"{name}" is an activation with {scale.size} scales; {board.name} takes one'
        yield finding(
            "refusal", "per-channel", node, message, "quantize activations per tensor, weights per channel"
        )
        return
    rank = network.rank(name)
    if rank is None or node.op_type != DEQUANTIZE:
        return
    axis = attributes(node).get("axis", 1) % rank if rank else 0
    for reader in network.readers.get(node.output[0], ()):
        wanted = output_axis(reader, node.output[0], rank)
        if wanted is not None and wanted != axis:
            message = (
                f"its scales lie along axis {axis}; the outputs of {reader.op_type} lie along axis {wanted}, "
                f"the only one that {board.name} takes"
            )
            yield finding("refusal", "axis", node, message, f"quantize the weights along axis {wanted}")


def output_axis(reader: NodeProto, name: str, rank: int) -> int | None:
    """The axis of a layer's weights along which its outputs lie; None where the tensor is no weight of it."""
    if input_name(reader, 1) != name:
        return None
    if reader.op_type == "Conv":
        return 0
    if reader.op_type == "ConvTranspose":
        return 1
    if reader.op_type == "Gemm":
        return 0 if attributes(reader).get("transB", 0) else 1
    return rank - 1 if reader.op_type == "MatMul" and rank > 1 else None


# --- where pairs stand --------------------------------------------------------------------------


def _placement(pair: Pair, network: Network, board: Board, table: OperatorTable) -> Iterator[Finding]:
    node = pair.node
    if node.op_type == QUANTIZE:
        yield from _after(node, network, board, table)
    else:
        yield from _before(node, network, board, table)


def _after(node: NodeProto, network: Network, board: Board, table: OperatorTable) -> Iterator[Finding]:
    """What reads integers must be a DequantizeLinear, or an operator that moves int8 as it is."""
    if node.output[0] in network.outputs:
        message = f'its integers are the output "{node.output[0]}" of the model'
        yield finding("refusal", "placement", node, message, "end the model with a DequantizeLinear")
    for reader in network.readers.get(node.output[0], ()):
        if reader.op_type != DEQUANTIZE and "INT8" not in table.types.get(reader.op_type, ()):
            message = f"{reader.op_type} reads its integers; {board.name} wants a DequantizeLinear between"
            yield finding("refusal", "placement", node, message, "quantize in QDQ form (QuantFormat.QDQ)")
    source = network.maker.get(input_name(node, 0))
    readers = network.readers.get(node.output[0], ())
    if source is not None and source.op_type in _WEIGHTED and _feeds_relu(readers, network):
        message = f"it stands between {source.op_type} and Relu, which then cannot become one kernel"
        hint = "leave the outputs of weighted layers out (OpTypesToExcludeOutputQuantization)"
        yield finding("warning", "fusion", node, message, hint)


def _feeds_relu(readers: list[NodeProto] | tuple[()], network: Network) -> bool:
    return any(
        after.op_type == "Relu"
        for reader in readers
        if reader.op_type == DEQUANTIZE
        for after in network.readers.get(reader.output[0], ())
    )


def _before(node: NodeProto, network: Network, board: Board, table: OperatorTable) -> Iterator[Finding]:
    """What a DequantizeLinear reads must come from a QuantizeLinear, or be stored."""
    name = input_name(node, 0)
    source = network.maker.get(name)
    if name in network.stored:
        if kind_of(node, network) == "INT8":
            message = f'its integers "{name}" are stored; it is not known whether {board.name} takes that'
            yield finding(
                "warning", "stored-int8", node, message, "store float weights before a QuantizeLinear"
            )
    elif source is None:
        message = f'its integers are the input "{name}" of the model'
        yield finding("refusal", "placement", node, message, "begin the model with a QuantizeLinear")
    elif source.op_type != QUANTIZE and "INT8" not in table.types.get(source.op_type, ()):
        message = f"its integers come from {source.op_type}, which {board.name} does not compute in int8"
        yield finding("refusal", "placement", node, message, "quantize in QDQ form (QuantFormat.QDQ)")


def _half_quantized(node: NodeProto, network: Network) -> Iterator[Finding]:
    sides = [
        network.maker.get(name) is not None and network.maker[name].op_type == DEQUANTIZE
        for name in node.input[:2]
    ]
    if any(sides) and not all(sides):
        what = "input" if sides[0] else "weights"
        message = f"only its {what} {'is' if sides[0] else 'are'} quantized, so it runs in float"
        yield finding(
            "warning", "half-quantized", node, message, "quantize input and weights of a layer, or neither"
        )
