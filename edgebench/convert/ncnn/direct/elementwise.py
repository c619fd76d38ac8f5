"""Operators that take every element alone, and truth values."""

from __future__ import annotations

import math

import numpy as np

from edgebench.convert.ncnn.direct.base import (
    LARGE,
    UNARY,
    Mat,
    Net,
    Node,
    Rule,
    Value,
    finite,
    first,
    given,
    refused,
)


def _chain(op: str) -> Rule:
    def rule(net: Net, node: Node) -> Value:
        made, *rest = given(node)
        for each in rest:
            made = net.binary(op, made, each)
        return made

    return rule


def _mean(net: Net, node: Node) -> Value:
    made = _chain("Add")(net, node)
    return net.scalar("Mul", made, 1 / len(node.inputs)) if not isinstance(made, list) else made[0]


def _power(net: Net, node: Node) -> Value:
    """Whole powers by multiplication: ncnn's pow is exp(y log x), and x may be negative."""
    base, exponent = given(node)[:2]
    if isinstance(exponent, Mat) or exponent.size != 1:
        return net.binary("Pow", base, exponent)
    number = float(exponent.reshape(-1)[0])
    if number not in (1.0, 2.0, 3.0, 4.0):
        return net.scalar("Pow", base, number)
    made = base
    for _ in range(int(number) - 1):
        made = net.binary("Mul", made, base)
    return made


def _unary(op: str) -> Rule:
    return lambda net, node: net.unary(op, first(node))


def _same(net: Net, node: Node) -> Value:  # noqa: ARG001
    return first(node)


def _layer(kind: str, **attributes: tuple[str, float]) -> Rule:
    """A layer of ncnn whose params are the node's attributes: p0=("alpha", 1.0)."""

    def rule(net: Net, node: Node) -> Value:
        params = {key: float(node.attributes.get(name, usual)) for key, (name, usual) in attributes.items()}
        return net.layer(kind, first(node), **params)

    return rule


def _clip(net: Net, node: Node) -> Value:
    low = node.attributes.get("min", node.constant(1) if len(node.inputs) > 1 else None)
    high = node.attributes.get("max", node.constant(2) if len(node.inputs) > 2 else None)
    limit = float(np.finfo(np.float32).max)
    made = net.scalar("Max", first(node), -limit if low is None else float(np.reshape(low, ())))
    return net.scalar("Min", made, limit if high is None else float(np.reshape(high, ())))


def _prelu(net: Net, node: Node) -> Value:
    value, slope = given(node)[:2]
    if node.opset < 7 and len(slope.shape) == 1:  # of channels then, whatever broadcasting says
        slope = net.reshape(slope, (slope.shape[0],) + (1,) * (len(value.shape) - 2))
    negative = net.scalar("Min", value, 0.0)
    return net.binary("Add", net.scalar("Max", value, 0.0), net.binary("Mul", negative, slope))


def _sign(net: Net, node: Node) -> Value:
    return net.clip(net.scalar("Mul", first(node), LARGE), -1, 1)


def _gelu(net: Net, node: Node) -> Value:
    value = first(node)
    if node.attributes.get("approximate", b"none") == b"tanh":
        cube = net.scalar("Mul", net.binary("Mul", net.binary("Mul", value, value), value), 0.044715)
        inner = net.unary("Tanh", net.scalar("Mul", net.binary("Add", value, cube), math.sqrt(2 / math.pi)))
    else:
        inner = net.layer("Erf", net.scalar("Mul", value, math.sqrt(0.5)))
    return net.binary("Mul", net.scalar("Mul", value, 0.5), net.scalar("Add", inner, 1.0))


def _acosh(net: Net, node: Node) -> Value:
    value = first(node)
    root = net.unary("Sqrt", net.scalar("Sub", net.binary("Mul", value, value), 1.0))
    return net.unary("Log", net.binary("Add", value, root))


def _asinh(net: Net, node: Node) -> Value:
    value = net.unary("Abs", first(node))
    root = net.unary("Sqrt", net.scalar("Add", net.binary("Mul", value, value), 1.0))
    made = net.unary("Log", net.binary("Add", value, root))
    return net.binary("Mul", made, _sign(net, node))


def _atanh(net: Net, node: Node) -> Value:
    value = first(node)
    over = net.scalar("Add", value, 1.0)
    under = net.scalar("Add", net.scalar("Mul", value, -1.0), 1.0)
    return net.scalar("Mul", net.unary("Log", net.binary("Div", over, under)), 0.5)


def _hyperbolic(sign: str) -> Rule:
    def rule(net: Net, node: Node) -> Value:
        value = first(node)
        up, down = net.unary("Exp", value), net.unary("Exp", net.scalar("Mul", value, -1.0))
        return net.scalar("Mul", net.binary(sign, up, down), 0.5)

    return rule


def _softsign(net: Net, node: Node) -> Value:
    value = first(node)
    return net.binary("Div", value, net.scalar("Add", net.unary("Abs", value), 1.0))


def _softplus(net: Net, node: Node) -> Value:
    value = first(node)
    tail = net.unary("Exp", net.scalar("Mul", net.unary("Abs", value), -1.0))
    return net.binary("Add", net.scalar("Max", value, 0.0), net.unary("Log", net.scalar("Add", tail, 1.0)))


def _cast(net: Net, node: Node) -> Value:
    to = node.attributes["to"]
    value = first(node)
    if not isinstance(value, Mat):
        from onnx import helper

        return value.astype(helper.tensor_dtype_to_np_dtype(to))
    if to == 1:
        return value
    if to == 9:
        return net.negation(net.equal(value, np.zeros((), np.float32)))
    raise refused("Cast of run-time values to whole numbers or other floats")


def _less(net: Net, node: Node) -> Value:
    return net.less(*given(node)[:2])


def _greater(net: Net, node: Node) -> Value:
    left, right = given(node)[:2]
    return net.less(right, left)


def _equal(net: Net, node: Node) -> Value:
    return net.equal(*given(node)[:2])


def _not(rule: Rule) -> Rule:
    def inverse(net: Net, node: Node) -> Value:
        made = rule(net, node)
        return net.negation(made[0] if isinstance(made, list) else made)

    return inverse


def _where(net: Net, node: Node) -> Value:
    condition, yes, no = given(node)[:3]
    if not isinstance(condition, Mat):
        condition = condition.astype(np.float32)
    chosen = net.binary("Mul", condition, finite(yes))
    other = net.binary("Mul", net.negation(condition), finite(no))
    return net.binary("Add", chosen, other)


RULES: dict[str, Rule] = {
    **{op: _chain(op) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{op: _unary(op) for op in UNARY},
    "Acosh": _acosh,
    "And": _chain("Mul"),
    "Asinh": _asinh,
    "Atanh": _atanh,
    "Cast": _cast,
    "Clip": _clip,
    "Cosh": _hyperbolic("Add"),
    "Dropout": _same,
    "Elu": _layer("ELU", p0=("alpha", 1.0)),
    "Equal": _equal,
    "Erf": _layer("Erf"),
    "Gelu": _gelu,
    "Greater": _greater,
    "GreaterOrEqual": _not(_less),
    "HardSigmoid": _layer("HardSigmoid", p0=("alpha", 0.2), p1=("beta", 0.5)),
    "Identity": _same,
    "LeakyRelu": _layer("ReLU", p0=("alpha", 0.01)),
    "Less": _less,
    "LessOrEqual": _not(_greater),
    "Mean": _mean,
    "Not": lambda net, node: net.negation(first(node)),
    "Or": _chain("Max"),
    "Pow": _power,
    "PRelu": _prelu,
    "Relu": _layer("ReLU"),
    "Selu": _layer("SELU", p0=("alpha", 1.67326319), p1=("gamma", 1.05070102)),
    "Sigmoid": _layer("Sigmoid"),
    "Sign": _sign,
    "Sinh": _hyperbolic("Sub"),
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Sum": _chain("Add"),
    "Where": _where,
    "Xor": lambda net, node: net.unary("Abs", net.binary("Sub", *given(node)[:2])),
}
