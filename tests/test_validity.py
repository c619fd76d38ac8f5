"""A launch counts only where the board stayed as it was."""

from __future__ import annotations

from typing import Any

import pytest

from edgebench.records import Conditions, Launch, Limits, MemoryLadder, replace
from edgebench.validity import judged

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
