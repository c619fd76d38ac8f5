"""Limits on lost accuracy: judged against the model as it was given, with what would decide."""

from __future__ import annotations

from datetime import date

import pytest

from edgebench import budgets as budget_files
from edgebench.accuracy import Pairs, mcnemar, paired_bounds, wilson
from edgebench.errors import UserError
from edgebench.exchange import MeasurementEntry, MeasurementFile, parse, text
from edgebench.gates import Verdict, gate, observed
from edgebench.records import Accuracy, replace

LIMIT = "{accuracy_drop: {max: 1 %}}"


def report(n: int, more: int, fewer: int, wrong: int = 0) -> Accuracy:
    """A reference that errs in `wrong` samples, and what it alone, and the candidate alone, gets right."""
    lower, upper = paired_bounds(Pairs(n, more, fewer))
    right = n - wrong - more
    low, high = wilson(right, n)
    return Accuracy(
        metric="top1",
        n=n,
        value=right / n,
        dataset="d" * 64,
        low=low,
        high=high,
        reference=(right + more - fewer) / n,
        against="net fp32",
        drop=(more - fewer) / n,
        drop_low=lower(0.025),
        drop_high=upper(0.025),
        only_reference=more,
        only_candidate=fewer,
        p_value=mcnemar(more, fewer),
    )


def entry(of: Accuracy | None, **more: object) -> MeasurementEntry:
    made = MeasurementEntry(
        model="net",
        variant="fp32",
        runtime="ncnn",
        precision="int8",
        device="pi",
        target="raspberry-pi-5-8gb",
        session="s",
        launches=(),
        accuracy=None if of is None else of.value,
        accuracy_report=of,
    )
    return replace(made, **more)


def judged(now: MeasurementEntry, before: MeasurementEntry | None = None, limits: str = LIMIT) -> Verdict:
    rules = budget_files.parse(f"version: 1\nbudgets:\n  - name: all\n    limits: {limits}\n", "b.yaml")
    base = [] if before is None else [observed(before)]
    (verdict,) = gate([observed(now)], rules, base, today=date(2026, 11, 26)).cells
    return verdict


@pytest.mark.parametrize(
    ("n", "more", "fewer", "word"),
    [
        (500, 0, 0, "pass"),  # three in 500 is 0.6 %
        (200, 0, 0, "inconclusive"),
        (5000, 40, 30, "pass"),
        (5000, 130, 30, "fail"),
        (5000, 60, 10, "inconclusive"),
        (500, 20, 2, "fail"),
        (500, 2, 9, "pass"),
    ],
)
def test_the_drop_is_judged_with_its_interval(n: int, more: int, fewer: int, word: str) -> None:
    verdict = judged(entry(report(n, more, fewer)))
    assert verdict.word == word
    assert verdict.observed == pytest.approx((more - fewer) / n)
    assert verdict.ci_low is not None
    assert verdict.ci_high is not None
    assert verdict.ci_low <= (more - fewer) / n <= verdict.ci_high
    assert verdict.rule == "paired-score"
    assert f"{n} samples" in verdict.reason
    assert "limit 1 %" in verdict.reason
    assert ("samples would decide" in verdict.next) == (word == "inconclusive")


def test_the_number_of_samples_that_would_decide_does_decide() -> None:
    verdict = judged(entry(report(1000, 9, 4)))
    assert verdict.word == "inconclusive"
    needed = int(verdict.next.split()[1].replace(",", ""))
    times = -(-needed // 1000)
    assert judged(entry(report(1000 * times, 9 * times, 4 * times))).word == "pass"
    assert judged(entry(report(500 * times, 9 * times // 2, 2 * times))).word == "inconclusive"


def test_a_drop_on_the_limit_is_never_decided() -> None:
    verdict = judged(entry(report(1000, 15, 5)))
    assert verdict.word == "inconclusive"
    assert "no number of samples would decide" in verdict.next


def test_scores_use_a_paired_t_and_one_figure_decides_nothing() -> None:
    scores = replace(
        report(400, 0, 0),
        metric="m:iou",
        value=0.80,
        reference=0.82,
        drop=0.02,
        drop_low=0.015,
        drop_high=0.025,
        only_reference=None,
        only_candidate=None,
    )
    verdict = judged(entry(scores))
    assert (verdict.word, verdict.rule) == ("fail", "paired")
    assert judged(entry(scores), limits="{accuracy_drop: {max: 3 %}}").word == "pass"
    assert judged(entry(scores), limits="{accuracy_drop: {max: 2.3 %}}").word == "inconclusive"
    single = replace(scores, low=None, high=None, drop_low=None, drop_high=None, p_value=None)
    for limit in ("0.1 %", "50 %"):
        told = judged(entry(single), limits=f"{{accuracy_drop: {{max: {limit}}}}}")
        assert told.word == "inconclusive"
        assert "one score a sample" in told.next


def test_a_baseline_does_not_change_what_was_lost_against_the_reference() -> None:
    worse = replace(report(5000, 40, 30), value=0.5)
    assert judged(entry(report(5000, 130, 30)), entry(worse)).word == "fail"


def test_files_that_know_no_reference_are_compared_with_the_baseline() -> None:
    assert judged(entry(None, accuracy=0.98), entry(None, accuracy=0.985)).word == "pass"
    assert judged(entry(None, accuracy=0.97), entry(None, accuracy=0.985)).word == "fail"
    assert judged(entry(None, accuracy=0.97)).word == "missing"
    assert judged(entry(None), entry(None, accuracy=0.985)).word == "missing"


# --- from files -----------------------------------------------------------------------------------


def test_a_report_travels_in_a_file() -> None:
    made = entry(report(500, 2, 1))
    file = MeasurementFile(schema=1, measurements=(made,))
    assert parse(text(file).encode(), "f.json").measurements == (made,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 0}, "n is 0"),
        ({"only_reference": 400, "only_candidate": 200}, "counts 400 and 200 of 500"),
        ({"only_candidate": None}, "only one of"),
        ({"only_reference": -1}, "counts -1"),
        ({"drop": 0.5}, "outside of its interval"),
        ({"drop": 0.003}, "its counts say 0.002"),
        ({"drop_low": 0.1}, "no interval"),
        ({"high": None}, "no interval"),
        ({"value": 1e300}, "value is 1e+300"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(changes: dict[str, object], said: str) -> None:
    made = entry(replace(report(500, 2, 1), **changes))
    with pytest.raises(UserError) as caught:
        parse(text(MeasurementFile(schema=1, measurements=(made,))).encode(), "f.json")
    assert said in caught.value.message
