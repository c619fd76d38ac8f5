"""The front: who dominates whom by intervals, what is chosen within budgets, and the picture of it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.records import Accuracy, replace
from edgebench.report.front import (
    Choice,
    Figure,
    Metric,
    Option,
    choose,
    compact,
    figures_of,
    parse_budget,
    placed,
    shown,
)
from edgebench.report.page.plots import fronts
from edgebench.report.svg import pareto

MS = 1_000_000


def figure(value: float, reach: float = 0.02) -> Figure:
    return Figure(value=value, low=value * (1 - reach), high=value * (1 + reach))


def option(name: str, *, device: str = "pi5-01", accuracy: Accuracy | None = None, **figures: Any) -> Option:
    made = {
        key: value if isinstance(value, Figure) else Figure(value=value) if key == "size" else figure(value)
        for key, value in figures.items()
    }
    return Option(
        id=name,
        device=device,
        target="raspberry-pi-5-8gb",
        model="net",
        variant=name,
        runtime="ncnn",
        precision="fp32",
        name=name,
        figures=made,
        accuracy=accuracy,
    )


def places(*found: Option) -> dict[str, str]:
    return {each.name: each.place for each in placed(found)}


def test_better_in_one_and_worse_in_none_dominates() -> None:
    slow = option("slow", p50=10 * MS, size=100.0, accuracy=None)
    fast = option("fast", p50=5 * MS, size=100.0)
    assert places(slow, fast) == {"slow": "dominated", "fast": "front"}
    (one, _) = placed([slow, fast])
    assert one.by == "fast on ncnn"


def test_a_sure_lead_in_anything_keeps_an_option_on_the_front() -> None:
    assert places(option("a", p50=10 * MS, size=50.0), option("b", p50=5 * MS, size=100.0)) == {
        "a": "front",
        "b": "front",
    }


def test_a_lead_within_the_intervals_is_called_unsure() -> None:
    first = option("first", p50=10.1 * MS, size=100.0)
    second = option("second", p50=10 * MS, size=200.0)
    assert places(first, second) == {"first": "front", "second": "unsure"}


def test_equal_options_stay_both() -> None:
    assert places(option("a", p50=10 * MS, size=1.0), option("b", p50=10 * MS, size=1.0)) == {
        "a": "front",
        "b": "front",
    }


def test_what_is_not_known_of_both_is_not_compared() -> None:
    known = option("known", p50=10 * MS, size=10.0, energy=Figure(value=5.0, low=4.9, high=5.1))
    other = option("other", p50=5 * MS, size=10.0)
    assert places(known, other) == {"known": "dominated", "other": "front"}


def test_without_an_interval_no_lead_is_sure() -> None:
    one = option("one", p50=Figure(value=1.0 * MS, sure=False), size=10.0)
    other = option("other", p50=Figure(value=9.0 * MS, sure=False), size=10.0)
    assert places(one, other) == {"one": "front", "other": "front"}


def test_models_and_devices_have_fronts_of_their_own() -> None:
    slow = option("slow", p50=10 * MS, size=100.0)
    fast = option("fast", device="pi5-02", p50=5 * MS, size=100.0)
    assert places(slow, fast) == {"slow": "front", "fast": "front"}
    assert places(slow, replace(fast, device="pi5-01", model="other")) == {"slow": "front", "fast": "front"}


def _accuracy(value: float, drop: float, reach: float) -> Accuracy:
    return Accuracy(
        metric="top1",
        n=500,
        value=value,
        dataset="d",
        low=value - 0.02,
        high=min(1.0, value + 0.02),
        against="net fp32",
        drop=drop,
        drop_low=drop - reach,
        drop_high=drop + reach,
    )


def test_accuracies_against_one_reference_are_compared_as_paired_drops() -> None:
    """Wilson's intervals overlap, those of the paired drops do not."""
    good, bad = _accuracy(0.98, 0.0, 0.004), _accuracy(0.965, 0.015, 0.004)
    one = option("one", p50=5 * MS, size=10.0, accuracy=good)
    other = option("other", p50=5 * MS, size=10.0, accuracy=bad)
    assert places(one, other) == {"one": "front", "other": "dominated"}
    elsewhere = replace(other, accuracy=replace(bad, dataset="e"))
    assert places(one, elsewhere)["other"] == "front"


@given(
    st.lists(
        st.tuples(st.floats(1, 100), st.floats(0, 0.5), st.floats(1, 100)),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_an_option_is_never_dominated_by_all_and_the_front_is_not_empty(
    cells: list[tuple[float, float, float]],
) -> None:
    found = placed(
        [
            option(f"o{n}", p50=figure(p50 * MS, reach), size=size)
            for n, (p50, reach, size) in enumerate(cells)
        ]
    )
    assert any(each.place != "dominated" for each in found)
    fastest = min(found, key=lambda each: (each.figures["p50"].value, each.figures["size"].value))
    assert fastest.place != "dominated"
    assert ET.fromstring(fronts(found)).tag.endswith("svg")


# --- choosing -----------------------------------------------------------------------------------------


def chosen(found: list[Option], budget: str, prefer: Metric = "p50") -> Choice:
    (choice,) = choose(placed(found), parse_budget(budget), prefer)
    return choice


def test_the_fastest_that_surely_keeps_every_budget_is_shipped() -> None:
    found = [
        option("big", p50=2 * MS, size=9_000_000.0),
        option("near", p50=3 * MS, size=1_000_000.0, p99=20 * MS),
        option("good", p50=5 * MS, size=1_000_000.0, p99=10 * MS),
        option("slow", p50=9 * MS, size=1_000_000.0, p99=12 * MS),
    ]
    choice = chosen(found, "p99 <= 20 ms, size <= 2 MB")
    assert (choice.answer, choice.name) == ("ship", "good")
    assert choice.reason.startswith("lowest p50 of the 2 that keep every budget")
    assert "breaks size" in choice.rejected["big on ncnn"]
    assert "may break p99 <= 20 ms" in choice.rejected["near on ncnn"]
    assert choice.rejected["slow on ncnn"].startswith("p50 9.00 ms")
    assert chosen(found, "", "size").answer == "ship"


def test_a_budget_is_kept_on_every_device_of_the_kind_or_not_at_all() -> None:
    found = [
        option("fast", p50=2 * MS, size=1.0),
        option("fast", device="pi5-02", p50=8 * MS, size=1.0),
        option("even", p50=4 * MS, size=1.0),
        option("even", device="pi5-02", p50=4.1 * MS, size=1.0),
        option("once", p50=1 * MS, size=1.0),
    ]
    choice = chosen(found, "p50 <= 5 ms")
    assert (choice.name, choice.devices) == ("even", ("pi5-01", "pi5-02"))
    assert {(each.device, each.kept) for each in choice.holdings} == {("pi5-01", "kept"), ("pi5-02", "kept")}
    assert choice.rejected["once on ncnn"] == "not measured on every device"


def test_what_may_keep_a_budget_is_inconclusive_and_what_breaks_it_nothing() -> None:
    found = [option("a", p50=10 * MS, size=1.0)]
    choice = chosen(found, "p50 <= 10 ms")
    assert (choice.answer, choice.name) == ("inconclusive", "a")
    assert chosen(found, "p50 <= 5 ms").answer == "nothing"
    unknown = chosen(found, "accuracy >= 90 %")
    assert (unknown.answer, unknown.name) == ("inconclusive", "")


def test_a_budget_on_the_drop_takes_its_interval() -> None:
    found = [option("a", p50=MS, size=1.0, accuracy=_accuracy(0.98, 0.004, 0.004))]
    assert chosen(found, "drop <= 1 pp").answer == "ship"
    assert chosen(found, "drop <= 0.5 pp").answer == "inconclusive"
    assert chosen(found, "drop <= 0 %").answer == "inconclusive"


@pytest.mark.parametrize("text", ["", "p50 <= 3 ms, size <= 1 MiB", "accuracy >= 97.5 %", "energy < 500 uJ"])
def test_budgets_that_are_understood(text: str) -> None:
    assert len(parse_budget(text)) == len([part for part in text.split(",") if part])


@given(st.text(max_size=30))
def test_other_texts_are_the_users(text: str) -> None:
    try:
        parse_budget(text)
    except UserError as error:
        assert error.hint  # noqa: PT017  both outcomes are fine


# --- showing ------------------------------------------------------------------------------------------


def test_figures_in_words() -> None:
    assert shown("p50", figure(2 * MS, 0.1)) == "2.00 ms (1.80 ms to 2.20 ms)"
    assert compact("p50", figure(2 * MS, 0.1)) == "2.00 (1.80–2.20)"
    assert compact("size", Figure(value=2048.0)) == "2.00 KiB"
    assert compact("p50", Figure(value=2.0 * MS, sure=False)) == "2.00 (?)"


def test_shares_are_percent_and_scores_of_the_users_own_are_not() -> None:
    top1 = option("a", p50=2 * MS, size=2048.0, accuracy=_accuracy(0.9, 0.0, 0.01))
    top1 = replace(top1, figures=top1.figures | {"accuracy": Figure(value=0.9, low=0.88, high=0.92)})
    assert figures_of([top1]) == (
        ("accuracy, %", "p50, ms", "size"),
        (("90.0 (88.0–92.0)", "2.00 (1.96–2.04)", "2.00 KiB"),),
    )
    score = replace(top1, accuracy=replace(_accuracy(0.9, 0.0, 0.01), metric="mine:psnr"))
    score = replace(score, figures={"accuracy": Figure(value=31.4, low=30.9, high=31.9)})
    assert figures_of([score]) == (("accuracy",), (("31.4 (30.9–31.9)",),))


def test_the_picture_escapes_names_and_bounds_its_list() -> None:
    hostile = option("<script>&\x1b[31m", p50=5 * MS, size=10.0)
    many = [option(f"o{number}", p50=(number + 1) * MS, size=10.0) for number in range(50)]
    text = fronts(placed([hostile, *many]))
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "and 11 more" in text
    root = ET.fromstring(text)
    assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == 51
    assert ET.fromstring(fronts([])).tag.endswith("svg")


def test_budgets_are_lines_in_the_picture_and_places_have_their_looks() -> None:
    found = placed(
        [
            option("fast", p50=10 * MS, size=100.0),
            option("close", p50=10.1 * MS, size=99.5),
            option("close-too", p50=10.05 * MS, size=200.0),
            option("slow", p50=30 * MS, size=300.0),
        ]
    )
    assert {each.name: each.place for each in found}["slow"] == "dominated"
    chart = pareto.chart("front1", "net on pi5-01", found, parse_budget("p50 <= 20 ms, size <= 2 GiB"))
    assert chart.svg.count('class="limit"') == 1
    assert "p50 &lt;= 20 ms" in chart.svg
    for place, style in (("front", "front"), ("unsure", "maybe"), ("dominated", "dot")):
        count = sum(each.place == place for each in found)
        assert chart.svg.count(f'class="{style}"') == count > 0
    assert chart.headings == ("form", "p50, ms", "size", "on the front")
    assert [row[-1].split(":")[0] for row in chart.rows] == ["perhaps", "no", "yes", "no"]
    assert "Accuracy was not measured" in chart.finding
