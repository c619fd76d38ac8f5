"""What judging shares: the figures of a cell, the verdict on one limit, and its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from edgebench.budgets import Kind, Severity, Subject
from edgebench.comparison import ALPHA
from edgebench.records import Accuracy, Record, Role

# 1: the first
SCHEMA = 1

Word = Literal["pass", "fail", "inconclusive", "invalid", "error", "missing", "not-comparable"]

Overall = Literal[Word, "nothing"]

Cause = Literal[
    "",
    "low-power",
    "sign-disagreement",
    "few-launches",
    "few-samples",
    "load-dilution",
    "duet-refused",
    "no-history",
    "many-cells",
    "too-fine",
]
MORE_HELPS: tuple[Cause, ...] = ("low-power", "sign-disagreement", "few-launches")

EXIT_CODES: Mapping[Word, int] = {
    "pass": 0,
    "fail": 1,
    "inconclusive": 3,
    "missing": 3,
    "not-comparable": 3,
    "invalid": 4,
    "error": 4,
}
WORST_FIRST = (2, 1, 4, 3, 5, 0)  # of several exit codes the first that occurs


class LaunchFigures(Record, frozen=True):
    """One launch in numbers; None is unknown. `place` is its number in the measurement, from 0.

    `samples_ns` only where a limit asks for single samples (deadlines). `duet_shift`: in a duet the median
    of ln(candidate / baseline) over neighbouring inferences, and the baseline's p10 (p10 is for diagnosis).
    """

    place: int
    n: int
    p50_ns: float | None = None
    p90_ns: float | None = None
    p95_ns: float | None = None
    p99_ns: float | None = None
    mean_ns: float | None = None
    load_ns: float | None = None
    first_inference_ns: float | None = None
    peak_bytes: int | None = None
    energy_mj: float | None = None
    foreign_load: float | None = None
    samples_ns: tuple[int, ...] = ()
    p10_ns: float | None = None
    duet_shift: float | None = None
    baseline_p10_ns: float | None = None


class Observed(Record, frozen=True):
    """One cell as it was measured: the figures of its valid launches, and what was not.

    `looks` are the numbers of launches at which was looked; none: as many as planned. `failure` says why a
    planned cell has no measurement, and then nothing else counts.
    """

    subject: Subject
    session: str = ""
    launches: tuple[LaunchFigures, ...] = ()
    invalid: int = 0
    invalid_reason: str = ""
    batch: int = 1
    looks: tuple[int, ...] = ()
    artifact_digest: str = ""
    artifact_bytes: int | None = None
    inputs: str = ""
    parity_snr_db: float | None = None
    accuracy: float | None = None
    environment: dict[str, str] = {}
    failure: str = ""
    role: Role = "candidate"
    alpha: float = 0.05
    accuracy_report: Accuracy | None = None


class SessionNoise(Record, frozen=True):
    """What identical artifacts differ by between two sessions on one device, as a variance of logarithms.

    From A/A history; `freedom` is one less than the number of pairs of sessions behind it.
    """

    variance: float
    freedom: int


class FloorKnown(Record, frozen=True):
    """The smallest slowdown that pairs on a device find in 80 % of cases, a ratio minus 1; where from."""

    least_effect: float
    told: str


class DeviceNoise(Record, frozen=True):
    """What is known of one runtime on one device from A/A history; None: too little of it."""

    session: SessionNoise | None = None
    floor: FloorKnown | None = None


class Known(NamedTuple):
    """What a gate knows besides: noise by (device, runtime), and why the baseline may not be one, or ""."""

    noise: Mapping[tuple[str, str], DeviceNoise] = {}
    problem: str = ""


class Verdict(Record, frozen=True):
    """The answer to one limit of one cell, with everything that led to it.

    `observed`, `baseline`, `limit` and, for absolute limits, the interval are in the metric's unit (ns,
    bytes, 1/s, dB, mJ, shares); for `regress` the interval is that of `ratio`, candidate by baseline.
    `least_effect` is the smallest change that would have been found in 80 % of cases, as a ratio minus 1,
    `least_effect_at_last` the one that 20 launches would find; `cause` says why a verdict is inconclusive.
    `alpha` is what the look that decided may err by, 0 where nothing was left to chance.
    `foreign_load` (cores) and `p50_over_p10` are medians over the launches.
    """

    subject: Subject
    metric: str
    kind: Kind
    word: Word
    reason: str
    next: str = ""
    severity: Severity = "block"
    limit: float = 0.0
    limit_text: str = ""
    origin: str = ""
    observed: float | None = None
    baseline: float | None = None
    ratio: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    rule: str = ""
    launches: int = 0
    look: int = 0
    looks: int = 1
    alpha: float = 0.0
    least_effect: float | None = None
    least_effect_at_last: float | None = None
    design: Literal["separate", "duet"] = "separate"
    foreign_load: float | None = None
    p50_over_p10: float | None = None
    hodges_lehmann: float | None = None
    waived: str = ""
    cause: Cause = ""

    @property
    def more_helps(self) -> bool:
        """Whether more launches may decide it."""
        return self.word == "inconclusive" and self.cause in MORE_HELPS

    @property
    def p_of_all_looks(self) -> float:
        """Its p for all that was looked at: below ALPHA where a look fails."""
        return min(1.0, (self.p_value or 0.0) * ALPHA / (self.alpha or ALPHA))

    @property
    def blocks(self) -> bool:
        """Whether it may decide the exit code."""
        return self.severity == "block" and not self.waived


class Gate(Record, frozen=True):
    """All verdicts of one judging. `unmatched`: budgets without a cell; `unlimited`: cells without limit."""

    verdict: Overall
    exit_code: int
    cells: tuple[Verdict, ...]
    unmatched: tuple[str, ...] = ()
    unlimited: tuple[str, ...] = ()
    schema: int = SCHEMA


def label(subject: Subject) -> str:
    """A cell in one line: "digits int8-static ncnn int8 · pi5-01"."""
    form = (
        subject.variant if subject.precision in subject.variant else f"{subject.variant} {subject.precision}"
    )
    return f"{subject.model} {form} · {subject.runtime} · {subject.device}"
