"""A launch counts only where the board stayed as it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.records import Conditions, Launch, Limits, MemoryLadder, Spread, Track, replace
from edgebench.validity import MAX_FOREIGN_CORES, judged

CALM = Conditions(
    governor="performance",
    clock_max_khz=(2_400_000,),
    temperature_c=50.0,
    throttled=False,
    throttle_flags="0x0",
    swapped_in_pages=7,
)
LIMITS = Limits(max_temperature_c=75.0)


def launch(before: Conditions = CALM, **after: Any) -> Launch:
    return Launch(
        number=1,
        session="s",
        started_utc="2026-11-23T23:00:00Z",
        import_ns=1,
        load_ns=1,
        first_inference_ns=1,
        warmup_ns=(1,),
        warmup_stable=True,
        samples_ns=(1, 1),
        memory=MemoryLadder(method="none"),
        before=before,
        after=replace(before, **after),
        runtime_version="1",
    )


def test_a_calm_launch_stays_as_it_is() -> None:
    calm = launch(temperature_c=74.9)
    assert judged(calm, LIMITS) is calm


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ({"throttled": True, "throttle_flags": "0x50005"}, "throttled (0x50005)"),
        ({"throttle_flags": "0x50000"}, "throttle flags changed"),
        ({"governor": "powersave"}, "the governor changed from performance to powersave"),
        ({"clock_max_khz": (1_500_000,)}, "the clock limits changed"),
        ({"swapped_in_pages": 9}, "2 pages were swapped in"),
        ({"temperature_c": 75.6}, "76 °C is over the target's limit of 75 °C"),
    ],
)
def test_what_spoils_a_launch(after: dict[str, Any], told: str) -> None:
    spoilt = judged(launch(**after), LIMITS)
    assert not spoilt.valid
    assert told in spoilt.invalid_reason
    assert spoilt.samples_ns == (1, 1)  # kept and shown, never averaged in


def test_a_board_that_was_throttled_before_it_began() -> None:
    assert not judged(launch(replace(CALM, throttled=True)), LIMITS).valid


def test_unknown_is_not_bad() -> None:
    assert judged(launch(Conditions()), LIMITS).valid
    assert judged(launch(temperature_c=99.0), Limits()).valid


def test_a_launch_that_took_more_memory_than_the_target_allows() -> None:
    large = replace(launch(), memory=MemoryLadder(method="VmHWM", peak_bytes=301 << 20))
    assert "301 MiB of memory" in judged(large, Limits(memory_mib=300)).invalid_reason
    assert judged(large, Limits(memory_mib=301)).valid
    assert judged(launch(), Limits(memory_mib=1)).valid  # an unknown peak is not too large


# --- what the sampler saw -------------------------------------------------------------------------


def steady(khz: float, lowest: float | None = None) -> Spread:
    return Spread(readings=8, low=khz if lowest is None else lowest, mean=khz, high=khz)


def tracked(**seen: Any) -> Launch:
    return replace(launch(), track=Track(**seen))


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (
            {"throttled": True, "throttle_events": ("under-voltage",)},
            "the board was throttled (under-voltage: 0x0) while it ran",
        ),
        ({"temperature_max_c": 81.2}, "81 °C is over the target's limit of 75 °C"),
        (
            {"times_s": (0.5, 1.0), "series": {"temperature_c": (76.4, None)}},
            "76 °C is over the target's limit of 75 °C",
        ),
        (
            {"pinned_khz": {"cpu0": 1800000}, "clocks_khz": {"cpu0": steady(1.75e6, 600000.0)}},
            "the clock cpu0 fell to 600 MHz although it was held at 1800 MHz",
        ),
        (
            {
                "pinned_khz": {"gpu": 921600},
                "clocks_khz": {"gpu": steady(700000.0)},
                "gpu_load": Spread(readings=8, low=0.4, mean=0.9, high=1.0),
            },
            "the clock gpu fell to 700 MHz although it was held at 922 MHz",
        ),
    ],
)
def test_what_the_sampler_saw_spoils_a_launch(seen: dict[str, Any], told: str) -> None:
    spoilt = judged(tracked(**seen), LIMITS)
    assert not spoilt.valid
    assert spoilt.invalid_reason == told


@pytest.mark.parametrize(
    "seen",
    [
        {"throttled": False, "temperature_max_c": 74.0},
        {"pinned_khz": {"cpu0": 1800000}, "clocks_khz": {"cpu0": steady(1.8e6, 1.77e6)}},
        {"pinned_khz": {}, "clocks_khz": {"cpu0": steady(1.8e6, 600000.0)}},  # its governor may lower it
        {"pinned_khz": {"cpu0": 1800000}},
        {"pinned_khz": {"gpu": 921600}, "clocks_khz": {"gpu": steady(76800.0)}},  # of unknown load
        {
            "pinned_khz": {"gpu": 921600},
            "clocks_khz": {"gpu": steady(76800.0)},
            "gpu_load": Spread(readings=8, low=0.0, mean=0.0, high=0.0),  # not in use, so switched off
        },
    ],
)
def test_what_the_sampler_saw_and_what_does_not_matter(seen: dict[str, Any]) -> None:
    assert judged(tracked(**seen), LIMITS).valid


ORIN = Conditions(over_current={"oc1": 0, "oc2": 5, "oc3": 27390}, over_current_throttles=("oc1", "oc3"))


def test_over_current_events_count_where_they_lower_the_clocks() -> None:
    spoilt = judged(launch(ORIN, over_current={"oc1": 0, "oc2": 5, "oc3": 27402}), LIMITS)
    assert spoilt.invalid_reason == (
        "12 over-current events (oc3, instantaneous over-current), which lower the clocks"
    )
    assert spoilt.notes == ()


def test_over_current_events_are_told_where_they_lower_nothing() -> None:
    fine = judged(launch(ORIN, over_current={"oc1": 0, "oc2": 6, "oc3": 27390}), LIMITS)
    assert fine.valid
    assert fine.notes == ("1 over-current event (oc2, average over-current)",)
    assert judged(fine, LIMITS) == fine


def test_alarms_are_told_and_spoil_nothing() -> None:
    fine = judged(tracked(alarms=("current of VDD_IN over its limit",)), LIMITS)
    assert fine.valid
    assert fine.notes == ("current of VDD_IN over its limit",)


def test_the_reasons_of_a_pi_are_in_words() -> None:
    before = replace(CALM, throttle_flags="0x0")
    after = {
        "throttled": True,
        "throttle_flags": "0x50005",
        "throttle_now": ("under-voltage", "throttled"),
        "throttle_since_boot": ("under-voltage", "throttled"),
    }
    told = judged(launch(before, **after), LIMITS).invalid_reason
    assert told == "the board was throttled (under-voltage, throttled: 0x50005) at its end"
    sticky = {"throttle_flags": "0x10000", "throttle_since_boot": ("under-voltage",)}
    told = judged(launch(before, **sticky), LIMITS).invalid_reason
    assert told == "throttle flags changed from 0x0 to 0x10000 (under-voltage)"


def test_clocks_that_were_unlocked_meanwhile() -> None:
    locked = replace(CALM, clocks_locked=True, gpu_clock_max_khz=921600)
    told = judged(launch(locked, clocks_locked=False, gpu_clock_max_khz=614400), LIMITS).invalid_reason
    assert "the GPU's clock limit changed from 922 MHz to 614 MHz" in told
    assert "the clocks were no longer locked at its end" in told


@pytest.mark.parametrize(
    ("limit", "foreign", "valid"),
    [
        (None, MAX_FOREIGN_CORES, True),
        (None, MAX_FOREIGN_CORES + 0.1, False),
        (2.0, 1.9, True),
        (2.0, 2.1, False),
        (0.1, None, True),
    ],
)
def test_a_board_that_others_used(limit: float | None, foreign: float | None, valid: bool) -> None:
    found = judged(replace(launch(), foreign_load=foreign), Limits(max_foreign_cores=limit))
    assert found.valid is valid
    if not valid:
        whose = "edgebench's" if limit is None else "the target's"
        assert f"cores busy, over {whose} limit of {limit or MAX_FOREIGN_CORES:g}" in found.invalid_reason


# --- any state at all -----------------------------------------------------------------------------

NAMES = st.sampled_from(["cpu0", "gpu", "oc1", "oc3"])
STATES = st.builds(
    Conditions,
    governor=st.none() | st.sampled_from(["performance", "ondemand"]),
    clock_max_khz=st.lists(st.integers(0, 3000000), max_size=3).map(tuple),
    temperature_c=st.none() | st.floats(-40, 150),
    throttled=st.none() | st.booleans(),
    throttle_flags=st.none() | st.sampled_from(["0x0", "0x50000"]),
    throttle_now=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    throttle_since_boot=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    swapped_in_pages=st.none() | st.integers(0, 100),
    over_current=st.dictionaries(NAMES, st.integers(0, 9)),
    over_current_throttles=st.lists(NAMES, max_size=2).map(tuple),
    clocks_locked=st.none() | st.booleans(),
    gpu_clock_max_khz=st.none() | st.integers(0, 3000000),
)
SPREADS = st.builds(
    Spread, readings=st.integers(0, 9), low=st.floats(0, 9), mean=st.floats(0, 9), high=st.floats(0, 9)
)
TRACKS = st.none() | st.builds(
    Track,
    temperature_max_c=st.none() | st.floats(-40, 150),
    series=st.dictionaries(st.just("temperature_c"), st.lists(st.none() | st.floats(-40, 150)).map(tuple)),
    clocks_khz=st.dictionaries(NAMES, SPREADS),
    pinned_khz=st.dictionaries(NAMES, st.integers(0, 9)),
    gpu_load=st.none() | SPREADS,
    throttled=st.none() | st.booleans(),
    throttle_events=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)
LAUNCHES = st.builds(
    lambda before, after, track, foreign: replace(
        launch(), before=before, after=after, track=track, foreign_load=foreign
    ),
    STATES,
    STATES,
    TRACKS,
    st.none() | st.floats(0, 8),
)
ANY_LIMITS = st.builds(
    Limits,
    max_temperature_c=st.none() | st.floats(1, 150),
    max_foreign_cores=st.none() | st.floats(0.1, 8),
)


@settings(deadline=None)
@given(LAUNCHES, ANY_LIMITS)
def test_an_invalid_launch_has_a_reason_and_keeps_what_was_measured(one: Launch, limits: Limits) -> None:
    found = judged(one, limits)
    assert found.valid is (found.invalid_reason == "")
    kept = {"valid": True, "invalid_reason": "", "notes": ()}
    assert replace(found, **kept) == replace(one, **kept)


@settings(deadline=None)
@given(LAUNCHES, ANY_LIMITS)
def test_judging_twice_changes_nothing(one: Launch, limits: Limits) -> None:
    once = judged(one, limits)
    assert judged(once, limits) == once


@settings(deadline=None)
@given(LAUNCHES)
def test_stricter_limits_never_save_a_launch(one: Launch) -> None:
    loose, strict = (
        Limits(max_temperature_c=90, max_foreign_cores=4),
        Limits(max_temperature_c=60, max_foreign_cores=1),
    )
    assert judged(one, loose).valid or not judged(one, strict).valid


@settings(deadline=None)
@given(LAUNCHES, ANY_LIMITS)
def test_a_board_that_was_throttled_at_any_time_never_counts(one: Launch, limits: Limits) -> None:
    seen = (one.before.throttled, one.after.throttled, one.track and one.track.throttled)
    assert not (any(seen) and judged(one, limits).valid)


@settings(deadline=None)
@given(LAUNCHES, ANY_LIMITS)
def test_a_judged_launch_survives_the_store(one: Launch, limits: Limits) -> None:
    found = judged(one, limits)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Launch) == found
