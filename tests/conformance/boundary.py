"""Which cases a runtime could take at all, by what it accepts as inputs and outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.conformance.cases import Case, read

COREML_AXES = 5
NCNN_AXES = range(1, 5)
SMALL_OR_UNSIGNED = ("int8", "int16", "uint8", "uint16", "uint32", "uint64")


class Bounds(NamedTuple):
    """Names of frozen cases within each boundary, and how many meet which limit of Core ML's."""

    coreml: frozenset[str]
    ncnn: frozenset[str]
    limits: dict[str, int]
    cases: int


def bounds(frozen: Sequence[Case]) -> Bounds:
    """The bounds of these cases; their files are read."""
    met: Counter[str] = Counter()
    coreml, ncnn = [], []
    for case in frozen:
        inputs, outputs = ([np.asarray(array) for array in side.values()] for side in read(case))
        limits = coreml_limits(inputs, outputs)
        met.update(limits)
        if not limits:
            coreml.append(case.name)
        if ncnn_takes([*inputs, *outputs]):
            ncnn.append(case.name)
    return Bounds(frozenset(coreml), frozenset(ncnn), dict(met.most_common()), len(frozen))


def coreml_limits(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[str]:
    """The limits of Core ML that a case meets: none means that a package could take and give its tensors."""
    every = [*inputs, *outputs]
    met = {
        "small or unsigned integers": any(array.dtype.name in SMALL_OR_UNSIGNED for array in every),
        "tensors of no elements": any(array.size == 0 for array in every),
        "inputs of rank 0": any(array.ndim == 0 for array in inputs),
        f"more than {COREML_AXES} axes": any(array.ndim > COREML_AXES for array in every),
        "float64 beyond float32": any(_beyond(array, "float64", np.finfo(np.float32)) for array in every),
        "int64 beyond int32": any(_beyond(array, "int64", np.iinfo(np.int32)) for array in every),
    }
    return [limit for limit, is_met in met.items() if is_met]


def ncnn_takes(arrays: Sequence[Any]) -> bool:
    """Whether all of a case's tensors are float32 of rank 1 to 4."""
    return all(array.dtype == np.float32 and array.ndim in NCNN_AXES for array in arrays)


def _beyond(array: Any, dtype: str, kept: Any) -> bool:
    if array.dtype.name != dtype:
        return False
    finite = array[np.isfinite(array)]
    return bool(finite.size and (finite.max() > kept.max or finite.min() < kept.min))
