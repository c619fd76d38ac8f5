"""A small simulation in every test run: the gate's rules keep their word, and what others do does not."""

from __future__ import annotations

import math

import pytest

from tests.simulation import rules
from tests.simulation.boards import BOARDS, Board, Trials, trials

COUNT = 400
SLACK = 2.6 * math.sqrt(0.05 * 0.95 / COUNT)
LIMIT = math.log(1.02)


@pytest.fixture(params=BOARDS, ids=lambda board: board.name)
def known(request: pytest.FixtureRequest) -> Trials:
    board: Board = request.param
    return trials(board, COUNT, 10, seed=4)


def _share(answers: rules.Answers, word: str) -> float:
    return sum(each == word for each in answers) / len(answers)


@pytest.mark.parametrize("rule", [rules.welch, rules.paired, rules.trimmed, rules.looks, rules.duet])
def test_nothing_changed_and_at_most_one_in_twenty_fails(rule: rules.Rule, known: Trials) -> None:
    assert _share(rule(known, 0.0, 0.0), "fail") <= 0.06 + SLACK


@pytest.mark.parametrize("rule", [rules.pooled_mann_whitney, rules.pooled_bootstrap])
def test_pooled_inferences_raise_false_alarms(rule: rules.Rule, known: Trials) -> None:
    assert _share(rule(known, 0.0, 0.0), "fail") > 0.25


@pytest.mark.parametrize("rule", [rules.welch, rules.paired, rules.trimmed, rules.looks])
def test_a_tenth_slower_is_seen_on_quiet_and_typical_boards(rule: rules.Rule) -> None:
    for board in BOARDS[:2]:
        answers = rule(trials(board, COUNT, 10, seed=5), math.log(1.10), LIMIT)
        assert _share(answers, "fail") > 0.9
        assert _share(answers, "pass") == 0
