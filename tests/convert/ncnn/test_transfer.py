"""QDQ models lose Q and DQ and still compute the same; what cannot be carried over is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgebench import compress, model, parity
from edgebench.convert.ncnn import quantize, transfer
from edgebench.convert.ncnn.transfer import Scale, Scales
from edgebench.errors import ModelError
from tests.convert.ncnn import networks
from tests.models import generate

STEPS = ["int8-static", "int8-static:activation=int8", "int8-static:activation=int8,symmetric=true"]


def quantized(folder: Path, step: str) -> ModelProto:
    """conv_net as ONNX Runtime quantizes it; without "symmetric" it takes the Relu nodes out."""
    source = generate.write(folder, "conv_net")
    np.savez(folder / "samples.npz", image=images(8))
    settings = compress.Settings(calibration=folder / "samples.npz")
    compress.apply(source, (step,), settings, out=folder / "qdq.onnx")
    return model.load(folder / "qdq.onnx")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((count, 3, 16, 16)).astype(np.float32)


def computed(network: ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        network.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def snr(wanted: ModelProto, found: ModelProto) -> float:
    bound = parity.bound_for("int8")
    batches = [({**computed(wanted, image[None])}, {**computed(found, image[None])}) for image in images(3)]
    (output,) = parity.compare([first for first, _ in batches], [second for _, second in batches], bound)
    return output.snr_db


@pytest.mark.parametrize("step", STEPS)
def test_without_q_and_dq_it_computes_the_same(step: str, tmp_path: Path) -> None:
    before = quantized(tmp_path, step)
    operators = {node.op_type for node in before.graph.node}
    assert ("Relu" in operators) == ("symmetric" in step)  # else the quantizer has taken it out
    made, scales = transfer.stripped(before)
    onnx.checker.check_model(made)
    left = {node.op_type for node in made.graph.node}
    assert not left & {"QuantizeLinear", "DequantizeLinear"}
    assert {each.data_type for each in made.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    assert snr(before, made) > 25
    assert len(scales.layers) == 4
    assert all(scale.threshold > 0 for scale in scales.layers)


def test_a_lost_relu_would_be_seen(tmp_path: Path) -> None:
    before = quantized(tmp_path, STEPS[0])
    made, _ = transfer.stripped(before)
    bare = ModelProto()
    bare.CopyFrom(made)
    for node in bare.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Identity"
            del node.input[1:]
    assert snr(before, bare) < 20 < snr(before, made)


@pytest.mark.parametrize("step", STEPS)
def test_every_layer_is_found_again_behind_pnnx(step: str, tmp_path: Path) -> None:
    networks.needs_ncnn()
    made, scales = transfer.stripped(quantized(tmp_path, step))
    network = networks.network(networks.saved(made, tmp_path))
    layers = {
        layer.name: quantize.weights_of(layer) for layer in network.layers if quantize.quantizable(layer)
    }
    matched = transfer.match(scales, layers)
    assert matched.lost == ()
    assert set(matched.thresholds) == set(layers)


def test_the_given_model_is_not_changed(tmp_path: Path) -> None:
    before = quantized(tmp_path, STEPS[0])
    kept = before.SerializeToString(deterministic=True)
    transfer.stripped(before)
    assert before.SerializeToString(deterministic=True) == kept


# --- small graphs -------------------------------------------------------------------------------


def graph(
    scale: object = np.float32(0.1), zero: object = np.int8(0), *, weight: np.ndarray | None = None
) -> ModelProto:
    """x -> Q -> DQ -> MatMul with an int8 weight -> y."""
    codes = np.array([[127, -3], [5, 64]], np.int8) if weight is None else weight
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="dq"),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], name="weights"),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], name="product"),
    ]
    weights = {"s": np.array(scale), "z": np.array(zero), "w": codes, "ws": np.array(0.5, np.float32)}
    if codes.dtype == np.float32:
        nodes.insert(2, helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], name="wq"))
        nodes[3].input[0] = "wq"
        nodes[3].input.append("wz")
        weights["wz"] = np.array(0, np.int8)
    elif codes.dtype == np.int8:
        nodes[2].input.append("wz")
        weights["wz"] = np.array(0, np.int8)
    return generate.build(nodes, [generate.tensor("x", [1, 2])], [generate.tensor("y", [1, 2])], weights)


def clip_of(made: ModelProto) -> tuple[float, float] | None:
    held = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    clip = next((node for node in made.graph.node if node.op_type == "Clip"), None)
    if clip is None:
        return None
    return float(held[clip.input[1]]), float(held[clip.input[2]])


@pytest.mark.parametrize(
    ("zero", "bounds", "threshold"),
    [
        (np.int8(0), None, 12.7),  # the same grid in ncnn: its input scale is then 1 / 0.1
        (np.int8(-128), (0.0, 25.5), 25.5),
        (np.uint8(0), (0.0, 25.5), 25.5),
        (np.uint8(100), (-10.0, 15.5), 15.5),
        (np.int8(27), (-15.5, 10.0), 15.5),
    ],
)
def test_thresholds_and_clips_by_hand(
    zero: object, bounds: tuple[float, float] | None, threshold: float
) -> None:
    made, scales = transfer.stripped(graph(zero=zero))
    assert clip_of(made) == (None if bounds is None else pytest.approx(bounds))
    (scale,) = scales.layers
    assert (scale.node, scale.threshold) == ("product", pytest.approx(threshold))
    weight = np.array([[127, -3], [5, 64]], np.float32) * np.float32(0.5)
    assert scale.weights == (transfer.digest(weight), transfer.digest(weight.T))


def test_weights_that_are_quantized_in_the_graph() -> None:
    weight = np.array([[1.26, -0.2], [90.0, 0.0]], np.float32)
    _, scales = transfer.stripped(graph(weight=weight))
    assert transfer.digest(np.array([[1.5, -0.0], [63.5, 0.0]], np.float32)) in scales.layers[0].weights


def _change(change: Callable[[onnx.GraphProto], None]) -> ModelProto:
    made = graph()
    change(made.graph)
    return made


def _other_scale(net: onnx.GraphProto) -> None:
    net.initializer.append(numpy_helper.from_array(np.array(0.3, np.float32), "other"))
    net.node[1].input[1] = "other"


def _codes_used(net: onnx.GraphProto) -> None:
    net.node.append(helper.make_node("Cast", ["xq"], ["c"], name="cast", to=TensorProto.FLOAT))


def _computed_scale(net: onnx.GraphProto) -> None:
    net.node[0].input[1] = net.node[1].input[1] = "elsewhere"


def _codes_from_nowhere(net: onnx.GraphProto) -> None:
    net.node[1].input[0] = "x"


def _blocks(net: onnx.GraphProto) -> None:
    net.node[2].attribute.append(helper.make_attribute("block_size", 1))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (graph(scale=np.array([0.1, 0.2], np.float32)), "a scale for each channel"),
        (graph(scale=np.float32(0)), "with the scale 0.0"),
        (graph(scale=np.float32(np.nan)), "with the scale nan"),
        (_change(_other_scale), 'DequantizeLinear "dq"'),
        (_change(_codes_used), 'Cast "cast"'),
        (_change(_computed_scale), '"elsewhere" is computed'),
        (_change(_codes_from_nowhere), "come neither from a constant"),
        (_change(_blocks), "scales in blocks"),
    ],
)
def test_what_ncnn_cannot_hold_is_refused_by_name(made: ModelProto, told: str) -> None:
    with pytest.raises(ModelError) as caught:
        transfer.stripped(made)
    assert told in caught.value.message
    assert "onnxruntime or openvino" in caught.value.hint


def test_layers_with_the_same_weights_stay_float() -> None:
    one, two = np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32)
    scales = Scales(
        layers=(
            Scale(node="a", threshold=1.0, weights=(transfer.digest(one), transfer.digest(one.T))),
            Scale(node="b", threshold=2.0, weights=(transfer.digest(two),) * 2),
            Scale(node="gone", threshold=3.0, weights=(transfer.digest(two * 5),)),
        )
    )
    matched = transfer.match(scales, {"first": one, "second": one, "third": two})
    assert (matched.thresholds, matched.lost) == ({"third": 2.0}, ("a", "gone"))
    twice = Scales(layers=(scales.layers[1], scales.layers[1]))
    assert transfer.match(twice, {"third": two}).thresholds == {}
