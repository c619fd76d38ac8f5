"""Budgets files: what they mean, which line gave a limit, and what is wrong with them."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.budgets import Subject, parse
from edgebench.errors import ConfigError

SMALLEST = 'version: 1\nbudgets: [{name: all, match: {model: "*"}, limits: {latency.p50: {regress: 2%}}}]\n'
NANO = Subject(
    target="jetson-nano",
    device="nano-01",
    groups=("lab", "canary"),
    model="yolo-s",
    variant="int8-static",
    runtime="tensorrt",
    precision="fp16",
)

TWO = """\
version: 1
budgets:
  - name: all
    limits:
      latency.p50: {regress: 3 %, max: 12 ms}
      artifact_size: {max: 60 MiB}
  - name: nano
    match: {target: "jetson-*", precision: [fp16, int8]}
    limits:
      latency.p50: {max: 20 ms}
  - name: pi
    match: {target: "raspberry-*"}
    limits:
      latency.p50: {max: 90 ms}
"""


def test_the_smallest_file() -> None:
    (limit,) = parse(SMALLEST, "budgets.yaml").limits(NANO)
    assert (limit.metric, limit.kind, limit.value, limit.severity) == (
        "latency.p50",
        "regress",
        0.02,
        "block",
    )
    assert limit.origin == "budgets.yaml:2 (all)"


def test_the_budget_that_says_more_changes_what_it_names_and_leaves_the_rest() -> None:
    limits = {(each.metric, each.kind): each for each in parse(TWO, "b.yaml").limits(NANO)}
    assert limits["latency.p50", "max"].value == 20e6
    assert limits["latency.p50", "max"].origin == "b.yaml:10 (nano)"
    assert limits["latency.p50", "regress"].value == pytest.approx(0.03)
    assert limits["artifact_size", "max"].value == 60 << 20
    assert len(limits) == 3


def test_of_equals_the_later_one_wins() -> None:
    text = TWO + '  - name: later\n    match: {target: "jetson*-"}\n    limits: {latency.p50: {max: 21 ms}}\n'
    text = text.replace('"jetson*-"', '"?etson-*"')
    found = {
        each.kind: each.value for each in parse(text, "b.yaml").limits(NANO) if each.metric == "latency.p50"
    }
    assert found["max"] == 20e6  # six literal characters beat five
    text = (
        text.replace('"?etson-*"', '"jetson-*"')
        .replace("21 ms", "22 ms")
        .replace('{target: "jetson-*"}', '{target: "jetson-*", precision: "fp1?6"}')
    )
    assert parse(text, "b.yaml").limits(NANO)[0].value in (20e6, 22e6)


def test_a_budget_takes_over_the_limits_of_another() -> None:
    text = (
        TWO
        + "  - name: strict\n    extends: [nano]\n    match: {model: yolo-s, device: nano-01}\n"
        + ("    limits: {latency.p99: {max: 40 ms}}\n")
    )
    limits = {each.metric: each for each in parse(text, "b.yaml").limits(NANO) if each.kind == "max"}
    assert limits["latency.p50"].value == 20e6
    assert limits["latency.p99"].value == 40e6


def test_a_group_is_matched_by_any_of_a_devices_groups() -> None:
    text = "version: 1\nbudgets: [{name: c, match: {group: canary}, limits: {load_time: {max: 4 s}}}]\n"
    assert parse(text, "b.yaml").limits(NANO)
    assert not parse(text.replace("canary}", "south}"), "b.yaml").limits(NANO)


def test_a_waiver_holds_until_its_day() -> None:
    text = TWO + (
        "  - name: slow\n    match: {model: yolo-*}\n"
        "    waive: {until: 2027-01-31, reason: ticket 112, owner: vision}\n"
    )
    waiver = parse(text, "b.yaml").waiver(NANO)
    assert waiver is not None
    assert waiver.holds(date(2027, 1, 31))
    assert not waiver.holds(date(2027, 2, 1))


@pytest.mark.parametrize(
    ("metric", "written", "value"),
    [
        ("latency.p99", "20 ms", 20e6),
        ("load_time", "4 s", 4e9),
        ("memory_peak", "900 MiB", 900 << 20),
        ("accuracy_drop", "1.0 pp", 0.01),
        ("energy_per_inference", "90 mJ", 90.0),
    ],
)
def test_absolute_limits_have_units(metric: str, written: str, value: float) -> None:
    text = f"version: 1\nbudgets: [{{name: a, limits: {{{metric}: {{max: {written}}}}}}}]\n"
    assert parse(text, "b.yaml").limits(NANO)[0].value == pytest.approx(value)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("{latency.p50: {max: 12}}", "12"),
        ("{latency.p50: {max: '12'}}", "not a time"),
        ("{latency.p50: {max: 0 ms}}", "cannot be meant"),
        (f"{{latency.p50: {{max: {'9' * 400} ms}}}}", "larger than any number"),
        ("{latency.p50: {regress: 5 ms}}", "percentage"),
        ("{latency.p50: {}}", "has no limit"),
        ("{latency.p51: {max: 12 ms}}", 'did you mean "latency.p9'),
        ("{accuracy_drop: {regress: 1 %}}", "no regress"),
        ("{throughput: {regress: 100 %}}", "cannot be meant"),
        ("{deadline_misses: {max: 1 %}}", "period"),
        ("{latency.p50: {max: 1 ms, period: 33 ms}}", "no period"),
        ("{throughput: {min: 30}}", "30"),
        ("{artifact_size: {min: 2 MiB, max: 1 MiB}}", "at least 2 MiB and at most 1 MiB"),
        ("{latency.p50: {max: 1 ms, sevverity: warn}}", "sevverity"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_named_with_its_line(limits: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"version: 1\nbudgets:\n  - name: a\n    limits: {limits}\n", "b.yaml")
    shown = f"{caught.value.message} {caught.value.hint}"
    assert said in shown
    assert "b.yaml:4" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 2\nbudgets: []\n", "version is 2"),
        ("version: 1\nbudgets: []\n", "budgets is empty"),
        ("version: 1\nbudgets: [{name: a}]\n", "limits nothing"),
        (
            "version: 1\nbudgets: [{name: a, extends: [b], limits: {load_time: {max: 1 s}}}]\n",
            "no budget above",
        ),
        ("version: 1\nbudgets: [{name: a, waive: {until: soon, reason: r, owner: o}}]\n", "no day"),
        (
            'version: 1\nbudgets: [{name: a, waive: {until: 2027-01-31, reason: "", owner: o}}]\n',
            "waive.reason",
        ),
        (
            "version: 1\nbudgets: [{name: a, match: {target: []}, limits: {load_time: {max: 1 s}}}]\n",
            "target",
        ),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "b.yaml")
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_two_budgets_for_the_same_cells_must_not_contradict_each_other() -> None:
    text = (
        TWO + "  - name: again\n    match: {target: 'raspberry-*'}\n    limits: {latency.p50: {max: 80 ms}}\n"
    )
    with pytest.raises(ConfigError, match="90 ms on line 14") as caught:
        parse(text, "b.yaml")
    assert "b.yaml:17" in caught.value.message


def test_two_budgets_of_one_name() -> None:
    with pytest.raises(ConfigError, match='two budgets called "all"'):
        parse(TWO + "  - name: all\n    limits: {load_time: {max: 1 s}}\n", "b.yaml")


@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(f"version: 1\nbudgets:\n  - {text}", "b.yaml")
