"""Measurements of a file -> the figures that are judged. Pure."""

from __future__ import annotations

import numpy as np

from edgebench.budgets import Subject
from edgebench.exchange import LaunchEntry, MeasurementEntry
from edgebench.gates.base import LaunchFigures, Observed
from edgebench.statistics import percentile_ns

VERSION = 1  # raised whenever figures would come out otherwise: what is kept of them is made anew then


def observed(entry: MeasurementEntry, *, with_samples: bool = False) -> Observed:
    """The figures of one measurement; launches without samples count as invalid."""
    usable = [(place, each) for place, each in enumerate(entry.launches) if each.valid and each.latency_ns]
    spoilt = [
        each.invalid_reason or "no samples" for each in entry.launches if not (each.valid and each.latency_ns)
    ]
    return Observed(
        subject=subject(entry),
        session=entry.session,
        launches=tuple(_figures(place, each, with_samples) for place, each in usable),
        invalid=len(spoilt),
        invalid_reason=spoilt[0] if spoilt else "",
        batch=entry.batch,
        looks=entry.looks,
        artifact_digest=entry.artifact_digest,
        artifact_bytes=entry.artifact_bytes,
        inputs=entry.inputs,
        parity_snr_db=entry.parity_snr_db,
        accuracy=entry.accuracy,
        environment=entry.environment,
        role=entry.role,
        alpha=entry.alpha,
        accuracy_report=entry.accuracy_report,
        failure=entry.failure,
    )


def subject(entry: MeasurementEntry) -> Subject:
    """The names of a measurement, as budgets match them."""
    return Subject(
        target=entry.target,
        device=entry.device,
        groups=entry.groups,
        model=entry.model,
        variant=entry.variant,
        runtime=entry.runtime,
        precision=entry.precision,
    )


def _figures(place: int, launch: LaunchEntry, with_samples: bool) -> LaunchFigures:
    ordered = np.sort(np.asarray(launch.latency_ns, dtype=np.int64))
    return LaunchFigures(
        place=place if launch.pair is None else launch.pair,
        n=len(ordered),
        p10_ns=percentile_ns(ordered, 0.1),
        p50_ns=percentile_ns(ordered, 0.5),
        p90_ns=percentile_ns(ordered, 0.9),
        p95_ns=percentile_ns(ordered, 0.95),
        p99_ns=percentile_ns(ordered, 0.99),
        mean_ns=float(ordered.mean()),
        load_ns=launch.load_ns,
        first_inference_ns=launch.first_inference_ns,
        peak_bytes=launch.peak_bytes,
        energy_mj=launch.energy_mj,
        foreign_load=launch.foreign_load,
        samples_ns=launch.latency_ns if with_samples else (),
        duet_shift=_duet_shift(launch),
        baseline_p10_ns=percentile_ns(sorted(launch.baseline_ns), 0.1) if launch.baseline_ns else None,
    )


def _duet_shift(launch: LaunchEntry) -> float | None:
    """The median of ln(candidate / baseline) over neighbouring inferences of a duet; None without one."""
    if not launch.baseline_ns:
        return None
    both = np.asarray((launch.latency_ns, launch.baseline_ns), dtype=np.float64)
    return float(np.median(np.log(both[0] / both[1])))
