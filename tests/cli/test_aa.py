"""`edgebench aa`: an artifact against itself, on simulated boards whose noise is known.

Their names are their own: what is found of a board's noise counts in later gates on it.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.test_run_gate import board, simulated_facts
from tests.commands import DIGITS, Cli
from tests.fleet.simulated import inventory, played

facts = simulated_facts


@pytest.fixture
def words(cli: Cli) -> tuple[str, ...]:
    (cli.folder / "inventory.yaml").write_text(inventory(1).replace("sim-", "noisy-"))
    return ("aa", DIGITS, "--on", "noisy-0000", "--to", "onnxruntime", "--inventory", "inventory.yaml")


def test_the_noise_of_a_board_is_found_and_kept(cli: Cli, words: tuple[str, ...], facts: Any) -> None:
    with played(facts, board(1.0, 0.02)):
        document = cli.json(*words)
    (floor,) = document["floors"]
    assert (floor["pairs"], floor["design"], floor["device"]) == (20, "separate", "noisy-0000")
    assert 0.01 < floor["launch_sd"] < 0.03
    assert 0.015 < floor["pair_sd"] < 0.045  # two launches: sqrt(2) times one
    assert 0.01 < floor["least_effect"] < 0.05
    assert floor["false_alarms"] <= 0.07  # 5 %, and what 2,000 draws from 20 pairs may show beyond
    history = cli.json("aa", "--on", "noisy-0000", "--history", "--inventory", "inventory.yaml")
    assert history["floors"][0] == floor


def test_copies_in_one_process_differ_by_less(cli: Cli, words: tuple[str, ...], facts: Any) -> None:
    with played(facts, board(1.0, 0.2)):
        (duet,) = cli.json(*words, "--mode", "duet", "--pairs", "10")["floors"]
        (separate,) = cli.json(*words, "--pairs", "10")["floors"]
    assert (duet["design"], duet["pairs"]) == ("duet", 10)
    assert duet["pair_sd"] < 0.1 * separate["pair_sd"]


def test_a_quiet_table_says_what_its_figures_are(cli: Cli, words: tuple[str, ...], facts: Any) -> None:
    with played(facts, board(1.0, 0.004)):
        answer = cli(*words, "--pairs", "10")
    assert "false alarms" in answer.out
    assert "noisy-0000" in answer.out
    assert "standard deviation" in answer.err


def test_what_was_never_measured_has_no_history(fresh_cli: Cli) -> None:
    (fresh_cli.folder / "inventory.yaml").write_text(inventory(1).replace("sim-", "noisy-"))
    answer = fresh_cli("aa", "--on", "noisy-0000", "--history", "--inventory", "inventory.yaml", code=5)
    assert "edgebench aa --on noisy-0000" in answer.err


@pytest.mark.parametrize("pairs", ["0", "9", "1001"])
def test_so_many_pairs_cannot_be_meant(cli: Cli, words: tuple[str, ...], pairs: str) -> None:
    assert "20 are usual" in cli.fails(2, "user", *words, "--pairs", pairs)


def test_a_model_that_is_not_there(cli: Cli, words: tuple[str, ...]) -> None:
    assert "none.onnx" in cli.fails(2, "user", "aa", "none.onnx", *words[2:])
