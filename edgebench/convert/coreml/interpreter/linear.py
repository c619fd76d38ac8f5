"""Matrix products: linear, matmul, einsum, attention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgebench.convert.coreml.interpreter.base import Array, Call, Kernel


def _linear(call: Call) -> Array:
    x, weight, bias = call.array("x"), call.array("weight"), call.maybe("bias")
    if weight.ndim != 2:
        raise call.refuse(f"its weight has rank {weight.ndim}, not 2")
    product = np.matmul(x, weight.T)
    return product if bias is None else np.asarray(product + bias)


def _matmul(call: Call) -> Array:
    x, y = call.array("x"), call.array("y")
    if x.dtype != y.dtype:
        raise call.refuse(f"its operands have different element types, {x.dtype} and {y.dtype}")
    if call.flag("transpose_x") and x.ndim > 1:
        x = np.swapaxes(x, -1, -2)
    if call.flag("transpose_y") and y.ndim > 1:
        y = np.swapaxes(y, -1, -2)
    return np.asarray(np.matmul(x, y))


# The two equations that MIL knows, in their canonical letters.
_EQUATIONS = {"abcd,adce->abce", "abc,cbd->abd"}


def _einsum(call: Call) -> Array:
    equation = call.text("equation")
    left, _, right = equation.replace(" ", "").partition("->")
    names: dict[str, str] = {}
    for letter in (left + right).replace(",", ""):
        names.setdefault(letter, chr(ord("a") + len(names)))
    canonical = "".join(names.get(letter, letter) for letter in f"{left}->{right}")
    values = call.arrays("values")
    if canonical not in _EQUATIONS or len(values) != 2:
        raise call.refuse(f'the equation "{equation}" is not one that Core ML knows')
    x, y = values
    # sum over x's last and y's third axis from the end; the others are batch and broadcast
    rows = np.swapaxes(x, -3, -2)
    columns = np.swapaxes(y, -3, -2)
    return np.swapaxes(np.matmul(rows, columns), -3, -2)


def _attention(call: Call) -> Array:
    query, key, value = call.array("query"), call.array("key"), call.array("value")
    if query.ndim < 3 or not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise call.refuse(
            f"query {list(query.shape)}, key {list(key.shape)} and value {list(value.shape)} do not fit"
        )
    scores = np.matmul(query, np.swapaxes(key, -1, -2)) / math.sqrt(query.shape[-1])
    mask = call.maybe("attn_mask")
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    powers = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights = powers / np.sum(powers, axis=-1, keepdims=True)
    return np.asarray(np.matmul(weights, value))


KERNELS: Mapping[str, Kernel] = {
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
}
