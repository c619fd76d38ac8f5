"""What a network's layers see and what int8 does to them, measured in ncnn on samples.

Thresholds, one for the input of each layer: the largest absolute value, or the one whose 128 codes keep most
of the distribution (`kl_threshold`). Both come from one pass over the samples (`ranges`). Distances are SNRs
in dB, each layer alone: it is given the same input as its float twin, so that a poor layer is not blamed for
what happened before it.

Samples are computed side by side, each by one thread: threads within an inference wait for one another at
every layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgebench.convert.ncnn.base import Array, Net, Run, Runs, Sample
from edgebench.convert.ncnn.param import Layer
from edgebench.errors import ModelError
from edgebench.tools import usable_cores

Floats = NDArray[np.float64]
Result = TypeVar("Result")

BINS = 2048
FINE = 4 * BINS  # bins while the largest value is not yet known
CODES = 128
EPSILON = 0.0001  # added to every bin of both distributions, so that no logarithm is infinite
LOST_DB = -200.0  # the SNR of a layer that computes nothing usable
CAP_DB = 200.0
TINY = 1e-30  # below, a blob is 0: float32 cannot scale it
MAX_AT_ONCE = 8  # samples: each takes the memory of all its blobs


def _each(work: Callable[[Sample], Result], samples: Iterable[Sample]) -> list[Result]:
    """What `work` gives for every sample, in their order; several are worked on at a time."""
    with ThreadPoolExecutor(min(MAX_AT_ONCE, usable_cores())) as pool:
        return list(pool.map(work, samples))


# --- ranges -------------------------------------------------------------------------------------


class Histogram:
    """Where the absolute values of a blob lie: FINE bins over [0, reach]; exact zeros do not count.

    `reach` is the power of two at or above the largest value so far: when a larger one comes, neighbouring
    bins are put together. So one pass is enough, and no value is looked at twice.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self._reach = 0.0
        self._counts = np.zeros(FINE, np.int64)
        self._lock = Lock()

    def add(self, values: Array) -> bool:
        """Count the values in; False where one is NaN or infinite."""
        sizes = np.abs(values).ravel()
        found = float(sizes.max(initial=0.0))
        if not math.isfinite(found):
            return False
        if found > TINY:
            with self._lock:
                self._grow(found)
                self._counts += _counted(sizes, self._reach, FINE)
        return True

    def over_largest(self) -> Floats:
        """The counts in BINS bins over [0, largest]; those of a bin that two share are spread evenly."""
        if self.largest == 0:
            return np.zeros(BINS)
        below: Floats = np.concatenate(([0.0], np.cumsum(self._counts)))
        edges = np.linspace(0.0, self.largest / self._reach * FINE, BINS + 1)
        edges[-1] = FINE  # the last fine bin reaches beyond the largest value, which lies in it
        return np.diff(np.interp(edges, np.arange(FINE + 1), below))

    def _grow(self, found: float) -> None:
        self.largest = max(self.largest, found)
        if self.largest <= self._reach:
            return
        reach = 2.0 ** math.ceil(math.log2(self.largest))
        if self._reach > 0:
            joined = min(FINE, int(reach / self._reach))
            sums = self._counts.reshape(-1, joined).sum(axis=1)
            self._counts = np.concatenate((sums, np.zeros(FINE - len(sums), np.int64)))
        self._reach = reach


def ranges(net: Runs, blobs: Sequence[str], samples: Iterable[Sample]) -> dict[str, Histogram]:
    """Blob -> its largest absolute value and its distribution over all samples.

    ModelError where a blob is NaN or infinite.
    """
    found = {blob: Histogram() for blob in blobs}

    def look(sample: Sample) -> None:
        run = net.run(sample)
        for blob, histogram in found.items():
            if not histogram.add(run.values(blob)):
                raise _not_finite(blob)

    _each(look, samples)
    return found


def absmax(net: Runs, blobs: Sequence[str], samples: Iterable[Sample]) -> dict[str, float]:
    """Blob -> its largest absolute value over all samples; ModelError where one is NaN or infinite."""

    def look(sample: Sample) -> list[float]:
        run = net.run(sample)
        found = []
        for blob in blobs:
            values = run.values(blob)
            found.append(max(float(values.max()), -float(values.min())))
            if not math.isfinite(found[-1]):
                raise _not_finite(blob)
        return found

    return dict(zip(blobs, map(max, zip(*_each(look, samples), strict=True)), strict=True))


def _not_finite(blob: str) -> ModelError:
    return ModelError(
        f'the calibration inputs make the blob "{blob}" NaN or infinite',
        hint="check the calibration inputs and the model's weights",
    )


def histograms(net: Runs, largest: Mapping[str, float], samples: Iterable[Sample]) -> dict[str, Array]:
    """Blob -> how many values lie in each of the `BINS` bins over [0, largest]; exact zeros do not count."""

    def look(sample: Sample) -> list[Array]:
        run = net.run(sample)
        sizes = (np.abs(run.values(blob)).ravel() for blob in largest)
        return [
            _counted(each, most, BINS) if most > TINY else np.zeros(BINS, np.int64)
            for each, most in zip(sizes, largest.values(), strict=True)
        ]

    return {
        blob: sum(counts)
        for blob, counts in zip(largest, zip(*_each(look, samples), strict=True), strict=True)
    }


def _counted(sizes: Array, most: float, bins: int) -> Array:
    """How many of the sizes lie in each of the bins over [0, most], zeros left out. `sizes` is used up."""
    zeros = sizes.size - np.count_nonzero(sizes)
    sizes *= np.float32(bins / most)
    places = np.minimum(sizes, bins - 1, out=sizes).astype(np.int64)
    counted: Array = np.bincount(places, minlength=bins)
    counted[0] -= zeros
    return counted


# --- the KL threshold ---------------------------------------------------------------------------


def kl_threshold(histogram: Array, largest: float) -> float:
    """The threshold of ncnn2table's KL method.

    For t = 128 ... 2047 bins: P is the distribution cut at t, what lies beyond counted in its last bin; Q is
    the one of the first t bins seen through 128 codes, each code's mean spread over its (fractional) bins.
    The t with the smallest sum P log(P / Q) wins: (t + 0.5) * largest / 2048.
    """
    total = histogram.sum()
    if total == 0:
        return largest
    share: Floats = histogram / total
    below: Floats = np.concatenate(([0.0], np.cumsum(share)))
    tails = below[-1] - below[CODES:BINS]
    best = CODES + int(np.argmin(_own(share, tails) - _crossed(share, below, tails)))
    return (best + 0.5) * largest / BINS


def _own(share: Floats, tails: Floats) -> Floats:
    """For every t the sum of P log P."""
    entropy = np.concatenate(([0.0], np.cumsum((share + EPSILON) * np.log(share + EPSILON))))
    last = share[CODES - 1 : BINS - 1] + EPSILON + tails
    made: Floats = entropy[CODES - 1 : BINS - 1] + last * np.log(last)
    return made


class _Codes(NamedTuple):
    """For every t and code, in units of bins: where codes end, and which bins lie whole within one."""

    edge: NDArray[np.int64]  # the bin that holds a code's end
    into: Floats  # how far into it
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    width: Floats


@cache
def _codes() -> _Codes:
    bins = np.arange(CODES, BINS)[:, None]
    ends = bins * np.arange(CODES + 1)  # in 1/128 of a bin
    edge, into = ends // CODES, ends % CODES / CODES
    return _Codes(edge, into, edge[:, :-1] + (into[:, :-1] > 0), edge[:, 1:], bins / CODES)


def _crossed(share: Floats, below: Floats, tails: Floats) -> Floats:
    """For every t the sum of P log Q, for all codes at once.

    Q is the same in all bins that lie whole within a code; a bin that two codes share has the mean of both.
    """
    codes = _codes()
    padded = np.append(share, 0.0)
    reached = below[codes.edge] + codes.into * padded[codes.edge]
    means = np.diff(reached, axis=1) / codes.width
    whole = below[codes.last] - below[codes.first] + EPSILON * (codes.last - codes.first)
    whole[:, -1] += tails  # what was cut off counts in the last bin
    parts = codes.into[:, 1:-1]
    mixed = parts * means[:, :-1] + (1 - parts) * means[:, 1:]
    shared = np.where(parts > 0, padded[codes.edge[:, 1:-1]] + EPSILON, 0)
    made: Floats = np.einsum("tc,tc->t", whole, np.log(means + EPSILON))
    made += np.einsum("tc,tc->t", shared, np.log(mixed + EPSILON))
    return made


# --- distances ----------------------------------------------------------------------------------


def layer_snr(
    floats: Runs, int8: Net, layers: Sequence[Layer], samples: Sequence[Sample]
) -> dict[str, float]:
    """Layer name -> SNR in dB of the int8 layer's output, when it is given the float network's blobs."""

    def look(sample: Sample) -> list[Floats]:
        run = floats.run(sample)
        return [_energies(run.values(layer.outputs[0]), _alone(int8, layer, run)) for layer in layers]

    names = [layer.name for layer in layers]
    return dict(zip(names, _all_decibels(_each(look, samples)), strict=True))


def output_snr(floats: Runs, int8: Runs, outputs: Sequence[str], samples: Sequence[Sample]) -> float:
    """The lowest SNR in dB over the outputs of the whole int8 network."""

    def look(sample: Sample) -> list[Floats]:
        wanted, found = floats.run(sample), int8.run(sample)
        return [_energies(wanted.values(name), found.values(name)) for name in outputs]

    return min(_all_decibels(_each(look, samples)), default=CAP_DB)


def output_share(floats: Runs, int8: Runs, outputs: Sequence[str], samples: Sequence[Sample]) -> float:
    """The largest error of an output of the whole int8 network, as a share of that output's largest value."""

    def look(sample: Sample) -> list[tuple[float, float]]:
        wanted, found = floats.run(sample), int8.run(sample)
        return [_largest(wanted.values(name), found.values(name)) for name in outputs]

    most = np.max(_each(look, samples), axis=0)
    return max((error / value if value else math.inf for error, value in most if error), default=0.0)


def _largest(wanted: Array, found: Array) -> tuple[float, float]:
    """The largest distance, and the largest value; nothing that is not finite comes near."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return math.inf, 1.0
    distance = np.abs(wanted.astype(np.float64) - found).max(initial=0.0)
    return float(distance), float(np.abs(wanted).max(initial=0.0))


def unequal(plain: Runs, other: Net, layers: Sequence[Layer], samples: Sequence[Sample]) -> list[str]:
    """The layers whose output in `other` is not exactly that of `plain`, each given the blobs of `plain`."""

    def look(sample: Sample) -> list[bool]:
        run = plain.run(sample)
        return [_differs(run.values(layer.outputs[0]), _alone(other, layer, run)) for layer in layers]

    found = np.any(_each(look, samples), axis=0)
    return [layer.name for layer, differs in zip(layers, found, strict=True) if differs]


def _differs(wanted: Array, found: Array | None) -> bool:
    return found is None or not np.array_equal(wanted, found)


def _alone(net: Net, layer: Layer, run: Run) -> Array | None:
    """What a layer computes in `net` from its inputs in `run`; None when it computes nothing."""
    sources = {blob: run.mat(blob) for blob in layer.inputs}
    try:
        return net.alone(sources).values(layer.outputs[0])
    except ModelError:
        return None


def _energies(wanted: Array, found: Array | None) -> Floats:
    """The energy of the wanted values and of the distance to them; infinite where nothing can be compared."""
    reference = wanted.astype(np.float64)
    signal = float(np.sum(reference * reference))
    if found is None or found.shape != wanted.shape or not np.isfinite(found).all():
        return np.array([signal, np.inf])
    return np.array([signal, float(np.sum((reference - found) ** 2))])


def _all_decibels(samples: Sequence[Sequence[Floats]]) -> list[float]:
    """SNRs from energies that were found for every sample."""
    return [_decibels(*sum(pairs)) for pairs in zip(*samples, strict=True)]


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return CAP_DB
    if signal == 0 or math.isinf(noise):
        return LOST_DB
    return max(LOST_DB, min(CAP_DB, 10 * math.log10(signal / noise)))
