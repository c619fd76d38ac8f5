"""Small generated networks that all test suites use: numpy and onnx only, seeded, made in milliseconds.

`GENERATED` names every function that returns a ModelProto without arguments; `write(folder, name)` saves one
of them. Weights are He-scaled, so that outputs keep a useful range (parity tests need one).

    valid      conv_net conv_net_dynamic conv_net_dynamic_size conv_net_fp16 conv_net_qdq conv_net_integer
               constant_weights ir3_net unsorted_net two_inputs rank0_input if_by_input if_net lstm_net
               matmul_net deconv_net bool_net large_net
    refused    cycle duplicate_names huge_shape huge_constant huge_initializer string_input sequence_output
               sparse_initializer newer_opset custom_domain missing_initializer empty_graph
    broken     nan_output (loads and runs, but computes NaN), unsupported_op (valid; no edge runtime has it)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
Array = NDArray[np.float32]


def write(folder: Path, name: str, file_name: str | None = None) -> Path:
    """The path of the saved model; `folder` must exist."""
    return save(GENERATED[name](), folder / (file_name or f"{name}.onnx"))


def save(model: onnx.ModelProto, path: Path) -> Path:
    """The path, after writing the model's deterministic bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def write_external(folder: Path, name: str = "conv_net") -> Path:
    """The path of a model whose weights lie in `weights.bin` beside it."""
    path = folder / f"{name}-external.onnx"
    onnx.save_model(
        GENERATED[name](),
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="weights.bin",
        size_threshold=0,
    )
    return path


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, NDArray[np.generic]] | None = None,
    *,
    name: str = "net",
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
) -> onnx.ModelProto:
    """A ModelProto; not checked, so that broken ones can be built too."""
    initializers = [numpy_helper.from_array(value, key) for key, value in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), name, list(inputs), list(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    return model


def tensor(
    name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    """A typed input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def he(shape: tuple[int, ...], seed: int) -> Array:
    """Seeded weights with variance 2 / fan-in (all dimensions but the first)."""
    fan_in = max(1, int(np.prod(shape[1:])))
    return (np.random.default_rng(seed).standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


# --- convolutional nets -------------------------------------------------------------------------


def _conv_weights() -> dict[str, NDArray[np.generic]]:
    """Weights of conv_net: 8*3*9+8 + 8*9+8 + 16*8+16 + 16*10+10 = 618 parameters."""
    return {
        "w1": he((8, 3, 3, 3), 1),
        "b1": np.linspace(-0.1, 0.1, 8, dtype=np.float32),
        "w2": he((8, 1, 3, 3), 2),
        "b2": np.zeros(8, np.float32),
        "w3": he((16, 8, 1, 1), 3),
        "b3": np.full(16, 0.05, np.float32),
        "w4": he((10, 16), 4),
        "b4": np.arange(10, dtype=np.float32) / 20,
    }


def _conv_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node(
            "Conv", ["r1", "w2", "b2"], ["c2"], name="depthwise", group=8, pads=[1, 1, 1, 1], strides=[2, 2]
        ),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], name="pointwise"),
        helper.make_node("Relu", ["c3"], ["r3"], name="relu3"),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["logits"], name="classifier", transB=1),
    ]


def conv_net() -> onnx.ModelProto:
    """image [1,3,16,16] -> logits [1,10]; conv, depthwise, pointwise, fully connected; 618 parameters.

    MACs by hand: 8*16*16*3*9 + 8*8*8*9 + 16*8*8*8 + 16*10 = 68,256.
    """
    return build(
        _conv_nodes(), [tensor("image", [1, 3, 16, 16])], [tensor("logits", [1, 10])], _conv_weights()
    )


CONV_NET_PARAMETERS = 618
CONV_NET_MACS = 68_256


def conv_net_dynamic() -> onnx.ModelProto:
    """conv_net with a symbolic batch: image ["N",3,16,16]."""
    return build(
        _conv_nodes(), [tensor("image", ["N", 3, 16, 16])], [tensor("logits", ["N", 10])], _conv_weights()
    )


def conv_net_dynamic_size() -> onnx.ModelProto:
    """conv_net with symbolic height and width too: image ["N",3,"H","W"]."""
    return build(
        _conv_nodes(), [tensor("image", ["N", 3, "H", "W"])], [tensor("logits", ["N", 10])], _conv_weights()
    )


def conv_net_fp16() -> onnx.ModelProto:
    """conv_net with float16 weights, float16 input and output."""
    weights: dict[str, NDArray[np.generic]] = {k: v.astype(np.float16) for k, v in _conv_weights().items()}
    half = TensorProto.FLOAT16
    return build(
        _conv_nodes(), [tensor("image", [1, 3, 16, 16], half)], [tensor("logits", [1, 10], half)], weights
    )


def conv_net_qdq() -> onnx.ModelProto:
    """conv_net in QDQ form, per-channel int8 weights, int32 biases, uint8 activations."""
    weights: dict[str, NDArray[np.generic]] = {}
    nodes: list[onnx.NodeProto] = []
    activation_scale = {"image": 1 / 255, "r1": 0.012, "r2": 0.015, "r3": 0.015, "f": 0.012}
    for key, scale in activation_scale.items():
        weights[f"{key}_scale"] = np.float32(scale)  # type: ignore[assignment]
        weights[f"{key}_zero"] = np.uint8(0)  # type: ignore[assignment]
    float_weights = _conv_weights()
    source = {"1": "image", "2": "r1", "3": "r2", "4": "f"}
    for index, activation in source.items():
        _quantized_weight(weights, nodes, index, float_weights, activation_scale[activation])
    for node in _conv_nodes():
        if node.input[0] in activation_scale:
            nodes.extend(_quantize_pair(node.input[0]))
            node.input[0] += "_dq"
        for place in range(1, len(node.input)):
            node.input[place] += "_dq"
        nodes.append(node)
    return build(nodes, [tensor("image", [1, 3, 16, 16])], [tensor("logits", [1, 10])], weights)


def _quantize_pair(name: str) -> list[onnx.NodeProto]:
    grid = [f"{name}_scale", f"{name}_zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"], name=f"{name}_quantize"),
        helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_dq"], name=f"{name}_dequantize"),
    ]


def _quantized_weight(
    weights: dict[str, NDArray[np.generic]],
    nodes: list[onnx.NodeProto],
    index: str,
    float_weights: dict[str, NDArray[np.generic]],
    activation_scale: float,
) -> None:
    weight, bias = float_weights[f"w{index}"], float_weights[f"b{index}"]
    channels = (-1,) + (1,) * (weight.ndim - 1)
    scale = (np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127).astype(np.float32)
    weights[f"w{index}_q"] = np.round(weight / scale.reshape(channels)).astype(np.int8)
    weights[f"w{index}_scale"] = scale
    weights[f"w{index}_zero"] = np.zeros(len(weight), np.int8)
    weights[f"b{index}_q"] = np.round(bias / (scale * activation_scale)).astype(np.int32)
    weights[f"b{index}_scale"] = (scale * activation_scale).astype(np.float32)
    weights[f"b{index}_zero"] = np.zeros(len(weight), np.int32)
    for part in ("w", "b"):
        names = [f"{part}{index}_q", f"{part}{index}_scale", f"{part}{index}_zero"]
        nodes.append(
            helper.make_node(
                "DequantizeLinear", names, [f"{part}{index}_dq"], name=f"{part}{index}_dequantize", axis=0
            )
        )


def conv_net_integer() -> onnx.ModelProto:
    """Dynamic int8: DynamicQuantizeLinear, ConvInteger, MatMulInteger; image [1,3,8,8] -> logits [1,10]."""
    conv, dense = he((4, 3, 3, 3), 5), he((144, 10), 6)
    weights: dict[str, NDArray[np.generic]] = {
        "w": np.round(conv / np.abs(conv).max() * 127).astype(np.int8),
        "w_scale": np.float32(np.abs(conv).max() / 127),  # type: ignore[dict-item]
        "d": np.round(dense / np.abs(dense).max() * 127).astype(np.int8),
        "d_scale": np.float32(np.abs(dense).max() / 127),  # type: ignore[dict-item]
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["image"], ["x_q", "x_scale", "x_zero"], name="quantize1"),
        helper.make_node("ConvInteger", ["x_q", "w", "x_zero"], ["c_int"], name="conv"),
        helper.make_node("Cast", ["c_int"], ["c_float"], name="cast1", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x_scale", "w_scale"], ["c_scale"], name="scale1"),
        helper.make_node("Mul", ["c_float", "c_scale"], ["c"], name="rescale1"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("DynamicQuantizeLinear", ["f"], ["f_q", "f_scale", "f_zero"], name="quantize2"),
        helper.make_node("MatMulInteger", ["f_q", "d", "f_zero"], ["m_int"], name="matmul"),
        helper.make_node("Cast", ["m_int"], ["m_float"], name="cast2", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f_scale", "d_scale"], ["m_scale"], name="scale2"),
        helper.make_node("Mul", ["m_float", "m_scale"], ["logits"], name="rescale2"),
    ]
    return build(nodes, [tensor("image", [1, 3, 8, 8])], [tensor("logits", [1, 10])], weights)


def constant_weights() -> onnx.ModelProto:
    """conv_net with its weights in Constant nodes instead of initializers (PaddleOCR exports do so)."""
    constants = [
        helper.make_node("Constant", [], [key], name=f"constant_{key}", value=numpy_helper.from_array(value))
        for key, value in _conv_weights().items()
    ]
    return build([*constants, *_conv_nodes()], [tensor("image", [1, 3, 16, 16])], [tensor("logits", [1, 10])])


def ir3_net() -> onnx.ModelProto:
    """conv_net as IR 3, opset 9: initializers are graph inputs too."""
    weights = _conv_weights()
    inputs = [tensor("image", [1, 3, 16, 16]), *(tensor(key, value.shape) for key, value in weights.items())]
    return build(
        _conv_nodes(), inputs, [tensor("logits", [1, 10])], weights, opset=9, ir_version=3, name="ir3"
    )


def unsorted_net() -> onnx.ModelProto:
    """conv_net with its nodes in reverse order: ONNX Runtime loads it, the checker does not."""
    return build(
        _conv_nodes()[::-1], [tensor("image", [1, 3, 16, 16])], [tensor("logits", [1, 10])], _conv_weights()
    )


# --- other shapes of net ------------------------------------------------------------------------


def two_inputs() -> onnx.ModelProto:
    """ids INT64 [1,6] and mask FLOAT [1,6] -> scores [1,4], mean [1,1]."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], name="lookup"),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"], name="widen"),
        helper.make_node("Mul", ["embedded", "mask3"], ["masked"], name="mask_out"),
        helper.make_node("ReduceSum", ["masked", "middle"], ["pooled"], name="pool", keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["scores"], name="project"),
        helper.make_node("ReduceMean", ["scores"], ["mean"], name="average", axes=[1], keepdims=1),
    ]
    weights: dict[str, NDArray[np.generic]] = {
        "table": he((16, 8), 7),
        "head": he((8, 4), 8),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    inputs = [tensor("ids", [1, 6], TensorProto.INT64), tensor("mask", [1, 6])]
    return build(nodes, inputs, [tensor("scores", [1, 4]), tensor("mean", [1, 1])], weights)


def rank0_input() -> onnx.ModelProto:
    """x [1,4] and a rank-0 INT64 `rate` -> y [1,4] (silero-vad has such an input)."""
    nodes = [
        helper.make_node("Cast", ["rate"], ["rate_f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "rate_f"], ["y"], name="scale"),
    ]
    return build(nodes, [tensor("x", [1, 4]), tensor("rate", [], TensorProto.INT64)], [tensor("y", [1, 4])])


def if_by_input() -> onnx.ModelProto:
    """x [1,4], mode int64 [] -> y [1,4]: the absolute value in mode 1, the negated one in others."""
    bodies = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["x"], [name], name=operator)], name, [], [tensor(name, [1, 4])]
        )
        for name, operator in (("then", "Abs"), ("else", "Neg"))
    }
    nodes = [
        helper.make_node("Equal", ["mode", "one"], ["chosen"], name="test"),
        helper.make_node("If", ["chosen"], ["y"], name="branch", **bodies),
    ]
    inputs = [tensor("x", [1, 4]), tensor("mode", [], TensorProto.INT64)]
    return build(nodes, inputs, [tensor("y", [1, 4])], {"one": np.array(1, np.int64)})


def if_net() -> onnx.ModelProto:
    """x [1,4] -> y [1,4], with an If on the sum of x; MatMul with 4x4 weights inside one branch."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y_then"], name="then_matmul")],
        "then",
        [],
        [tensor("y_then", [1, 4])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y_else"], name="else_neg")], "else", [], [tensor("y_else", [1, 4])]
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], name="test"),
        helper.make_node("If", ["positive"], ["y"], name="branch", then_branch=then, else_branch=other),
    ]
    weights: dict[str, NDArray[np.generic]] = {
        "w": he((4, 4), 9),
        "zero": np.array(0, np.float32),
    }
    return build(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])], weights)


def lstm_net() -> onnx.ModelProto:
    """x [5,1,4] -> y [5,1,1,3] with the last state h [1,1,3]; LSTM with hidden size 3."""
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h"], name="lstm", hidden_size=3)]
    weights: dict[str, NDArray[np.generic]] = {
        "w": he((1, 12, 4), 10),
        "r": he((1, 12, 3), 11),
        "b": np.zeros((1, 24), np.float32),
    }
    return build(
        nodes, [tensor("x", [5, 1, 4])], [tensor("y", [5, 1, 1, 3]), tensor("h", [1, 1, 3])], weights
    )


def matmul_net() -> onnx.ModelProto:
    """x [2,7,8] -> y [2,7,5]: batched MatMul (2*7*8*16 MACs), Gelu-free Relu, MatMul (2*7*16*5 MACs)."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], name="up"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="down"),
    ]
    weights: dict[str, NDArray[np.generic]] = {"w1": he((8, 16), 12), "w2": he((16, 5), 13)}
    return build(nodes, [tensor("x", [2, 7, 8])], [tensor("y", [2, 7, 5])], weights)


def deconv_net() -> onnx.ModelProto:
    """image [1,4,5,5] -> y [1,6,10,10]: ConvTranspose 2x2 stride 2 (4*5*5*6*4 = 2400 MACs)."""
    nodes = [helper.make_node("ConvTranspose", ["image", "w"], ["y"], name="up", strides=[2, 2])]
    return build(
        nodes, [tensor("image", [1, 4, 5, 5])], [tensor("y", [1, 6, 10, 10])], {"w": he((4, 6, 2, 2), 14)}
    )


def bool_net() -> onnx.ModelProto:
    """keep BOOL [1,4] and x [1,4] -> y [1,4] = where(keep, x, 0)."""
    nodes = [helper.make_node("Where", ["keep", "x", "zero"], ["y"], name="where")]
    inputs = [tensor("keep", [1, 4], TensorProto.BOOL), tensor("x", [1, 4])]
    return build(nodes, inputs, [tensor("y", [1, 4])], {"zero": np.zeros(1, np.float32)})


def large_net() -> onnx.ModelProto:
    """image [1,3,64,64] -> logits [1,10], four 3x3 convs up to 128 channels: some ms, about 0.9 MB."""
    nodes, weights, source = [], {}, "image"
    for index, (channels_in, channels_out) in enumerate(((3, 32), (32, 64), (64, 128), (128, 96))):
        weights[f"w{index}"] = he((channels_out, channels_in, 3, 3), 20 + index)
        stride = [2, 2] if index else [1, 1]
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"w{index}"],
                [f"c{index}"],
                name=f"conv{index}",
                pads=[1] * 4,
                strides=stride,
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"))
        source = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["p"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], name="flatten"))
    nodes.append(helper.make_node("Gemm", ["f", "head"], ["logits"], name="classifier", transB=1))
    weights["head"] = he((10, 96), 30)
    return build(nodes, [tensor("image", [1, 3, 64, 64])], [tensor("logits", [1, 10])], weights)


# --- refused and broken -------------------------------------------------------------------------


def cycle() -> onnx.ModelProto:
    """Two nodes that wait for each other."""
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    return build(nodes, [tensor("x", [1, 4])], [tensor("b", [1, 4])])


def duplicate_names() -> onnx.ModelProto:
    """Two nodes that both make "y"."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="first"),
        helper.make_node("Neg", ["x"], ["y"], name="second"),
    ]
    return build(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])])


def huge_shape() -> onnx.ModelProto:
    """An input of 2**40 elements."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    shape = [1, 1 << 20, 1 << 20]
    return build(nodes, [tensor("x", shape)], [tensor("y", shape)])


def huge_constant() -> onnx.ModelProto:
    """A small input, but a ConstantOfShape of 2**40 elements inside."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"], name="fill"),
        helper.make_node("ReduceSum", ["big"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"], name="add"),
    ]
    weights: dict[str, NDArray[np.generic]] = {"shape": np.array([1 << 20, 1 << 20], np.int64)}
    return build(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])], weights)


def huge_initializer() -> onnx.ModelProto:
    """A weight that says it has 2**40 elements but brings four bytes."""
    model = build(
        [helper.make_node("Add", ["x", "w"], ["y"], name="add")], [tensor("x", [1, 4])], [tensor("y", [1, 4])]
    )
    weight = model.graph.initializer.add()
    weight.name = "w"
    weight.data_type = TensorProto.FLOAT
    weight.dims.extend([1 << 20, 1 << 20])
    weight.raw_data = b"\0\0\0\0"
    return model


def string_input() -> onnx.ModelProto:
    """An input of strings."""
    nodes = [helper.make_node("Identity", ["text"], ["same"], name="identity")]
    return build(nodes, [tensor("text", [1], TensorProto.STRING)], [tensor("same", [1], TensorProto.STRING)])


def sequence_output() -> onnx.ModelProto:
    """An output that is a sequence of tensors."""
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["list"], name="collect")]
    output = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, [1, 4])
    return build(nodes, [tensor("x", [1, 4])], [output])


def sparse_initializer() -> onnx.ModelProto:
    """A weight in ONNX's sparse form."""
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")],
        [tensor("x", [1, 4])],
        [tensor("y", [1, 4])],
    )
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("w_indices", TensorProto.INT64, [2], [0, 5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    return model


def newer_opset() -> onnx.ModelProto:
    """conv_net that claims opset 999."""
    model = conv_net()
    model.opset_import[0].version = 999
    return model


def custom_domain() -> onnx.ModelProto:
    """A node of a domain nobody knows: com.example::Magic."""
    nodes = [helper.make_node("Magic", ["x"], ["y"], name="magic", domain="com.example")]
    model = build(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def missing_initializer() -> onnx.ModelProto:
    """A node that reads "w", which nothing makes."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")]
    return build(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])])


def empty_graph() -> onnx.ModelProto:
    """A graph without nodes."""
    return build([], [tensor("x", [1, 4])], [])


def nan_output() -> onnx.ModelProto:
    """x [1,4] -> y [1,4] = log(-|x| - 1): NaN for every input."""
    nodes = [
        helper.make_node("Abs", ["x"], ["a"], name="abs"),
        helper.make_node("Neg", ["a"], ["n"], name="neg"),
        helper.make_node("Sub", ["n", "one"], ["m"], name="minus_one"),
        helper.make_node("Log", ["m"], ["y"], name="log"),
    ]
    return build(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])], {"one": np.ones(1, np.float32)})


def unsupported_op() -> onnx.ModelProto:
    """x [1,1,8] -> y: valid ONNX whose operator (Unique) gives a shape that depends on the data."""
    nodes = [helper.make_node("Unique", ["x"], ["y"], name="unique")]
    return build(nodes, [tensor("x", [1, 1, 8])], [tensor("y", [None])])


GENERATED: dict[str, Callable[[], onnx.ModelProto]] = {
    make.__name__: make
    for make in (
        conv_net,
        conv_net_dynamic,
        conv_net_dynamic_size,
        conv_net_fp16,
        conv_net_qdq,
        conv_net_integer,
        constant_weights,
        ir3_net,
        unsorted_net,
        two_inputs,
        rank0_input,
        if_by_input,
        if_net,
        lstm_net,
        matmul_net,
        deconv_net,
        bool_net,
        large_net,
        cycle,
        duplicate_names,
        huge_shape,
        huge_constant,
        huge_initializer,
        string_input,
        sequence_output,
        sparse_initializer,
        newer_opset,
        custom_domain,
        missing_initializer,
        empty_graph,
        nan_output,
        unsupported_op,
    )
}
