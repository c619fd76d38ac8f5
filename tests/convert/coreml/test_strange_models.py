"""Valid models with something changed: converted, or refused by name; no crash, nothing half-written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgebench.errors import BugError, EdgebenchError
from tests.convert.coreml.graphs import converted
from tests.convert.coreml.mil import tools
from tests.models import generate

NETS = ("conv_net", "conv_net_qdq", "conv_net_integer", "matmul_net", "lstm_net", "deconv_net", "two_inputs")


def change(net: onnx.ModelProto, draw: Any) -> None:
    """One change that an exporter's fault could make."""
    graph = net.graph
    kind = draw(st.sampled_from(["attribute", "input", "operator", "weight", "size"]))
    node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
    if kind == "attribute":
        for attribute in node.attribute:
            for place in range(len(attribute.ints)):
                attribute.ints[place] = draw(st.integers(-3, 9))
            if attribute.type == onnx.AttributeProto.INT:
                attribute.i = draw(st.integers(-3, 9))
    elif kind == "input" and node.input:
        node.input[draw(st.integers(0, len(node.input) - 1))] = ""
    elif kind == "operator":
        node.op_type = draw(st.sampled_from(["Relu", "Softmax", "Gather", "NonZero", "MaxPool"]))
    elif kind == "weight" and graph.initializer:
        weight = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        array = np.ones(shape, onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    elif kind == "size":
        dims = graph.input[0].type.tensor_type.shape.dim
        dims[draw(st.integers(0, len(dims) - 1))].dim_value = draw(st.integers(1, 7))


@settings(
    max_examples=15,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would convert for minutes
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_a_strange_model_is_converted_or_refused(data):
    tools()
    net = getattr(generate, data.draw(st.sampled_from(NETS)))()
    for _ in range(data.draw(st.integers(1, 3))):
        change(net, data.draw)
    with tempfile.TemporaryDirectory() as folder:
        error = refusal(net, Path(folder))
        if error is not None:
            assert error.hint
            assert not list((Path(folder) / "out").glob("*")), "half-written"


def refusal(net: onnx.ModelProto, folder: Path) -> EdgebenchError | None:
    """The error that the model meets, but a bug; None when it is converted."""
    try:
        converted(net, folder)
    except BugError:
        raise
    except EdgebenchError as error:
        return error
    return None
