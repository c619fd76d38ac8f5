"""Small pure parts: jumps, drifts, sisters, layers beside each other, order of harm, coverage."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.gates.compare import Compared, compare
from edgebench.records import LayerTime, replace
from edgebench.report import markdown
from edgebench.report.build import build
from edgebench.report.details import detail
from edgebench.report.differences import harm_first, harm_for_sure, layer_changes
from edgebench.report.fleet import coverage, grouped, keys_of, metric_of, value_of
from edgebench.report.history import Sister, change_points, odd_ones
from edgebench.report.page.plots import KINDS, plots, standalone
from edgebench.report.sheet import Sheet, to_csv
from edgebench.report.svg.base import cut, scale_of
from tests.report import pages
from tests.report.fixtures import failure, job, measurement, run
from tests.report.test_page import PAGES


def test_a_level_that_changes_and_stays_is_a_jump() -> None:
    values = [math.log(value) for value in (5, 5.01, 4.99, 5, 5.5, 5.51, 5.49, 5.5)]
    (found,) = change_points(values)
    assert found[0] == 4
    assert math.exp(found[1]) == pytest.approx(1.1, rel=0.01)


@pytest.mark.parametrize(
    "values",
    [
        [5.0] * 10,
        [5, 5.4, 4.8, 5.2, 4.9, 5.3, 5.1, 4.7, 5.2],  # noise
        [5, 5.01, 5, 6, 5, 5.01, 4.99],  # one outlier
        [5, 6],
        [],
    ],
)
def test_noise_and_single_outliers_are_none(values: list[float]) -> None:
    assert change_points([math.log(value) for value in values]) == []


def test_two_jumps_are_found_in_their_places() -> None:
    levels = [1.0] * 6 + [1.2] * 6 + [1.05] * 6
    values = [math.log(value * (1 + 0.001 * (at % 3))) for at, value in enumerate(levels)]
    assert [at for at, _ in change_points(values)] == [6, 12]


def _sisters(values: list[float]) -> list[Sister]:
    return [Sister(device=f"b{at}", target="t", cell="c", value=value) for at, value in enumerate(values)]


def test_the_odd_board_is_named() -> None:
    (odd,) = odd_ones(_sisters([4.0, 4.01, 3.99, 4.6, 4.0]))
    assert odd.device == "b3"
    assert odd.sisters == 4
    assert odd.ratio == pytest.approx(1.15, rel=0.01)


def test_two_boards_have_no_odd_one_and_spread_is_no_oddness() -> None:
    assert odd_ones(_sisters([4.0, 8.0])) == ()
    assert odd_ones(_sisters([4.0, 4.4, 3.7, 4.2, 3.9])) == ()
    assert odd_ones(_sisters([4.0] * 5)) == ()


def test_layers_are_joined_by_their_nodes() -> None:
    before = pages.profile()
    slower = replace(before.layers[0], mean_ns=2_000_000)
    after = replace(
        before,
        layers=(slower, *before.layers[2:], LayerTime(name="new", kind="Add", mean_ns=10)),
    )
    found = {each.name: each for each in layer_changes(before, after)}
    assert found["node_0"].added_ns == 1_100_000
    assert found["node_1"].after_ns is None
    assert found["new"].before_ns is None
    assert layer_changes(before, after)[0].name == "node_0"


def test_the_surest_harm_comes_first() -> None:
    subject = pages.cells([measurement()])[0].subject

    def one(ratio: float, low: float | None, high: float | None, metric: str = "latency.p50") -> Compared:
        return Compared(
            subject=subject, metric=metric, verdict="inconclusive", ratio=ratio, ci_low=low, ci_high=high
        )

    sure, large, unknown = one(1.1, 1.08, 1.12), one(1.5, 0.9, 2.5), one(1.4, None, None)
    lost = one(0.5, 0.45, 0.55, "throughput")
    assert sorted([unknown, large, sure, lost], key=harm_first) == [lost, sure, large, unknown]
    assert harm_for_sure(lost) == pytest.approx(math.log(1 / 0.55))


def test_a_ratio_to_look_at_changes_no_verdict() -> None:
    subjects = pages.subjects()
    assert subjects.before is not None
    example, _ = pages.full()
    old = pages.earlier(example)
    plain = compare(pages.cells(old[1]), pages.cells(example[1]))
    told = {(each.subject, each.metric): each.verdict for each in plain}
    for each in subjects.before.compared:
        assert each.verdict == told[each.subject, each.metric]
    assert any(
        each.ratio is not None and each.verdict == "not-comparable" for each in subjects.before.compared
    )


@pytest.mark.parametrize(
    "moments",
    [
        ("2026-08-01T23:59:50Z", "2026-08-02T00:00:20Z"),
        ("2026-08-02T05:29:50+05:30", "2026-08-01T20:30:20-03:30"),
    ],
)
def test_launches_stand_in_their_order_whatever_zone_a_board_tells(moments: tuple[str, str]) -> None:
    one = measurement(samples=[[4_000_000] * 30] * 2)
    launches = [replace(each, started_utc=when) for each, when in zip(one.launches, moments, strict=True)]
    spans = detail(replace(one, launches=tuple(launches))).board.spans
    assert [each.from_s for each in spans] == [0.0, 30.0]


def test_launches_without_a_time_stand_one_after_the_other() -> None:
    one = measurement(samples=[[4_000_000] * 30] * 2)
    launches = [replace(each, started_utc="yesterday") for each in one.launches]
    spans = detail(replace(one, launches=tuple(launches))).board.spans
    assert spans[1].from_s == pytest.approx(spans[0].to_s)


def test_coverage_and_groups_of_nothing() -> None:
    assert coverage([]).planned == 0
    assert grouped([], ("device",)) == ()


def test_a_value_that_is_not_known_is_none() -> None:
    cell = pages.cells([measurement()])[0]
    assert value_of("energy_per_inference", cell) is None
    assert value_of("accuracy_drop", cell) is None
    assert value_of("latency.p50", replace(cell, launches=())) is None


def test_keys_and_metrics_are_checked() -> None:
    assert keys_of("target, runtime,target") == ("target", "runtime")
    for text in ("", ",", "boards"):
        with pytest.raises(UserError):
            keys_of(text)
    with pytest.raises(UserError, match="latency"):
        metric_of("latency")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("-2.5", "-2.5"),
        ("-", "-"),
        ("-cmd|x", "'-cmd|x"),
        ("a,b", '"a,b"'),
        ('say "x"', '"say ""x"""'),
    ],
)
def test_csv_is_harmless(text: str, told: str) -> None:
    assert to_csv(Sheet(("a", "b"), [(text, "1")])) == f"a,b\n{told},1\n"


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20), st.booleans())
def test_scales_show_every_value_and_have_ticks(values: list[float], log: bool) -> None:
    scale = scale_of(values, 10.0, 110.0, log=log)
    assert all(10.0 <= scale(value) <= 110.0 for value in values)
    ticks = scale.ticks()
    assert len(ticks) <= 12
    assert all(10.0 <= scale(tick) <= 110.0 for tick in ticks)


@given(st.text(max_size=400))
def test_names_are_cut_in_their_middle(text: str) -> None:
    assert len(cut(text, 20)) <= 20


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_plot_of_every_kind_brings_its_colours_along(kind: str) -> None:
    made = plots(PAGES["full"](), kind)
    assert made
    text = standalone(made[0].chart)
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "axis-title" in text
    assert "var(" not in text
    assert "system-ui" not in text


def test_markdown_is_cut_to_what_github_takes() -> None:
    one = measurement(samples=[[4_000_000 + k] * 5 for k in range(3)])
    made = [replace(one, id=f"m{at}", job=job(device=f"board-{at:03}")) for at in range(300)]
    lost = [failure(job(device="lost"), "device", "push", "it is full", "free some space")]
    report = build(run([each.job for each in made]), made, lost)
    whole = markdown.render(report)
    assert len(whole.encode()) > 70_000
    cut_ = markdown.fitted(report, 65_000)
    assert len(cut_.encode()) < 65_536
    assert "it is full" in cut_
    assert "lines are left out here" in cut_.rstrip().splitlines()[-1]
    assert markdown.fitted(report, 1_000_000).rstrip() == whole.rstrip()
