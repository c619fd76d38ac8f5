"""How much alike two networks answer the same samples, without labels: SNR, cosine, agreement. Pure.

Each sample gets its own numbers, those of its worst output; what is told is their mean with Student's 95 %
interval. Agreement is the share of samples whose highest output is the same, with Wilson's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import accuracy, comparison
from edgebench.comparison import ALPHA
from edgebench.parity import SNR_CAP_DB
from edgebench.records import Record

Array = NDArray[Any]
Outputs = Mapping[str, Array]


class Share(Record, frozen=True):
    """A mean or a share with its 95 % interval; none where there is one sample."""

    value: float
    low: float | None = None
    high: float | None = None


class Likeness(Record, frozen=True):
    """How much alike `n` samples are answered. `agreement` is None where the outputs are no classes."""

    n: int
    snr_db: Share
    cosine: Share
    agreement: Share | None = None


class Alike:
    """Collects samples, one after the other; `result` tells what they come to."""

    def __init__(self) -> None:
        self._snr_db: list[float] = []
        self._cosine: list[float] = []
        self._agree: list[bool | None] = []

    def add(self, reference: Outputs, other: Outputs, classes: str) -> None:
        """One sample's outputs by both; `classes` names the output that holds a number a class."""
        pairs = [
            (each.astype(np.float64).ravel(), np.asarray(other[name], np.float64).ravel())
            for name, each in reference.items()
        ]
        self._snr_db.append(min((_snr_db(*pair) for pair in pairs), default=SNR_CAP_DB))
        self._cosine.append(min((_cosine(*pair) for pair in pairs), default=1.0))
        self._agree.append(_agree(reference[classes], other[classes]))

    def result(self) -> Likeness | None:
        """What was collected; None of no sample."""
        if not self._snr_db:
            return None
        agree = [each for each in self._agree if each is not None]
        return Likeness(
            n=len(self._snr_db),
            snr_db=_mean(self._snr_db),
            cosine=_mean(self._cosine),
            agreement=_share(agree) if len(agree) == len(self._agree) else None,
        )


def _snr_db(reference: Array, other: Array) -> float:
    """10 log10 of signal over error, within ±200 dB; what is not finite is lost."""
    if reference.shape != other.shape or not np.isfinite(other).all():
        return -SNR_CAP_DB
    scale = float(np.abs(reference).max(initial=0.0)) or 1.0
    signal = float(np.square(reference / scale).sum())
    noise = float(np.square((reference - other) / scale).sum())
    if not noise:
        return SNR_CAP_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -SNR_CAP_DB, SNR_CAP_DB))


def _cosine(reference: Array, other: Array) -> float:
    if reference.shape != other.shape or not np.isfinite(other).all():
        return 0.0
    sizes = float(np.linalg.norm(reference)), float(np.linalg.norm(other))
    if not all(sizes):
        return float(sizes[0] == sizes[1])
    return float(np.clip(reference @ other / (sizes[0] * sizes[1]), -1.0, 1.0))


def _agree(reference: Array, other: Array) -> bool | None:
    """Whether both have their highest number in the same place; None where they hold no classes."""
    if reference.shape != other.shape or sum(size > 1 for size in reference.shape) != 1:
        return None
    return int(np.argmax(reference)) == int(np.argmax(other)) and not np.isnan(other).any()


def _mean(values: Sequence[float]) -> Share:
    found = comparison.paired(values)
    middle = float(np.mean(values))
    if found is None:
        return Share(value=middle)
    return Share(value=middle, low=found.lower(ALPHA / 2), high=found.upper(ALPHA / 2))


def _share(agree: Sequence[bool]) -> Share:
    low, high = accuracy.wilson(sum(agree), len(agree))
    return Share(value=sum(agree) / len(agree), low=low, high=high)
