"""A gate in the formats of CI systems: each is what its readers take, whatever was judged and named."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.budgets import METRICS, Subject
from edgebench.cli import gating
from edgebench.gates import Gate, Verdict, exit_code
from edgebench.gates import base as gates
from edgebench.records import replace
from edgebench.report import job_summary, junit, openmetrics

WORDS = ("pass", "fail", "inconclusive", "invalid", "error", "missing", "not-comparable")
DOCS = Path(__file__).parents[2] / "docs"
relaxed = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(max_size=12) | st.sampled_from(['a|b<c>&"\\', "x\n::error::y", "a.b", "a_b", "\ud800", "]]>"])
subjects = st.builds(
    Subject,
    **dict.fromkeys(("target", "device", "model", "variant", "runtime", "precision"), texts),
    groups=st.just(()),
)
numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True)
verdicts = st.builds(
    Verdict,
    subject=subjects,
    metric=st.sampled_from(sorted(METRICS)),
    kind=st.sampled_from(["max", "min", "regress"]),
    word=st.sampled_from(WORDS),
    reason=texts,
    next=texts,
    severity=st.sampled_from(["block", "warn", "info"]),
    limit_text=st.sampled_from(["2 %", "12 ms"]),
    observed=numbers.filter(lambda value: value is None or abs(value) < 1e300),
    waived=st.sampled_from(["", "until 2027-01-31 by me: why"]),
    design=st.sampled_from(["separate", "duet"]),
    cause=st.sampled_from(["", "low-power", "load-dilution"]),
)
judged = st.lists(verdicts, max_size=15).map(
    lambda cells: Gate(verdict="pass", exit_code=0, cells=tuple(cells))
)


def verdict(word: str, place: int = 0, **changes: Any) -> Verdict:
    made = Verdict(
        subject=Subject(
            target="t",
            device=f"d{place % 25}",
            groups=(),
            model=f"m{place}",
            variant="fp32",
            runtime="ncnn",
            precision="fp32",
        ),
        metric="latency.p50",
        kind="regress",
        word=word,  # type: ignore[arg-type]
        reason="because",
        limit_text="2 %",
        observed=1e6,
    )
    return replace(made, **changes)


def gate(*cells: Verdict) -> Gate:
    return Gate(verdict="fail", exit_code=1, cells=cells)


# --- JUnit ----------------------------------------------------------------------------------------


@relaxed
@given(judged, st.booleans())
def test_junit_names_every_test_once_and_counts_right(found: Gate, strict: bool) -> None:
    root = ET.fromstring(junit.render(found, inconclusive_fails=strict).encode())
    cases = list(root.iter("testcase"))
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    for suite in (root, *root.findall("testsuite")):
        inside = list(suite.iter("testcase"))
        assert suite.get("tests") == str(len(inside))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert suite.get(attribute) == str(sum(case.find(tag) is not None for case in inside))
    good = sum(each.word == "pass" for each in found.cells)
    assert sum(len(case.findall("*")) == 1 for case in cases) == good  # of a pass there is the text alone


def test_junit_tells_how_it_was_measured() -> None:
    duet = verdict(
        "inconclusive",
        design="duet",
        rule="duet",
        cause="load-dilution",
        foreign_load=1.2,
        least_effect=0.031,
    )
    text = junit.render(gate(duet))
    for said in ("measured: duet", "cause: load-dilution", "foreign load: 1.20 cores", "+3.1 %"):
        assert said in text


# --- GitHub ---------------------------------------------------------------------------------------


@relaxed
@given(judged)
def test_the_summary_is_text_that_fits(found: Gate) -> None:
    text = job_summary.render(found)
    assert len(text.encode()) < 1 << 20
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith(("| |", "| device")):
            assert re.sub(r"\\.", "", line).count("|") == 5


def test_two_thousand_cells_are_told_by_the_worst_and_by_device() -> None:
    cells = [verdict("fail" if n % 100 == 3 else "pass", n) for n in range(2000)]
    text = job_summary.render(gate(*cells))
    assert text.count("| ❌ fail |") == 20
    assert "✅ pass" not in text
    assert "1980 more" in text
    assert "| d3 | 20 | 60 |" in text
    assert len(text.splitlines()) < 120


def test_a_summary_of_the_longest_texts_is_within_githubs_limit() -> None:
    names = ("target", "device", "model", "variant", "runtime", "precision")
    long = Subject(groups=(), **dict.fromkeys(names, "<|" * 150))
    cells = [verdict("error", n, subject=long, reason="<" * 5000, next="|" * 5000) for n in range(2000)]
    assert len(job_summary.render(gate(*cells)).encode()) < 1 << 20


@relaxed
@given(judged)
def test_annotations_are_few_and_one_line_each(found: Gate) -> None:
    lines = job_summary.workflow_commands(found).splitlines()
    assert all(re.match(r"::(error|warning|notice) title=[^:,]*::", line) for line in lines)
    counts = Counter(line.split()[0] for line in lines)
    assert all(count <= 10 for count in counts.values())


def test_more_annotations_than_github_shows_are_counted() -> None:
    cells = [verdict("fail", n) for n in range(30)]
    lines = job_summary.workflow_commands(gate(*cells, verdict("fail", 99, waived="until then"))).splitlines()
    assert len(lines) == 11
    assert "and 21 more" in lines[9]
    assert lines[10].startswith("::notice title=fail (waived)")


@pytest.mark.parametrize(
    ("word", "changes", "kind"),
    [
        ("fail", {}, "error"),
        ("invalid", {}, "error"),
        ("missing", {}, "warning"),
        ("fail", {"severity": "warn"}, "warning"),
        ("fail", {"severity": "info"}, "notice"),
        ("fail", {"waived": "until then"}, "notice"),
    ],
)
def test_an_annotation_weighs_what_the_verdict_weighs(word: str, changes: dict[str, Any], kind: str) -> None:
    assert job_summary.workflow_commands(gate(verdict(word, **changes))).startswith(f"::{kind} ")


# --- OpenMetrics ----------------------------------------------------------------------------------

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} ([-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
META = re.compile(rf"# (TYPE|UNIT|HELP) ({NAME}) (.+)")


def check_openmetrics(text: str) -> None:
    """That the text is OpenMetrics 1.0 as its grammar and its rules on families want it."""
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == text.count("\n# EOF\n") + text.startswith("# EOF\n")
    family, done, told, series = "", set(), set(), set()
    for line in text.split("\n")[:-2]:
        meta = META.fullmatch(line)
        if meta:
            if meta[2] != family:
                assert meta[2] not in done, "families must not be taken up again"
                family, told = meta[2], set()
                done.add(family)
            assert meta[1] not in told, "metadata twice"
            assert family not in {each[0] for each in series}, "metadata after samples"
            told.add(meta[1])
            assert meta[1] != "TYPE" or meta[3] == "gauge"
            assert meta[1] != "UNIT" or family.endswith(f"_{meta[3]}")
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] == family, "a sample outside of its family"
        labels = re.findall(LABEL, sample[2])
        keys = [label.partition("=")[0] for label in labels]
        assert len(set(keys)) == len(keys)
        assert (sample[1], sample[2]) not in series, "a series twice"
        series.add((sample[1], sample[2]))


@relaxed
@given(judged)
def test_openmetrics_is_strictly_right(found: Gate) -> None:
    check_openmetrics(openmetrics.render(found))


def test_a_cell_that_was_measured_twice_is_one_series() -> None:
    check_openmetrics(openmetrics.render(gate(verdict("pass"), verdict("pass"), verdict("fail"))))
    check_openmetrics(openmetrics.render(gate()))


# --- exit codes -----------------------------------------------------------------------------------


def test_the_order_of_exit_codes_is_one_everywhere() -> None:
    order = gating.WORST_FIRST
    assert order == (70, 2, 1, 4, 75, 3, 5, 0)
    assert tuple(code for code in order if code in gates.WORST_FIRST) == gates.WORST_FIRST
    for page in ("ci.md", "action.yml"):
        assert f"for c in {order} if" in (DOCS / page).read_text()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("pass",), 0),
        (("pass", "inconclusive"), 3),
        (("missing",), 3),
        (("not-comparable",), 3),
        (("inconclusive", "invalid"), 4),
        (("inconclusive", "error", "pass"), 4),
        (("error", "fail", "inconclusive"), 1),
        ((), 5),
    ],
)
def test_the_worst_verdict_decides(words: tuple[str, ...], code: int) -> None:
    assert exit_code(verdict(word) for word in words) == code
