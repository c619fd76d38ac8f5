"""LSTM, GRU and RNN: Core ML's own LSTM where it is the same, else the recurrence written out step by step.

Core ML's `gru` differs from ONNX's in its bias and reset gate, so GRU is always written out. Sequences of
their own lengths hold their state after their last step, and their outputs are zero there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from edgebench.convert.coreml.base import (
    MAX_STEPS,
    Node,
    cast,
    mb,
    permuted,
    reshaped,
    sliced,
)

Activation = Callable[[Any], Any]


class _Cell(NamedTuple):
    """One direction of a recurrent node, its parameters as MIL variables [gates * hidden, ...]."""

    hidden: int
    weight: Any
    recurrent: Any
    input_bias: Any
    hidden_bias: Any
    peepholes: Any
    activations: list[Activation]
    clip: float


def lstm(node: Node) -> Any:
    """All hidden states, the last one, and the last cell state."""
    if _is_plain_lstm(node):
        return _native_lstm(node)
    if node.attribute("input_forget", 0):
        raise node.refused("its input and forget gates are coupled")
    return _unrolled(node, 4, ["Sigmoid", "Tanh", "Tanh"], _lstm_step)


def gru(node: Node) -> Any:
    """All hidden states and the last one."""
    after = bool(node.attribute("linear_before_reset", 0))
    return _unrolled(node, 3, ["Sigmoid", "Tanh"], lambda *given: _gru_step(*given, after=after))


def rnn(node: Node) -> Any:
    """All hidden states and the last one."""
    return _unrolled(node, 1, ["Tanh"], _rnn_step)


# --- Core ML's own LSTM ---------------------------------------------------------------------------


def _is_plain_lstm(node: Node) -> bool:
    """Constant weights, the usual activations, nothing clipped, coupled or cut short."""
    known = all(not node.given(at) or node.value(at).const is not None for at in (1, 2, 3))
    usual = [name.lower() for name in node.attribute("activations", [])] in (
        [],
        ["sigmoid", "tanh", "tanh"] * _directions(node),
    )
    return (
        known
        and usual
        and node.floats()
        and not node.given(4)
        and not node.given(7)
        and not node.attribute("clip", 0)
        and not node.attribute("input_forget", 0)
        and not node.attribute("layout", 0)
    )


def _directions(node: Node) -> int:
    return 2 if node.attribute("direction", "forward") == "bidirectional" else 1


def _native_lstm(node: Node) -> Any:
    x = node.var(0)
    steps, batch = int(x.shape[0]), int(x.shape[1])
    hidden, directions = node.value(2).shape[-1], _directions(node)
    weights = {}
    for way in range(directions):
        ending = "_back" if way else ""
        weights[f"weight_ih{ending}"] = _reordered(node.constant(1, "the weights")[way], hidden)
        weights[f"weight_hh{ending}"] = _reordered(node.constant(2, "the weights")[way], hidden)
        if node.given(3):
            both = node.constant(3, "the bias")[way]
            weights[f"bias{ending}"] = _reordered(both[: 4 * hidden] + both[4 * hidden :], hidden)
    direction = node.attribute("direction", "forward")
    backwards = direction == "reverse"  # turned round here: Core ML does not say in which order it answers
    out, last, cell = mb.lstm(
        x=mb.reverse(x=x, axes=np.array([0], np.int32)) if backwards else x,
        initial_h=_initial(node, 5, batch, hidden, directions),
        initial_c=_initial(node, 6, batch, hidden, directions),
        direction="forward" if backwards else direction,
        output_sequence=True,
        **weights,
    )
    out = mb.reverse(x=out, axes=np.array([0], np.int32)) if backwards else out
    split = reshaped(out, (steps, batch, directions, hidden))
    ends = [permuted(reshaped(each, (batch, directions, hidden)), (1, 0, 2)) for each in (last, cell)]
    return [permuted(split, (0, 2, 1, 3)), *ends][: len(node.outputs)]


def _reordered(array: Any, hidden: int) -> Any:
    """ONNX's gates i, o, f, c in the order of Core ML: i, f, o, c."""
    i, o, f, c = (array[at * hidden : (at + 1) * hidden] for at in range(4))
    return np.concatenate([i, f, o, c]).astype(np.float32)


def _initial(node: Node, place: int, batch: int, hidden: int, directions: int) -> Any:
    """[directions, batch, hidden] as [batch, directions * hidden]; zeros where it is not given."""
    if not node.given(place):
        return mb.const(val=np.zeros((batch, directions * hidden), np.float32))
    return reshaped(permuted(node.var(place), (1, 0, 2)), (batch, directions * hidden))


# --- written out step by step ---------------------------------------------------------------------


def _unrolled(node: Node, gates: int, usual: Sequence[str], step: Callable[..., Any]) -> Any:
    node.require_float()
    x = node.var(0)
    batch_first = bool(node.attribute("layout", 0))
    if batch_first:
        x = permuted(x, (1, 0, 2))
    steps, batch = int(x.shape[0]), int(x.shape[1])
    if steps > MAX_STEPS:
        raise node.refused(f"{steps} steps are more than the {MAX_STEPS} that are written out")
    directions, hidden = _directions(node), node.value(2).shape[-1]
    alive = _alive(node, steps, batch)
    backwards = node.attribute("direction", "forward") == "reverse"
    outputs, lasts = [], []
    for way in range(directions):
        cell = _cell(node, way, gates, hidden, usual)
        states = [
            _state(node, place, way, batch, hidden, batch_first) for place in ((5, 6) if gates == 4 else (5,))
        ]
        order = range(steps - 1, -1, -1) if backwards or way else range(steps)
        found, states = _walked(x, cell, states, order, alive, step)
        outputs.append(mb.stack(values=[found[at] for at in range(steps)], axis=np.int32(0)))
        lasts.append(states)
    everything = mb.stack(values=outputs, axis=np.int32(1))  # [steps, directions, batch, hidden]
    ends = [
        mb.stack(values=[states[at] for states in lasts], axis=np.int32(0)) for at in range(len(lasts[0]))
    ]
    if batch_first:
        everything = permuted(everything, (2, 0, 1, 3))
        ends = [permuted(each, (1, 0, 2)) for each in ends]
    return [everything, *ends][: len(node.outputs)]


def _walked(
    x: Any, cell: _Cell, states: list[Any], order: range, alive: list[Any] | None, step: Callable[..., Any]
) -> tuple[dict[int, Any], list[Any]]:
    """The hidden state at every step, and the states after the last."""
    steps, batch, features = (int(size) for size in x.shape)
    flat = reshaped(x, (steps * batch, features))
    projected = mb.matmul(x=flat, y=cell.weight, transpose_y=True)
    if cell.input_bias is not None:
        projected = mb.add(x=projected, y=cell.input_bias)
    found = {}
    for at in order:
        now = sliced(projected, 0, at * batch, (at + 1) * batch)
        new = step(cell, now, states)
        if alive is not None and alive[at] is not None:
            keep, off = alive[at]
            new = [
                mb.add(x=mb.mul(x=a, y=keep), y=mb.mul(x=b, y=off)) for a, b in zip(new, states, strict=True)
            ]
            found[at] = mb.mul(x=new[0], y=keep)
        else:
            found[at] = new[0]
        states = new
    return found, states


def _alive(node: Node, steps: int, batch: int) -> list[Any] | None:
    """For every step, 1 where a sequence still runs and 0 where it has ended, and the opposite."""
    if not node.given(4):
        return None
    lengths = node.value(4)
    if lengths.const is not None and np.all(lengths.const == steps):
        return None
    wide = reshaped(lengths.mil(), (batch, 1))
    pairs = []
    for at in range(steps):
        runs = cast(mb.greater(x=wide, y=np.int32(at)), "fp32")
        pairs.append((runs, mb.sub(x=np.float32(1), y=runs)))
    return pairs


def _cell(node: Node, way: int, gates: int, hidden: int, usual: Sequence[str]) -> _Cell:
    bias = _of(node.var(3), way) if node.given(3) else None
    length = gates * hidden
    listed = [str(name) for name in node.attribute("activations", list(usual) * _directions(node))]
    alphas = [float(item) for item in node.attribute("activation_alpha", [])]
    betas = [float(item) for item in node.attribute("activation_beta", [])]
    mine = [
        _activation(node, name, alphas, betas) for name in listed[way * len(usual) : (way + 1) * len(usual)]
    ]
    return _Cell(
        hidden=hidden,
        weight=_of(node.var(1), way),
        recurrent=_of(node.var(2), way),
        input_bias=None if bias is None else sliced(bias, 0, 0, length),
        hidden_bias=None if bias is None else sliced(bias, 0, length, 2 * length),
        peepholes=_of(node.var(7), way) if gates == 4 and node.given(7) else None,
        activations=mine,
        clip=float(node.attribute("clip", 0) or 0),
    )


def _of(var: Any, way: int) -> Any:
    """What belongs to one direction."""
    return reshaped(sliced(var, 0, way, way + 1), var.shape[1:])


def _state(node: Node, place: int, way: int, batch: int, hidden: int, batch_first: bool) -> Any:
    if not node.given(place):
        return mb.const(val=np.zeros((batch, hidden), np.float32))
    given = node.var(place)
    return _of(permuted(given, (1, 0, 2)) if batch_first else given, way)


def _activation(node: Node, name: str, alphas: list[float], betas: list[float]) -> Activation:
    """An activation by ONNX's name; those with numbers of their own take the next of the lists."""
    plain: dict[str, Activation] = {
        "sigmoid": lambda x: mb.sigmoid(x=x),
        "tanh": lambda x: mb.tanh(x=x),
        "relu": lambda x: mb.relu(x=x),
        "softsign": lambda x: mb.softsign(x=x),
        "softplus": lambda x: mb.softplus(x=x),
    }
    if name.lower() in plain:
        return plain[name.lower()]
    if name.lower() == "hardsigmoid":
        alpha = np.float32(alphas.pop(0) if alphas else 0.2)
        beta = np.float32(betas.pop(0) if betas else 0.5)
        return lambda x: mb.sigmoid_hard(x=x, alpha=alpha, beta=beta)
    raise node.refused(f'the activation "{name}" is not known in a recurrence')


def _gates(cell: _Cell, both: Any, count: int) -> list[Any]:
    return [sliced(both, 1, at * cell.hidden, (at + 1) * cell.hidden) for at in range(count)]


def _times(cell: _Cell, state: Any, *, bias: bool) -> Any:
    out = mb.matmul(x=state, y=cell.recurrent, transpose_y=True)
    return mb.add(x=out, y=cell.hidden_bias) if bias and cell.hidden_bias is not None else out


def _clipped(cell: _Cell, x: Any) -> Any:
    if not cell.clip:
        return x
    return mb.minimum(x=mb.maximum(x=x, y=np.float32(-cell.clip)), y=np.float32(cell.clip))


def _rnn_step(cell: _Cell, now: Any, states: list[Any]) -> list[Any]:
    both = mb.add(x=now, y=_times(cell, states[0], bias=True))
    return [cell.activations[0](_clipped(cell, both))]


def _gru_step(cell: _Cell, now: Any, states: list[Any], *, after: bool) -> list[Any]:
    """ONNX's gates z, r, h; the reset gate before the recurrent product, or after it with its bias."""
    (hidden,) = states
    size = cell.hidden
    old = _times(cell, hidden, bias=True)
    gates = [
        _clipped(cell, mb.add(x=a, y=b))
        for a, b in zip(_gates(cell, now, 2), _gates(cell, old, 2), strict=True)
    ]
    update, reset = (cell.activations[0](gate) for gate in gates)
    fresh = sliced(now, 1, 2 * size, 3 * size)
    if after:
        part = mb.mul(x=reset, y=sliced(old, 1, 2 * size, 3 * size))
    else:
        third = sliced(cell.recurrent, 0, 2 * size, 3 * size)
        part = mb.matmul(x=mb.mul(x=reset, y=hidden), y=third, transpose_y=True)
        if cell.hidden_bias is not None:
            part = mb.add(x=part, y=sliced(cell.hidden_bias, 0, 2 * size, 3 * size))
    new = cell.activations[1](_clipped(cell, mb.add(x=fresh, y=part)))
    kept = mb.mul(x=mb.sub(x=np.float32(1), y=update), y=new)
    return [mb.add(x=kept, y=mb.mul(x=update, y=hidden))]


def _lstm_step(cell: _Cell, now: Any, states: list[Any]) -> list[Any]:
    """ONNX's gates i, o, f, c; peepholes i, o, f, the output's from the new cell state."""
    hidden, memory = states
    both = mb.add(x=now, y=_times(cell, hidden, bias=True))
    enter, leave, forget, fresh = _gates(cell, both, 4)
    if cell.peepholes is not None:
        views = [sliced(cell.peepholes, 0, at * cell.hidden, (at + 1) * cell.hidden) for at in range(3)]
        enter = mb.add(x=enter, y=mb.mul(x=views[0], y=memory))
        forget = mb.add(x=forget, y=mb.mul(x=views[2], y=memory))
    gate, squash, show = cell.activations
    kept = mb.mul(x=gate(_clipped(cell, forget)), y=memory)
    new = mb.add(x=kept, y=mb.mul(x=gate(_clipped(cell, enter)), y=squash(_clipped(cell, fresh))))
    if cell.peepholes is not None:
        leave = mb.add(x=leave, y=mb.mul(x=views[1], y=new))
    return [mb.mul(x=gate(_clipped(cell, leave)), y=show(new)), new]
