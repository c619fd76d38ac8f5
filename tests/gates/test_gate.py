"""The gate: right as often as it says, and every cell has an answer with a reason."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench import budgets as budget_files
from edgebench.exchange import LaunchEntry, MeasurementEntry
from edgebench.gates import DeviceNoise, Gate, Known, Observed, SessionNoise, Verdict, gate, observed
from edgebench.gates.document import document, json_schema
from edgebench.records import replace

TODAY = date(2026, 11, 25)
SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "gate.schema.json"
PUBLISHED = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
NOISE = 0.004


def entry(launches: Sequence[Sequence[int]], session: str = "s1", **changes: object) -> MeasurementEntry:
    made = MeasurementEntry(
        model="m",
        variant="fp32",
        runtime="onnxruntime",
        precision="fp32",
        device="d",
        target="linux-x86_64",
        session=session,
        launches=tuple(LaunchEntry(latency_ns=tuple(each)) for each in launches),
    )
    return replace(made, **changes)


def launches(
    ms: float, count: int = 10, samples: int = 30, noise: float = NOISE, seed: int = 1
) -> list[list[int]]:
    """Launches around a time, each with its own level and little noise inside."""
    chance = random.Random(f"{seed} {ms} {count}")
    made = []
    for _ in range(count):
        level = ms * 1e6 * math.exp(chance.gauss(0, noise))
        made.append([round(level * math.exp(chance.gauss(0, 0.01))) for _ in range(samples)])
    return made


def judged(
    now: MeasurementEntry | Observed,
    before: MeasurementEntry | None,
    limits: str,
    noise: SessionNoise | None = None,
    more: str = "",
) -> Gate:
    text = f"version: 1\nbudgets:\n  - name: all\n    limits: {limits}\n{more}"
    cell = now if isinstance(now, Observed) else observed(now, with_samples=True)
    base = [] if before is None else [observed(before)]
    known = Known({("d", "onnxruntime"): DeviceNoise(session=noise)})
    made = gate([cell], budget_files.parse(text, "b.yaml"), base, today=TODAY, known=known)
    PUBLISHED.validate(json.loads(json.dumps(document(made))))
    return made


def only(result: Gate) -> Verdict:
    (verdict,) = result.cells
    return verdict


REGRESS = "{latency.p50: {regress: 2 %}}"


@pytest.mark.parametrize(
    ("ms", "word", "code"),
    [(10.0, "pass", 0), (11.0, "fail", 1), (9.0, "pass", 0), (10.2, "inconclusive", 3)],
)
def test_a_regression_is_judged_against_its_limit(ms: float, word: str, code: int) -> None:
    result = judged(entry(launches(ms, seed=4)), entry(launches(10.0)), REGRESS)
    verdict = only(result)
    assert (verdict.word, result.exit_code) == (word, code)
    assert verdict.ratio == pytest.approx(ms / 10, rel=0.01)
    assert verdict.ci_low is not None
    assert verdict.ci_high is not None
    assert verdict.ci_low < ms / 10 < verdict.ci_high
    assert verdict.launches == 10
    if word == "inconclusive":
        assert "would have been found in 80 % of cases" in verdict.reason
        assert "edgebench run" in verdict.next


def test_less_throughput_is_a_regression() -> None:
    limits = "{throughput: {regress: 2 %}}"
    slower = only(judged(entry(launches(11.0, seed=2)), entry(launches(10.0)), limits))
    assert slower.word == "fail"
    assert slower.ratio == pytest.approx(10 / 11, rel=0.01)
    assert only(judged(entry(launches(9.0, seed=2)), entry(launches(10.0)), limits)).word == "pass"


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ("{latency.p50: {max: 12 ms}}", "pass"),
        ("{latency.p50: {max: 9 ms}}", "fail"),
        ("{throughput: {min: 50 /s}}", "pass"),
        ("{throughput: {min: 120 /s}}", "fail"),
        ("{latency.p50: {max: 10.0 ms}}", "inconclusive"),
    ],
)
def test_absolute_limits_need_no_baseline(limits: str, word: str) -> None:
    verdict = only(judged(entry(launches(10.0, seed=3)), None, limits))
    assert verdict.word == word
    assert verdict.origin == "b.yaml:4 (all)"


def test_a_stored_baseline_never_passes_without_history_and_fails_only_beyond_any_session() -> None:
    def word(ms: float, noise: SessionNoise | None = None) -> str:
        now, before = entry(launches(ms, seed=2), "today"), entry(launches(10.0), "last week")
        return only(judged(now, before, REGRESS, noise)).word

    assert word(10.0) == "inconclusive"
    assert word(11.0) == "inconclusive"
    assert word(40.0) == "fail"
    history = SessionNoise(variance=0.002**2, freedom=9)
    assert word(10.0, history) == "pass"
    assert word(11.0, history) == "fail"
    restless = SessionNoise(variance=0.05**2, freedom=9)
    assert word(11.0, restless) == "inconclusive"


def test_pairs_where_one_launch_is_invalid_are_left_out() -> None:
    before, now = entry(launches(10.0)), entry(launches(11.0, seed=2))
    spoilt = replace(now.launches[3], valid=False, invalid_reason="throttled", latency_ns=(99_000_000,) * 30)
    now = replace(now, launches=(*now.launches[:3], spoilt, *now.launches[4:]))
    verdict = only(judged(now, before, REGRESS))
    assert (verdict.word, verdict.launches) == ("fail", 9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": {"power_mode": "5W"}}, "power mode is 5W, and was MAXN"),
        ({"batch": 4}, "batch 4 is not batch 1"),
        ({"inputs": "other"}, "the inputs are"),
    ],
)
def test_what_was_measured_otherwise_is_not_comparable(changes: dict[str, object], said: str) -> None:
    before = entry(launches(10.0), environment={"power_mode": "MAXN"}, inputs="these")
    result = judged(entry(launches(10.0, seed=2), **changes), before, REGRESS)
    assert (only(result).word, result.exit_code) == ("not-comparable", 3)
    assert said in only(result).reason


@pytest.mark.parametrize(
    ("now", "word", "said"),
    [
        ([], "invalid", "no launches"),
        ([[]] * 10, "invalid", "no samples"),
        (launches(10.0, count=4), "inconclusive", "4 valid launches"),
        ([[10_000_000] * 30] * 10, "invalid", "all 300 samples are exactly 10.0 ms"),
        ([[9_000_000 + place] for place in range(10)], "inconclusive", "1 samples in a launch"),
        ([*launches(10.0, 5), *launches(0.01, 5)], "invalid", "mixed units"),
        ([[10_000_000 + place, 10_000] * 15 for place in range(10)], "invalid", "mixed units"),
        (launches(10_000.0), "invalid", "mixed units"),
    ],
)
def test_data_that_says_little_never_passes_by_itself(now: list[list[int]], word: str, said: str) -> None:
    verdict = only(judged(entry(now), entry(launches(10.0, seed=9)), REGRESS))
    assert verdict.word == word
    assert said in verdict.reason


def test_a_p99_of_few_samples_is_inconclusive() -> None:
    limits = "{latency.p99: {max: 100 ms}}"
    verdict = only(judged(entry(launches(10.0, samples=200)), None, limits))
    assert verdict.word == "inconclusive"
    assert "299" in verdict.reason
    assert only(judged(entry(launches(10.0, samples=300)), None, limits)).word == "pass"


def test_a_failed_cell_is_an_error_and_a_missing_baseline_is_said() -> None:
    failed = replace(observed(entry([])), failure="link dropped")
    assert judged(failed, None, REGRESS).exit_code == 4
    missing = judged(entry(launches(10.0)), None, REGRESS)
    assert (only(missing).word, missing.exit_code) == ("missing", 3)


def test_sizes_are_exact_and_memory_is_the_largest_launch() -> None:
    small = entry(launches(10.0), artifact_bytes=1000)
    assert (
        only(judged(replace(small, artifact_bytes=1021), small, "{artifact_size: {regress: 2 %}}")).word
        == "fail"
    )
    assert (
        only(judged(replace(small, artifact_bytes=1020), small, "{artifact_size: {regress: 2 %}}")).word
        == "pass"
    )
    heavy = replace(small, launches=tuple(replace(each, peak_bytes=1 << 20) for each in small.launches))
    one = replace(heavy.launches[0], peak_bytes=3 << 20)
    spiky = replace(heavy, launches=(one, *heavy.launches[1:]))
    assert only(judged(spiky, None, "{memory_peak: {max: 2 MiB}}")).word == "fail"
    assert only(judged(heavy, None, "{memory_peak: {max: 2 MiB}}")).word == "pass"


def test_deadlines_count_the_frames_that_come_too_late() -> None:
    limits = "{deadline_misses: {max: 1 %, period: 33 ms}}"
    assert only(judged(entry(launches(10.0, samples=100)), None, limits)).word == "pass"
    late = [[*each[:-5], *[40_000_000] * 5] for each in launches(10.0, samples=100)]
    assert only(judged(entry(late), None, limits)).word == "fail"
    few = only(judged(entry(launches(10.0, samples=10)), None, limits))
    assert few.word == "inconclusive"  # of 100 frames without a miss, up to 3 % may miss


def test_a_waived_failure_does_not_block_until_its_day() -> None:
    more = "  - name: slow\n    match: {model: m}\n    waive: {until: %s, reason: EB-1, owner: vision}\n"
    before, now = entry(launches(10.0)), entry(launches(11.0, seed=2))
    waived = judged(now, before, REGRESS, more=more % "2026-12-01")
    assert waived.exit_code == 0
    assert "EB-1" in only(waived).waived
    expired = judged(now, before, REGRESS, more=more % "2026-11-24")
    assert expired.exit_code == 1
    assert "ended on 2026-11-24" in only(expired).reason


def test_a_warning_does_not_decide_the_exit_code() -> None:
    result = judged(
        entry(launches(11.0, seed=2)), entry(launches(10.0)), "{latency.p50: {regress: 2 %, severity: warn}}"
    )
    assert only(result).word == "fail"
    assert result.exit_code == 0


def test_looks_pass_at_the_first_that_does_and_fail_by_the_surest() -> None:
    before = entry(launches(10.0, count=20), looks=(5, 10, 20))
    same = only(judged(entry(launches(10.0, count=20, seed=2), looks=(5, 10, 20)), before, REGRESS))
    assert (same.word, same.look, same.looks, same.rule) == ("pass", 5, 3, "welch")
    first = [replace(each, launches=each.launches[:5]) for each in (before, _slower())]
    early, late = only(judged(first[1], first[0], REGRESS)), only(judged(_slower(), before, REGRESS))
    assert (early.word, early.look, early.rule) == ("fail", 5, "welch")
    assert (late.word, late.look, late.rule) == ("fail", 20, "welch")
    assert (late.p_value or 1.0) < (early.p_value or 0.0)


def _slower() -> MeasurementEntry:
    return entry(launches(11.5, count=20, seed=2), looks=(5, 10, 20))


def test_what_no_budget_matches_and_what_matches_nothing_are_said() -> None:
    text = (
        "version: 1\nbudgets: [{name: pi, match: {target: 'raspberry-*'}, limits: {load_time: {max: 1 s}}}]\n"
    )
    result = gate([observed(entry(launches(10.0)))], budget_files.parse(text, "b.yaml"), [], today=TODAY)
    assert (result.verdict, result.exit_code) == ("nothing", 5)
    assert result.unmatched == ("pi",)
    assert result.unlimited == ("m fp32 · onnxruntime · d",)


def test_among_many_cells_a_chance_failure_does_not_stand() -> None:
    """Forty cells without a change, one of them 3 standard errors off: alone it would fail."""
    text = "version: 1\nbudgets: [{name: all, limits: {latency.p50: {regress: 0 %}}}]\n"
    rules = budget_files.parse(text, "b.yaml")
    odd_before, odd = entry(launches(10.0, seed=5)), entry(launches(10.065, seed=6))
    alone = gate([observed(odd)], rules, [observed(odd_before)], today=TODAY)
    assert only(alone).word == "fail"
    pairs = [
        (entry(launches(10.0, seed=n), model=f"m{n}"), entry(launches(9.97, seed=n + 100), model=f"m{n}"))
        for n in range(60)
    ]
    cells = [observed(odd), *(observed(now) for _, now in pairs)]
    base = [observed(odd_before), *(observed(before) for before, _ in pairs)]
    assert gate(cells, rules, base, today=TODAY).cells[0].word == "inconclusive"


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 10**12), max_size=4), max_size=8),
    st.lists(st.lists(st.integers(1, 10**12), max_size=4), max_size=8),
)
def test_any_numbers_get_an_answer(now: list[list[int]], before: list[list[int]]) -> None:
    limits = (
        "{latency.p50: {regress: 2 %, max: 12 ms}, throughput: {min: 3 /s, regress: 5 %}, "
        "memory_peak: {max: 1 MiB}}"
    )
    result = judged(entry(now), entry(before), limits)
    assert len(result.cells) == 5
    for verdict in result.cells:
        assert verdict.reason
        if verdict.word in ("inconclusive", "invalid", "missing"):
            assert verdict.next


def test_the_published_schema_is_that_of_the_code() -> None:
    """Every answer of this file's `judged` was held against it."""
    assert json.loads(SCHEMA_FILE.read_text()) == json.loads(json.dumps(json_schema()))
