"""A sample of the injected faults, one of most kinds; `make faults` runs them all."""

from __future__ import annotations

import pytest

from tests.faults.__main__ import SEED, main, run_all
from tests.faults.cases import KINDS, Case, cases
from tests.faults.run import Outcome
from tests.faults.table import markdown, totals
from tests.fleet.netns import MissingTool

SAMPLE = (
    ("cut", "samples:1"),
    ("cut", "upload"),
    ("outage of 2 s", "load:2"),
    ("reset", "child:1"),
    ("kill controller", "samples:2"),
    ("kill controller", "commit"),
    ("kill session", "samples:1"),
    ("kill guard", "warmup:1"),
    ("kill launch", "samples:2"),
    ("kill everything", "lease"),
    ("stop controller", "samples:1"),
    ("stop session", "upload"),
    ("stop connection", "lease"),
    ("full disk", "assemble"),
    ("corrupted upload", "commit"),
    ("clock jumps", "samples:1"),
    ("endless garbage", "child:1"),
    ("busy board, waited for", "connect"),
    ("two controllers, one killed", "samples:1"),
)


@pytest.mark.fleet
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_left_of_a_sample_of_faults() -> None:
    known = {(case.kind, case.stage): case for case in cases(SEED)}
    try:
        outcomes = run_all([known[each] for each in SAMPLE], boards=3)
    except MissingTool as missing:
        pytest.skip(f"missing tool: {missing}")
    assert [(each.case.name, each.violations, each.detail) for each in outcomes if each.violations] == []
    assert len(outcomes) == len(SAMPLE)
    assert "0 violations" in totals(outcomes)[0]


def test_there_are_at_least_200_faults_and_each_can_be_repeated() -> None:
    listed = cases(SEED)
    assert len(listed) >= 200
    assert sorted(listed) == sorted(cases(SEED))
    assert [case.number for case in listed] != sorted(case.number for case in listed)
    assert {case.number for case in cases(1)} == {case.number for case in listed}
    assert {case.kind for case in listed} == set(KINDS)


def test_a_violation_is_counted_and_shown() -> None:
    case = Case(1, "cut", "lease", 7)
    outcomes = [
        Outcome(case, "measured", ("orphans: 7", "double: 2"), 1.0),
        Outcome(case, "measured", (), 3.0),
    ]
    assert "| cut | 2 | 2 measured | 2 | 2 |" in markdown(outcomes)
    assert totals(outcomes)[0] == "2 faults injected, 2 violations:"
    assert "- double use: 1" in totals(outcomes)


def test_the_list_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "   1  cut at bootstrap" in capsys.readouterr().out
