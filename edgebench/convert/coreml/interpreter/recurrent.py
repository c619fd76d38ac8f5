"""Recurrent layers: lstm, gru, rnn over [sequence, batch, features].

With direction "reverse" the sequence is walked from its end and the outputs come in the order of the walk;
only a bidirectional lstm puts its backward outputs back in the order of the input. coremltools' tests of
Core ML itself expect so, its documentation does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgebench.convert.coreml.interpreter.base import Array, Call, Kernel, sigmoid

# Slopes and limits of the parametric ones: the defaults of Core ML, which MIL gives no way to change.
_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "scaled_tanh": np.tanh,
    "sigmoid": sigmoid,
    "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "tanh": np.tanh,
}


def _activation(call: Call, key: str, default: str) -> Callable[[Array], Array]:
    name = call.text(key, default).lower()
    if name not in _ACTIVATIONS:
        raise call.refuse(f'the activation "{name}" is not known')
    return _ACTIVATIONS[name]


def _walk(call: Call) -> Array:
    """The input in the order in which it is walked."""
    x, direction = call.array("x"), call.text("direction", "forward")
    if x.ndim != 3 or direction not in ("forward", "reverse"):
        raise call.refuse(f'an input of rank {x.ndim} cannot be walked "{direction}"')
    return x if direction == "forward" else x[::-1]


def _projected(call: Call, x: Array, suffix: str = "") -> Array:
    """What the input adds to the gates at every step: one matrix product for the whole sequence."""
    projected = np.matmul(x, call.array(f"weight_ih{suffix}").T)
    bias = call.maybe(f"bias{suffix}")
    return projected if bias is None else np.asarray(projected + bias)


def _sequence(call: Call, states: list[Array]) -> Array:
    return np.stack(states if call.flag("output_sequence") else states[-1:])


# --- rnn and gru ----------------------------------------------------------------------------------


def _rnn(call: Call) -> tuple[Array, ...]:
    activation, weight = _activation(call, "activation", "tanh"), call.array("weight_hh").T
    h, states = call.array("initial_h"), []
    for inputs in _projected(call, _walk(call)):
        h = activation(inputs + h @ weight)
        states.append(h)
    return _sequence(call, states), h


def _gru(call: Call) -> tuple[Array, ...]:
    """Gates r, o, z. The reset gate acts on the state before the matrix product: R_o (r * h).

    The documentation's formula has r * (R_o h) instead, but Core ML computes this one (coremltools' tests).
    Those tests know two more things that are refused here: a batch beyond the first item comes out wrong, and
    `reset_after` does not give what it should.
    """
    if call.flag("reset_after") or call.has("input_bias"):
        raise call.refuse("reset_after is known to come out wrong on devices", hint="unroll the layer")
    walked = _walk(call)
    if walked.shape[1] != 1:
        raise call.refuse(
            f"a batch of {walked.shape[1]} is known to come out wrong on devices", hint="unroll the layer"
        )
    gate = _activation(call, "recurrent_activation", "sigmoid")
    activation = _activation(call, "activation", "tanh")
    weight_r, weight_o, weight_z = (part.T for part in np.split(call.array("weight_hh"), 3))
    h, states = call.array("initial_h"), []
    for inputs in _projected(call, walked):
        inputs_r, inputs_o, inputs_z = np.split(inputs, 3, axis=-1)
        r, z = gate(inputs_r + h @ weight_r), gate(inputs_z + h @ weight_z)
        o = activation(inputs_o + (r * h) @ weight_o)
        h = (1 - z) * o + z * h
        states.append(h)
    return _sequence(call, states), h


# --- lstm -----------------------------------------------------------------------------------------


def _lstm(call: Call) -> tuple[Array, ...]:
    h, c = call.array("initial_h"), call.array("initial_c")
    if call.text("direction", "forward") != "bidirectional":
        states, last_c = _lstm_walk(call, _walk(call), (h, c))
        return _sequence(call, states), states[-1], last_c
    x = call.array("x")
    half = h.shape[1] // 2
    forward, forward_c = _lstm_walk(call, x, (h[:, :half], c[:, :half]))
    backward, backward_c = _lstm_walk(call, x[::-1], (h[:, half:], c[:, half:]), "_back")
    final = np.concatenate([forward[-1], backward[-1]], axis=-1)
    whole = final[None]
    if call.flag("output_sequence"):
        whole = np.concatenate([np.stack(forward), np.stack(backward[::-1])], axis=-1)
    return whole, final, np.concatenate([forward_c, backward_c], axis=-1)


def _lstm_walk(
    call: Call, x: Array, start: tuple[Array, Array], suffix: str = ""
) -> tuple[list[Array], Array]:
    """The hidden state after each step, and the last cell state. Gates i, f, o, z; `clip` bounds the cell."""
    gate = _activation(call, "recurrent_activation", "sigmoid")
    cell, outward = _activation(call, "cell_activation", "tanh"), _activation(call, "activation", "tanh")
    weight = call.array(f"weight_hh{suffix}").T
    peephole = call.maybe(f"peephole{suffix}")
    peep_i, peep_f, peep_o = np.split(peephole, 3) if peephole is not None else (0, 0, 0)
    clip = call.number("clip") if call.has("clip") else np.inf
    (h, c), states = start, []
    for inputs in _projected(call, x, suffix):
        i, f, o, z = np.split(inputs + h @ weight, 4, axis=-1)
        c = gate(f + peep_f * c) * c + gate(i + peep_i * c) * cell(z)
        c = np.clip(c, -clip, clip)
        h = gate(o + peep_o * c) * outward(c)
        states.append(h)
    return states, c


KERNELS: Mapping[str, Kernel] = {"gru": _gru, "lstm": _lstm, "rnn": _rnn}
