"""Every operator of the interpreter alone: programs of coremltools' builder against numpy or ORT."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgebench.convert.coreml.interpreter import OPERATORS
from tests.convert.coreml import mil

TESTED: set[str] = set()
_F = np.float32


def covers(*kinds: str) -> Callable[[Any], Any]:
    """Marks what a test is about; the last test of this file holds the marks against the table."""

    def mark(test: Any) -> Any:
        TESTED.update(kinds)
        return test

    return mark


def rand(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(low, high, shape).astype(_F)


def same(got: list[np.ndarray], *want: Any, atol: float = 2e-6, rtol: float = 2e-5) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        other = np.asarray(other)
        assert one.shape == other.shape
        assert one.dtype == (np.float32 if other.dtype.kind == "f" else np.int32)
        np.testing.assert_allclose(one, other.astype(np.float64), atol=atol, rtol=rtol)


# --- element by element ---------------------------------------------------------------------------


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


WIDE = rand(3, 5, low=-4, high=4)
UNIT = rand(3, 5, low=-0.99, high=0.99)
ABOVE = rand(3, 5, low=0.01, high=3)

UNARY: dict[str, tuple[Callable[[np.ndarray], Any], np.ndarray]] = {
    "abs": (np.abs, WIDE),
    "acos": (np.arccos, UNIT),
    "asin": (np.arcsin, UNIT),
    "atan": (np.arctan, WIDE),
    "atanh": (np.arctanh, UNIT),
    "ceil": (np.ceil, WIDE),
    "cos": (np.cos, WIDE),
    "cosh": (np.cosh, WIDE),
    "erf": (
        _erf,
        np.concatenate([WIDE, rand(1, 5, low=-9, high=9), np.array([[0, -0.0, 50, -50, 5.99]], _F)]),
    ),
    "exp": (np.exp, WIDE),
    "exp2": (np.exp2, WIDE),
    "floor": (np.floor, WIDE),
    "round": (np.round, np.array([[0.5, 1.5, -0.5, 2.4, -2.6]], _F)),
    "sign": (np.sign, np.array([[-3.5, 0.0, 2.0]], _F)),
    "sin": (np.sin, WIDE),
    "sinh": (np.sinh, WIDE),
    "sqrt": (np.sqrt, ABOVE),
    "square": (np.square, WIDE),
    "tan": (np.tan, UNIT),
    "tanh": (np.tanh, WIDE),
    "relu": (lambda x: np.maximum(x, 0), WIDE),
    "relu6": (lambda x: np.clip(x, 0, 6), WIDE * 3),
    "sigmoid": (_sigmoid, np.concatenate([WIDE, np.array([[-200, 200, 0, 90, -90]], _F)])),
    "silu": (lambda x: x * _sigmoid(x), WIDE),
    "softplus": (
        lambda x: np.logaddexp(0, x),
        np.concatenate([WIDE, np.array([[-200, 200, 0, 90, -90]], _F)]),
    ),
    "softsign": (lambda x: x / (1 + np.abs(x)), WIDE),
    "identity": (lambda x: x, WIDE),
}


@functools.cache
def _unary() -> dict[str, np.ndarray]:
    """The result of each, from one program in which they stand side by side."""
    return _side_by_side(
        {kind: lambda x, kind=kind: getattr(mil.builder(), kind)(x=x) for kind in UNARY},
        {kind: (x,) for kind, (_, x) in UNARY.items()},
    )


def _side_by_side(
    builds: dict[str, Callable[..., Any]], inputs: dict[str, tuple[np.ndarray, ...]]
) -> dict[str, np.ndarray]:
    """What each builder gives for its own inputs; one program holds them all, as saving one takes time."""
    fed = {f"{kind}_{n}": x for kind, values in inputs.items() for n, x in enumerate(values)}

    def build(**given: Any) -> list[Any]:
        places = {kind: [given[f"{kind}_{n}"] for n in range(len(inputs[kind]))] for kind in builds}
        return [made(*places[kind]) for kind, made in builds.items()]

    return dict(zip(builds, mil.run(build, fed, kinds=list(builds)), strict=True))


@covers(*UNARY)
@pytest.mark.parametrize("kind", UNARY)
def test_functions_of_one_value(kind: str) -> None:
    function, x = UNARY[kind]
    with np.errstate(over="ignore"):
        same([_unary()[kind]], function(x.astype(np.float64)))


WITH_NUMBERS: dict[str, tuple[dict[str, float], Callable[[np.ndarray], Any]]] = {
    "clamped_relu": ({"alpha": 0.3, "beta": 1.2}, lambda x: np.minimum(np.where(x < 0, 0.3 * x, x), 1.2)),
    "clip": ({"alpha": -0.5, "beta": 1.5}, lambda x: np.clip(x, -0.5, 1.5)),
    "elu": ({"alpha": 0.7}, lambda x: np.where(x > 0, x, 0.7 * (np.exp(x) - 1))),
    "leaky_relu": ({"alpha": 0.1}, lambda x: np.where(x < 0, 0.1 * x, x)),
    "linear_activation": ({"alpha": -1.5, "beta": 0.25}, lambda x: -1.5 * x + 0.25),
    "scaled_tanh": ({"alpha": 1.7, "beta": 0.6}, lambda x: 1.7 * np.tanh(0.6 * x)),
    "sigmoid_hard": ({"alpha": 0.2, "beta": 0.5}, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "threshold": ({"alpha": 0.5}, lambda x: np.maximum(x, 0.5)),
    "thresholded_relu": ({"alpha": 0.5}, lambda x: np.where(x >= 0.5, x, 0)),
}


_EDGES = np.concatenate([WIDE, np.array([[0, 0.5, 1.2, -0.5, 1.5]], _F)])


@functools.cache
def _with_numbers() -> dict[str, np.ndarray]:
    def build(kind: str) -> Callable[[Any], Any]:
        given = {name: _F(number) for name, number in WITH_NUMBERS[kind][0].items()}
        return lambda x: getattr(mil.builder(), kind)(x=x, **given)

    return _side_by_side({kind: build(kind) for kind in WITH_NUMBERS}, dict.fromkeys(WITH_NUMBERS, (_EDGES,)))


@covers(*WITH_NUMBERS)
@pytest.mark.parametrize("kind", WITH_NUMBERS)
def test_functions_with_parameters(kind: str) -> None:
    same([_with_numbers()[kind]], WITH_NUMBERS[kind][1](_EDGES.astype(np.float64)))


@covers("gelu")
def test_gelu() -> None:
    mb, x = mil.builder(), WIDE.astype(np.float64)
    got = mil.run(
        lambda x: [
            mb.gelu(x=x),
            mb.gelu(x=x, mode="TANH_APPROXIMATION"),
            mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        ],
        {"x": WIDE},
        kinds=["gelu"],
    )
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    same(got, 0.5 * x * (1 + _erf(x / np.sqrt(2))), tanh, x * _sigmoid(1.702 * x))


@covers("inverse", "log", "rsqrt")
def test_the_epsilons_of_inverse_log_and_rsqrt() -> None:
    mb, x = mil.builder(), np.array([0, 1e-3, 1, 3], _F)
    wide = x.astype(np.float64)
    got = mil.run(
        lambda x: [
            mb.inverse(x=x),
            mb.inverse(x=x, epsilon=_F(0.5)),
            mb.log(x=x, epsilon=_F(0.5)),
            mb.rsqrt(x=x),
            mb.rsqrt(x=x, epsilon=_F(0.5)),
        ],
        {"x": x},
        kinds=["inverse", "log", "rsqrt"],
    )
    want = [1 / (wide + 1e-4), 1 / (wide + 0.5), np.log(wide + 0.5)]
    same(got, *want, 1 / np.sqrt(wide + 1e-12), 1 / np.sqrt(wide + 0.5))
    (log,) = mil.run(lambda x: mb.log(x=x), {"x": x})
    assert log[0] == np.log(_F(1e-45))  # the default epsilon, the smallest float32 above 0
    same([log[1:]], np.log(wide[1:]))


@covers("prelu", "softplus_parametric")
def test_slopes_per_channel() -> None:
    mb, x = mil.builder(), rand(2, 3, 4, 5)
    alpha, beta = rand(3, seed=1), rand(3, seed=2)
    equal = np.full(3, 0.25, _F)
    got = mil.run(
        lambda x, low: [
            mb.prelu(x=x, alpha=alpha),
            mb.prelu(x=low, alpha=equal),
            mb.softplus_parametric(x=x, alpha=alpha, beta=beta),
        ],
        {"x": x, "low": x[..., 0]},
        kinds=["prelu", "softplus_parametric"],
    )
    a, b = alpha.reshape(3, 1, 1).astype(np.float64), beta.reshape(3, 1, 1)
    low = x[..., 0]
    same(got, np.where(x > 0, x, a * x), np.where(low > 0, low, 0.25 * low), a * np.log(1 + np.exp(x * b)))


@covers("softmax")
def test_softmax() -> None:
    mb, x = mil.builder(), rand(2, 3, 4) * 40
    got = mil.run(lambda x: [mb.softmax(x=x), mb.softmax(x=x, axis=1)], {"x": x}, kinds=["softmax"])
    same(got, *mil.onnx("Softmax", [x], axis=-1), *mil.onnx("Softmax", [x], axis=1))


FLOAT_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.true_divide,
    "floor_div": lambda x, y: np.floor(x / y),
    "mod": lambda x, y: x - np.floor(x / y) * y,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
}
INTEGER_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "greater": np.greater,
    "less_equal": np.less_equal,
}


def _binary(kind: str) -> Callable[[Any, Any], Any]:
    return lambda x, y: getattr(mil.builder(), kind)(x=x, y=y)


_X, _Y = np.round(rand(2, 1, 5) * 4) / 4, np.round(rand(3, 1, seed=1) * 4) / 4 + _F(0.125)
_X[0, 0, :3] = _Y[:, 0]
_I = np.array([[7, -7, 2**31 - 1, -(2**31)]], np.int32)
_J = np.array([[3], [-3], [2]], np.int32)


@functools.cache
def _floats() -> dict[str, np.ndarray]:
    return _side_by_side(
        {kind: _binary(kind) for kind in FLOAT_BINARY}, dict.fromkeys(FLOAT_BINARY, (_X, _Y))
    )


@functools.cache
def _integers() -> dict[str, np.ndarray]:
    return _side_by_side(
        {kind: _binary(kind) for kind in INTEGER_BINARY}, dict.fromkeys(INTEGER_BINARY, (_I, _J))
    )


@covers(*FLOAT_BINARY)
@pytest.mark.parametrize("kind", FLOAT_BINARY)
def test_two_broadcast_floats(kind: str) -> None:
    same([_floats()[kind]], FLOAT_BINARY[kind](_X, _Y))


@pytest.mark.parametrize("kind", INTEGER_BINARY)
def test_two_broadcast_integers_wrap(kind: str) -> None:
    exact = INTEGER_BINARY[kind](_I.astype(np.int64), _J.astype(np.int64))
    same([_integers()[kind]], exact.astype(np.int32))


@covers("pow")
def test_pow() -> None:
    mb = mil.builder()
    x, y, i = ABOVE, rand(3, 1, seed=3), np.array([2, 3, -4], np.int32)
    got = mil.run(
        lambda x, y, i: [mb.pow(x=x, y=y), mb.pow(x=i, y=3)], {"x": x, "y": y, "i": i}, kinds=["pow"]
    )
    same(got, x.astype(np.float64) ** y, i**3)


@covers("logical_and", "logical_or", "logical_xor", "logical_not")
def test_logic() -> None:
    mb = mil.builder()
    x, y = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    kinds = ["logical_and", "logical_or", "logical_xor"]
    got = mil.run(
        lambda x, y: [*(getattr(mb, kind)(x=x, y=y) for kind in kinds), mb.logical_not(x=x)],
        {"x": x, "y": y},
        kinds=[*kinds, "logical_not"],
    )
    same(got, x & y, x | y, x ^ y, ~x)


@covers("select")
def test_select() -> None:
    mb = mil.builder()
    chosen, a, b = np.array([[True, False, True]] * 2), rand(2, 3), rand(2, 3, seed=1)
    got = mil.run(
        lambda chosen, a, b: mb.select(cond=chosen, a=a, b=b),
        {"chosen": chosen, "a": a, "b": b},
        kinds=["select"],
    )
    same(got, np.where(chosen, a, b))


@covers("cast")
def test_cast_cuts_off_and_saturates() -> None:
    mb, x = mil.builder(), np.array([-3e9, -300.7, -1.5, -0.5, 0, 0.5, 1.5, 200.7, 300, 3e9, np.nan], _F)
    kinds = ["int8", "uint8", "int16", "uint16", "int32"]
    got = mil.run(lambda x: [mb.cast(x=x, dtype=kind) for kind in (*kinds, "bool")], {"x": x}, kinds=["cast"])
    want = []
    for kind in kinds:
        info = np.iinfo(kind)
        want.append(
            np.clip(np.trunc(np.nan_to_num(x.astype(np.float64))), info.min, info.max).astype(np.int64)
        )
    same(got, *want, x != 0)
    i = np.array([-70000, -1, 0, 1, 300, 70000], np.int32)
    got = mil.run(
        lambda i: [mb.cast(x=i, dtype=kind) for kind in ("fp32", "uint8", "int16", "bool")], {"i": i}
    )
    same(got, i.astype(_F), np.clip(i, 0, 255), np.clip(i, -32768, 32767), i != 0)


# --- convolution and pooling ----------------------------------------------------------------------

CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
    ((2, 3, 11), (4, 3, 3), {"strides": [2]}, {"strides": [2]}),
    ((2, 4, 9, 8), (6, 4, 3, 2), {"pad_type": "custom", "pad": [1, 2, 0, 1]}, {"pads": [1, 0, 2, 1]}),
    ((1, 4, 9, 8), (6, 2, 3, 3), {"groups": 2, "dilations": [2, 1]}, {"group": 2, "dilations": [2, 1]}),
    (
        (2, 4, 9, 8),
        (4, 1, 3, 3),
        {"groups": 4, "strides": [2, 1], "pad_type": "same"},
        {"group": 4, "strides": [2, 1], "auto_pad": "SAME_UPPER"},
    ),
    (
        (1, 4, 8, 9),
        (8, 1, 4, 4),
        {"groups": 4, "pad_type": "same_lower"},
        {"group": 4, "auto_pad": "SAME_LOWER"},
    ),
    ((1, 5, 7, 6), (3, 5, 1, 1), {}, {}),
    ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {"strides": [1, 2, 2]}, {"strides": [1, 2, 2]}),
]


@covers("conv")
@pytest.mark.parametrize("number", range(len(CONVOLUTIONS)))
def test_conv(number: int) -> None:
    shape, weights, given, attributes = CONVOLUTIONS[number]
    x, weight, bias = rand(*shape), rand(*weights, seed=1), rand(weights[0], seed=2)
    got = mil.run(
        lambda x: mil.builder().conv(x=x, weight=weight, bias=bias, **given), {"x": x}, kinds=["conv"]
    )
    same(got, *mil.onnx("Conv", [x, weight, bias], **attributes), rtol=1e-4, atol=1e-5)


TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
    ((2, 3, 5), (3, 4, 3), {"strides": [2]}, {"strides": [2]}),
    (
        (1, 4, 5, 4),
        (4, 3, 3, 2),
        {"pad_type": "custom", "pad": [1, 2, 0, 1], "strides": [2, 3]},
        {"pads": [1, 0, 2, 1], "strides": [2, 3]},
    ),
    (
        (1, 4, 5, 4),
        (4, 3, 3, 3),
        {"groups": 2, "dilations": [2, 1], "strides": [2, 2]},
        {"group": 2, "dilations": [2, 1], "strides": [2, 2]},
    ),
    (
        (1, 3, 4, 5),
        (3, 2, 4, 3),
        {"pad_type": "same", "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    (
        (1, 3, 4, 5),
        (3, 2, 3, 3),
        {"pad_type": "custom", "pad": [1, 1, 1, 1], "strides": [2, 2], "output_shape": [1, 2, 8, 10]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]},
    ),
    ((1, 2, 3, 4, 3), (2, 3, 2, 2, 3), {"strides": [2, 1, 2]}, {"strides": [2, 1, 2]}),
]


@covers("conv_transpose")
@pytest.mark.parametrize("number", range(len(TRANSPOSED)))
def test_conv_transpose(number: int) -> None:
    shape, weights, given, attributes = TRANSPOSED[number]
    bias = rand(weights[1] * given.get("groups", 1), seed=2)
    x, weight = rand(*shape), rand(*weights, seed=1)
    got = mil.run(
        lambda x: mil.builder().conv_transpose(x=x, weight=weight, bias=bias, **given),
        {"x": x},
        kinds=["conv_transpose"],
    )
    same(got, *mil.onnx("ConvTranspose", [x, weight, bias], **attributes), rtol=1e-4, atol=1e-5)


def test_a_convolution_larger_than_its_window_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebench.convert.coreml.interpreter import convolution

    monkeypatch.setattr(convolution, "_WINDOW_BYTES", 2000)
    test_conv(1)
    test_conv(2)


POOLS: list[tuple[tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
    (
        (2, 3, 11),
        {"kernel_sizes": [3], "strides": [2], "pad_type": "valid"},
        {"kernel_shape": [3], "strides": [2]},
    ),
    (
        (2, 3, 9, 8),
        {"kernel_sizes": [3, 2], "pad_type": "custom", "pad": [1, 1, 0, 1], "strides": [2, 2]},
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 2]},
    ),
    (
        (1, 2, 9, 8),
        {"kernel_sizes": [3, 3], "pad_type": "same", "strides": [2, 2]},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    (
        (1, 2, 9, 8),
        {"kernel_sizes": [4, 4], "pad_type": "same_lower", "strides": [2, 2]},
        {"kernel_shape": [4, 4], "auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ),
    (
        (1, 2, 10, 9),
        {
            "kernel_sizes": [3, 3],
            "pad_type": "custom",
            "pad": [1, 1, 1, 1],
            "strides": [2, 2],
            "ceil_mode": True,
        },
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1},
    ),
    ((1, 2, 5, 6, 7), {"kernel_sizes": [2, 3, 2], "pad_type": "valid"}, {"kernel_shape": [2, 3, 2]}),
]


@covers("max_pool", "avg_pool")
@pytest.mark.parametrize("number", range(len(POOLS)))
def test_pools(number: int) -> None:
    shape, given, attributes = POOLS[number]
    mb, x = mil.builder(), rand(*shape) - 3
    got = mil.run(
        lambda x: [
            mb.max_pool(x=x, **given),
            mb.avg_pool(x=x, **given),
            mb.avg_pool(x=x, exclude_padding_from_average=True, **given),
        ],
        {"x": x},
        kinds=["max_pool", "avg_pool"],
    )
    same(
        got,
        *mil.onnx("MaxPool", [x], **attributes),
        *mil.onnx("AveragePool", [x], count_include_pad=1, **attributes),
        *mil.onnx("AveragePool", [x], **attributes),
    )


@covers("l2_pool")
def test_l2_pool() -> None:
    mb, x = mil.builder(), rand(2, 3, 8, 7)
    got = mil.run(
        lambda x: mb.l2_pool(x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="valid"),
        {"x": x},
        kinds=["l2_pool"],
    )
    same(got, *mil.onnx("LpPool", [x], kernel_shape=[3, 2], strides=[2, 1], p=2))


# --- normalization --------------------------------------------------------------------------------


@covers("batch_norm", "instance_norm", "layer_norm", "l2_norm", "local_response_norm")
def test_normalization() -> None:
    mb, x = mil.builder(), rand(2, 5, 4, 3)
    mean, variance = rand(5, seed=1), rand(5, seed=2, low=0.1)
    gamma, beta = rand(5, seed=3), rand(5, seed=4)
    layer_gamma, layer_beta = rand(4, 3, seed=5), rand(4, 3, seed=6)
    got = mil.run(
        lambda x: [
            mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=_F(1e-3)),
            mb.batch_norm(x=x, mean=mean, variance=variance),
            mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=_F(1e-2)),
            mb.layer_norm(x=x, axes=[2, 3], gamma=layer_gamma, beta=layer_beta, epsilon=_F(1e-2)),
            mb.layer_norm(x=x, axes=[1]),
            mb.l2_norm(x=x, epsilon=_F(0.5)),
            mb.local_response_norm(x=x, size=3, alpha=_F(0.2), beta=_F(0.6), k=_F(1.5)),
        ],
        {"x": x},
        kinds=["batch_norm", "instance_norm", "layer_norm", "l2_norm", "local_response_norm"],
    )
    ones, zeros = np.ones(5, _F), np.zeros(5, _F)
    wide = x.astype(np.float64)
    over = wide.mean(1, keepdims=True), wide.var(1, keepdims=True)
    same(
        got,
        *mil.onnx("BatchNormalization", [x, gamma, beta, mean, variance], epsilon=1e-3),
        *mil.onnx("BatchNormalization", [x, ones, zeros, mean, variance], epsilon=1e-5),
        *mil.onnx("InstanceNormalization", [x, gamma, beta], epsilon=1e-2),
        *mil.onnx("LayerNormalization", [x, layer_gamma, layer_beta], axis=2, epsilon=1e-2),
        (wide - over[0]) / np.sqrt(over[1] + 1e-5),
        wide / np.sqrt((wide**2).sum((1, 2, 3), keepdims=True) + 0.5),
        *mil.onnx("LRN", [x], size=3, alpha=0.2, beta=0.6, bias=1.5),
        atol=1e-5,
    )


# --- matrix products ------------------------------------------------------------------------------


@covers("linear", "matmul", "einsum")
def test_products() -> None:
    mb = mil.builder()
    x, weight, bias = rand(2, 4, 3), rand(5, 3, seed=1), rand(5, seed=2)
    y, vector, image, other = rand(6, 3, seed=3), rand(3, seed=4), rand(2, 3, 4, 5), rand(2, 5, 1, 6, seed=1)
    i, j = np.array([[1, 2], [3, 4]], np.int32), np.array([[5, -6], [7, 8]], np.int32)
    got = mil.run(
        lambda x, y, vector, image, other, flat, row, i, j: [
            mb.linear(x=x, weight=weight, bias=bias),
            mb.linear(x=x, weight=weight),
            mb.matmul(x=x, y=y, transpose_y=True),
            mb.matmul(x=x, y=x, transpose_x=True),
            mb.matmul(x=vector, y=weight.T),
            mb.matmul(x=i, y=j),
            mb.einsum(values=(image, other), equation="bchw,bwhr->bchr"),
            mb.einsum(values=(flat, row), equation="chw,whr->chr"),
        ],
        {
            "x": x,
            "y": y,
            "vector": vector,
            "i": i,
            "j": j,
            "image": image,
            "other": other,
            "flat": image[0],
            "row": other[0],
        },
        kinds=["linear", "matmul", "einsum"],
    )
    summed = np.einsum("bchw,bwhr->bchr", image, np.repeat(other, 4, axis=2))
    same(
        got,
        x @ weight.T + bias,
        x @ weight.T,
        x @ y.T,
        x.swapaxes(1, 2) @ x,
        vector @ weight.T,
        i @ j,
        summed,
        summed[0],
        atol=1e-5,
    )


@covers("scaled_dot_product_attention")
def test_attention() -> None:
    mb = mil.builder()
    q, k, v, bias = rand(2, 3, 4, 8), rand(2, 3, 5, 8, seed=1), rand(2, 3, 5, 6, seed=2), rand(4, 5, seed=3)
    mask = rand(4, 5, seed=4) > -0.5
    mask[:, 0] = True
    got = mil.run(
        lambda q, k, v, bias, mask: [
            mb.scaled_dot_product_attention(query=q, key=k, value=v),
            mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=bias),
            mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask),
        ],
        {"q": q, "k": k, "v": v, "bias": bias, "mask": mask},
        target="iOS18",
        kinds=["scaled_dot_product_attention"],
    )

    def attention(extra: Any) -> np.ndarray:
        scores = q.astype(np.float64) @ k.swapaxes(-1, -2) / np.sqrt(8) + extra
        weights = np.exp(scores)
        return weights / weights.sum(-1, keepdims=True) @ v

    same(got, attention(0), attention(bias), attention(np.where(mask, 0, -np.inf)))


# --- reductions -----------------------------------------------------------------------------------

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_l1_norm": lambda x, **over: np.abs(x).sum(**over),
    "reduce_l2_norm": lambda x, **over: np.sqrt((x**2).sum(**over)),
    "reduce_log_sum": lambda x, **over: np.log(x.sum(**over)),
    "reduce_log_sum_exp": lambda x, **over: np.log(np.exp(x).sum(**over)),
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, **over: (x**2).sum(**over),
}


_OVER: list[dict[str, Any]] = [{"axes": [1]}, {"axes": [-1, 0], "keep_dims": True}, {}]
_POSITIVE = rand(2, 3, 4, low=0.1)


@functools.cache
def _reduced() -> list[np.ndarray]:
    mb = mil.builder()
    return mil.run(
        lambda x: [getattr(mb, kind)(x=x, **over) for kind in REDUCTIONS for over in _OVER],
        {"x": _POSITIVE},
        kinds=list(REDUCTIONS),
    )


@covers(*REDUCTIONS)
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions(kind: str) -> None:
    wide, reduce = _POSITIVE.astype(np.float64), REDUCTIONS[kind]
    first = list(REDUCTIONS).index(kind) * len(_OVER)
    want = [reduce(wide, axis=1), reduce(wide, axis=(0, 2), keepdims=True), reduce(wide, axis=(0, 1, 2))]
    same(_reduced()[first : first + len(_OVER)], *want)


def test_integer_sums_wrap() -> None:
    mb, x = mil.builder(), np.array([2**31 - 1, 5, -3], np.int32)
    got = mil.run(lambda x: [mb.reduce_sum(x=x), mb.reduce_max(x=x)], {"x": x})
    same(got, np.array(2**31 - 1 + 5 - 3 - 2**32, np.int32), np.array(2**31 - 1, np.int32))


@covers("reduce_argmax", "reduce_argmin")
def test_arg_reductions() -> None:
    mb, x = mil.builder(), rand(3, 4, 5)
    got = mil.run(
        lambda x: [
            mb.reduce_argmax(x=x),
            mb.reduce_argmax(x=x, axis=0, keep_dims=True),
            mb.reduce_argmin(x=x, axis=1, output_dtype="uint16"),
        ],
        {"x": x},
        kinds=["reduce_argmax", "reduce_argmin"],
    )
    same(got, x.argmax(-1), x.argmax(0)[None], x.argmin(1))


# --- shapes ---------------------------------------------------------------------------------------


@covers("reshape", "squeeze", "expand_dims", "transpose", "flatten2d")
def test_shapes() -> None:
    mb, x = mil.builder(), rand(2, 1, 3, 4)
    got = mil.run(
        lambda x: [
            mb.reshape(x=x, shape=[4, -1]),
            mb.reshape(x=x, shape=[0, 3, -1, 0]),
            mb.reshape(x=x, shape=[1, 0, -1, 3, 0]),
            mb.squeeze(x=x),
            mb.squeeze(x=x, axes=[1]),
            mb.expand_dims(x=x, axes=[-1]),
            mb.transpose(x=x, perm=[0, 2, 3, 1]),
            mb.flatten2d(x=x, axis=2),
            mb.flatten2d(x=x, axis=-1),
        ],
        {"x": x},
        kinds=["reshape", "squeeze", "expand_dims", "transpose", "flatten2d"],
    )
    same(
        got,
        x.reshape(4, -1),
        x.reshape(2, 3, 1, 4),
        x.reshape(1, 2, 1, 3, 4),
        x[:, 0],
        x[:, 0],
        x[..., None],
        x.transpose(0, 2, 3, 1),
        x.reshape(2, 12),
        x.reshape(6, 4),
    )


@covers("shape", "reshape_like")
def test_shapes_taken_from_values() -> None:
    mb, x = mil.builder(), rand(6, 4)
    a, b = rand(2, 3, 7, seed=1), rand(9, 4, 1, seed=2)
    got = mil.run(
        lambda x: [mb.shape(x=x), mb.reshape(x=x, shape=[2, -1])],
        {"x": x},
        kinds=["shape"],
        flexible="x",
    )
    same(got, np.array([6, 4]), x.reshape(2, 12))
    like = lambda x, a, b: mb.reshape_like(  # noqa: E731
        x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True)
    )
    got = mil.run(like, {"x": x, "a": a, "b": b}, target="iOS16", kinds=["reshape_like"])
    same(got, x.reshape(2, 3, 4, 1))


@covers("depth_to_space", "space_to_depth", "pixel_shuffle", "pixel_unshuffle")
def test_blocks_between_channels_and_space() -> None:
    mb, deep, wide = mil.builder(), rand(2, 12, 2, 3), rand(2, 3, 4, 6)
    got = mil.run(
        lambda deep, wide: [
            mb.depth_to_space(x=deep, block_size=2),
            mb.pixel_shuffle(x=deep, upscale_factor=2),
            mb.space_to_depth(x=wide, block_size=2),
            mb.pixel_unshuffle(x=wide, downscale_factor=np.uint32(2)),
        ],
        {"deep": deep, "wide": wide},
        kinds=["depth_to_space", "space_to_depth", "pixel_shuffle", "pixel_unshuffle"],
    )
    unshuffled = wide.reshape(2, 3, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 12, 2, 3)
    same(
        got,
        *mil.onnx("DepthToSpace", [deep], blocksize=2),
        *mil.onnx("DepthToSpace", [deep], blocksize=2, mode="CRD"),
        *mil.onnx("SpaceToDepth", [wide], blocksize=2),
        unshuffled,
    )


@covers("space_to_batch", "batch_to_space")
def test_blocks_between_batch_and_space() -> None:
    mb, x = mil.builder(), rand(2, 3, 4, 5)
    blocks, pads = np.array([2, 3], np.int32), np.array([[0, 2], [1, 0]], np.int32)

    def build(x: Any) -> Any:
        apart = mb.space_to_batch(x=x, block_shape=blocks, paddings=pads)
        return [apart, mb.batch_to_space(x=apart, block_shape=blocks, crops=pads)]

    got = mil.run(build, {"x": x}, kinds=["space_to_batch", "batch_to_space"])
    padded = np.pad(x, [(0, 0), (0, 0), (0, 2), (1, 0)])
    apart = np.concatenate([padded[:, :, h::2, w::3] for h in range(2) for w in range(3)])
    same(got, apart, x)


@covers("slice_by_index", "slice_by_size", "slice_update")
def test_slices() -> None:
    mb, x, update = mil.builder(), rand(5, 6, 7), rand(2, 3, seed=1)
    got = mil.run(
        lambda x, update: [
            mb.slice_by_index(x=x, begin=[1, -4, 0], end=[4, -1, 7], stride=[1, 2, 3]),
            mb.slice_by_index(
                x=x,
                begin=[0, 2, 6],
                end=[0, 0, 1],
                stride=[-1, 1, -2],
                begin_mask=[True, False, False],
                end_mask=[True, True, False],
            ),
            mb.slice_by_index(x=x, begin=[-2, 0, 1], end=[0, 6, 3], squeeze_mask=[True, False, False]),
            mb.slice_by_size(x=x, begin=[1, 0, -3], size=[2, -1, 3]),
            mb.slice_update(
                x=x,
                update=update,
                begin=[1, 0, 2],
                end=[0, 4, 7],
                stride=[1, 2, 2],
                squeeze_mask=[True, False, False],
            ),
        ],
        {"x": x, "update": update},
        target="iOS18",
        kinds=["slice_by_index", "slice_by_size", "slice_update"],
    )
    updated = x.copy()
    updated[1, 0:4:2, 2:7:2] = update
    same(got, x[1:4, -4:-1:2, ::3], x[::-1, 2:, 6:1:-2], x[-2, :, 1:3], x[1:3, :, -3:], updated)


@covers("concat", "stack", "split", "tile")
def test_joins_and_parts() -> None:
    mb, x, y = mil.builder(), rand(2, 3, 4), rand(2, 3, 4, seed=1)
    got = mil.run(
        lambda x, y: [
            mb.concat(values=(x, y, x), axis=-1),
            mb.concat(values=(x, y), axis=1, interleave=True),
            mb.stack(values=(x, y), axis=1),
            *mb.split(x=x, num_splits=2, axis=2),
            *mb.split(x=x, split_sizes=[1, 3], axis=-1),
            mb.tile(x=x, reps=[1, 2, 3]),
        ],
        {"x": x, "y": y},
        kinds=["concat", "stack", "split", "tile"],
    )
    woven = np.stack([x, y], 2).reshape(2, 6, 4)
    same(
        got,
        np.concatenate([x, y, x], -1),
        woven,
        np.stack([x, y], 1),
        x[..., :2],
        x[..., 2:],
        x[..., :1],
        x[..., 1:],
        np.tile(x, (1, 2, 3)),
    )


@covers("pad")
def test_pad() -> None:
    mb, x = mil.builder(), rand(2, 3, 4)
    got = mil.run(
        lambda x: [
            mb.pad(x=x, pad=[1, 2], constant_val=_F(0.5)),
            mb.pad(x=x, pad=[1, 0, 0, 2, 3, 1]),
            mb.pad(x=x, pad=[2, 1, 3, 0], mode="reflect"),
            mb.pad(x=x, pad=[3, 1, 4, 0], mode="replicate"),
        ],
        {"x": x},
        kinds=["pad"],
    )
    same(
        got,
        np.pad(x, [(0, 0), (0, 0), (1, 2)], constant_values=0.5),
        np.pad(x, [(1, 0), (0, 2), (3, 1)]),
        np.pad(x, [(0, 0), (2, 1), (3, 0)], mode="reflect"),
        np.pad(x, [(0, 0), (3, 1), (4, 0)], mode="edge"),
    )


@covers("reverse", "reverse_sequence", "band_part", "sliding_windows")
def test_orders_and_bands() -> None:
    mb, x = mil.builder(), rand(3, 5, 4)
    lengths = np.array([2, 5, 0], np.int32)
    got = mil.run(
        lambda x, lengths: [
            mb.reverse(x=x),
            mb.reverse(x=x, axes=[-1, 0]),
            mb.reverse_sequence(x=x, lengths=lengths, seq_axis=1, batch_axis=0),
            mb.band_part(x=x, lower=1, upper=0),
            mb.band_part(x=x, lower=-1, upper=2),
            mb.band_part(x=x, lower=0, upper=-1),
            mb.sliding_windows(x=x, axis=1, size=3, stride=2),
        ],
        {"x": x, "lengths": lengths},
        kinds=["reverse", "reverse_sequence", "band_part", "sliding_windows"],
    )
    lower = np.tril(x) * (np.subtract.outer(np.arange(5), np.arange(4)) <= 1)
    windows = np.stack([x[:, 0:3], x[:, 2:5]], axis=1)
    same(
        got,
        x[::-1, ::-1, ::-1],
        x[::-1, :, ::-1],
        *mil.onnx("ReverseSequence", [x, lengths.astype(np.int64)], batch_axis=0, time_axis=1),
        lower,
        np.triu(x) + np.tril(x, -1) - np.triu(x, 3),
        np.triu(x),
        windows,
    )


@covers("fill", "fill_like", "range_1d", "one_hot")
def test_tensors_made_from_nothing() -> None:
    mb, x = mil.builder(), rand(2, 3)
    sizes, end, index = (
        np.array([2, 4], np.int32),
        np.array(9, np.int32),
        np.array([[0, 2], [3, -1]], np.int32),
    )
    got = mil.run(
        lambda x, sizes, end, index: [
            mb.fill(shape=sizes, value=_F(1.5)),
            mb.fill_like(ref_tensor=x, value=7),
            mb.range_1d(start=2, end=end, step=3),
            mb.one_hot(indices=index, one_hot_vector_size=4, axis=-1, on_value=_F(2), off_value=_F(-1)),
            mb.one_hot(indices=index, one_hot_vector_size=4, axis=0),
        ],
        {"x": x, "sizes": sizes, "end": end, "index": index},
        kinds=["fill", "fill_like", "range_1d", "one_hot"],
    )
    hot = index[..., None] == np.arange(4)
    same(
        got,
        np.full((2, 4), 1.5),
        np.full((2, 3), 7),
        np.arange(2, 9, 3),
        np.where(hot, 2.0, -1.0),
        np.moveaxis(hot, -1, 0).astype(int),
    )


# --- by index -------------------------------------------------------------------------------------


@covers("gather", "gather_along_axis", "gather_nd")
def test_gather() -> None:
    mb, x = mil.builder(), rand(3, 4, 5)
    i, along = np.array([[0, 2], [2, 1]], np.int32), np.array(rand(3, 2, 5) > 0, np.int32)
    points = np.array([[0, 1], [2, 3], [1, 0]], np.int32)
    per_row = np.array([[0, 3], [1, 1], [2, 0]], np.int32)
    build = lambda x, i, along, points, per_row: [  # noqa: E731
        mb.gather(x=x, indices=i, axis=1),
        mb.gather(x=x, indices=per_row, axis=1, batch_dims=1),
        mb.gather_along_axis(x=x, indices=along, axis=1),
        mb.gather_nd(x=x, indices=points),
        mb.gather_nd(x=x, indices=per_row, batch_dims=1),
    ]
    inputs = {"x": x, "i": i, "along": along, "points": points, "per_row": per_row}
    want = [
        np.take(x, i, axis=1),
        np.stack([x[n][per_row[n]] for n in range(3)]),
        np.take_along_axis(x, along, axis=1),
        x[points[:, 0], points[:, 1]],
        np.stack([x[n][tuple(per_row[n])] for n in range(3)]),
    ]
    same(mil.run(build, inputs, kinds=["gather", "gather_along_axis", "gather_nd"]), *want)
    same(mil.run(build, {**inputs, "i": i - 4}, target="iOS16"), np.take(x, i - 4, axis=1), *want[1:])


SCATTERS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@covers("scatter", "scatter_along_axis", "scatter_nd")
def test_scatter() -> None:
    mb, x = mil.builder(), rand(4, 5)
    i, updates = np.array([0, 2, 2], np.int32), rand(4, 3, seed=1)
    along, single = (
        np.array([[1, 0, 1], [0, 1, 1], [4, 4, 0], [3, 2, 3]], np.int32),
        np.array([3, 1], np.int32),
    )
    points, values = np.array([[0, 1], [3, 4], [0, 1]], np.int32), rand(3, seed=2)
    modes = list(SCATTERS)
    got = mil.run(
        lambda x, i, updates, along, points, values, single: [
            *(mb.scatter(data=x, indices=i, updates=updates, axis=1, mode=mode) for mode in modes),
            *(mb.scatter_along_axis(data=x, indices=along, updates=updates, axis=1, mode=m) for m in modes),
            *(mb.scatter_nd(data=x, indices=points, updates=values, mode=mode) for mode in modes),
            mb.scatter(
                data=x,
                indices=single,
                updates=mb.slice_by_size(x=updates, begin=[0, 0], size=[4, 2]),
                axis=1,
                mode="update",
            ),
        ],
        {
            "x": x,
            "i": i,
            "updates": updates,
            "along": along,
            "points": points,
            "values": values,
            "single": single,
        },
        kinds=["scatter", "scatter_along_axis", "scatter_nd"],
    )
    want = []
    for mode in modes:
        made = x.copy()
        for row in range(4):
            for number in range(3):
                made[row, i[number]] = SCATTERS[mode](made[row, i[number]], updates[row, number])
        want.append(made)
    for mode in modes:
        made = x.copy()
        for row, number in np.ndindex(4, 3):
            place = row, along[row, number]
            made[place] = SCATTERS[mode](made[place], updates[row, number])
        want.append(made)
    for mode in modes:
        made = x.copy()
        for point, value in zip(points, values, strict=True):
            made[tuple(point)] = SCATTERS[mode](made[tuple(point)], value)
        want.append(made)
    placed = x.copy()
    placed[:, single] = updates[:, :2]
    same(got, *want, placed)


@covers("argsort", "topk", "non_zero", "cumsum")
def test_order() -> None:
    mb, x = mil.builder(), rand(3, 6)
    i = np.array([[3, 1, 4, 1, 5, 9]], np.int32)
    got = mil.run(
        lambda x, i: [
            mb.argsort(x=x),
            mb.argsort(x=x, axis=0, ascending=True),
            *mb.topk(x=x, k=2),
            *mb.topk(x=x, k=2, axis=0, ascending=True, output_indices_dtype="uint16"),
            mb.topk(x=i, k=3, return_indices=False),
            mb.cumsum(x=x, axis=1),
            mb.cumsum(x=x, axis=0, exclusive=True),
            mb.cumsum(x=i, axis=1, reverse=True),
            mb.cumsum(x=x, axis=1, reverse=True, exclusive=True),
        ],
        {"x": x, "i": i},
        kinds=["argsort", "topk", "cumsum"],
    )
    down, up = np.argsort(-x, 1), np.argsort(x, 0)
    same(
        got,
        down,
        up,
        np.take_along_axis(x, down[:, :2], 1),
        down[:, :2],
        np.take_along_axis(x, up[:2], 0),
        up[:2],
        np.array([[9, 5, 4]]),
        np.cumsum(x, 1),
        *mil.onnx("CumSum", [x, np.array(0)], exclusive=1),
        *mil.onnx("CumSum", [i, np.array(1)], reverse=1),
        *mil.onnx("CumSum", [x, np.array(1)], reverse=1, exclusive=1),
    )
    holes = np.where(rand(3, 4) > 0, rand(3, 4, seed=1), 0).astype(_F)
    (found,) = mil.run(lambda x: mb.non_zero(x=x), {"x": holes}, kinds=["non_zero"])
    same([found], np.argwhere(holes))


# --- images ---------------------------------------------------------------------------------------


def _resized(x: np.ndarray, sizes: tuple[int, int], transform: str, mode: str = "linear") -> np.ndarray:
    (found,) = mil.onnx(
        "Resize",
        [x, None, None, np.array([*x.shape[:2], *sizes])],
        mode=mode,
        coordinate_transformation_mode=transform,
        nearest_mode="floor",
    )
    return found


@covers("resize_bilinear", "upsample_bilinear", "resize")
def test_linear_resizing() -> None:
    mb, x = mil.builder(), rand(1, 2, 5, 4)
    got = mil.run(
        lambda x: [
            mb.resize_bilinear(
                x=x, target_size_height=9, target_size_width=3, sampling_mode="UNALIGN_CORNERS"
            ),
            mb.resize_bilinear(
                x=x, target_size_height=9, target_size_width=3, sampling_mode="STRICT_ALIGN_CORNERS"
            ),
            mb.resize_bilinear(x=x, target_size_height=9, target_size_width=3),
            mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3),
            mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
            mb.upsample_bilinear(
                x=x,
                scale_factor_height=2,
                scale_factor_width=2,
                align_corners=False,
                half_pixel_centers=False,
            ),
            mb.resize(x=x, shape=[7, 0], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
            mb.resize(x=x, shape=[7, 9], resized_dims=np.uint32(2), sampling_mode="STRICT_ALIGN_CORNERS"),
        ],
        {"x": x},
        kinds=["resize_bilinear", "upsample_bilinear", "resize"],
    )
    same(
        got,
        _resized(x, (9, 3), "half_pixel"),
        _resized(x, (9, 3), "align_corners"),
        _resized(x, (9, 3), "asymmetric"),
        _resized(x, (10, 12), "align_corners"),
        _resized(x, (10, 12), "half_pixel"),
        _resized(x, (10, 8), "asymmetric"),
        _resized(x, (7, 4), "half_pixel"),
        _resized(x, (7, 9), "align_corners"),
        atol=1e-5,
    )


def test_the_sampling_modes_that_onnx_does_not_have() -> None:
    mb, x = mil.builder(), np.array([[[0, 1]]], _F)

    def resize(width: int, mode: str) -> Callable[[Any], Any]:
        return lambda x: mb.resize_bilinear(
            x=x, target_size_height=1, target_size_width=width, sampling_mode=mode
        )

    # grid points as the documentation of resize_bilinear lists them
    for width, mode, points in [
        (5, "OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
        (5, "DEFAULT", [0, 0.4, 0.8, 1, 1]),
        (1, "ALIGN_CORNERS", [0.5]),
        (1, "STRICT_ALIGN_CORNERS", [0]),
        (6, "UNALIGN_CORNERS", [0, 0, 1 / 3, 2 / 3, 1, 1]),
    ]:
        same(mil.run(resize(width, mode), {"x": x}), np.array([[points]], _F))


@covers("upsample_nearest_neighbor", "resize_nearest_neighbor")
def test_nearest_resizing() -> None:
    mb, x = mil.builder(), rand(1, 2, 5, 4)
    got = mil.run(
        lambda x: [
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
            mb.resize_nearest_neighbor(x=x, target_size_height=10, target_size_width=12),
            mb.resize(x=x, shape=[10, 4], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        ],
        {"x": x},
        kinds=["upsample_nearest_neighbor", "resize_nearest_neighbor"],
    )
    twice = np.repeat(x, 2, axis=2)
    same(got, np.repeat(twice, 3, axis=3), np.repeat(twice, 3, axis=3), twice)


def test_nearest_resizing_between_whole_factors() -> None:
    """Where every reading of the documentation agrees; the values are those of tests on Apple's devices."""
    mb, x = mil.builder(), np.array([[[[1.5, -2.5, 3.5]]]], _F)
    got = mil.run(
        lambda x: [
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=3.17, scale_factor_width=0.67),
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=1.12),
        ],
        {"x": x},
    )
    same(got, [[[[1.5, -2.5]] * 3]], [[[[1.5, -2.5, 3.5]] * 2]])
    y = np.array([-6.0, 9.0], _F).reshape(1, 1, 2, 1)
    resize = {"resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"}
    nearest = lambda y: [  # noqa: E731
        mb.resize(x=y, shape=[3, 2], **resize),
        mb.resize_nearest_neighbor(x=y, target_size_height=3, target_size_width=2),
    ]
    same(mil.run(nearest, {"y": y}), *[[[[[-6.0, -6.0], [9.0, 9.0], [9.0, 9.0]]]]] * 2)


@covers("crop", "crop_resize")
def test_crops() -> None:
    mb, x = mil.builder(), rand(2, 3, 6, 7)
    boxes = np.array([[0.5, 1.0, 4.0, 5.5], [3.0, 2.0, 7.0, 4.0]], _F)
    index = np.array([1, 0], np.int32)
    got = mil.run(
        lambda x, boxes, index: [
            mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]),
            mb.crop_resize(
                x=x,
                boxes=boxes,
                box_indices=index,
                target_height=3,
                target_width=4,
                sampling_mode="ALIGN_CORNERS",
                pad_value=_F(9),
            ),
            mb.crop_resize(
                x=x,
                boxes=boxes,
                box_indices=index,
                target_height=2,
                target_width=2,
                sampling_mode="OFFSET_CORNERS",
            ),
        ],
        {"x": x, "boxes": boxes, "index": index},
        kinds=["crop", "crop_resize"],
    )

    def at(image: np.ndarray, row: float, column: float, pad: float) -> np.ndarray:
        if not (0 <= row <= 5 and 0 <= column <= 6):
            return np.full(3, pad)
        top, left = min(int(row), 4), min(int(column), 5)
        low, right = row - top, column - left
        upper = image[:, top, left] * (1 - right) + image[:, top, left + 1] * right
        return (
            upper * (1 - low)
            + (image[:, top + 1, left] * (1 - right) + image[:, top + 1, left + 1] * right) * low
        )

    def crop(
        points: Callable[[float, float, int], np.ndarray], height: int, width: int, pad: float
    ) -> np.ndarray:
        made = np.zeros((2, 3, height, width))
        for number, (h0, w0, h1, w1) in enumerate(boxes):
            for row, column in np.ndindex(height, width):
                place = points(h0, h1, height)[row], points(w0, w1, width)[column]
                made[number, :, row, column] = at(x[index[number]], *place, pad)
        return made

    same(
        got,
        x[:, :, 1:4, :4],
        crop(lambda a, b, n: np.linspace(a, b, n), 3, 4, 9),
        crop(lambda a, b, n: a + (np.arange(n) + 0.5) * max(1, b - a) / n, 2, 2, 0),
    )


@covers("resample", "affine")
def test_sampled_images() -> None:
    mb, x = mil.builder(), rand(2, 3, 6, 5)
    grid, matrix = rand(2, 4, 3, 2, low=-1.3, high=1.3), rand(2, 6, low=-0.8, high=0.8)
    common = {"padding_value": _F(0), "coordinates_mode": "normalized_minus_one_to_one"}
    variants = [
        ("bilinear", "constant", True),
        ("bilinear", "constant", False),
        ("bilinear", "border", True),
        ("bilinear", "reflection", True),
        ("bilinear", "symmetric", False),
        ("nearest", "constant", True),
        ("nearest", "border", False),
    ]
    got = mil.run(
        lambda x, grid, matrix: [
            *(
                mb.resample(
                    x=x,
                    coordinates=grid,
                    sampling_mode=mode,
                    padding_mode=padding,
                    align_corners=align,
                    **common,
                )
                for mode, padding, align in variants
            ),
            mb.affine(
                x=x,
                transform_matrix=matrix,
                output_height=4,
                output_width=3,
                sampling_mode="bilinear",
                padding_mode="constant",
                align_corners=True,
                **common,
            ),
        ],
        {"x": x, "grid": grid, "matrix": matrix},
        kinds=["resample", "affine"],
    )
    paddings = {
        "constant": "zeros",
        "border": "border",
        "reflection": "reflection",
        "symmetric": "reflection",
    }
    want = [
        mil.onnx(
            "GridSample",
            [x, grid],
            mode={"bilinear": "linear"}.get(mode, mode),
            padding_mode=paddings[padding],
            align_corners=int(align),
        )[0]
        for mode, padding, align in variants
    ]
    (places,) = mil.onnx("AffineGrid", [matrix.reshape(2, 2, 3), np.array([2, 3, 4, 3])], align_corners=1)
    want += mil.onnx("GridSample", [x, places], mode="linear", padding_mode="zeros", align_corners=1)
    same(got, *want, atol=2e-5)


def test_resampling_in_pixels_and_in_shares() -> None:
    mb, x = mil.builder(), rand(1, 2, 4, 5)
    places = np.array([[[[0, 0], [2.5, 1.5], [4, 3], [3.25, 0.5]]]], _F)
    shares = places / np.array([4, 3], _F)
    given = {
        "sampling_mode": "bilinear",
        "padding_mode": "border",
        "padding_value": _F(0),
        "align_corners": True,
    }
    got = mil.run(
        lambda x, places, shares: [
            mb.resample(x=x, coordinates=places, coordinates_mode="unnormalized", **given),
            mb.resample(x=x, coordinates=shares, coordinates_mode="normalized_zero_to_one", **given),
        ],
        {"x": x, "places": places, "shares": shares},
    )
    (want,) = mil.onnx(
        "GridSample", [x, shares * 2 - 1], mode="linear", padding_mode="border", align_corners=1
    )
    same(got, want, want, atol=1e-5)


# --- recurrent ------------------------------------------------------------------------------------


def _gates(weights: np.ndarray, order: str, wanted: str) -> np.ndarray:
    """Rows of gates in another order: ONNX's from MIL's."""
    parts = dict(zip(order, np.split(weights, len(order)), strict=True))
    return np.concatenate([parts[gate] for gate in wanted])[None]


@covers("lstm")
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm(direction: str) -> None:
    mb, x = mil.builder(), rand(5, 2, 3)
    two = 2 if direction == "bidirectional" else 1
    h, c = rand(2, 4 * two, seed=1), rand(2, 4 * two, seed=2)
    given: dict[str, Any] = {"direction": direction}
    rows: dict[str, list[np.ndarray]] = {"w": [], "r": [], "b": [], "p": []}
    for number, suffix in enumerate(["", "_back"][:two]):
        w, r, b = rand(16, 3, seed=3 + number), rand(16, 4, seed=5 + number), rand(16, seed=7 + number)
        p = rand(12, seed=9 + number)
        given |= {
            f"weight_ih{suffix}": w,
            f"weight_hh{suffix}": r,
            f"bias{suffix}": b,
            f"peephole{suffix}": p,
        }
        rows["w"].append(_gates(w, "ifoc", "iofc"))
        rows["r"].append(_gates(r, "ifoc", "iofc"))
        rows["b"].append(np.concatenate([_gates(b, "ifoc", "iofc"), np.zeros((1, 16), _F)], 1))
        rows["p"].append(_gates(p, "ifo", "iof"))
    got = mil.run(
        lambda x, h, c: [
            *mb.lstm(x=x, initial_h=h, initial_c=c, output_sequence=True, **given),
            mb.lstm(x=x, initial_h=h, initial_c=c, **given)[0],
        ],
        {"x": x, "h": h, "c": c},
        kinds=["lstm"],
    )
    w, r, b, p = (np.concatenate(parts) for parts in rows.values())
    start = [value.reshape(2, two, 4).swapaxes(0, 1).copy() for value in (h, c)]
    y, last_h, last_c = mil.onnx(
        "LSTM", [x, w, r, b, None, *start, p], outputs=3, hidden_size=4, direction=direction
    )
    whole = y.transpose(0, 2, 1, 3).reshape(5, 2, 4 * two)
    if direction == "reverse":  # Core ML leaves the outputs in the order of the walk
        whole = whole[::-1]
    final = last_h.swapaxes(0, 1).reshape(2, 4 * two)
    same(got, whole, final, last_c.swapaxes(0, 1).reshape(2, 4 * two), final[None], atol=1e-5)


def test_lstm_activations_and_clip() -> None:
    mb, x = mil.builder(), rand(4, 2, 3)
    w, r, h, c = rand(16, 3, seed=1), rand(16, 4, seed=2), rand(2, 4, seed=3), rand(2, 4, seed=4)
    got = mil.run(
        lambda x, h, c: mb.lstm(
            x=x,
            initial_h=h,
            initial_c=c,
            weight_ih=w,
            weight_hh=r,
            recurrent_activation="hard_sigmoid",
            cell_activation="relu",
            activation="linear",
            clip=_F(0.3),
        ),
        {"x": x, "h": h, "c": c},
    )
    state, cell = h.astype(np.float64), c.astype(np.float64)
    for step in x:
        i, f, o, z = np.split(step @ w.T + state @ r.T, 4, axis=1)
        gate = lambda v: np.clip(0.2 * v + 0.5, 0, 1)  # noqa: E731
        cell = np.clip(gate(f) * cell + gate(i) * np.maximum(z, 0), -0.3, 0.3)
        state = gate(o) * cell
    same(got, state[None], state, cell, atol=1e-5)


@covers("gru", "rnn")
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gru_and_rnn(direction: str) -> None:
    mb, x, h = mil.builder(), rand(5, 1, 3), rand(1, 4, seed=1)
    w, r, b = rand(12, 3, seed=2), rand(12, 4, seed=3), rand(12, seed=4)
    v, s, d = rand(4, 3, seed=5), rand(4, 4, seed=6), rand(4, seed=7)
    common = {"direction": direction, "output_sequence": True}
    got = mil.run(
        lambda x, h: [
            *mb.gru(x=x, initial_h=h, weight_ih=w, weight_hh=r, bias=b, **common),
            *mb.rnn(x=x, initial_h=h, weight_ih=v, weight_hh=s, bias=d, **common),
        ],
        {"x": x, "h": h},
        kinds=["gru", "rnn"],
    )
    bias = np.concatenate([_gates(b, "roz", "zro"), np.zeros((1, 12), _F)], 1)
    gru = mil.onnx(
        "GRU",
        [x, _gates(w, "roz", "zro"), _gates(r, "roz", "zro"), bias, None, h[None]],
        outputs=2,
        hidden_size=4,
        direction=direction,
        linear_before_reset=0,
    )
    both = np.concatenate([d[None], np.zeros((1, 4), _F)], 1)
    rnn = mil.onnx(
        "RNN", [x, v[None], s[None], both, None, h[None]], outputs=2, hidden_size=4, direction=direction
    )
    order = slice(None, None, -1 if direction == "reverse" else 1)
    same(got, gru[0][order, 0], gru[1][0], rnn[0][order, 0], rnn[1][0], atol=1e-5)


# --- quantization ---------------------------------------------------------------------------------


@covers("quantize", "dequantize")
def test_quantize_and_dequantize() -> None:
    mb, x = mil.builder(), np.concatenate([rand(2, 3, 4) * 10, np.full((1, 3, 4), 0.25, _F)])
    scales, points = np.array([0.1, 0.5, 0.02], _F), np.array([3, 128, 250], np.uint8)

    def build(x: Any) -> Any:
        whole = mb.quantize(input=x, scale=_F(0.5), output_dtype="int8")
        shifted = mb.quantize(input=x, scale=_F(0.1), zero_point=np.int8(-7), output_dtype="int8")
        rows = mb.quantize(input=x, scale=scales, zero_point=points, axis=1, output_dtype="uint8")
        back = mb.dequantize(input=rows, scale=scales, zero_point=points, axis=1)
        return [
            whole,
            shifted,
            rows,
            back,
            mb.dequantize(input=shifted, scale=_F(0.1), zero_point=np.int8(-7)),
        ]

    got = mil.run(build, {"x": x}, kinds=["quantize", "dequantize"])
    zero = np.array(0, np.int8)
    q = lambda scale, point, **over: mil.onnx("QuantizeLinear", [x, scale, point], **over)[0]  # noqa: E731
    shifted, rows = q(np.array(0.1, _F), np.array(-7, np.int8)), q(scales, points, axis=1)
    same(
        got,
        q(np.array(0.5, _F), zero),
        shifted,
        rows,
        *mil.onnx("DequantizeLinear", [rows, scales, points], axis=1),
        *mil.onnx("DequantizeLinear", [shifted, np.array(0.1, _F), np.array(-7, np.int8)]),
    )


def _weights(make: Callable[[Any], Any], kind: str, target: str) -> np.ndarray:
    """What a compressed weight of shape [., .] unfolds to: a product with the identity matrix."""
    rows = 8
    got = mil.run(
        lambda x: mil.builder().matmul(x=x, y=make(mil.builder())),
        {"x": np.eye(rows, dtype=_F)},
        target=target,
        kinds=[kind],
    )
    return got[0]


@covers("constexpr_affine_dequantize", "constexpr_cast")
def test_affine_and_half_weights() -> None:
    data = np.random.default_rng(0).integers(-128, 128, (8, 6)).astype(np.int8)
    scales, points = rand(6, low=0.1), np.arange(-3, 3).astype(np.int8)
    affine = lambda mb: mb.constexpr_affine_dequantize(  # noqa: E731
        quantized_data=data, zero_point=points, scale=scales, axis=1
    )
    got = _weights(affine, "constexpr_affine_dequantize", "iOS16")
    same([got], (data.astype(np.float64) - points) * scales, atol=1e-5)
    scalar = lambda mb: mb.constexpr_affine_dequantize(  # noqa: E731
        quantized_data=data.view(np.uint8), zero_point=np.uint8(9), scale=_F(0.5), axis=0
    )
    same(
        [_weights(scalar, "constexpr_affine_dequantize", "iOS17")],
        (data.view(np.uint8).astype(float) - 9) * 0.5,
    )
    half = rand(8, 6).astype(np.float16)
    cast = lambda mb: mb.constexpr_cast(source_val=half, output_dtype="fp32")  # noqa: E731
    same([_weights(cast, "constexpr_cast", "iOS16")], half.astype(_F))


@covers("constexpr_lut_to_dense")
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_palettes_packed(bits: int) -> None:
    from coremltools.optimize._utils import pack_elements_into_bits

    table = rand(2**bits)
    index = np.random.default_rng(bits).integers(0, 2**bits, (8, 5)).astype(np.uint8)
    packed = pack_elements_into_bits(index, bits)
    make = lambda mb: mb.constexpr_lut_to_dense(  # noqa: E731
        indices=packed, lut=table, shape=np.array([8, 5], np.uint32)
    )
    same([_weights(make, "constexpr_lut_to_dense", "iOS16")], table[index])


def _narrow(values: np.ndarray, name: str) -> np.ndarray:
    """An array in one of coremltools' sub-byte types."""
    from coremltools.converters.mil.mil import types

    return values.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettes_of_ios18(bits: int) -> None:
    index = np.random.default_rng(bits).integers(0, 2**bits, (8, 6)).astype(np.uint8)
    table = rand(2, 3, 2**bits, 1)
    make = lambda mb: mb.constexpr_lut_to_dense(indices=_narrow(index, f"uint{bits}"), lut=table)  # noqa: E731
    want = np.array([[table[i // 4, j // 2, index[i, j], 0] for j in range(6)] for i in range(8)])
    same([_weights(make, "constexpr_lut_to_dense", "iOS18")], want)


@pytest.mark.parametrize("axis", [0, 1])
def test_palettes_of_vectors(axis: int) -> None:
    shape = (4, 6) if axis == 0 else (8, 3)
    index = np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)
    table = rand(1, 1, 4, 2)
    make = lambda mb: mb.constexpr_lut_to_dense(  # noqa: E731
        indices=_narrow(index, "uint2"), lut=table, vector_axis=np.int32(axis)
    )
    want = np.zeros((8, 6))
    for i, j in np.ndindex(*shape):
        for part in range(2):
            want[(2 * i + part, j) if axis == 0 else (i, 2 * j + part)] = table[0, 0, index[i, j], part]
    same([_weights(make, "constexpr_lut_to_dense", "iOS18")], want)


@covers("constexpr_blockwise_shift_scale")
@pytest.mark.parametrize("name", ["int4", "uint4", "int8", "uint8"])
def test_blockwise_weights(name: str) -> None:
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}[name]
    rng = np.random.default_rng(0)
    data, offset = rng.integers(low, high, (8, 6)), rng.integers(low, high, (4, 2))
    scale = rand(4, 2, low=0.1)
    make = lambda mb: mb.constexpr_blockwise_shift_scale(  # noqa: E731
        data=_narrow(data, name), scale=scale, offset=_narrow(offset, name)
    )
    spread = lambda blocks: np.repeat(np.repeat(blocks, 2, 0), 3, 1)  # noqa: E731
    got = _weights(make, "constexpr_blockwise_shift_scale", "iOS18")
    same([got], (data - spread(offset)) * spread(scale.astype(np.float64)), atol=1e-4)


@covers("constexpr_sparse_to_dense", "constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale")
def test_sparse_weights() -> None:
    dense = np.where(rand(8, 5) > 0.5, rand(8, 5, seed=1), 0).astype(_F)
    there = dense != 0
    bytes_ = np.packbits(there.reshape(-1), bitorder="little")
    packed = lambda mb: mb.constexpr_sparse_to_dense(  # noqa: E731
        nonzero_data=dense[there], mask=bytes_, shape=np.array([8, 5], np.uint32)
    )
    same([_weights(packed, "constexpr_sparse_to_dense", "iOS16")], dense)
    mask = _narrow(there, "uint1")
    plain = lambda mb: mb.constexpr_sparse_to_dense(nonzero_data=dense[there], mask=mask)  # noqa: E731
    same([_weights(plain, "constexpr_sparse_to_dense", "iOS18")], dense)

    index = np.random.default_rng(0).integers(0, 4, (8, 5))
    table = rand(1, 1, 4, 1)

    def palette(mb: Any) -> Any:
        parts = mb.constexpr_lut_to_sparse(
            indices_mask=mask, indices_nonzero_data=_narrow(index[there], "uint2"), lut=table
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=parts[1], mask=parts[0])

    want = np.where(there, table[0, 0, :, 0][index], 0)
    same([_weights(palette, "constexpr_lut_to_sparse", "iOS18")], want)

    data, scale = np.random.default_rng(1).integers(-128, 128, (8, 5)).astype(np.int8), rand(1, 5, low=0.1)

    def scaled(mb: Any) -> Any:
        parts = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=data[there], scale=scale
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=parts[1], mask=parts[0])

    got = _weights(scaled, "constexpr_sparse_blockwise_shift_scale", "iOS18")
    same([got], np.where(there, data * scale, 0), atol=1e-4)


# --- control flow ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [True, False])
def test_cond(chosen: bool) -> None:
    mb, x = mil.builder(), rand(2, 3)

    def build(x: Any, chosen: Any) -> Any:
        doubled = mb.mul(x=x, y=_F(2))
        return mb.cond(
            pred=chosen,
            _true_fn=lambda: mb.add(x=doubled, y=_F(1)),
            _false_fn=lambda: mb.sub(x=x, y=doubled),
        )

    got = mil.run(build, {"x": x, "chosen": np.array(chosen)}, kinds=["cond"])
    same(got, x * 2 + 1 if chosen else -x)


def test_while_loop() -> None:
    mb, x = mil.builder(), rand(3)
    got = mil.run(
        lambda n, x: mb.while_loop(
            _cond=lambda n, x: mb.greater(x=n, y=0),
            _body=lambda n, x: (mb.sub(x=n, y=1), mb.mul(x=x, y=_F(1.5))),
            loop_vars=(n, x),
        ),
        {"n": np.array(4, np.int32), "x": x},
        kinds=["while_loop"],
    )
    same(got, np.array(0), x * 1.5**4)


def test_every_operator_has_a_test() -> None:
    assert set(OPERATORS) == TESTED
