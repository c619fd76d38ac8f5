"""What the doctor says of a device as it was read: each trouble with its level, and with what to do next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.device.answers import Busy, Checkup
from edgebench.device.doctor import LEVELS, Finding, Look, judge
from edgebench.records import Conditions, Device, Expectations, Facts, Limits, Preparation, Target, replace
from edgebench.targets import find

GIB = 1 << 30
FACTS = Facts(arch="aarch64", bits=64, os="linux", kernel="6.6", python="3.11.2", memory_bytes=4 * GIB)
QUIET = Conditions(
    governor="performance",
    temperature_c=48.0,
    throttled=False,
    throttle_flags="0x0",
    memory_available_bytes=3 * GIB,
    swap_used_bytes=0,
    load_1m=0.1,
)
CHECKUP = Checkup(
    unix_s=0.0,
    busiest=(),
    free_bytes=20 * GIB,
    used_bytes=1 << 20,
    leftovers=(),
    prepared=(),
)
TARGET = replace(find("linux-aarch64"), limits=Limits(max_temperature_c=80))


def look(**changes: Any) -> Look:
    parts: dict[str, Any] = {
        "device": Device(name="pi", target=TARGET.name, transport="ssh"),
        "target": TARGET,
        "facts": FACTS,
        "now": QUIET,
        "checkup": CHECKUP,
        "skew_s": 0.0,
    }
    return Look(**(parts | changes))


def found(check: str, **changes: Any) -> list[Finding]:
    return [finding for finding in judge(look(**changes)) if finding.check == check]


def now(**changes: Any) -> Conditions:
    return replace(QUIET, **changes)


def preparing(**wanted: Any) -> Device:
    return Device(name="pi", target=TARGET.name, transport="ssh", prepare=Preparation(**wanted))


def test_a_quiet_board_has_nothing_but_good_findings() -> None:
    findings = list(judge(look()))
    assert {finding.level for finding in findings} == {"ok"}
    assert {"reach", "governor", "throttle", "temperature", "memory", "load", "disk"} <= {
        f.check for f in findings
    }


@pytest.mark.parametrize(
    ("check", "level", "said", "changes"),
    [
        (
            "throttle",
            "wrong",
            "throttled now: under-voltage",
            {"now": now(throttled=True, throttle_flags="0x1", throttle_now=("under-voltage",))},
        ),
        (
            "throttle",
            "warn",
            "since boot: under-voltage, throttled",
            {"now": now(throttle_flags="0x50000", throttle_since_boot=("under-voltage", "throttled"))},
        ),
        (
            "throttle",
            "warn",
            "oc3 27390",
            {"now": now(throttled=None, over_current={"oc1": 0, "oc3": 27390})},
        ),
        ("throttle", "warn", "oc_alarms 3", {"now": now(throttled=None, throttle_flags="oc_alarms=3")}),
        ("throttle", "wrong", "the board says so", {"now": now(throttled=True, throttle_flags=None)}),
        ("temperature", "wrong", "91 °C, over the target's limit of 80 °C", {"now": now(temperature_c=91.0)}),
        ("temperature", "warn", "75 °C, limit 80 °C", {"now": now(temperature_c=75.0)}),
        ("governor", "warn", "ondemand", {"now": now(governor="ondemand")}),
        ("memory", "warn", "100 MiB", {"now": now(memory_available_bytes=100 << 20)}),
        ("swap", "warn", "64.0 MiB of swap", {"now": now(swap_used_bytes=64 << 20)}),
        ("load", "warn", "by nobody that is busy now", {"now": now(load_1m=3.0)}),
        (
            "load",
            "warn",
            "gnome-shell (pid 7) 0.8",
            {"checkup": replace(CHECKUP, busiest=(Busy(pid=7, name="gnome-shell", cores=0.8),))},
        ),
        ("disk", "wrong", "10.0 MiB of disk", {"checkup": replace(CHECKUP, free_bytes=10 << 20)}),
        ("disk", "warn", "512 MiB of disk", {"checkup": replace(CHECKUP, free_bytes=512 << 20)}),
        ("clock", "warn", "behind", {"skew_s": -86400.0 * 400}),
        ("clock", "warn", "ahead", {"skew_s": 3600.0}),
        ("target", "wrong", "expects linux on aarch64", {"facts": replace(FACTS, arch="x86_64")}),
        ("emulated", "warn", "no board's", {"facts": replace(FACTS, emulated=True)}),
        (
            "clocks",
            "warn",
            "not locked",
            {"facts": replace(FACTS, soc="tegra234"), "now": now(clocks_locked=False)},
        ),
        (
            "preparation",
            "wrong",
            "may not make",
            {
                "device": preparing(governor="performance"),
                "checkup": replace(CHECKUP, sudoers="pi ALL=(root) ..."),
            },
        ),
        (
            "preparation",
            "wrong",
            "there is no nvpmodel",
            {
                "device": preparing(power_mode="15W"),
                "checkup": replace(CHECKUP, prepare_problem="there is no nvpmodel"),
            },
        ),
    ],
)
def test_a_trouble_is_told_with_what_to_do_next(
    check: str, level: str, said: str, changes: dict[str, Any]
) -> None:
    (finding,) = [each for each in found(check, **changes) if each.level != "ok"]
    assert finding.level == level
    assert said in finding.what
    assert finding.next


def test_what_each_lease_sets_is_no_trouble_before_it() -> None:
    target: Target = replace(TARGET, expects=Expectations(power_mode="15W"))
    jetson = replace(FACTS, soc="tegra234", power_mode="MAXN")
    assert found("target", target=target, facts=jetson)
    device = preparing(power_mode="15W", governor="performance", clocks="locked")
    changes: dict[str, Any] = {
        "target": target,
        "facts": jetson,
        "device": device,
        "now": now(governor="schedutil", clocks_locked=False),
        "checkup": replace(CHECKUP, sudoers="", prepare_problem=""),
    }
    assert {finding.level for finding in judge(look(**changes))} == {"ok"}
    assert "each lease sets 15W" in found("power mode", **changes)[0].what


def test_what_is_unknown_is_not_judged() -> None:
    findings = list(judge(look(now=Conditions())))
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.check for finding in findings} == {"reach", "load", "disk"}


numbers = st.none() | st.floats(-1e3, 1e6)
whole = st.none() | st.integers(0, 1 << 60)


@given(
    st.builds(
        Conditions,
        governor=st.none() | st.text(),
        temperature_c=numbers,
        throttled=st.none() | st.booleans(),
        throttle_flags=st.none() | st.text() | st.integers(0, 1 << 40).map(hex),
        throttle_now=st.lists(st.text(), max_size=2).map(tuple),
        throttle_since_boot=st.lists(st.text(), max_size=2).map(tuple),
        over_current=st.dictionaries(st.text(), st.integers(0, 1 << 60), max_size=2),
        memory_available_bytes=whole,
        swap_used_bytes=whole,
        load_1m=numbers,
    ),
    st.lists(st.builds(Busy, pid=st.integers(), name=st.text(), cores=st.floats(0, 64)), max_size=3),
    st.floats(-1e12, 1e12),
)
def test_whatever_a_board_says_every_trouble_has_a_next(
    state: Conditions, busy: list[Busy], skew_s: float
) -> None:
    for finding in judge(look(now=state, checkup=replace(CHECKUP, busiest=tuple(busy)), skew_s=skew_s)):
        assert finding.level in LEVELS
        assert finding.level == "ok" or finding.next
