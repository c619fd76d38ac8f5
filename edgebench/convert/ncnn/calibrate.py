"""What a network's layers see and what int8 does to them, measured in ncnn on samples.

Thresholds, one for the input of each layer: the largest absolute value (`absmax`), or the one whose 128 codes
keep most of the distribution (`kl_threshold`). Distances are SNRs in dB, each layer alone: it is given the
same input as its float twin, so that a poor layer is not blamed for what happened before it.

Every `extract` is checked, and every Mat owns its data: ncnn.Mat(array) ignores strides and does not keep the
array alive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.convert.ncnn.param import Layer
from edgebench.errors import ModelError

Array = NDArray[Any]
Sample = Mapping[str, Array]  # blob name -> values, without the batch axis where ncnn wants none
Floats = NDArray[np.float64]

BINS = 2048
CODES = 128
EPSILON = 0.0001  # added to every bin of both distributions, so that no logarithm is infinite
LOST_DB = -200.0  # the SNR of a layer that computes nothing usable
CAP_DB = 200.0


class Settings(NamedTuple):
    """How ncnn computes. `threads` 0: one for each core."""

    threads: int = 0
    winograd: bool = True
    winograd43: bool = True


class Net:
    """A network loaded in ncnn. Float arithmetic is float32; all blobs of a run can be had."""

    def __init__(self, param: Path, weights: Path, settings: Settings = Settings()) -> None:  # noqa: B008
        import ncnn

        self._ncnn = ncnn
        self._net = ncnn.Net()
        options = self._net.opt
        options.lightmode = False  # else blobs are gone once they are used
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_packed = options.use_bf16_storage = False
        options.use_winograd_convolution = settings.winograd
        options.use_winograd43_convolution = settings.winograd43
        if settings.threads:
            options.num_threads = settings.threads
        for path, read in ((param, self._net.load_param), (weights, self._net.load_model)):
            if read(str(path)) != 0:
                raise ModelError(f"ncnn does not load the {path.name} that edgebench wrote", hint=_HINT)

    def run(self, sample: Sample) -> Run:
        """The computation for one sample; nothing is computed before its blobs are asked for."""
        return self.alone({name: self._mat(values) for name, values in sample.items()})

    def alone(self, mats: Mapping[str, Any]) -> Run:
        """The computation with some blobs given as Mats: what follows from them alone."""
        extractor = self._net.create_extractor()
        for name, mat in mats.items():
            if extractor.input(name, mat) != 0:
                raise ModelError(f'ncnn has no blob "{name}" to give values to', hint=_HINT)
        return Run(extractor, mats)

    def _mat(self, values: Array) -> Any:
        held = np.ascontiguousarray(values, np.float32 if values.dtype.kind == "f" else np.int32)
        return self._ncnn.Mat(held if held.ndim else held.reshape(1)).clone()


class Run:
    """One computation. It keeps its Mats: the extractor does not."""

    def __init__(self, extractor: Any, held: Mapping[str, Any]) -> None:
        self._extractor = extractor
        self._held = held

    def mat(self, blob: str) -> Any:
        """The Mat of a blob; ModelError when ncnn cannot compute it."""
        status, mat = self._extractor.extract(blob)
        if status != 0 or mat.empty():
            raise ModelError(f'ncnn could not compute the blob "{blob}" (status {status})', hint=_HINT)
        return mat

    def values(self, blob: str) -> Array:
        """The values of a blob; errors as `mat`."""
        return np.array(self.mat(blob))


_HINT = "use onnxruntime or openvino for int8, or ncnn with fp32 or fp16"


# --- thresholds ---------------------------------------------------------------------------------


def absmax(net: Net, blobs: Sequence[str], samples: Iterable[Sample]) -> dict[str, float]:
    """Blob -> its largest absolute value over all samples; ModelError where one is NaN or infinite."""
    largest = dict.fromkeys(blobs, 0.0)
    for sample in samples:
        run = net.run(sample)
        for blob in blobs:
            values = run.values(blob)
            found = max(float(values.max()), -float(values.min()))
            if not math.isfinite(found):
                raise ModelError(
                    f'the calibration inputs make the blob "{blob}" NaN or infinite',
                    hint="check the calibration inputs and the model's weights",
                )
            largest[blob] = max(largest[blob], found)
    return largest


def histograms(net: Net, largest: Mapping[str, float], samples: Iterable[Sample]) -> dict[str, Array]:
    """Blob -> how many values lie in each of the `BINS` bins over [0, largest]; exact zeros do not count."""
    counts = {blob: np.zeros(BINS, np.int64) for blob in largest}
    for sample in samples:
        run = net.run(sample)
        for blob, most in largest.items():
            if most > 0:
                counts[blob] += _counted(run.values(blob).ravel(), most)
    return counts


def _counted(values: Array, most: float) -> Array:
    scaled = np.abs(values)
    scaled *= np.float32(BINS / most)
    places = np.minimum(scaled, BINS - 1, out=scaled).astype(np.int64)
    counted: Array = np.bincount(places, minlength=BINS)
    counted[0] -= values.size - np.count_nonzero(values)
    return counted


def kl_threshold(histogram: Array, largest: float) -> float:
    """The threshold of ncnn2table's KL method.

    For t = 128 ... 2047 bins: P is the distribution cut at t, what lies beyond counted in its last bin; Q is
    the one of the first t bins seen through 128 codes, each code's mean spread over its (fractional) bins.
    The t with the smallest sum P log(P / Q) wins: (t + 0.5) * largest / 2048.
    """
    total = int(histogram.sum())
    if total == 0:
        return largest
    share: Floats = histogram / total
    below: Floats = np.concatenate(([0.0], np.cumsum(share)))
    entropy = np.concatenate(([0.0], np.cumsum((share + EPSILON) * np.log(share + EPSILON))))
    best = min(range(CODES, BINS), key=lambda bins: _divergence(share, below, entropy, bins))
    return (best + 0.5) * largest / BINS


def _divergence(share: Floats, below: Floats, entropy: Floats, bins: int) -> float:
    """The sum of P log(P / Q). `below` and `entropy` are running sums: of the shares, and of P log P."""
    width = bins / CODES
    edges = np.arange(CODES + 1, dtype=np.float64) * width
    means = np.diff(_between(below, edges, share)) / width
    reached = np.concatenate(([0.0], np.cumsum(means * width)))
    # the code that holds a bin's edge, and how far into it that lies
    places = np.arange(bins + 1) / width
    codes = np.minimum(places.astype(np.int64), CODES - 1)
    spread = np.diff(reached[codes] + (places - codes) * width * means[codes])
    kept = share[:bins] + EPSILON
    last = kept[-1] + (below[-1] - below[bins])
    own = entropy[bins - 1] + last * math.log(last)
    kept[-1] = last
    return float(own - kept @ np.log(spread + EPSILON))


def _between(below: Floats, edges: Floats, share: Floats) -> Floats:
    """The running sum at fractional edges: within a bin, its share is spread evenly."""
    whole = np.minimum(edges.astype(np.int64), len(share) - 1)
    made: Floats = below[whole] + (edges - whole) * share[whole]
    return made


# --- distances ----------------------------------------------------------------------------------


def layer_snr(floats: Net, int8: Net, layers: Sequence[Layer], samples: Sequence[Sample]) -> dict[str, float]:
    """Layer name -> SNR in dB of the int8 layer's output, when it is given the float network's blobs."""
    sums = {layer.name: np.zeros(2) for layer in layers}
    for sample in samples:
        run = floats.run(sample)
        for layer in layers:
            wanted = run.values(layer.outputs[0])
            found = _alone(int8, layer, run)
            sums[layer.name] += _energies(wanted, found)
    return {name: _decibels(*pair) for name, pair in sums.items()}


def output_snr(floats: Net, int8: Net, outputs: Sequence[str], samples: Sequence[Sample]) -> float:
    """The lowest SNR in dB over the outputs of the whole int8 network."""
    sums = {name: np.zeros(2) for name in outputs}
    for sample in samples:
        wanted, found = floats.run(sample), int8.run(sample)
        for name in outputs:
            sums[name] += _energies(wanted.values(name), found.values(name))
    return min((_decibels(*pair) for pair in sums.values()), default=CAP_DB)


def unequal(plain: Net, other: Net, layers: Sequence[Layer], samples: Sequence[Sample]) -> list[str]:
    """The layers whose output in `other` is not exactly that of `plain`, each given the blobs of `plain`."""
    found = set()
    for sample in samples:
        run = plain.run(sample)
        for layer in layers:
            computed = _alone(other, layer, run)
            if computed is None or not np.array_equal(run.values(layer.outputs[0]), computed):
                found.add(layer.name)
    return [layer.name for layer in layers if layer.name in found]


def _alone(net: Net, layer: Layer, run: Run) -> Array | None:
    """What a layer computes in `net` from its input in `run`; None when it computes nothing."""
    source = run.mat(layer.inputs[0])
    try:
        return net.alone({layer.inputs[0]: source}).values(layer.outputs[0])
    except ModelError:
        return None


def _energies(wanted: Array, found: Array | None) -> Floats:
    """The energy of the wanted values and of the distance to them; infinite where nothing can be compared."""
    reference = wanted.astype(np.float64)
    signal = float(np.sum(reference * reference))
    if found is None or found.shape != wanted.shape or not np.isfinite(found).all():
        return np.array([signal, np.inf])
    return np.array([signal, float(np.sum((reference - found) ** 2))])


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return CAP_DB
    if signal == 0 or math.isinf(noise):
        return LOST_DB
    return max(LOST_DB, min(CAP_DB, 10 * math.log10(signal / noise)))
