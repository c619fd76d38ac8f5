"""What a gate makes of a device's A/A history."""

from __future__ import annotations

import math
from datetime import date

import pytest

from edgebench import budgets as budget_files
from edgebench.exchange import LaunchEntry, MeasurementEntry
from edgebench.gates import Gate, Known, gate, observed
from edgebench.gates.noise import known_noise
from edgebench.records import NoiseFloor, replace

FLOOR = NoiseFloor(
    id="1",
    run="r",
    device="pi",
    target="rpi5",
    measured_utc="2026-11-20T08:00:00+00:00",
    model="m",
    artifact_digest="a",
    runtime="ncnn",
    runtime_version="1",
    pairs=20,
    level=math.log(1e6),
    launch_sd=0.02,
    pair_sd=0.028,
    least_effect=0.026,
    false_alarms=0.04,
    board="Pi 5",
    power_mode=None,
)


def history(*levels: float, artifact: str = "a") -> list[NoiseFloor]:
    return [replace(FLOOR, level=level, artifact_digest=artifact) for level in levels]


def test_the_floor_is_that_of_the_last_ones_on_that_board() -> None:
    newest_first = [replace(FLOOR, least_effect=each) for each in (0.02, 0.03, 0.025)]
    other = replace(FLOOR, least_effect=0.5, power_mode="15W")
    found = known_noise([*newest_first, other])[("pi", "ncnn")].floor
    assert found is not None
    assert found.least_effect == 0.025
    assert "2026-11-20" in found.told


def test_sessions_are_known_from_five_on() -> None:
    assert known_noise(history(0, 0.01, 0, 0.01))[("pi", "ncnn")].session is None
    found = known_noise(history(0, 0.01, 0, 0.01, 0.005))[("pi", "ncnn")].session
    assert found is not None
    assert found.freedom == 4
    assert found.variance == pytest.approx(2 * (4 * 0.005**2) / 4)


def test_sessions_of_several_artifacts_are_pooled_about_their_own_means() -> None:
    both = [*history(0, 0.01, 0.005), *history(5, 5.01, 5.005, artifact="b")]
    found = known_noise(both)[("pi", "ncnn")].session
    assert found is not None
    assert found.freedom == 4
    assert found.variance == pytest.approx(2 * (2 * 2 * 0.005**2) / 4)


def test_duets_say_nothing_of_separate_launches() -> None:
    assert known_noise([replace(FLOOR, design="duet")]) == {}


def verdict(ratio: float, limit: str) -> Gate:
    """A candidate beside its baseline, all launches within 0.1 %, on a board that finds 2.6 %."""
    rules = budget_files.parse(
        f"version: 1\nbudgets: [{{name: a, limits: {{latency.p50: {{regress: {limit}}}}}}}]", "b"
    )
    now, before = (
        MeasurementEntry(
            model="m",
            variant="fp32",
            runtime="ncnn",
            precision="fp32",
            device="pi",
            target="rpi5",
            session="s",
            launches=tuple(
                LaunchEntry(latency_ns=(int(1e6 * factor) + place * 100,) * 50) for place in range(5)
            ),
        )
        for factor in (ratio, 1.0)
    )
    known = Known(known_noise([FLOOR]))
    return gate([observed(now)], rules, [observed(before)], today=date(2026, 11, 26), known=known)


def test_a_limit_finer_than_the_board_can_resolve_is_refused() -> None:
    (fine,) = verdict(1.0, "1 %").cells
    assert (fine.word, fine.cause) == ("inconclusive", "too-fine")
    assert "1 % is finer than what pi with ncnn" in fine.reason
    assert "2.6 %" in fine.reason
    assert "aa" in fine.next
    (slower,) = verdict(1.02, "1 %").cells  # beyond the limit, within the noise
    assert (slower.word, slower.cause) == ("inconclusive", "too-fine")


def test_what_lies_beyond_the_floor_fails_all_the_same() -> None:
    assert verdict(1.10, "1 %").verdict == "fail"


def test_a_limit_that_the_board_resolves_is_judged() -> None:
    assert verdict(1.0, "3 %").verdict == "pass"
    assert verdict(1.10, "3 %").verdict == "fail"
