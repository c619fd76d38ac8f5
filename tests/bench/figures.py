"""The statistics of many samples: how long the figures of measurements take that a gate judges."""

from __future__ import annotations

import time

import numpy as np

from edgebench.exchange import LaunchEntry, MeasurementEntry
from edgebench.gates import observed
from tests.bench.measure import Figure

MEASUREMENTS, LAUNCHES, SAMPLES = 1000, 10, 1000
MOST_S = 5.0


def ten_million_samples() -> Figure:
    """Processor seconds from measurements of 10 million samples to the figures that are judged."""
    chance, spent_s = np.random.default_rng(0), 0.0
    for number in range(MEASUREMENTS):
        entry = _measurement(number, chance)
        begun = time.process_time()
        observed(entry)
        spent_s += time.process_time() - begun
    remark = f"{MEASUREMENTS:,} measurements of {LAUNCHES} launches, exact order statistics; processor time"
    return Figure("statistics of 10 million samples", spent_s, MOST_S, "s", remark)


def _measurement(number: int, chance: np.random.Generator) -> MeasurementEntry:
    times = (1e7 * np.exp(chance.normal(0, 0.02, (LAUNCHES, SAMPLES)))).astype(np.int64)
    return MeasurementEntry(
        model=f"m{number}",
        variant="fp32",
        runtime="onnxruntime",
        precision="fp32",
        device="d",
        target="linux-x86_64",
        session="s1",
        launches=tuple(LaunchEntry(latency_ns=tuple(each)) for each in times.tolist()),
    )
