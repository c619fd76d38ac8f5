"""Q/DQ pairs in the shape TensorRT takes, where that is the same arithmetic to the last bit.

int32 bias behind a DQ       -> the float bias it stands for
uint8 with zero point 128    -> int8 with zero point 0: the same codes, shifted by 128
stored integers behind a DQ  -> the float weights they stand for, before a Q and that DQ
INT64 constants beyond 32 bits, which 8.x clamps -> clamped here, where parity sees it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebench.convert.tensorrt.graph import (
    DEQUANTIZE,
    QUANTIZE,
    Network,
    attributes,
    input_name,
    kind_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

_SHIFT = 128
_INT8, _INT64 = 3, 7  # onnx.proto, TensorProto.DataType
_MAX_INT32 = 2**31 - 1


def rewrite_pairs(network: Network) -> tuple[str, ...]:
    """What was rewritten in place, in words; the network must be read anew afterwards."""
    biases = [node for node in _stored_dequantizers(network) if _fold_bias(node, network)]
    shifted = [node for node in network.nodes if node.op_type == QUANTIZE and _shift_pair(node, network)]
    weights = [node for node in _stored_dequantizers(network) if _float_weights(node, network)]
    _remove(network, biases)
    told = (
        (len(biases), "int32 biases stored as float32"),
        (len(shifted), "uint8 activations with zero point 128 written as int8 with zero point 0"),
        (len(weights), "stored int8 weights written as float32 before a QuantizeLinear"),
    )
    return tuple(f"{count} {what}" for count, what in told if count)


def clamp_int64(network: Network) -> tuple[str, ...]:
    """INT64 constants as TensorRT 8 reads them; only those beyond 32 bits change."""
    from onnx import numpy_helper

    changed = 0
    for name, tensor in network.stored.items():
        value = network.value(name) if tensor.data_type == _INT64 else None
        if value is None or not value.size:
            continue
        if value.max() > _MAX_INT32 or value.min() < -_MAX_INT32 - 1:
            clamped = value.clip(-_MAX_INT32 - 1, _MAX_INT32)
            tensor.CopyFrom(numpy_helper.from_array(clamped, tensor.name))
            changed += 1
    return (f"{changed} constants clamped to 32-bit integers",) if changed else ()


def _stored_dequantizers(network: Network) -> list[NodeProto]:
    return [
        node for node in network.nodes if node.op_type == DEQUANTIZE and input_name(node, 0) in network.stored
    ]


class _Grid:
    """The numbers of a stored DQ: (codes - zero) * scale, shaped to multiply along its axis."""

    def __init__(self, node: NodeProto, network: Network) -> None:
        import numpy as np

        codes, scale = network.value(input_name(node, 0)), network.value(input_name(node, 1))
        zero = network.value(input_name(node, 2)) if input_name(node, 2) else np.int64(0)
        self.is_sound = codes is not None and scale is not None and zero is not None
        if codes is None or scale is None or zero is None or attributes(node).get("block_size", 0):
            self.is_sound = False
            return
        shape = self._shape(codes, scale, attributes(node).get("axis", 1))
        self.is_sound = shape is not None and scale.dtype == np.float32
        if shape is None:
            return
        self.codes: NDArray[Any] = codes.astype(np.int64) - np.asarray(zero).astype(np.int64).reshape(
            shape if np.size(zero) > 1 else ()
        )
        self.scale: NDArray[Any] = scale.reshape(shape)

    @staticmethod
    def _shape(codes: NDArray[Any], scale: NDArray[Any], axis: int) -> tuple[int, ...] | None:
        if scale.size == 1:
            return ()
        if scale.ndim != 1 or not -codes.ndim <= axis < codes.ndim or codes.shape[axis] != scale.size:
            return None
        shape = [1] * codes.ndim
        shape[axis] = scale.size
        return tuple(shape)

    def floats(self) -> NDArray[Any]:
        """What ONNX computes: the integer difference as float32, times the scale."""
        import numpy as np

        product: NDArray[Any] = np.asarray(self.codes.astype(np.float32) * self.scale, np.float32)
        return product


def _fold_bias(node: NodeProto, network: Network) -> bool:
    """An int32 bias becomes a stored float under the name of the DQ's output."""
    if kind_of(node, network) != "INT32" or node.output[0] in network.outputs:
        return False
    grid = _Grid(node, network)
    if not grid.is_sound or _is_inner(node, network):
        return False
    _store(network, node.output[0], grid.floats())
    return True


def _shift_pair(node: NodeProto, network: Network) -> bool:
    """Q and all its DQ with uint8 128 become int8 0; saturation falls on the same real values."""
    import numpy as np

    if node.output[0] in network.outputs:
        return False
    group = [node, *network.readers.get(node.output[0], ())]
    if any(each.op_type not in (QUANTIZE, DEQUANTIZE) for each in group) or group[1:] == []:
        return False
    zeros = [network.value(input_name(each, 2)) if input_name(each, 2) else None for each in group]
    if any(zero is None or zero.dtype != np.uint8 or not (zero == _SHIFT).all() for zero in zeros):
        return False
    for each, zero in zip(group, zeros, strict=True):
        if zero is not None:
            name = f"{each.output[0]}_zero_int8"
            _store(network, name, np.zeros(zero.shape, np.int8))
            each.input[2] = name
    for value in network.model.graph.value_info:
        if value.name == node.output[0]:
            value.type.tensor_type.elem_type = _INT8
    return True


def _float_weights(node: NodeProto, network: Network) -> bool:
    """Stored codes become floats and a Q in front; codes that do not fit int8 around 0 stay as they are.

    Quantizing them again gives the same codes: code * scale / scale lies within 1e-4 of the code.
    """
    import numpy as np

    if kind_of(node, network) not in ("INT8", "UINT8") or _is_inner(node, network):
        return False
    grid = _Grid(node, network)
    if not grid.is_sound or (
        grid.codes.size and not -_SHIFT <= grid.codes.min() <= grid.codes.max() < _SHIFT
    ):
        return False
    base = node.output[0]
    floats = grid.floats()
    if not np.isfinite(floats).all() or not (grid.scale >= np.finfo(np.float32).tiny).all():
        return False
    _store(network, f"{base}_float", floats)
    _store(network, f"{base}_zero_int8", np.zeros(network.stored[node.input[1]].dims, np.int8))
    quantize = network.model.graph.node.add()
    quantize.CopyFrom(node)
    quantize.op_type, quantize.name = QUANTIZE, f"{node.name or base}_quantize"
    del quantize.input[:], quantize.output[:]
    quantize.input.extend([f"{base}_float", node.input[1], f"{base}_zero_int8"])
    quantize.output.append(f"{base}_int8")
    del node.input[:]
    node.input.extend([f"{base}_int8", quantize.input[1], f"{base}_zero_int8"])
    return True


def _is_inner(node: NodeProto, network: Network) -> bool:
    """Whether a node lies in an inner graph, whose names are its own; those are left alone."""
    return not any(node is each for each in network.model.graph.node)


def _store(network: Network, name: str, value: NDArray[Any]) -> None:
    from onnx import numpy_helper

    tensor = network.model.graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _remove(network: Network, gone: list[NodeProto]) -> None:
    """Take nodes off the model, and the stored tensors that nobody reads any more."""
    graph = network.model.graph
    names = {node.output[0] for node in gone}
    for place in reversed(range(len(graph.node))):
        if graph.node[place].op_type == DEQUANTIZE and graph.node[place].output[0] in names:
            del graph.node[place]
    read = {name for node in Network(network.model).nodes for name in node.input} | set(network.outputs)
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in read:
            del graph.initializer[place]
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in names:
            del graph.value_info[place]
