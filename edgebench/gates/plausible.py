"""Whether times can be measurements at all: constants, mixed units. Pure."""

from __future__ import annotations

from edgebench.gates.base import LaunchFigures, Observed
from edgebench.units import format_ms, significant

MIXED_UNITS = 50.0  # a ratio beyond this is no change of a model, but of what was written down
MIXED_INSIDE = 300.0  # inside a launch work beside it makes large ratios too, but not of whole launches


def implausible(cell: Observed) -> str:
    """Why the times of a cell cannot be what was measured; "" where they can."""
    middles = [launch.p50_ns for launch in cell.launches if launch.p50_ns is not None]
    if not middles or len(middles) < len(cell.launches):
        return ""
    least, most = min(middles), max(middles)
    if least == most and all(map(_constant, cell.launches)):
        samples = sum(launch.n for launch in cell.launches)
        constant = f"all {samples} samples are exactly {format_ms(least)}: a constant, or a clock too coarse"
        return constant if samples > 1 else ""
    if most > MIXED_UNITS * least:
        return f"launches of the same artifact differ by {significant(most / least)} times: mixed units?"
    if any(
        launch.p90_ns > MIXED_INSIDE * launch.p10_ns
        for launch in cell.launches
        if launch.p10_ns is not None and launch.p90_ns is not None
    ):
        return f"times inside a launch differ by more than {MIXED_INSIDE:g} times: mixed units?"
    return ""


def _constant(launch: LaunchFigures) -> bool:
    return launch.p10_ns == launch.p50_ns == launch.p99_ns == launch.mean_ns
