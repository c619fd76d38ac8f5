"""DFT and STFT of known length: products with a constant matrix, which numpy's transform of ones makes.

The last axis of a signal holds its real part, or its real and imaginary part: axis and parts are joined, so
that one matrix [values in, values out] does the whole transform.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from edgebench.convert.coreml.base import Array, Node, elements, mb, permuted, reshaped, taken

MAX_MATRIX = 1 << 25  # entries: 128 MiB of weights
_AXIS_IS_INPUT = 20  # of DFT, since that opset


class _Transform(NamedTuple):
    """How many values go in, of how many parts, and the length and form of what comes out."""

    size: int
    parts: int
    length: int
    inverse: bool = False
    onesided: bool = False

    @property
    def bins(self) -> int:
        """How many values come out."""
        halved = self.onesided and not self.inverse
        return self.length // 2 + 1 if halved else self.length

    @property
    def parts_out(self) -> int:
        """1 where the result is real by definition, else 2."""
        return 1 if self.onesided and self.inverse else 2


# --- DFT -----------------------------------------------------------------------------------------


def dft(node: Node) -> Any:
    """The Fourier transform along one axis, or its inverse."""
    node.require_float()
    x = node.value(0)
    axis = _axis(node)
    transform = _Transform(
        size=x.shape[axis],
        parts=x.shape[-1],
        length=_length(node, x.shape[axis]),
        inverse=bool(node.attribute("inverse", 0)),
        onesided=bool(node.attribute("onesided", 0)),
    )
    _check(node, transform)
    order = [at for at in range(x.rank) if at not in (axis, x.rank - 1)] + [axis, x.rank - 1]
    moved = permuted(node.var(0), order)
    outer = [int(size) for size in moved.shape[:-2]]
    flat = reshaped(moved, (elements(outer), transform.size * transform.parts))
    out = mb.matmul(x=flat, y=_matrix(node, transform))
    shaped = reshaped(out, (*outer, transform.bins, transform.parts_out))
    return permuted(shaped, [order.index(at) for at in range(x.rank)])


def _axis(node: Node) -> int:
    rank = node.value(0).rank
    if node.opset < _AXIS_IS_INPUT:
        axis = node.axis(rank, 1)
    else:
        axis = node.counted(node.ints(2, "the axis")[0] if node.given(2) else -2, rank)
    if axis == rank - 1:
        raise node.refused("the last axis holds real and imaginary parts", "export the network to ONNX again")
    return axis


def _length(node: Node, size: int) -> int:
    if node.given(1):
        return node.ints(1, "the length")[0]
    halved = node.attribute("inverse", 0) and node.attribute("onesided", 0)
    return 2 * (size - 1) if halved else size


def _check(node: Node, transform: _Transform) -> None:
    if transform.parts not in (1, 2) or transform.length < 1:
        raise node.refused(
            f"a signal of {transform.parts} parts and a length of {transform.length} have no transform",
            "export the network to ONNX again",
        )
    if transform.onesided and transform.parts != (2 if transform.inverse else 1):
        raise node.refused(
            "onesided, a transform is from real to complex and its inverse from complex to real",
            "set onesided to 0",
        )


def _matrix(node: Node, transform: _Transform, window: Array | None = None) -> Any:
    """[size * parts, bins * parts out]: each single value transformed, times its weight of the window."""
    columns = transform.bins * transform.parts_out
    if transform.size * transform.parts * columns > MAX_MATRIX:
        raise node.refused(
            f"a transform of {transform.size} values to {transform.bins} is too large for one matrix product",
            "cut the signal into shorter frames",
        )
    rows = np.eye(transform.size)[:, None] * np.array([1, 1j][: transform.parts])[None, :, None]
    rows = rows if window is None else rows * window.astype(np.float64)
    made = _transformed(rows, transform)
    parts = made if transform.parts_out == 1 else np.stack([made.real, made.imag], axis=-1)
    return parts.reshape(transform.size * transform.parts, columns).astype(np.float32)


def _transformed(rows: Array, transform: _Transform) -> Array:
    if not transform.inverse:
        return np.fft.fft(rows, n=transform.length)[..., : transform.bins]
    if transform.onesided:
        return np.fft.irfft(rows, n=transform.length)
    return np.fft.ifft(rows, n=transform.length)


# --- STFT ----------------------------------------------------------------------------------------


def stft(node: Node) -> Any:
    """The Fourier transforms of frames of a signal, each weighed by a window."""
    node.require_float()
    x = node.value(0)
    if x.rank != 3:
        raise node.refused(f"it takes [batch, length, parts], and this has the shape {list(x.shape)}")
    batch, length, parts = x.shape
    frame, step = _frame(node, length), node.ints(1, "the step")[0]
    if step < 1 or not 1 <= frame <= length:
        raise node.refused(
            f"frames of {frame} every {step} values do not fit a signal of {length}", "correct them"
        )
    transform = _Transform(frame, parts, frame, onesided=bool(node.attribute("onesided", 1)))
    _check(node, transform)
    known = node.value(2).const if node.given(2) else None
    matrix = _matrix(node, transform, known)
    count = (length - frame) // step + 1
    places = np.arange(count)[:, None] * step + np.arange(frame)
    frames = reshaped(taken(node.var(0), places, 1), (batch * count, frame, parts))
    if node.given(2) and known is None:
        frames = mb.mul(x=frames, y=reshaped(node.var(2), (1, frame, 1)))
    out = mb.matmul(x=reshaped(frames, (batch * count, frame * parts)), y=matrix)
    return reshaped(out, (batch, count, transform.bins, transform.parts_out))


def _frame(node: Node, length: int) -> int:
    """The length of a frame: told, or that of the window, or all."""
    window = node.value(2).shape if node.given(2) else ()
    frame = node.ints(3, "the frame length")[0] if node.given(3) else (window or (length,))[0]
    if window and window != (frame,):
        raise node.refused(
            f"a window of {list(window)} does not fit frames of {frame} values", "correct the window"
        )
    return frame
