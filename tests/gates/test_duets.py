"""What a duet may say, and when it says nothing."""

from __future__ import annotations

import math
import random
from datetime import date

import pytest

from edgebench import budgets as budget_files
from edgebench.exchange import LaunchEntry, MeasurementEntry
from edgebench.gates import Verdict, gate, observed
from edgebench.records import Role

SAMPLES = 41


def entry(role: Role, times_ns: list[tuple[float, float | None]], foreign: float = 0.0) -> MeasurementEntry:
    """Launches whose samples spread by 1 % about a time; with the baseline's in a duet."""
    chance = random.Random(len(times_ns))
    launches = []
    for pair, (time_ns, other_ns) in enumerate(times_ns):
        drawn = [chance.gauss(0, 0.005) for _ in range(SAMPLES)]
        launches.append(
            LaunchEntry(
                latency_ns=tuple(round(time_ns * math.exp(each)) for each in drawn),
                baseline_ns=()
                if other_ns is None
                else tuple(round(other_ns * math.exp(each)) for each in drawn),
                pair=pair,
                foreign_load=foreign,
            )
        )
    return MeasurementEntry(
        model="m",
        variant="fp32",
        runtime="onnxruntime",
        precision="fp32",
        device="d",
        target="t",
        session="s",
        launches=tuple(launches),
        role=role,
        looks=(5, 10, 20),
        alpha=0.025,
    )


def noisy(level_ns: float, seed: int) -> list[tuple[float, float | None]]:
    """Six separate launches that differ by 6 %: they decide nothing."""
    chance = random.Random(seed)
    return [(level_ns * math.exp(chance.gauss(0, 0.06)), None) for _ in range(6)]


def verdict(
    ratio: float,
    limit: str = "3 %",
    *,
    slowed: tuple[float, float] = (1.0, 1.0),
    foreign: float = 0.0,
    launches: int = 5,
) -> Verdict:
    """Candidate 1 ms times `ratio`; each is slowed in company by its factor of `slowed`."""
    duet = [(1e6 * ratio * slowed[0] * (1 + 0.001 * each), 1e6 * slowed[1]) for each in range(launches)]
    text = f"version: 1\nbudgets: [{{name: a, limits: {{latency.p50: {{regress: {limit}}}}}}}]"
    made = gate(
        [observed(entry("candidate", noisy(1e6 * ratio, 1)))],
        budget_files.parse(text, "b"),
        [observed(entry("baseline", noisy(1e6, 2)))],
        today=date(2026, 11, 26),
        duets=[observed(entry("duet", list(duet), foreign))],
    )
    (found,) = made.cells
    return found


def test_where_separate_launches_cannot_tell_the_duet_decides() -> None:
    assert (verdict(1.0).word, verdict(1.0).design, verdict(1.0).rule) == ("pass", "duet", "paired")
    assert verdict(1.10).word == "fail"


def test_it_passes_within_a_smaller_limit_only() -> None:
    """2.6 % is within 3 %, and not within 0.85 of it: what company hides may be the rest."""
    assert verdict(1.026).word == "inconclusive"
    assert verdict(1.015).word == "pass"


def test_under_load_a_failure_counts_and_a_pass_does_not() -> None:
    passing = verdict(1.0, foreign=1.0)
    assert (passing.word, passing.cause, passing.more_helps) == ("inconclusive", "load-dilution", False)
    assert verdict(1.10, foreign=1.0).word == "fail"


@pytest.mark.parametrize("ratio", [1.0, 1.10])
def test_a_thread_pool_for_each_model_spoils_it(ratio: float) -> None:
    found = verdict(ratio, slowed=(3.0, 3.0))
    assert (found.word, found.cause) == ("inconclusive", "duet-refused")
    assert "times as long" in found.reason
    assert "--mode separate" in found.next


def test_two_that_slow_each_other_unequally_are_not_compared() -> None:
    """A small candidate beside a large baseline looks slower than it is."""
    found = verdict(1.0, slowed=(1.4, 1.0))
    assert (found.word, found.cause) == ("inconclusive", "duet-refused")
    assert "unequally, by" in found.reason
    assert verdict(1.0, slowed=(1.15, 1.14)).word == "pass"


def test_four_launches_say_nothing() -> None:
    found = verdict(1.0, launches=4)
    assert (found.word, found.design) == ("inconclusive", "separate")
