"""Which ONNX nodes a profile's layers compute: fused, folded, written out, moved, renamed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.profiles import Network, Node, joined
from edgebench.records import LayerTime, Profile


def node(name: str, kind: str, inputs: str, outputs: str = "") -> Node:
    return Node(name, kind, tuple(inputs.split()), tuple((outputs or name).split()))


# x -> conv -> relu -> conv2 -> add(conv2, relu) -> relu2 -> pool
RESIDUAL = Network(
    [
        node("conv", "Conv", "x w"),
        node("relu", "Relu", "conv"),
        node("conv2", "Conv", "relu w2"),
        node("add", "Add", "conv2 relu"),
        node("relu2", "Relu", "add"),
        node("pool", "MaxPool", "relu2"),
    ],
    ["w", "w2"],
)


def layer(name: str, kind: str = "", **fields: tuple[str, ...] | int) -> LayerTime:
    return LayerTime(name=name, kind=kind or name, mean_ns=fields.pop("mean_ns", 10), **fields)  # type: ignore[arg-type]


def profile(*layers: LayerTime, total_ns: int | None = 1000) -> Profile:
    return Profile(runtime_version="1", method="test", repeats=3, layers=layers, total_ns=total_ns)


def nodes_of(made: Profile) -> dict[str, tuple[str, ...]]:
    return {each.name: each.nodes for each in made.layers}


def test_a_fused_kernel_names_all_of_its_nodes() -> None:
    made = joined(
        profile(
            layer("a", outputs=("relu",)),
            layer("b", outputs=("relu2",)),
            layer("c", outputs=("pool",)),
        ),
        RESIDUAL,
        "onnxruntime",
        {},
        {},
    )
    assert nodes_of(made) == {"a": ("conv", "relu"), "b": ("conv2", "add", "relu2"), "c": ("pool",)}
    assert (made.folded, made.unclaimed) == ((), ())


def test_a_kernel_in_blocks_of_channels_is_followed_through_what_was_fused_behind_it() -> None:
    made = joined(
        profile(
            layer("relu_nchwc", "Conv", outputs=("relu", "reorder_token_0"), then=("Relu",)),
            layer("conv2_nchwc", "Conv", outputs=("conv2", "reorder_token_1"), then=("Add", "Relu")),
            layer("pool_nchwc", "MaxPool", outputs=("pool", "reorder_token_2")),
            layer("ReorderOutput", inputs=("reorder_token_2",), outputs=("pool",)),
        ),
        RESIDUAL,
        "onnxruntime",
        {},
        {},
    )
    assert nodes_of(made) == {
        "relu_nchwc": ("conv", "relu"),
        "conv2_nchwc": ("conv2", "add", "relu2"),
        "pool_nchwc": ("pool",),
        "ReorderOutput": (),
    }
    assert [each.moves for each in made.layers] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("pool", "MaxPool", ("pool",)),
        ("pool_token_7", "NhwcMaxPool", ("pool",)),
        ("relu2/QuickGeluFusion/", "QuickGelu", ("conv", "relu", "conv2", "add", "relu2")),
        ("conv2/MatMulAddFusion", "Gemm", ("conv", "relu", "conv2", "add")),
        ("Transpose_token_3", "Transpose", ()),
        ("unheard_of", "Gemm", ()),
    ],
)
def test_a_kernel_of_new_tensors_is_known_by_the_node_it_is_named_after(
    name: str, kind: str, expected: tuple[str, ...]
) -> None:
    before = (layer("relu2", outputs=("relu2",)),) if name.startswith("pool") else ()
    made = joined(profile(*before, layer(name, kind, outputs=("t9",))), RESIDUAL, "onnxruntime", {}, {})
    assert made.layers[-1].nodes == expected


def test_a_layer_that_only_hands_on_what_another_computes_names_no_node() -> None:
    made = joined(
        profile(
            layer("conv2/MatMulAddFusion", "Gemm", outputs=("gemm_out",)),
            layer("gemm_output_reshape", "Reshape", inputs=("gemm_out",), outputs=("add",)),
            layer("r", "Relu", outputs=("relu2",)),
        ),
        RESIDUAL,
        "onnxruntime",
        {},
        {},
    )
    assert nodes_of(made)["conv2/MatMulAddFusion"] == ("conv", "relu", "conv2", "add")
    assert nodes_of(made)["gemm_output_reshape"] == ()
    assert made.layers[1].moves


def test_layers_of_an_operator_written_out_name_it_together() -> None:
    network = Network([node("norm", "LayerNormalization", "x"), node("relu", "Relu", "norm")])
    made = joined(
        profile(
            layer("mean", "Reduction", inputs=("x",), outputs=("1",)),
            layer("split", "Split", inputs=("1",), outputs=("2", "3")),
            layer("sub", "BinaryOp", inputs=("x", "2"), outputs=("4",)),
            layer("scale", "BinaryOp", inputs=("4", "3"), outputs=("5",)),
            layer("relu", "ReLU", inputs=("5",), outputs=("6",)),
        ),
        network,
        "ncnn",
        {"5": "norm", "6": "relu"},
        {},
    )
    assert nodes_of(made) == {
        "mean": ("norm",),
        "split": (),
        "sub": ("norm",),
        "scale": ("norm",),
        "relu": ("relu",),
    }


def test_one_layer_among_many_of_a_long_stretch_does_not_claim_it() -> None:
    network = Network([node(f"n{k}", "Relu", f"n{k - 1}" if k else "x") for k in range(20)])
    made = joined(
        profile(
            layer("inside", inputs=("x",), outputs=("1",)),
            layer("last", inputs=("1",), outputs=("2",)),
        ),
        network,
        "ncnn",
        {"2": "n19"},
        {},
    )
    assert nodes_of(made)["inside"] == ()
    assert len(nodes_of(made)["last"]) == 20


def test_parts_of_the_artifact_bring_what_was_folded_into_them() -> None:
    network = Network(
        [
            node("conv", "Conv", "x w"),
            node("norm", "BatchNormalization", "conv s"),
            node("act", "Relu", "norm"),
        ],
        ["w", "s"],
    )
    made = joined(
        profile(layer("Multiply_7", "Convolution", parts=("norm", "act", "gone"))),
        network,
        "openvino",
        {},
        {"norm": ("norm",), "act": ("act",)},
    )
    assert nodes_of(made) == {"Multiply_7": ("conv", "norm", "act")}


def test_what_is_made_of_constants_is_folded_and_what_nobody_computes_is_said() -> None:
    network = Network(
        [
            node("c", "Constant", ""),
            node("scale", "Mul", "c w"),
            node("noise", "RandomNormal", ""),
            node("mul", "Mul", "x scale"),
            node("lost", "Relu", "mul"),
        ],
        ["w"],
    )
    made = joined(profile(layer("m", outputs=("mul",))), network, "onnxruntime", {}, {})
    assert nodes_of(made) == {"m": ("mul",)}
    assert (made.folded, made.unclaimed) == (("c", "scale"), ("noise", "lost"))


def test_what_takes_no_time_and_computes_nothing_is_left_out() -> None:
    made = joined(
        profile(layer("k", mean_ns=0, outputs=("t",)), layer("r", mean_ns=0, outputs=("relu",))),
        RESIDUAL,
        "openvino",
        {},
        {},
    )
    assert [each.name for each in made.layers] == ["r"]


def test_a_device_may_know_the_nodes_itself() -> None:
    made = joined(profile(layer("L", nodes=("relu", "conv", "unknown"))), RESIDUAL, "tensorrt", {}, {})
    assert nodes_of(made) == {"L": ("conv", "relu")}


def test_what_no_layer_explains() -> None:
    made = profile(layer("a", mean_ns=300), layer("b", mean_ns=500))
    assert (made.layers_ns, made.unexplained_ns) == (800, 200)
    assert profile(layer("a"), total_ns=None).unexplained_ns is None


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any network of up to twelve nodes that read the input and each other."""
    count = draw(st.integers(1, 12))
    made = []
    for number in range(count):
        readable = ["x", "w", *(f"t{k}" for k in range(number))]
        inputs = draw(st.lists(st.sampled_from(readable), min_size=0, max_size=3))
        made.append(
            Node(f"n{number}", draw(st.sampled_from(["Relu", "Add"])), tuple(inputs), (f"t{number}",))
        )
    return Network(made, ["w"])


@given(networks(), st.data())
def test_every_node_is_claimed_folded_or_said_to_be_unclaimed(network: Network, data: st.DataObject) -> None:
    tensors = st.sampled_from([f"t{k}" for k in range(14)] + ["x", "w", ""])
    layers = data.draw(
        st.lists(
            st.builds(
                LayerTime,
                name=st.sampled_from(["n1", "n2/XFusion", "", "z"]),
                kind=st.sampled_from(["Relu", "Cast", "Split", "ReorderOutput"]),
                mean_ns=st.integers(0, 5),
                inputs=st.lists(tensors, max_size=2).map(tuple),
                outputs=st.lists(tensors, max_size=2).map(tuple),
                then=st.lists(st.sampled_from(["Relu", "Add"]), max_size=2).map(tuple),
                nodes=st.lists(st.sampled_from(["n0", "n5", "?"]), max_size=2).map(tuple),
            ),
            max_size=8,
        )
    )
    runtime = data.draw(st.sampled_from(["onnxruntime", "ncnn", "openvino", "tensorrt"]))
    made = joined(profile(*layers), network, runtime, {}, {})
    every = {each.name for each in network.nodes}
    claimed = {name for each in made.layers for name in each.nodes}
    assert claimed | set(made.folded) | set(made.unclaimed) == every
    assert not claimed & set(made.unclaimed)
    assert all(len(set(each.nodes)) == len(each.nodes) for each in made.layers)
    assert made.layers_ns == sum(each.mean_ns for each in layers)
