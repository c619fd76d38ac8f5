"""How often and after what pause an invalid launch is repeated: by the counts and the board's state alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.pipeline.measuring import tally, wants_launch
from edgebench.records import Conditions, Launch, Limits, MemoryLadder, Platform, Target, Workload, replace
from edgebench.validity import HEAT_MARGIN_C, LONGEST_PAUSE_S, is_cool, may_pass, pause_s, was_hot
from tests.report.fixtures import job, measurement

LIMITS = Limits(max_temperature_c=75.0, memory_mib=100)


TARGET = Target(
    version=1,
    name="warm",
    summary="",
    platform=Platform(os="linux", arch="x86_64"),
    python=">=3.6",
    runtimes={},
    limits=LIMITS,
)


def launches(validity: str) -> tuple[Launch, ...]:
    """One launch a letter: "v" valid, "x" invalid, "L" invalid since it was too large."""
    whole = measurement(job(), samples=([10] * 20,)).launches[0]
    made = []
    for number, letter in enumerate(validity, 1):
        one = replace(whole, number=number)
        if letter != "v":
            one = replace(one, valid=False, invalid_reason="spoilt")
        if letter == "L":
            one = replace(one, memory=MemoryLadder(method="x", peak_bytes=101 << 20))
        made.append(one)
    return tuple(made)


def made(validity: str, **workload: int) -> Any:
    cell = replace(job(), workload=Workload(**({"launches": 3} | workload)))
    return replace(measurement(cell), launches=launches(validity), status="partial")


@pytest.mark.parametrize(
    ("validity", "wants"),
    [
        ("", True),
        ("vv", True),
        ("vvv", False),
        ("x", True),
        ("xxx", True),
        ("xxxx", False),
        ("vvxxx", True),
        ("vvxxxx", False),
        ("vxvxv", False),
        ("L", False),
        ("vL", False),
    ],
)
def test_a_launch_is_due_until_enough_are_valid_or_too_many_were_not(validity: str, wants: bool) -> None:
    assert wants_launch(made(validity), TARGET) is wants


def test_no_repeats_at_all_when_none_are_wanted() -> None:
    assert wants_launch(made("v", max_invalid=0), TARGET)
    assert not wants_launch(made("vx", max_invalid=0), TARGET)


@given(st.text("vx", max_size=30), st.integers(1, 6), st.integers(0, 4))
def test_whatever_the_board_does_it_ends(validity: str, planned: int, most: int) -> None:
    """At most so many launches more than planned, and only the valid ones count."""
    done = ""
    for letter in validity + "x" * 40:
        if not wants_launch(made(done, launches=planned, max_invalid=most), TARGET):
            break
        done += letter
    counted = tally(made(done, launches=planned, max_invalid=most))
    assert len(done) <= planned + most
    assert (counted.valid, counted.invalid) == (done.count("v"), done.count("x"))
    assert counted.valid == planned or counted.invalid == most + 1
    assert counted.total == counted.invalid + planned


def test_pauses_grow_and_are_never_shorter_than_the_workloads() -> None:
    assert [pause_s(0.0, repeat) for repeat in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert pause_s(10.0, 1) == 10.0
    assert pause_s(0.0, 10**6) == LONGEST_PAUSE_S


@pytest.mark.parametrize(
    ("now", "cool"),
    [
        (Conditions(temperature_c=75.0 - HEAT_MARGIN_C), True),
        (Conditions(temperature_c=75.0 - HEAT_MARGIN_C + 0.1), False),
        (Conditions(temperature_c=20.0, throttled=True), False),
        (Conditions(), True),
        (Conditions(throttled=False), True),
    ],
)
def test_a_board_is_cool_below_the_limit_and_its_margin(now: Conditions, cool: bool) -> None:
    assert is_cool(now, LIMITS) is cool
    assert is_cool(replace(now, throttled=None), Limits())


def test_heat_is_told_from_other_reasons() -> None:
    (calm,) = launches("v")
    hot = replace(calm, after=Conditions(temperature_c=80.0))
    throttled = replace(calm, before=Conditions(throttled=True))
    moved = replace(calm, after=replace(calm.after, governor="powersave"))
    assert [was_hot(each, LIMITS) for each in (calm, hot, throttled, moved)] == [False, True, True, False]
    assert [may_pass(each, LIMITS) for each in (calm, hot, moved, *launches("L"))] == [
        True,
        True,
        True,
        False,
    ]
