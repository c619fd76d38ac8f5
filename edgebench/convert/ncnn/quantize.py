"""A float ncnn network -> the same network with chosen layers in int8. Pure: numpy on bytes, no ncnn.

Symmetric, without zero points (Tencent/ncnn, `Convolution::forward_int8`):

    weight scale[c] = Q / max|W[c,:]|         a scale for each output channel, or each group
    q[c,:]          = round(W[c,:] * scale[c])
    input scale     = 127 / threshold         threshold: the largest |input| to represent
    inference       : act(sum(xq * wq) / (input scale * weight scale[c]) + bias[c]), the bias in float32

A Gemm with constant weights, as pnnx writes most fully connected layers, becomes an InnerProduct: ncnn's int8
Gemm has one scale for all weights.

Recurrent layers (LSTM, GRU, RNN) have a weight scale for each row of a gate and none for the input: ncnn
quantizes that while it runs, or computes with floats.

Q is 127, but 31 for 3x3 convolutions with stride and dilation 1: ncnn may compute these by Winograd's F(4,3),
whose sums of larger weights overflow its integers without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgebench.convert.ncnn.param import FLOAT32, INT8, QUANTIZED, RECURRENT, Block, Layer, Network
from edgebench.errors import BugError, ModelError

FULL = 127
SIX_BIT = 31
SMALLEST = 1e-9  # stands for the largest weight of a channel that is all zeros
INT8_TERM = 8
# keys of a Gemm and what they must be: alpha, beta, A as it is and no constant, B constant, output as it is
_PLAIN = {
    "0": "1",
    "1": "1",
    "2": "0",
    "4": "0",
    "5": "1",
    "11": "0",
    "12": "0",
    "13": "0",
    "14": "0",
    "18": "0",
}

Floats = NDArray[np.float32]


def quantizable(layer: Layer) -> bool:
    """Whether edgebench writes an int8 form of the layer: float weights; dense, depthwise or recurrent."""
    if layer.kind == "Gemm":
        inner_product = _inner_product(layer)
        return inner_product is not None and quantizable(inner_product)
    if layer.kind not in (*QUANTIZED, *RECURRENT) or layer.whole(INT8_TERM) or not layer.blocks:
        return False
    if layer.kind == "ConvolutionDepthWise" and layer.whole(7, 1) != layer.whole(0):
        return False
    rows = _rows(layer)
    return all(
        weights.tag == FLOAT32 and rows > 0 and len(weights.data) > 0 and len(weights.data) % (4 * rows) == 0
        for weights in _weights(layer)
    )


def _inner_product(gemm: Layer) -> Layer | None:
    """The same layer as an InnerProduct; None where it is more than rows by weights and a bias."""
    if gemm.kind != "Gemm" or len(gemm.inputs) != 1 or not gemm.blocks:
        return None
    keys = {"0": "1", "1": "1"} | dict(gemm.keys)
    told = {key: keys.get(key, "0") for key in _PLAIN}
    if any(told[key] not in (plain, f"{float(plain):e}") for key, plain in _PLAIN.items()):
        return None
    if any(block.tag != FLOAT32 for block in gemm.blocks) or (
        gemm.whole(6) and gemm.whole(10) not in (-1, 4)
    ):
        return None
    columns, inner = gemm.whole(8), gemm.whole(9)
    weights = np.frombuffer(gemm.blocks[0].data, "<f4")
    if columns <= 0 or weights.size != columns * inner:
        return None
    rows = weights.reshape(columns, inner) if gemm.whole(3) else weights.reshape(inner, columns).T
    biases = tuple(Block(None, block.data) for block in gemm.blocks[1:])
    sizes = {"0": columns, "1": len(biases), "2": columns * inner}
    return gemm._replace(
        kind="InnerProduct",
        keys=tuple((key, str(value)) for key, value in sizes.items()),
        blocks=(Block(FLOAT32, rows.tobytes()), *biases),
    )


def has_range(layer: Layer) -> bool:
    """Whether the int8 form needs the range of the layer's input."""
    return layer.kind not in RECURRENT


def winograd(layer: Layer) -> bool:
    """Whether ncnn may compute the layer by Winograd: 3x3, stride 1, dilation 1, not depthwise."""
    if layer.kind != "Convolution":
        return False
    kernel, dilation, stride = layer.whole(1), layer.whole(2, 1), layer.whole(3, 1)
    sizes = (kernel, layer.whole(11, kernel))
    steps = (dilation, layer.whole(12, dilation), stride, layer.whole(13, stride))
    return sizes == (3, 3) and set(steps) == {1}


def weights_of(layer: Layer) -> Floats:
    """The float weights of a quantizable layer, a row for each output channel (depthwise: each group).

    Of a recurrent layer: those of its input, a row for each gate of each state.
    """
    layer = _inner_product(layer) or layer
    return _matrix(layer, layer.blocks[0])


def _weights(layer: Layer) -> tuple[Block, ...]:
    """The blocks that become int8; recurrent layers have their biases between two."""
    return (layer.blocks[0], layer.blocks[2]) if layer.kind in RECURRENT else layer.blocks[:1]


def _rows(layer: Layer) -> int:
    if layer.kind not in RECURRENT:
        return layer.whole(0)
    hidden = layer.whole(3, layer.whole(0)) if layer.kind == "LSTM" else layer.whole(0)
    return RECURRENT[layer.kind] * hidden * (2 if layer.whole(2) == 2 else 1)


def _matrix(layer: Layer, block: Block) -> Floats:
    return np.frombuffer(block.data, "<f4").reshape(_rows(layer), -1)


def quantized(network: Network, thresholds: Mapping[str, float]) -> Network:
    """The network with the layers that `thresholds` names in int8; all others are untouched."""
    unknown = set(thresholds) - {layer.name for layer in network.layers if quantizable(layer)}
    if unknown:
        raise BugError(f"these layers cannot be int8: {', '.join(sorted(unknown))}")
    layers = (
        _quantized(layer, thresholds[layer.name]) if layer.name in thresholds else layer
        for layer in network.layers
    )
    return Network(tuple(layers))


def _quantized(layer: Layer, threshold: float) -> Layer:
    layer = _inner_product(layer) or layer
    if layer.kind in RECURRENT:
        (inputs, input_scales), (states, state_scales) = (_codes(layer, each) for each in _weights(layer))
        bias, projection = layer.blocks[1], layer.blocks[3:]
        blocks = (inputs, bias, states, *projection, input_scales, state_scales)
        return layer.with_key(INT8_TERM, 2)._replace(blocks=blocks)
    codes, scales = _codes(layer, layer.blocks[0])
    input_scale = np.array([FULL / max(threshold, SMALLEST)], "<f4")
    blocks = (codes, *layer.blocks[1:], scales, Block(None, input_scale.tobytes()))
    term = 1 if layer.kind == "ConvolutionDepthWise" else 2
    return layer.with_key(INT8_TERM, term)._replace(blocks=blocks)


def _codes(layer: Layer, block: Block) -> tuple[Block, Block]:
    """The int8 form of float weights, and the scale of each row."""
    weights = _matrix(layer, block)
    if not np.isfinite(weights).all():
        raise ModelError(
            f'the weights of {layer.kind} "{layer.name}" are not finite', hint="check the model's weights"
        )
    largest = np.maximum(np.abs(weights).max(axis=1), SMALLEST)
    scales = ((SIX_BIT if winograd(layer) else FULL) / largest.astype(np.float64)).astype("<f4")
    codes = np.clip(_rounded(weights * scales[:, None]), -FULL, FULL).astype(np.int8)
    return Block(INT8, codes.tobytes()), Block(None, scales.tobytes())


def _rounded(values: Floats) -> Floats:
    """Half away from zero, as ncnn rounds; numpy rounds half to even."""
    made: Floats = np.trunc(values + np.copysign(np.float32(0.5), values))
    return made
