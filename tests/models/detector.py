"""A detector in miniature: a convolution, boxes and scores, NonMaxSuppression behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, BOXES, CLASSES = 3, 64, 2


def detector(*, in_branch: bool = False) -> onnx.ModelProto:
    """image [1, 3, 8, 8] -> selected [K, 3], kept_boxes [K, 4], features; NMS inside an If on request."""
    random = np.random.default_rng(8)
    weights = {
        "w": random.standard_normal((4 + CLASSES, CHANNELS, 3, 3)).astype(np.float32),
        "flat": np.array([1, 4 + CLASSES, BOXES], np.int64),
        "parts": np.array([4, CLASSES], np.int64),
        "most": np.array([5], np.int64),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.1], np.float32),
        "unused_later": np.array([2], np.int64),
    }
    last = helper.make_node(
        "NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"], name="nms"
    )
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["features"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["features", "flat"], ["cells"]),
        helper.make_node("Split", ["cells", "parts"], ["corners", "raw"], axis=1),
        helper.make_node("Transpose", ["corners"], ["boxes"], perm=[0, 2, 1]),
        helper.make_node("Sigmoid", ["raw"], ["scores"]),
    ]
    if in_branch:
        nodes.append(helper.make_node("If", ["always"], ["selected"], **_branches(last)))
        weights["always"] = np.array(True)
    else:
        nodes.append(last)
    nodes += [
        helper.make_node("Gather", ["selected", "unused_later"], ["places"], axis=1),
        helper.make_node("Squeeze", ["places"], ["places_flat"]),
        helper.make_node("Gather", ["boxes", "places_flat"], ["kept_boxes"], axis=1),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "detector",
        [tensor("image", TensorProto.FLOAT, [1, CHANNELS, 8, 8])],
        [
            tensor("selected", TensorProto.INT64, ["K", 3]),
            tensor("kept_boxes", TensorProto.FLOAT, [1, "K", 4]),
            tensor("features", TensorProto.FLOAT, [1, 4 + CLASSES, 8, 8]),
        ],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _branches(node: onnx.NodeProto) -> dict[str, onnx.GraphProto]:
    output = helper.make_tensor_value_info("selected_inside", TensorProto.INT64, ["K", 3])
    inside = type(node)()
    inside.CopyFrom(node)
    inside.output[0] = "selected_inside"
    graph = helper.make_graph([inside], "branch", [], [output])
    return {"then_branch": graph, "else_branch": graph}


def write(path: Path) -> Path:
    """The detector as a file."""
    path.write_bytes(detector().SerializeToString())
    return path
