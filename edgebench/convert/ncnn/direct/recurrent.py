"""RNN, GRU and LSTM of one sequence: ncnn's layers want weights in another order of gates.

ONNX has X [steps, 1, size], W [directions, gates * hidden, size], R likewise, and B [directions, 2 * gates *
hidden]. ncnn takes [steps, size] and gives [steps, directions * hidden]: Y [steps, directions, 1, hidden] in
its order. Gates of ONNX are iofc (LSTM) and zrh (GRU), of ncnn ifog and ruN (its g and N are ONNX's c and h);
formulas from ncnn's source (lstm.cpp, gru.cpp, rnn.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebench.convert.ncnn.direct.base import Array, Mat, Net, Node, Rule, Value, refused

_GATES = {"LSTM": (0, 2, 1, 3), "GRU": (1, 0, 2), "RNN": (0,)}
_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
_DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_UNTAKEN = ("clip", "input_forget", "layout")


def _recurrent(net: Net, node: Node) -> list[Value]:
    """Y, Y_h and, for an LSTM, Y_c."""
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    x, first_states = inputs[0], inputs[5 : 5 + _STATES[node.op]]
    weight, recurrence = _weights(node, 1), _weights(node, 2)
    hidden, directions = recurrence.shape[2], recurrence.shape[0]
    if x is None or x.shape[1] != 1:
        raise refused(f"{node.op} of more than one sequence at a time")
    _check(node, inputs, steps=x.shape[0], directions=directions)
    _write(net, node, (weight, recurrence))
    blobs = [net.with_dims(x, (x.shape[0], x.shape[2]))]
    if any(state is not None for state in first_states):
        blobs += [_state(net, state, (directions, hidden)) for state in first_states]
    sizes = [(x.shape[0], directions * hidden)] + [(directions, hidden)] * _STATES[node.op]
    direction = _DIRECTIONS[_text(node, "direction", "forward")]
    made = net.several(node.op, blobs, sizes, p0=hidden, p1=weight.size, p2=direction)
    shapes = [(x.shape[0], directions, 1, hidden)] + [(directions, 1, hidden)] * _STATES[node.op]
    return [net.reshape(mat, shape) for mat, shape in zip(made, shapes, strict=True)]


def _state(net: Net, state: Value | None, dims: tuple[int, int]) -> Mat:
    return net.with_dims(np.zeros(dims, np.float32) if state is None else state, dims)


def _weights(node: Node, place: int) -> Array:
    weights = node.constant(place)
    if weights is None or weights.dtype != np.float32:
        raise refused(f"{node.op} whose weights are not float32")
    return weights


def _check(node: Node, inputs: Sequence[Value | None], *, steps: int, directions: int) -> None:
    """Refuses what the layers of ncnn do not have."""
    for name in _UNTAKEN:
        if node.attributes.get(name):
            raise refused(f"{node.op} with {name}")
    asked = [each.decode() for each in node.attributes.get("activations", ())]
    if asked and asked != _ACTIVATIONS[node.op] * directions:
        raise refused(f"{node.op} with the activations {', '.join(asked)}")
    if node.op == "GRU" and not node.attributes.get("linear_before_reset"):
        raise refused("GRU that resets before the linear part (linear_before_reset 0)")
    lengths = inputs[4]
    if lengths is not None and (isinstance(lengths, Mat) or (np.asarray(lengths) != steps).any()):
        raise refused(f"{node.op} with lengths of sequences")
    if inputs[7] is not None and (isinstance(inputs[7], Mat) or np.asarray(inputs[7]).any()):
        raise refused(f"{node.op} with peepholes")


def _write(net: Net, node: Node, weights: tuple[Array, Array]) -> None:
    """Input weights, biases, recurrent weights: each behind its tag."""
    order, (weight, recurrence) = _GATES[node.op], weights
    directions, hidden = recurrence.shape[0], recurrence.shape[2]
    gates = len(order)
    bias = node.constant(3)
    if bias is None:
        bias = np.zeros((directions, 2 * gates * hidden), np.float32)
    of_input, of_state = np.moveaxis(bias.reshape(directions, 2, gates, hidden), 1, 0)[:, :, list(order)]
    if node.op == "GRU":  # the reset gate works on what the state gives, its bias included
        rows = np.stack(
            [*(of_input + of_state)[:, :2].swapaxes(0, 1), of_input[:, 2], of_state[:, 2]], axis=1
        )
    else:
        rows = of_input + of_state
    for each in (_ordered(weight, order), rows, _ordered(recurrence, order)):
        net.tagged(each)


def _ordered(weights: Array, order: Sequence[int]) -> Array:
    """[directions, gates * hidden, size] with the gates in another order."""
    directions, rows, size = weights.shape
    return weights.reshape(directions, len(order), rows // len(order), size)[:, list(order)]


def _text(node: Node, name: str, default: str) -> str:
    value = node.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


RULES: dict[str, Rule] = {"GRU": _recurrent, "LSTM": _recurrent, "RNN": _recurrent}
