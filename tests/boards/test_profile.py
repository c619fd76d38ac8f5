"""Profiles over SSH, and what becomes of a measurement whose profile fails."""

from __future__ import annotations

import signal

import pytest

from tests.commands import DEMO, DIGITS, Cli, finish, read_until, started_run
from tests.fleet.boards import assert_clean, entry, kill, write_inventory
from tests.fleet.netns import FleetDevice

pytestmark = pytest.mark.fleet

PRUNED = str(DEMO / "digits-pruned.onnx")
QUICK = ("--launches", "2", "--min-samples", "5", "--min-duration", "1 ms", "--threads", "1")
RUN = ("run", DIGITS, "--to", "onnxruntime", *QUICK, "--profile")


def test_a_board_tells_where_the_time_goes(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    (made,) = cli.json(*RUN)["measurements"]
    assert made["launches"] == 2
    assert made["profile"]["nodes_unclaimed"] == []
    assert {layer["unit"] for layer in made["profile"]["layers"]} == {"CPU"}
    assert_clean(board)


def test_a_profile_that_dies_costs_nothing_but_itself(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    process = cli.start(*RUN, "--json")
    read_until(process, "board: profile")
    kill(board, "launch")
    answer = finish(process)
    assert answer.code == 0, answer.err
    (made,) = answer.document["measurements"]
    assert (made["status"], made["launches"], made["profile"]) == ("ok", 2, None)
    (warning,) = [each for each in made["warnings"] if each.startswith("no profile: board: ")]
    assert "SIGKILL" in warning
    assert_clean(board)


def test_a_session_that_dies_in_a_profile_is_opened_anew_for_the_next_job(
    cli: Cli, board: FleetDevice
) -> None:
    write_inventory(cli, entry("board", board))
    process = cli.start("run", DIGITS, PRUNED, *RUN[2:], "--json")
    read_until(process, "board: profile digits fp32")
    kill(board, "session")
    answer = finish(process)
    assert answer.code == 0, answer.err
    first, second = answer.document["measurements"]
    assert (first["status"], first["launches"], first["profile"]) == ("ok", 2, None)
    assert any(each.startswith("no profile: board: ") for each in first["warnings"])
    assert (second["status"], second["launches"]) == ("ok", 2)
    assert second["profile"]["layers"]
    assert_clean(board)


def test_a_run_that_is_stopped_in_its_profile_takes_it_when_resumed(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    process = cli.start(*RUN)
    seen = read_until(process, "board: profile")
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130
    assert_clean(board)
    (made,) = cli.json("run", "--resume", started_run(seen))["measurements"]
    assert made["launches"] == 2
    assert made["profile"]["layers"]
