"""Core ML over SSH, to a stand-in for a Mac: the path of every runtime, refused where there is no macOS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.commands import DIGITS, Cli, follows_schema
from tests.fleet.boards import assert_clean, entry, write_inventory
from tests.fleet.netns import FleetDevice
from tests.standins.macs import bundle_of_standins, mac

pytestmark = pytest.mark.fleet

QUICK = ("--launches", "2", "--min-samples", "5", "--min-duration", "1 ms", "--threads", "1")
RUN = ("run", DIGITS, "--to", "coreml", "--cooldown", "0", *QUICK)
TARGET = "apple-silicon-mac"


@contextmanager
def fleet_of_one_mac(cli: Cli, board: FleetDevice, environment: str = "") -> Iterator[None]:
    """The board passes for a Mac, and is the whole fleet."""
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    bundle_of_standins(cli.home)
    write_inventory(cli, entry("mac-01", board, target=TARGET))
    with mac(board, environment):
        yield


@pytest.fixture
def a_mac(cli: Cli, board: FleetDevice) -> Iterator[FleetDevice]:
    """A board that passes for a Mac."""
    with fleet_of_one_mac(cli, board):
        yield board


def test_a_mac_proves_and_measures_coreml(cli: Cli, a_mac: FleetDevice) -> None:
    document = cli.json(*RUN, "--profile", "--compute-units", "cpu_and_ne")
    follows_schema(document)
    assert document["failures"] == []
    (made,) = document["measurements"]
    assert (made["status"], made["runtime"], made["facts"]["os"]) == ("ok", "coreml", "macos")
    assert made["effective"] == {"compute_units": "cpu_and_ne"}
    assert made["parity"]["device"]["passed"]
    assert (made["parity"]["device"]["where"], made["parity"]["device"]["computed_by"]) == (
        "mac-01",
        "runtime",
    )
    assert made["parity"]["controller"]["computed_by"] == "interpreter"
    assert made["load_ms"] > 0
    assert_clean(a_mac)


def test_the_compute_plan_says_where_each_operation_runs(cli: Cli, a_mac: FleetDevice) -> None:
    (made,) = cli.json(*RUN, "--profile")["measurements"]
    profile = made["profile"]
    assert profile["estimated"] is True
    units = {layer["kind"]: layer["unit"] for layer in profile["layers"]}
    assert units["conv"] == "NPU"
    assert set(units.values()) == {"NPU", "CPU"}
    assert "const" not in units
    named = [name for layer in profile["layers"] for name in layer["nodes"]]
    assert "/dense1/conv/Conv" in named
    assert profile["nodes_unclaimed"] == []
    assert sum(layer["mean_ms"] for layer in profile["layers"]) <= profile["total_ms"]
    assert "estimated, not measured" in cli("report").out


def test_a_mac_without_compute_plans_is_measured_all_the_same(cli: Cli, board: FleetDevice) -> None:
    with fleet_of_one_mac(cli, board, "export COREML_STANDIN=old"):
        (made,) = cli.json(*RUN, "--profile")["measurements"]
    assert made["status"] == "ok"
    assert made["profile"] is None
    assert any("macOS 14.4" in warning for warning in made["warnings"])


def test_coreml_is_refused_on_linux_before_any_device_is_touched(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    (failure,) = cli.json(*RUN, code=4)["failures"]
    assert (failure["stage"], failure["owner"]) == ("plan", "user")
    assert "does not offer coreml" in failure["message"]


def test_a_device_that_is_no_mac_after_all_is_refused(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board, target=TARGET))
    (failure,) = cli.json(*RUN, code=4)["failures"]
    assert failure["owner"] == "device"
    assert "macos" in failure["message"]
