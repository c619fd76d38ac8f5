"""Launches that the board's state spoils: repeated after a pause, so many times; shown, never averaged in."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.commands import DIGITS, QUICK, Cli, finish, follows_schema, read_until, started_run, stored
from tests.fleet.boards import assert_clean, entry, write_inventory
from tests.fleet.netns import FleetDevice
from tests.fleet.states import thermometer, throttling_again_and_again

pytestmark = pytest.mark.fleet

RUN = ("run", DIGITS, "--to", "onnxruntime", "--no-health-check", *QUICK)


def warm_target(cli: Cli, board: FleetDevice) -> None:
    """The board as a target that may have 75 °C."""
    text = (Path(__file__).parents[2] / "targets" / "linux-x86_64.yaml").read_text()
    (cli.folder / "targets").mkdir()
    assert "\nlimits:\n" in text
    made = text.replace("name: linux-x86_64", "name: warm")
    made = made.replace("\nlimits:\n", "\nlimits:\n  max_temperature_c: 75\n")
    (cli.folder / "targets" / "warm.yaml").write_text(made)
    (cli.folder / "edgebench.toml").write_text('targets = "targets"\n')
    write_inventory(cli, entry("board", board, target="warm"))


def test_a_hot_board_cools_down_and_is_measured(cli: Cli, board: FleetDevice) -> None:
    warm_target(cli, board)
    with thermometer(board, 81) as shown:
        process = cli.start(*RUN, "--json")
        seen = read_until(process, "invalid launch 1/3")
        assert "81 °C is over the target's limit of 75 °C; repeat 1 of at most 3" in seen
        assert "81 °C, waiting 10 min at most" in read_until(process, "board: too hot 2/3")
        shown.show(60)
        answer = finish(process)
    assert answer.code == 0, answer.err
    follows_schema(answer.document)
    (measured,) = answer.document["measurements"]
    assert (measured["status"], measured["launches"], measured["launches_unusable"]) == ("ok", 2, 1)
    assert measured["unusable"] == ["1 of 3 launches: 81 °C is over the target's limit of 75 °C"]
    launches = stored(cli, started_run(seen))
    assert [(each.number, each.valid) for each in launches] == [(1, False), (2, True), (3, True)]
    assert len(measured["launch_p50_ms"]) == 2
    assert "1 of 3 launches: 81 °C" in cli("report").out
    assert_clean(board)


def test_repeats_are_bounded_and_the_measurement_says_how_many_were_valid(
    cli: Cli, board: FleetDevice
) -> None:
    write_inventory(cli, entry("board", board))
    with throttling_again_and_again(board):
        answer = cli(*RUN, "--max-invalid", "1", "--json", code=4)
    follows_schema(answer.document)
    (measured,) = answer.document["measurements"]
    assert (measured["status"], measured["launches"], measured["launches_unusable"]) == ("invalid", 0, 2)
    assert measured["latency_ms"]["p50"] is None
    assert "0 of 2 launches are valid, 2 were invalid" in measured["warnings"]
    assert answer.document["counts"]["invalid"] == answer.document["counts"]["planned"] == 1
    assert "it is not repeated any more" in answer.err
    run = answer.document["run"]
    assert all("throttle" in each.invalid_reason for each in stored(cli, run))
    assert "--retry-failed" in cli.fails(2, "user", "run", "--resume", run)
    again = cli.json("run", "--resume", run, "--retry-failed", "--no-health-check")
    (measured,) = again["measurements"]
    assert (measured["status"], measured["launches"], measured["launches_unusable"]) == ("ok", 2, 0)
    assert again["counts"]["ok"] == again["counts"]["planned"] == 1
    assert len(stored(cli, run)) == 4  # the invalid ones are kept
    assert_clean(board)


def test_a_run_goes_on_after_invalid_launches(cli: Cli, board: FleetDevice) -> None:
    warm_target(cli, board)
    with thermometer(board, 81) as shown:
        process = cli.start(*RUN)
        seen = read_until(process, "invalid launch 1/3")
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
        run = started_run(seen)
        (before,) = stored(cli, run)
        shown.show(50)
        document = cli.json("run", "--resume", run, "--no-health-check")
    assert [(each.number, each.valid) for each in stored(cli, run)] == [(1, False), (2, True), (3, True)]
    assert stored(cli, run)[0] == before
    assert document["measurements"][0]["status"] == "ok"
    assert document["counts"]["planned"] == document["counts"]["ok"] == 1
    assert_clean(board)
