"""DFT and STFT: packages beside ONNX's own definition, in all forms and lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.convert.coreml.graphs import assert_same, defined, network, refused

F, I64 = np.float32, np.int64
SIGNAL = np.random.default_rng(0).standard_normal((2, 7, 5, 1)).astype(F)
SPECTRUM = np.random.default_rng(1).standard_normal((2, 7, 5, 2)).astype(F)


def transformed(x: np.ndarray, length: int | None = None, axis: int | None = None, **flags: Any) -> None:
    """By opset 20, where the axis is an input, and by opset 17, where it is an attribute."""
    weights = {} if length is None else {"length": np.array(length, I64)}
    for opset in (20, 17):
        names, stored, attributes = ["x", "length" if weights else ""], dict(weights), dict(flags)
        if axis is not None and opset == 20:
            names, stored = [*names, "axis"], {**stored, "axis": np.array(axis, I64)}
        elif opset == 17:
            attributes["axis"] = x.ndim - 2 if axis is None else axis
        node = helper.make_node("DFT", names, ["y"], **attributes)
        assert_same(network([node], {"x": x}, {"y": F}, stored, opset=opset), {"x": x}, oracle=defined)


def test_a_real_and_a_complex_signal():
    transformed(SIGNAL)
    transformed(SPECTRUM)


def test_along_another_axis_counted_from_behind():
    transformed(SIGNAL, axis=1)
    transformed(SPECTRUM, axis=-3, inverse=1)


@pytest.mark.parametrize("length", [3, 8])
def test_a_signal_is_cut_or_followed_by_zeros(length):
    transformed(SPECTRUM, length, axis=1)


def test_one_side_of_the_spectrum():
    transformed(SIGNAL, onesided=1)
    transformed(SIGNAL, 6, axis=1, onesided=1)


def test_a_real_signal_from_one_side_of_its_spectrum():
    transformed(SPECTRUM, onesided=1, inverse=1)
    transformed(SPECTRUM, 9, axis=1, onesided=1, inverse=1)


def test_one_signal_alone():
    transformed(SIGNAL[0, :, 0])


@pytest.mark.parametrize(
    ("x", "attributes", "reason"),
    [
        (SPECTRUM, {"onesided": 1, "axis": 1}, "onesided"),
        (SIGNAL, {"axis": 3}, "last axis"),
        (np.zeros((1, 1 << 14, 1), F), {"axis": 1}, "too large"),
    ],
)
def test_what_has_no_such_transform_is_refused(x, attributes, reason):
    node = helper.make_node("DFT", ["x"], ["y"], name="the-node", **attributes)
    message = refused(network([node], {"x": x}, {"y": F}, opset=17)).message
    assert 'DFT "the-node"' in message
    assert reason in message


def test_a_length_of_run_time_is_refused():
    feeds = {"x": SIGNAL, "length": np.array(7, I64)}
    node = helper.make_node("DFT", ["x", "length"], ["y"], name="the-node")
    assert "the length" in refused(network([node], feeds, {"y": F}, opset=20)).message


# --- frames ---------------------------------------------------------------------------------------

LONG = np.random.default_rng(2).standard_normal((2, 21, 1)).astype(F)
LONG_COMPLEX = np.random.default_rng(3).standard_normal((2, 21, 2)).astype(F)
WINDOW = np.hanning(9).astype(F)[:8]


def framed(x: np.ndarray, fed: dict[str, np.ndarray], stored: dict[str, Any], **attributes: Any) -> None:
    """Frames every 5 values."""
    feeds, weights = {"x": x, **fed}, {"step": np.array(5, I64), **stored}
    names = ["x", "step", *(name if name in fed or name in stored else "" for name in ("window", "frame"))]
    node = helper.make_node("STFT", names, ["y"], **attributes)
    assert_same(network([node], feeds, {"y": F}, weights, opset=17), feeds, oracle=defined)


@pytest.mark.parametrize("onesided", [0, 1])
def test_frames_of_a_known_window(onesided):
    framed(LONG, {}, {"window": WINDOW, "frame": np.array(8, I64)}, onesided=onesided)


def test_frames_of_a_computed_window():
    framed(LONG, {"window": WINDOW}, {}, onesided=1)


def test_frames_without_a_window():
    framed(LONG, {}, {"frame": np.array(6, I64)}, onesided=1)


def test_frames_of_a_complex_signal():
    framed(LONG_COMPLEX, {}, {"window": WINDOW}, onesided=0)


@pytest.mark.parametrize(
    ("x", "stored", "reason"),
    [
        (LONG_COMPLEX, {"window": WINDOW}, "onesided"),
        (LONG, {"frame": np.array(22, I64)}, "do not fit"),
        (LONG, {"window": WINDOW, "frame": np.array(7, I64)}, "window"),
    ],
)
def test_frames_that_do_not_fit_are_refused(x, stored, reason):
    names = ["x", "step", "window" if "window" in stored else "", "frame" if "frame" in stored else ""]
    node = helper.make_node("STFT", names, ["y"], name="the-node", onesided=1)
    weights = {"step": np.array(5, I64), **stored}
    made = network([node], {"x": x}, {"y": F}, weights, opset=17)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    message = refused(made).message
    assert reason in message
