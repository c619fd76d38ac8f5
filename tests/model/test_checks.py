"""Networks that cannot be trusted are refused, and the message names the node, the weight or the number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgebench import model
from edgebench.errors import ModelError
from tests.models import generate

REFUSED = {
    "cycle": ("has a cycle", '"first"'),
    "duplicate_names": ('"second" makes "y"', "already"),
    "huge_shape": ("absurd shape", '"x"'),
    "huge_constant": ("absurd shape", '"big"'),
    "huge_initializer": ("absurd shape", '"w"'),
    "string_input": ("strings", '"text"'),
    "sequence_output": ("is a sequence", '"list"'),
    "sparse_initializer": ("sparse tensor", '"w"'),
    "newer_opset": ("opset 999", "knows up to"),
    "custom_domain": ("com.example::Magic", "unknown domain"),
    "missing_initializer": ('reads "w"', "nothing makes"),
    "empty_graph": ("no nodes", "not an ONNX file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_network_is_refused_with_a_hint(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        model.inspect(generate.write(tmp_path, name))
    for words in REFUSED[name]:
        assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", sorted(set(generate.GENERATED) - set(REFUSED)))
def test_all_other_generated_networks_are_taken(tmp_path: Path, name: str) -> None:
    assert model.inspect(generate.write(tmp_path, name)).operators


def _refused(tmp_path: Path, proto: onnx.ModelProto) -> str:
    with pytest.raises(ModelError) as caught:
        model.inspect(generate.save(proto, tmp_path / "m.onnx"))
    return caught.value.message


def test_an_operator_unknown_to_the_opset_is_named(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.node[1].op_type = "Rleu"
    assert 'Rleu "relu1" is no operator of ai.onnx version 17' in _refused(tmp_path, proto)


def test_an_operator_newer_than_the_opset_is_named(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.node[1].op_type = "Gelu"  # since 20
    assert "Gelu" in _refused(tmp_path, proto)


def test_a_newer_opset_is_fine_where_no_node_uses_it(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.opset_import.append(helper.make_opsetid("com.example", 77))
    assert model.inspect(generate.save(proto, tmp_path / "m.onnx")).opset == {"ai.onnx": 17}


def test_a_file_without_opset_is_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    del proto.opset_import[:]
    assert "which version of ai.onnx" in _refused(tmp_path, proto)


def test_an_impossible_opset_is_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.opset_import[0].version = -3
    assert "version -3" in _refused(tmp_path, proto)


def test_a_weight_with_too_few_bytes_is_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.initializer[0].raw_data = b"1234"
    assert '"w1"' in _refused(tmp_path, proto)


def test_a_weight_with_a_negative_size_is_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.initializer[0].dims[0] = -8
    assert "impossible shape" in _refused(tmp_path, proto)


def test_a_weight_of_strings_is_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    weight = proto.graph.initializer.add()
    weight.name, weight.data_type = "words", TensorProto.STRING
    weight.dims.append(1)
    weight.string_data.append(b"hello")
    assert '"words" holds strings' in _refused(tmp_path, proto)


def test_two_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.initializer[1].name = proto.graph.initializer[0].name
    assert 'two weights have the name "w1"' in _refused(tmp_path, proto)


def test_an_output_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.output[0].name = "elsewhere"
    assert 'nothing makes the output "elsewhere"' in _refused(tmp_path, proto)


def test_branches_are_checked_too(tmp_path: Path) -> None:
    proto = generate.if_net()
    branch = next(a.g for n in proto.graph.node for a in n.attribute if a.name == "then_branch")
    branch.node[0].input[1] = "nowhere"
    assert 'reads "nowhere"' in _refused(tmp_path, proto)


def test_unnamed_nodes_are_called_by_their_output(tmp_path: Path) -> None:
    proto = generate.custom_domain()
    proto.graph.node[0].name = ""
    assert 'com.example::Magic "y"' in _refused(tmp_path, proto)


def test_an_operator_that_onnxruntime_does_not_bring_is_named(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Nonsense", "com.microsoft"
    assert 'com.microsoft::Nonsense "relu1" is no operator that' in _refused(tmp_path, proto)
    proto.graph.node[1].op_type = "QuickGelu"
    assert model.inspect(generate.save(proto, tmp_path / "m.onnx")).operators["com.microsoft::QuickGelu"] == 1


def test_two_versions_of_one_domain_are_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    assert "version 17 and version 9 of ai.onnx" in _refused(tmp_path, proto)
    proto.opset_import[1].version = 17
    assert model.inspect(generate.save(proto, tmp_path / "m.onnx")).opset == {"ai.onnx": 17}


def test_an_operator_has_as_many_ends_as_onnx_says(tmp_path: Path) -> None:
    proto = generate.if_net()
    branch = next(node for node in proto.graph.node if node.op_type == "If")
    del branch.input[:]
    assert 'If "branch" has 0 inputs; If has 1' in _refused(tmp_path, proto)
    proto = generate.conv_net()
    proto.graph.node[1].output.append("second")
    assert 'Relu "relu1" has 2 outputs; Relu has 1' in _refused(tmp_path, proto)


def test_a_network_without_outputs_is_refused(tmp_path: Path) -> None:
    proto = generate.conv_net()
    del proto.graph.output[:]
    assert "has no outputs" in _refused(tmp_path, proto)


def test_names_from_the_file_are_cut_and_printable(tmp_path: Path) -> None:
    proto = generate.custom_domain()
    proto.graph.node[0].name = "\x1b[31m" + "n" * 5000
    message = _refused(tmp_path, proto)
    assert message.isprintable()
    assert len(message) < 1000


def test_a_vector_of_half_a_billion_elements_takes_no_memory(tmp_path: Path) -> None:
    """Shape inference would write down a dimension for each element of what Cast reads: 70 GiB."""
    size = np.array([1 << 29])
    filled = helper.make_node("ConstantOfShape", ["size"], ["filled"])
    nodes = [filled, helper.make_node("Cast", ["filled"], ["cast"], to=TensorProto.INT64)]
    nodes.append(helper.make_node("ReduceMax", ["cast"], ["y"]))
    net = generate.build(nodes, [], [generate.tensor("y", [1], TensorProto.INT64)], {"size": size})
    path = generate.save(net, tmp_path / "long.onnx")
    code = (
        "import resource, sys, pathlib\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
        "from edgebench import model\n"
        "print(model.inspect(pathlib.Path(sys.argv[1])).operators)\n"
        "assert resource.getrlimit(resource.RLIMIT_DATA) == (3 << 30, 3 << 30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "ConstantOfShape" in done.stdout


def test_a_local_function_is_written_out(tmp_path: Path) -> None:
    proto = generate.conv_net()
    double = helper.make_function(
        "local",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    proto.functions.append(double)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node[-1].output[0] = "once"
    proto.graph.node.append(helper.make_node("Double", ["once"], ["logits"], domain="local"))
    path = generate.save(proto, tmp_path / "m.onnx")
    assert model.inspect(path).operators["local::Double"] == 1
    assert "Add" in model.prepare(path, shapes={}, out=tmp_path / "out.onnx").operators
