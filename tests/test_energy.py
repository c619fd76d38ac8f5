"""Energy of an inference: where it comes from, and that unknown stays unknown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.energy import of_launch, of_launches
from edgebench.records import Conditions, Launch, MemoryLadder, Spread, Track, replace

POWER = Spread(readings=4, low=4800.0, mean=5000.0, high=5200.0)
TRACK = Track(
    power_mw=POWER, power_rail="VDD_IN", power_method="INA3221", idle_power_mw=3000.0, idle_readings=6
)


def launch(track: Track | None = TRACK, samples_ns: tuple[int, ...] = (9_000_000, 11_000_000)) -> Launch:
    return Launch(
        number=1,
        session="s",
        started_utc="2026-11-23T23:00:00Z",
        import_ns=1,
        load_ns=1,
        first_inference_ns=1,
        warmup_ns=(),
        warmup_stable=True,
        samples_ns=samples_ns,
        memory=MemoryLadder(method="none"),
        before=Conditions(),
        after=Conditions(),
        runtime_version="1",
        track=track,
    )


def test_gross_and_net() -> None:
    energy = of_launch(launch())
    assert energy is not None
    assert energy.gross_mj == pytest.approx(50.0)  # 5 W for 10 ms
    assert energy.net_mj == pytest.approx(20.0)  # 2 W above idling
    assert (energy.rail, energy.method, energy.readings) == ("VDD_IN", "INA3221", 4)


@pytest.mark.parametrize(
    "track",
    [
        None,
        Track(),
        replace(TRACK, power_mw=None),
        replace(TRACK, power_mw=replace(POWER, readings=1)),
        replace(TRACK, power_mw=replace(POWER, mean=0.0)),
    ],
)
def test_without_readings_there_is_no_energy(track: Track | None) -> None:
    assert of_launch(launch(track)) is None
    assert of_launches([launch(track)]) is None


@pytest.mark.parametrize(
    "changes",
    [{"idle_power_mw": None}, {"idle_readings": 1}, {"idle_power_mw": 5000.0}, {"idle_power_mw": 6000.0}],
)
def test_net_is_unknown_and_never_0_without_a_difference_to_idling(changes: dict[str, Any]) -> None:
    energy = of_launch(launch(replace(TRACK, **changes)))
    assert energy is not None
    assert energy.net_mj is None
    assert energy.gross_mj == pytest.approx(50.0)


def test_no_samples_no_energy() -> None:
    assert of_launch(launch(samples_ns=())) is None
    assert of_launches([]) is None


def test_the_median_over_launches() -> None:
    twice = replace(TRACK, power_mw=replace(POWER, mean=10_000.0, readings=3))
    energy = of_launches([launch(), launch(), launch(twice), launch(None)])
    assert energy is not None
    assert energy.gross_mj == pytest.approx(50.0)
    assert energy.readings == 3


@given(
    st.floats(1.0, 1e6),
    st.floats(0.0, 1e6),
    st.lists(st.integers(1, 10**10), min_size=1, max_size=20),
)
def test_net_is_positive_and_below_gross(mean: float, idle: float, samples: list[int]) -> None:
    track = replace(TRACK, power_mw=replace(POWER, mean=mean), idle_power_mw=idle)
    energy = of_launch(launch(track, tuple(samples)))
    assert energy is not None
    assert energy.gross_mj > 0
    assert energy.net_mj is None or 0 < energy.net_mj <= energy.gross_mj
