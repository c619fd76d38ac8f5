"""Shifts and operators on bits: packages beside ONNX's own definition, to the ends of every type."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.convert.coreml.graphs import assert_same, defined, network, refused

NARROW = ("int8", "uint8", "int16", "uint16", "int32")


def every_kind_of_bits(kind: str, seed: int = 0) -> np.ndarray:
    """Numbers of a type with its ends, 0, 1 and -1 (or the highest) among them."""
    limits = np.iinfo(kind)
    ends = np.array([limits.min, limits.max, 0, 1, limits.max - 1, limits.min + 1, -1 % 2**31], np.int64)
    drawn = np.random.default_rng(seed).integers(limits.min, limits.max, 33, endpoint=True)
    return np.concatenate([np.clip(ends, limits.min, limits.max), drawn]).astype(kind)


def pairs(kind: str) -> dict[str, np.ndarray]:
    x = every_kind_of_bits(kind)
    return {"x": x, "y": np.random.default_rng(7).permutation(every_kind_of_bits(kind, 1))}


@pytest.mark.parametrize("kind", [*NARROW, "int64"])
def test_bits_are_combined(kind):
    feeds = pairs("int32" if kind == "int64" else kind)
    feeds = {name: each.astype(kind) for name, each in feeds.items()}
    operators = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
    nodes = [helper.make_node(op, ["x", "y"], [op]) for op in operators]
    nodes.append(helper.make_node("BitwiseNot", ["x"], ["not"]))
    net = network(nodes, feeds, dict.fromkeys((*operators, "not"), np.dtype(kind).type))
    assert_same(net, feeds, oracle=defined)


def test_bits_of_scalars_and_tensors_are_broadcast():
    feeds = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4), "y": np.array(6, np.uint8)}
    node = helper.make_node("BitwiseXor", ["x", "y"], ["z"])
    assert_same(network([node], feeds, {"z": np.uint8}), feeds)


@pytest.mark.parametrize("kind", NARROW)
def test_bits_are_shifted_by_any_number(kind):
    width = 8 * np.dtype(kind).itemsize
    bits = [0, 1, 2, width // 2, width - 2, width - 1, width, width + 1, 40]
    bits += [-1, -width, -33] if np.dtype(kind).kind == "i" else []
    feeds = {"x": every_kind_of_bits(kind)[:, None], "y": np.array(bits, kind)}
    nodes = [
        helper.make_node("BitShift", ["x", "y"], [direction], direction=direction)
        for direction in ("LEFT", "RIGHT")
    ]
    opset = 28 if np.dtype(kind).kind == "i" else 21
    net = network(nodes, feeds, dict.fromkeys(("LEFT", "RIGHT"), np.dtype(kind).type), opset=opset)
    assert_same(net, feeds, oracle=defined)


def test_a_known_number_of_bits():
    x = every_kind_of_bits("uint16")
    node = helper.make_node("BitShift", ["x", "bits"], ["y"], direction="LEFT")
    assert_same(network([node], {"x": x}, {"y": np.uint16}, {"bits": np.array(5, np.uint16)}), {"x": x})


def test_a_number_of_64_bits_is_shifted_to_the_right():
    feeds = {
        "x": every_kind_of_bits("int32").astype(np.int64)[:, None],
        "y": np.array([0, 3, 31, 32, 63, 64, -1], np.int64),
    }
    node = helper.make_node("BitShift", ["x", "y"], ["z"], direction="RIGHT")
    assert_same(network([node], feeds, {"z": np.int64}, opset=28), feeds, oracle=defined)


@pytest.mark.parametrize(
    ("op", "kind", "attributes"),
    [
        ("BitwiseAnd", "uint32", {}),
        ("BitwiseXor", "uint64", {}),
        ("BitShift", "uint32", {"direction": "RIGHT"}),
        ("BitShift", "int64", {"direction": "LEFT"}),
    ],
)
def test_what_needs_more_bits_is_refused(op, kind, attributes):
    feeds = {name: np.ones(3, kind) for name in "xy"}
    node = helper.make_node(op, ["x", "y"], ["z"], name="the-node", **attributes)
    message = refused(network([node], feeds, {"z": np.dtype(kind).type}, opset=28)).message
    assert f'{op} "the-node"' in message
    assert kind in message


def test_a_constant_with_more_bits_is_refused():
    node = helper.make_node("BitwiseAnd", ["x", "mask"], ["y"], name="the-node")
    weights = {"mask": np.array([2**32 - 1], np.int64)}
    message = refused(network([node], {"x": np.ones(3, np.int64)}, {"y": np.int64}, weights)).message
    assert 'BitwiseAnd "the-node"' in message
    assert "more bits" in message


@pytest.mark.parametrize(
    ("source", "wanted"), [("int8", "uint8"), ("uint8", "int8"), ("uint16", "int16"), ("bool", "uint8")]
)
def test_the_same_bits_in_another_type(source, wanted):
    x = np.array([True, False]) if source == "bool" else every_kind_of_bits(source)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(wanted))
    node = helper.make_node("BitCast", ["x"], ["y"], to=kind)
    net = network([node], {"x": x}, {"y": np.dtype(wanted).type}, opset=26)
    assert_same(net, {"x": x}, oracle=defined)


@pytest.mark.parametrize(
    ("source", "to", "wanted"),
    [("float32", TensorProto.INT32, np.int32), ("int32", TensorProto.UINT32, np.uint32)],
)
def test_bits_of_floats_and_of_wide_integers_are_refused(source, to, wanted):
    node = helper.make_node("BitCast", ["x"], ["y"], name="the-node", to=to)
    error = refused(network([node], {"x": np.ones(3, source)}, {"y": wanted}, opset=26))
    assert 'BitCast "the-node"' in error.message


# --- powers of whole numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_whole_numbers_to_computed_powers(kind):
    rows = [(2, 30), (-2, 31), (3, 19), (-7, 5), (10, 9), (5, 0), (0, 0), (0, 7), (0, 40)]
    rows += [(1, 77), (-1, 77), (-1, 40), (-1, -3), (1, -2), (5, -1), (46340, 2)]
    base, exponent = np.array(rows, kind).T
    feeds = {"x": base, "y": exponent}
    node = helper.make_node("Pow", ["x", "y"], ["z"])
    net = network([node], feeds, {"z": kind})
    # numpy has no negative powers of whole numbers: the quotient is cut, as it is in C
    want = np.array([int(b) ** int(e) if e >= 0 else int(float(b) ** float(e)) for b, e in rows], kind)
    assert_same(net, feeds, oracle=lambda *_: {"z": want})


def test_whole_numbers_to_broken_or_computed_broken_powers_are_refused():
    node = helper.make_node("Pow", ["x", "y"], ["z"], name="the-node")
    x, y = np.array([4, 9], np.int32), np.array([0.5], np.float32)
    for feeds, weights in (({"x": x}, {"y": y}), ({"x": x, "y": y}, {})):
        assert 'Pow "the-node"' in refused(network([node], feeds, {"z": np.int32}, weights)).message
