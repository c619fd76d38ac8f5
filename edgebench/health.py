"""Whether a board is as quick as it was: a known tiny model against the board's own earlier checks. Pure.

What is compared is the 10th percentile of one launch: undisturbed latency. Other people's short work on the
board does not move it; heat, a wrong power mode or a weak supply do.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from edgebench.records import HealthCheck, Limits, replace
from edgebench.units import NS_PER_MS, significant

LEAST_CHECKS = 3  # so many earlier checks make a band; until then checks are only recorded
USED_CHECKS = 20
LEAST_RATIO, LARGEST_RATIO = (
    1.35,
    3.0,
)  # how far from the median is still the same board, at least and at most
SPREADS = 4.0
MAD_TO_SIGMA = 1.4826
BUSY_CORES = 0.5  # with more foreign load a latency says nothing of the board


class Band(NamedTuple):
    """What a board's latency is expected to be, and where that comes from."""

    low_ns: float
    high_ns: float
    source: str


def band(check: HealthCheck, earlier: Iterable[HealthCheck], limits: Limits) -> Band | None:
    """The band for a check: its target's, else that of the board's earlier checks (newest first); or None."""
    if limits.health_low_ms is not None and limits.health_high_ms is not None:
        fixed_ns = limits.health_low_ms * NS_PER_MS, limits.health_high_ms * NS_PER_MS
        return Band(*fixed_ns, source="set by its target")
    known = [
        each.p10_ns
        for each in earlier
        if each.passed and each.subject == check.subject and each.p10_ns and not is_busy(each)
    ][:USED_CHECKS]
    if len(known) < LEAST_CHECKS:
        return None
    middle = median(known)
    spread = MAD_TO_SIGMA * median(abs(each - middle) for each in known)
    ratio = min(max(LEAST_RATIO, 1 + SPREADS * spread / middle), LARGEST_RATIO)
    return Band(middle / ratio, middle * ratio, source=f"from {len(known)} earlier checks")


def is_busy(check: HealthCheck) -> bool:
    """Whether other work kept the board from showing how quick it is."""
    return check.foreign_load is not None and check.foreign_load > BUSY_CORES


def judged(check: HealthCheck, earlier: Iterable[HealthCheck], limits: Limits) -> HealthCheck:
    """The check with its verdict: failed with the reason when the latency lies outside of the board's band.

    Without a latency, without a band, or on a busy board a check that computed the right outputs passes.
    """
    if not check.passed or check.p10_ns is None or is_busy(check):
        return check
    found = band(check, earlier, limits)
    if found is None:
        return check
    checked = replace(check, low_ns=found.low_ns, high_ns=found.high_ns)
    if found.low_ns <= check.p10_ns <= found.high_ns:
        return checked
    how = "slower" if check.p10_ns > found.high_ns else "faster"
    reason = (
        f"the known tiny model took {_ms(check.p10_ns)} ms in {check.runtime}, {how} than its band "
        f"{_ms(found.low_ns)} to {_ms(found.high_ns)} ms ({found.source})"
    )
    return replace(checked, passed=False, reason=reason)


def _ms(value_ns: float) -> str:
    return significant(value_ns / NS_PER_MS)
