"""Long pooling windows, n-gram counts, blocks of quantized numbers and sequences turned round at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgebench.errors import ModelError
from tests.convert.coreml.graphs import assert_same, defined, evaluated, network, reference, refused

F, I64, I32 = np.float32, np.int64, np.int32


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(F)


# --- pools ----------------------------------------------------------------------------------------

POOLS = [
    ("MaxPool", {"kernel_shape": [17, 13], "dilations": [2, 3], "strides": [3, 2], "pads": [8, 4, 5, 3]}),
    ("MaxPool", {"kernel_shape": [31, 8], "strides": [7, 5], "pads": [3, 2, 0, 4], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [15, 11], "dilations": [3, 2], "pads": [4, 3, 5, 2]}),
    (
        "AveragePool",
        {
            "kernel_shape": [14, 9],
            "strides": [5, 3],
            "ceil_mode": 1,
            "pads": [2, 1, 3, 4],
            "count_include_pad": 1,
        },
    ),
    ("LpPool", {"kernel_shape": [21, 7], "p": 3, "strides": [4, 1], "dilations": [2, 1]}),
]


@pytest.mark.parametrize(("op", "attributes"), POOLS)
def test_windows_of_hundreds_of_values(op, attributes):
    x = values(2, 2, 50, 41)
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    assert_same(network([node], {"x": x}, {"y": F}, opset=19), {"x": x})


def test_long_windows_of_small_integers():
    x = np.random.default_rng(0).integers(-128, 127, (1, 2, 60)).astype(np.int8)
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[27], strides=[2], pads=[9, 9])
    assert_same(network([node], {"x": x}, {"y": np.int8}), {"x": x})


def test_an_infinity_is_seen_by_the_windows_that_hold_it_only():
    x = values(1, 1, 40)
    x[0, 0, 17] = -np.inf
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[5], dilations=[3])
    net = network([node], {"x": x}, {"y": F}, opset=19)
    found, wanted = evaluated(net, {"x": x})["y"], reference(net, {"x": x})["y"]
    np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
    assert 0 < np.isinf(found).sum() < found.size


def test_places_in_a_window_of_hundreds_of_values_are_refused():
    node = helper.make_node("MaxPool", ["x"], ["y", "places"], name="the-node", kernel_shape=[20, 20])
    error = refused(network([node], {"x": values(1, 1, 30, 30)}, {"y": F, "places": I64}))
    assert 'MaxPool "the-node"' in error.message
    assert "400" in error.message


# --- n-grams --------------------------------------------------------------------------------------

TEXT = np.array([[1, 1, 3, 3, 3, 7, 8], [8, 6, 7, 5, 6, 8, 3]], I32)
POOL = {
    "ngram_counts": [0, 4],
    "ngram_indexes": [0, 1, 2, 3, 4, 5, 6],
    "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7],
}
WEIGHTS = [0.5, 2.0, 1.5, 0.25, 3.0, 1.0, 0.75]


def counted(x: np.ndarray, oracle: Any = reference, **attributes: Any) -> None:
    given: dict[str, Any] = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0}
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **(POOL | given | attributes))
    assert_same(network([node], {"x": x}, {"y": F}), {"x": x}, oracle=oracle)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skipped", [0, 2, 9])
def test_words_and_pairs_of_words(mode, skipped):
    counted(TEXT, mode=mode, max_skip_count=skipped, weights=WEIGHTS)


def test_pairs_of_one_text_of_64_bits():
    counted(TEXT[0].astype(I64), min_gram_length=2, max_skip_count=1)


def test_several_ngrams_at_one_place_and_one_ngram_twice():
    counted(TEXT, ngram_indexes=[0, 1, 0, 1, 2, 2, 3])
    counted(TEXT, oracle=defined, pool_int64s=[3, 3, 5, 4, 5, 6, 7, 8, 7, 8])


def test_a_text_shorter_than_every_ngram_has_none():
    node = helper.make_node(
        "TfIdfVectorizer",
        ["x"],
        ["y"],
        **(POOL | {"mode": "TF", "min_gram_length": 2, "max_gram_length": 2, "max_skip_count": 0}),
    )
    two = helper.make_node("Mul", ["y", "scale"], ["z"])
    feeds = {"x": np.array([5], I32), "scale": values(7)}
    assert_same(network([node, two], feeds, {"z": F}), feeds)


def test_words_that_are_texts_are_refused():
    node = helper.make_node(
        "TfIdfVectorizer",
        ["x"],
        ["y"],
        name="the-node",
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0],
        pool_strings=["a"],
    )
    net = network([node], {"x": TEXT}, {"y": F})
    assert "strings" in refused(net).message


# --- blocks ---------------------------------------------------------------------------------------


def blocks(x: np.ndarray, axis: int, size: int, kind: Any, stored: bool) -> None:
    """Quantized by blocks and back again, with scales that are known or computed."""
    shape = list(x.shape)
    shape[axis] = -(-shape[axis] // size)
    limits = np.iinfo(kind)
    parameters = {
        "scale": np.abs(values(*shape, seed=1)) + F(0.05),
        "zero": np.random.default_rng(2).integers(limits.min // 2, limits.max // 2, shape).astype(kind),
    }
    names = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names], ["q"], axis=axis, block_size=size),
        helper.make_node("DequantizeLinear", ["q", *names], ["y"], axis=axis, block_size=size),
    ]
    feeds = {"x": x} | ({} if stored else parameters)
    net = network(nodes, feeds, {"q": kind, "y": F}, parameters if stored else {})
    assert_same(net, feeds)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(("axis", "size", "kind"), [(1, 2, np.int8), (0, 3, np.uint8), (2, 4, np.int16)])
def test_numbers_quantized_by_blocks(axis, size, kind, stored):
    blocks(values(6, 4, 8) * 9, axis, size, kind, stored)


def test_a_last_block_that_is_shorter():
    x = values(2, 7) * 9
    scale = np.abs(values(2, 3, seed=1)) + F(0.05)
    node = helper.make_node("QuantizeLinear", ["x", "scale"], ["y"], axis=1, block_size=3, output_dtype=3)
    net = network([node], {"x": x}, {"y": np.int8}, {"scale": scale})
    want = np.clip(np.rint(x / np.repeat(scale, 3, axis=1)[:, :7]), -128, 127).astype(np.int8)
    assert_same(net, {"x": x}, oracle=lambda *_: {"y": want})


def test_a_division_in_half_precision_is_refused():
    node = helper.make_node(
        "QuantizeLinear",
        ["x", "scale", "zero"],
        ["y"],
        name="the-node",
        precision=TensorProto.FLOAT16,
    )
    weights = {"scale": np.array(0.1, F), "zero": np.array(0, np.uint8)}
    error = refused(network([node], {"x": values(3)}, {"y": np.uint8}, weights, opset=23))
    assert 'QuantizeLinear "the-node"' in error.message
    assert "precision" in error.hint


# --- sequences turned round -----------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "time"), [(1, 0), (0, 1)])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("kind", [F, np.bool_])
def test_sequences_turned_round_as_far_as_each_is_long(batch, time, stored, kind):
    x = (values(5, 5, 2) > 0) if kind == np.bool_ else values(5, 5, 2)
    lengths = {"lengths": np.array([5, 0, 3, 1, 2], I64)}
    node = helper.make_node("ReverseSequence", ["x", "lengths"], ["y"], batch_axis=batch, time_axis=time)
    feeds = {"x": x} | ({} if stored else lengths)
    assert_same(network([node], feeds, {"y": kind}, lengths if stored else {}), feeds)


def test_a_length_beyond_the_sequence_is_refused_or_found_when_it_is_computed():
    x, lengths = values(4, 2), np.array([4, 5], I64)
    node = helper.make_node("ReverseSequence", ["x", "lengths"], ["y"], name="the-node")
    known = refused(network([node], {"x": x}, {"y": F}, {"lengths": lengths}))
    assert 'ReverseSequence "the-node"' in known.message
    feeds = {"x": x, "lengths": lengths}
    with pytest.raises(ModelError, match="index"):
        evaluated(network([node], feeds, {"y": F}), feeds)
