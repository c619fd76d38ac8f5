"""MatMul, Gemm, Einsum and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgebench.convert.coreml.base import (
    Node,
    Value,
    broadcast_to,
    constexpr,
    expanded,
    mb,
    permuted,
    reshaped,
    taken,
    types,
    wrapped,
)


def matmul(node: Node) -> Any:
    """The matrix product, with numpy's rules for one axis and for leading axes."""
    x, y = node.value(0), node.value(1)
    if node.floats() and y.rank == 2 and y.const is not None and x.rank >= 2:
        return mb.linear(x=x.mil(), weight=turned(y))
    return wrapped(product(x.mil(), y.mil()), node.dtype())


def turned(value: Value) -> Any:
    """The variable of a constant matrix, its axes exchanged; one stored as integers stays so."""
    if value.quantized is None:
        return Value(dtype=value.dtype, const=np.ascontiguousarray(_known(value).T)).mil()
    return constexpr(value.quantized.turned())


def _known(value: Value) -> Any:
    return np.zeros(value.shape, value.dtype) if value.const is None else value.const


def product(x: Any, y: Any) -> Any:
    """Numpy's matmul of two variables of any rank."""
    row, column = len(x.shape) == 1, len(y.shape) == 1
    x = reshaped(x, (1, *x.shape)) if row else x
    y = reshaped(y, (*y.shape, 1)) if column else y
    rank = max(len(x.shape), len(y.shape))
    out = mb.matmul(x=expanded(x, rank), y=expanded(y, rank))
    shape = list(out.shape)
    if column:
        shape = shape[:-1]
    if row:
        shape = [*shape[:-2], *shape[-1:]] if not column else shape[:-1]
    return reshaped(out, shape)


def gemm(node: Node) -> Any:
    """Alpha A B + beta C, with A and B turned where asked."""
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    a, weight = node.var(0), node.value(1)
    bias = node.value(2) if node.given(2) else None
    if node.attribute("transA", 0):
        a = permuted(a, (1, 0))
    if _is_linear(node, weight, bias, alpha, beta):
        turn = not node.attribute("transB", 0)
        extra = {"bias": bias.mil()} if bias is not None and bias.rank == 1 and bias.const is not None else {}
        out = mb.linear(x=a, weight=turned(weight) if turn else weight.mil(), **extra)
        return out if bias is None or extra else mb.add(x=out, y=bias.mil())
    b = permuted(weight.mil(), (1, 0)) if node.attribute("transB", 0) else weight.mil()
    out = _scaled(mb.matmul(x=a, y=b), alpha, node)
    if bias is None:
        return wrapped(out, node.dtype())
    return wrapped(mb.add(x=out, y=_scaled(bias.mil(), beta, node)), node.dtype())


def _is_linear(node: Node, weight: Value, bias: Value | None, alpha: float, beta: float) -> bool:
    wide = bias is not None and bias.rank == 1 and bias.const is not None and bias.shape[0] == 1
    return (
        node.floats() and weight.const is not None and alpha == 1 and (bias is None or beta == 1) and not wide
    )


def _scaled(x: Any, factor: float, node: Node) -> Any:
    if factor == 1:
        return x
    if x.dtype == types.int32:
        if factor != int(factor):
            raise node.refused(f"whole numbers cannot be multiplied by {factor}")
        return mb.mul(x=x, y=np.int32(factor))
    return mb.mul(x=x, y=np.float32(factor))


# --- Einsum -------------------------------------------------------------------------------------


def einsum(node: Node) -> Any:
    """Any equation: operands are joined two by two, through one matrix product each."""
    equation = str(node.attribute("equation")).replace(" ", "")
    operands = [node.var(place) for place in range(len(node.inputs))]
    terms, result = _terms(node, equation, [len(operand.shape) for operand in operands])
    pairs = [_diagonal(operand, term) for operand, term in zip(operands, terms, strict=True)]
    while len(pairs) > 1:
        (x, left), (y, right) = pairs[0], pairs[1]
        later = set(result).union(*(term for _, term in pairs[2:]))
        pairs = [
            _contracted(_summed(x, left, later | set(right)), _summed(y, right, later | set(left)), later),
            *pairs[2:],
        ]
    x, term = _summed(*pairs[0], set(result))
    return mb.identity(x=permuted(x, [term.index(letter) for letter in result]))


def _terms(node: Node, equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of every operand and of the result; the axes of an ellipsis get letters of their own."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise node.refused(
            f'"{equation}" has {len(terms)} terms for {len(ranks)} inputs', "correct the equation"
        )
    hidden = max(
        (rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "." in term),
        default=0,
    )
    extra = "".join(chr(0x100 + at) for at in range(hidden))
    full = []
    for term, rank in zip(terms, ranks, strict=True):
        count = rank - len(term.replace("...", ""))
        full.append(term.replace("...", extra[hidden - count :] if count else ""))
        if len(full[-1]) != rank:
            raise node.refused(f'"{term}" does not fit an input of {rank} axes', "correct the equation")
    if not arrow:
        letters = "".join(full)
        right = ("..." if "." in left else "") + "".join(
            sorted(x for x in set(letters) if letters.count(x) == 1 and x not in extra)
        )
    return full, right.replace("...", extra)


def _diagonal(x: Any, term: str) -> tuple[Any, str]:
    """A letter that stands twice in one term takes the diagonal."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            rest = [axis for axis in range(len(term)) if axis not in (first, second)]
            size = int(x.shape[first])
            moved = permuted(x, [*rest, first, second])
            flat = reshaped(moved, [*(int(x.shape[axis]) for axis in rest), size * size])
            x = taken(flat, np.arange(size) * (size + 1), len(rest))
            term = "".join(term[axis] for axis in rest) + letter
    return x, term


def _summed(x: Any, term: str, kept: set[str]) -> tuple[Any, str]:
    gone = [axis for axis, letter in enumerate(term) if letter not in kept]
    if not gone:
        return x, term
    left = [axis for axis in range(len(term)) if axis not in gone]
    out = mb.reduce_sum(x=x, axes=np.array(gone, np.int32), keep_dims=True)
    return reshaped(out, [int(x.shape[axis]) for axis in left]), "".join(term[axis] for axis in left)


def _contracted(first: tuple[Any, str], second: tuple[Any, str], later: set[str]) -> tuple[Any, str]:
    """Two operands as one matrix product: [both, left's own, summed] x [both, summed, right's own]."""
    (x, left), (y, right) = first, second
    both = [letter for letter in left if letter in right]
    batch = [letter for letter in both if letter in later]
    summed = [letter for letter in both if letter not in later]
    own_left = [letter for letter in left if letter not in both]
    own_right = [letter for letter in right if letter not in both]
    size = dict(zip(left, map(int, x.shape), strict=True))
    for letter, length in zip(right, map(int, y.shape), strict=True):
        size[letter] = max(size.get(letter, 1), length)
    a = _grouped(x, left, (batch, own_left, summed), size)
    b = _grouped(y, right, (batch, summed, own_right), size)
    term = "".join(batch + own_left + own_right)
    return reshaped(mb.matmul(x=a, y=b), [size[letter] for letter in term]), term


def _grouped(x: Any, term: str, groups: Sequence[Sequence[str]], size: dict[str, int]) -> Any:
    letters = [letter for group in groups for letter in group]
    moved = permuted(x, [term.index(letter) for letter in letters])
    wide = broadcast_to(moved, [size[letter] for letter in letters])
    return reshaped(
        wide, [int(np.prod([size[letter] for letter in group], dtype=np.int64)) for group in groups]
    )
