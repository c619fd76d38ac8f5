"""A small simulation in every test run: the gate's rules keep their word, and what others do does not."""

from __future__ import annotations

import math

import pytest

from tests.simulation import rules
from tests.simulation.boards import BOARDS, HARD, TYPICAL, Board, compared, pooled
from tests.simulation.rules import share

COUNT = 400
SLACK = 2.6 * math.sqrt(0.05 * 0.95 / COUNT)
LIMIT = math.log(1.02)
OFFERED = [rules.one_sample, rules.welch, rules.pairs, rules.duet]
SEQUENTIAL = [rules.looks, rules.duet_looks, rules.auto]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_nothing_changed_and_at_most_one_in_twenty_fails(board: Board) -> None:
    known = compared(board, COUNT, 20, seed=4)
    for rule in (*OFFERED, *SEQUENTIAL):
        assert share(rule(known, 0.0, 0.0), "fail") <= 0.06 + SLACK, rule


@pytest.mark.parametrize("board", HARD, ids=lambda board: board.name)
def test_pairs_and_duets_bear_launches_that_are_not_independent(board: Board) -> None:
    known = compared(board, COUNT, 20, seed=6)
    for rule in (rules.pairs, *SEQUENTIAL):
        assert share(rule(known, 0.0, 0.0), "fail") <= 0.06 + SLACK, rule


@pytest.mark.parametrize("rule", [rules.pooled_mann_whitney, rules.pooled_bootstrap])
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_pooled_inferences_raise_false_alarms(rule: rules.PooledRule, board: Board) -> None:
    assert share(rule(pooled(board, COUNT, 10, seed=4), 0.0, 0.0), "fail") > 0.25


@pytest.mark.parametrize("board", BOARDS[:2], ids=lambda board: board.name)
def test_a_tenth_slower_is_seen_on_quiet_and_typical_boards(board: Board) -> None:
    known = compared(board, COUNT, 10, seed=5)
    for rule in (*OFFERED, *SEQUENTIAL):
        answers = rule(known, math.log(1.10), LIMIT)
        assert share(answers, "fail") > 0.9, rule
        assert share(answers, "pass") == 0, rule


def test_a_duet_that_hides_a_part_of_a_change_does_not_pass_it() -> None:
    known = compared(TYPICAL, COUNT, 20, seed=7)
    assert share(rules.auto(known, LIMIT, LIMIT, shrinks_to=0.85), "pass") <= 0.06 + SLACK


def test_without_history_another_day_passes_nothing() -> None:
    known = compared(TYPICAL, COUNT, 5, seed=8, session_sd=rules.SESSION_SD)
    assert share(rules.other_day_unknown(known, 0.0, LIMIT), "pass") == 0
    assert share(rules.other_day(known, 0.0, 0.0), "fail") <= 0.06 + SLACK
