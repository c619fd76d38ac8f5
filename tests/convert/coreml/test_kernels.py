"""Convolution, pooling and slicing over drawn shapes, the kernels called as the interpreter calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgebench.convert.coreml.interpreter import OPERATORS
from edgebench.convert.coreml.interpreter.base import IOS17, Array, Call, erf
from edgebench.errors import ModelError
from tests.convert.coreml import mil

_MANY = settings(max_examples=60, deadline=None)
_SIZES = st.integers(1, 9)


def call(kind: str, opset: int = IOS17, **parameters: Any) -> Any:
    """What the kernel of an operator gives for these parameters."""
    values = {
        key: (value if isinstance(value, str) else np.asarray(value),) for key, value in parameters.items()
    }
    return OPERATORS[kind](Call(kind, "drawn", opset, values, np.dtype("float32"), ()))


def _array(*shape: int) -> Array:
    return np.random.default_rng(shape).uniform(-1, 1, shape).astype(np.float32)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, list[int]]:
    """Sizes of an image, a window, its strides and dilations, and padding on all sides."""
    axes = draw(st.integers(1, 3))

    def vector(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))

    return {
        "size": vector(1, 9),
        "kernel": vector(1, 4),
        "strides": vector(1, 3),
        "dilations": vector(1, 3),
        "before": vector(0, 3),
        "after": vector(0, 3),
    }


def _pads(window: dict[str, list[int]]) -> list[int]:
    """MIL's order: before and after, axis by axis."""
    return [pad for pair in zip(window["before"], window["after"], strict=True) for pad in pair]


@_MANY
@given(windows(), st.sampled_from([(1, 2, 3), (2, 1, 1), (2, 2, 3), (3, 1, 2)]), st.integers(1, 2))
def test_conv(window: dict[str, list[int]], groups: tuple[int, int, int], batch: int) -> None:
    number, into, out_of = groups
    x, weight = (
        _array(batch, number * into, *window["size"]),
        _array(number * out_of, into, *window["kernel"]),
    )
    whole = zip(window["size"], window["before"], window["after"], strict=True)
    extents = [(k - 1) * d + 1 for k, d in zip(window["kernel"], window["dilations"], strict=True)]
    assume(all(sum(parts) >= extent for parts, extent in zip(whole, extents, strict=True)))
    got = call(
        "conv",
        x=x,
        weight=weight,
        groups=number,
        pad_type="custom",
        pad=_pads(window),
        strides=window["strides"],
        dilations=window["dilations"],
    )
    (want,) = mil.onnx(
        "Conv",
        [x, weight],
        group=number,
        pads=[*window["before"], *window["after"]],
        strides=window["strides"],
        dilations=window["dilations"],
    )
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-4)


@_MANY
@given(windows(), st.sampled_from([(1, 2, 3), (2, 1, 1), (2, 2, 3)]))
def test_conv_transpose(window: dict[str, list[int]], groups: tuple[int, int, int]) -> None:
    number, into, out_of = groups
    x, weight = _array(1, number * into, *window["size"]), _array(number * into, out_of, *window["kernel"])
    whole = [
        (size - 1) * stride + (k - 1) * dilation + 1
        for size, stride, k, dilation in zip(
            window["size"], window["strides"], window["kernel"], window["dilations"], strict=True
        )
    ]
    cut = zip(whole, window["before"], window["after"], strict=True)
    assume(all(size - before - after > 0 for size, before, after in cut))
    got = call(
        "conv_transpose",
        x=x,
        weight=weight,
        groups=number,
        pad_type="custom",
        pad=_pads(window),
        strides=window["strides"],
        dilations=window["dilations"],
    )
    (want,) = mil.onnx(
        "ConvTranspose",
        [x, weight],
        group=number,
        pads=[*window["before"], *window["after"]],
        strides=window["strides"],
        dilations=window["dilations"],
    )
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-4)


def _sees_nothing(window: dict[str, list[int]]) -> bool:
    """Whether coremltools, with ceil_mode, counts a window that begins behind an image without padding."""
    return any(
        pad == 0 and -(-(size - kernel) // stride) * stride >= size
        for size, kernel, stride, pad in zip(
            window["size"], window["kernel"], window["strides"], window["before"], strict=True
        )
    )


@_MANY
@given(windows(), st.booleans())
def test_pools(window: dict[str, list[int]], ceiling: bool) -> None:
    kernel = window["kernel"]
    before = [min(pad, k - 1) for pad, k in zip(window["before"], kernel, strict=True)]
    after = before if ceiling else [min(p, k - 1) for p, k in zip(window["after"], kernel, strict=True)]
    window = {**window, "before": before, "after": after}
    assume(not ceiling or len(kernel) < 3)
    sizes = zip(window["size"], before, after, kernel, strict=True)
    assume(all(size + first + last >= k for size, first, last, k in sizes))
    x = _array(2, 2, *window["size"])
    parameters = {"kernel_sizes": kernel, "pad_type": "custom", "pad": _pads(window), "ceil_mode": ceiling}
    attributes = {"kernel_shape": kernel, "pads": [*before, *after], "ceil_mode": int(ceiling)}
    if ceiling and _sees_nothing(window):
        with pytest.raises(ModelError, match="outside"):
            call("max_pool", x=x, strides=window["strides"], **parameters)
        return
    most = call("max_pool", x=x, strides=window["strides"], **parameters)
    mean = call("avg_pool", x=x, strides=window["strides"], **parameters)
    bare = call("avg_pool", x=x, strides=window["strides"], exclude_padding_from_average=True, **parameters)
    for kind, got, more in [
        ("MaxPool", most, {}),
        ("AveragePool", mean, {"count_include_pad": 1}),
        ("AveragePool", bare, {}),
    ]:
        (want,) = mil.onnx(kind, [x], strides=window["strides"], **attributes, **more)
        np.testing.assert_allclose(got, want, atol=1e-6, rtol=1e-5, err_msg=kind)


@_MANY
@given(_SIZES, st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([-3, -1, 1, 2]), st.booleans())
def test_slices_as_numpy_but_for_the_first_element(
    size: int, begin: int, end: int, stride: int, free: bool
) -> None:
    """A negative end stops at 0 in MIL; numpy lets it fall off the beginning."""
    x = np.arange(size)
    got = call("slice_by_index", x=x, begin=[begin], end=[end], stride=[stride], end_mask=[free])
    first = max(0, begin + size) if begin < 0 else begin
    last = None if free else max(0, end + size) if end < 0 else end
    np.testing.assert_array_equal(got, x[slice(first, last, stride)])


@given(st.lists(st.floats(-7, 7), min_size=1, max_size=20))
def test_erf_to_eleven_digits(values: list[float]) -> None:
    import math

    found = erf(np.array(values))
    np.testing.assert_allclose(found, [math.erf(value) for value in values], atol=2e-11)


def test_erf_of_what_is_no_number() -> None:
    found = erf(np.array([np.inf, -np.inf, np.nan], np.float32))
    np.testing.assert_array_equal(found, np.array([1, -1, np.nan], np.float32))


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_an_operator_without_parameters_says_which_is_missing(kind: str) -> None:
    with pytest.raises(ModelError, match=r"drawn.*missing"):
        call(kind)
