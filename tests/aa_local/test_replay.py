"""What was recorded on a real machine, judged again: the rules keep their word there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import onnx
import pytest

from edgebench.comparison import ALPHA
from tests.aa_local import recordings, replay
from tests.aa_local.load import BUSY
from tests.aa_local.network import LAYERS, chain
from tests.aa_local.replay import LEAST_FOUND, MOST_ALARMS, RULES, Said
from tests.simulation import page

DRAWS = 200
SLACK = 0.04  # what 200 draws may lie off, and a little
RECORDED = {
    (condition.name, each.slower_by): each
    for condition in recordings.read().conditions
    for each in condition.comparisons
}


def cases(slower_by: float, rules: Iterable[str]) -> list[tuple[str, str]]:
    """The conditions and rules of which enough was recorded."""
    return [
        (name, rule)
        for (name, slower), found in RECORDED.items()
        for rule in rules
        if slower == slower_by and replay.enough(found, rule)
    ]


@cache
def said(condition: str, slower_by: float) -> dict[str, list[Said]]:
    return replay.answers(RECORDED[condition, slower_by], DRAWS)


def share(answers: list[Said], word: str) -> float:
    return sum(each.word == word for each in answers) / len(answers)


@pytest.mark.parametrize(("condition", "rule"), cases(0.0, RULES))
def test_nothing_changed_and_hardly_any_alarm(condition: str, rule: str) -> None:
    assert share(said(condition, 0.0)[rule], "fail") <= MOST_ALARMS + SLACK


@pytest.mark.parametrize(("condition", "rule"), cases(0.10, [replay.SEPARATE, replay.DUET, replay.AUTO]))
def test_a_tenth_slower_is_found_or_the_gate_says_why_not(condition: str, rule: str) -> None:
    answers = said(condition, 0.10)[rule]
    assert share(answers, "pass") <= ALPHA + SLACK
    unsure = [each for each in answers if each.word == "inconclusive"]
    assert share(answers, "fail") >= LEAST_FOUND - SLACK or all(each.cause for each in unsure)


def test_the_page_says_what_the_recording_shows() -> None:
    lines = list(replay.document(recordings.read()))
    assert "\n".join(lines).strip() in page.DOCUMENT.read_text("utf-8")


# --- recording ------------------------------------------------------------------------------------


def test_the_networks_differ_by_layers_alone(tmp_path: Path) -> None:
    made = {slower: onnx.load(chain(tmp_path / "chain.onnx", layers)) for slower, layers in LAYERS.items()}
    convolutions = {
        slower: sum(node.op_type == "Conv" for node in each.graph.node) for slower, each in made.items()
    }
    assert convolutions == {slower: round(60 * (1 + slower)) for slower in LAYERS}
    onnx.checker.check_model(made[0.10])


def test_load_ends_with_whoever_started_it() -> None:
    starter = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], '1', '0', str(os.getpid())])\n"
        "print('begun', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter, BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        parent.kill()
        assert parent.stdout.read() == ""  # the load has inherited it: at its end both are gone
