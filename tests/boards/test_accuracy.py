"""Accuracy by what a board at the other end of SSH computes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.commands import DEMO, DIGITS, QUICK, Cli, follows_schema
from tests.fleet.boards import assert_clean, entry, write_inventory
from tests.fleet.netns import FleetDevice

pytestmark = pytest.mark.fleet

N = 140  # more than one request holds


def test_a_board_answers_as_this_computer_does(cli: Cli, board: FleetDevice) -> None:
    with np.load(DEMO / "digits-test.npz") as data:
        np.savez(cli.folder / "some.npz", image=data["image"][:N], labels=data["labels"][:N])
    write_inventory(cli, entry("board-01", board))
    words = ("run", DIGITS, "--to", "onnxruntime", "--on", "board-01", *QUICK, "--dataset", "some.npz")
    there, here = (cli.json(*words, *more) for more in (("--accuracy-on-device",), ()))
    follows_schema(there)
    (one,), (other,) = there["measurements"], here["measurements"]
    assert one["accuracy"].pop("where") == "board-01"
    assert other["accuracy"].pop("where") == "controller"
    assert one["accuracy"] == other["accuracy"]
    assert one["accuracy"]["n"] == N
    assert_clean(board)
