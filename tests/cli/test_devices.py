"""`edgebench devices` on real SSH servers: scan trusts nobody, clean removes what is ours alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebench.records import Facts, from_json
from tests.commands import DIGITS, QUICK, Cli
from tests.fleet.boards import WORK, entry, probes, write_inventory
from tests.fleet.netns import Fleet, FleetDevice, make_key

pytestmark = pytest.mark.fleet


def scan(board: FleetDevice, key: Path | None = None) -> tuple[object, ...]:
    login = ("--user", board.user, "--port", board.port, "--key-file", key or board.key_file)
    return "devices", "scan", board.address, *login


def test_a_scan_gives_an_entry_that_works(cli: Cli, board: FleetDevice) -> None:
    before = sorted(path.name for path in board.home.iterdir())
    document = cli.json(*scan(board))
    assert [key["fingerprint"] for key in document["host_keys"]] == list(board.fingerprints)
    facts = from_json(Facts, document["facts"], source="scan")
    assert facts.os == "linux"
    plain = cli(*scan(board)).out
    assert all(fingerprint in plain for fingerprint in board.fingerprints)
    assert document["entry"] in plain
    assert not probes(board)
    assert sorted(path.name for path in board.home.iterdir()) == before  # nothing stays there
    (cli.folder / "inventory.yaml").write_text(f"version: 1\ndevices:\n{document['entry']}\n")
    (device,) = cli.json("devices", "list")["devices"]
    assert device["target"] == "linux-x86_64"
    assert "ok" in cli("devices", "doctor", device["name"]).out


def test_a_scan_without_a_login_still_shows_the_keys(cli: Cli, board: FleetDevice) -> None:
    make_key(cli.folder / "other")
    document = cli.json(*scan(board, cli.folder / "other"))
    assert [key["fingerprint"] for key in document["host_keys"]] == list(board.fingerprints)
    assert document["facts"] is None
    assert document["problem"]
    answer = cli(*scan(board, cli.folder / "other"))
    assert "no facts: " in answer.err
    assert "CHOOSE-ONE" in answer.out


def test_a_scan_of_nobody(cli: Cli, board: FleetDevice) -> None:
    assert "port 1" in cli.fails(4, "device", "devices", "scan", board.address, "--port", "1")
    assert "no-such-board.invalid" in cli.fails(4, "device", "devices", "scan", "no-such-board.invalid")


def test_the_doctor_tells_what_is_ready_and_what_is_not(cli: Cli, fleet: Fleet) -> None:
    one, two = fleet.devices
    write_inventory(
        cli,
        entry("good", one),
        entry("other", two, target="raspberry-pi-5"),
        entry("away", two, ssh_port="1"),
        entry("sick", two, quarantine="no fan"),
        "  here: {transport: local}",
    )
    found = cli.json("devices", "doctor", code=4)["devices"]
    levels = {name: {finding["level"] for finding in findings} for name, findings in found.items()}
    assert "wrong" not in levels["good"] | levels["here"]
    assert "wrong" in levels["other"]
    assert levels["away"] == {"wrong"}
    assert levels["sick"] == {"warn"}
    assert all(finding["next"] for finding in found["away"] + found["sick"])
    assert any("onnxruntime-" in finding["what"] for finding in found["good"])
    assert "no fan" in cli("devices", "doctor", code=4).out
    assert not probes(one)


def test_clean_removes_our_folder_and_nothing_else(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    cli("run", DIGITS, "--to", "onnxruntime", *QUICK)
    (board.home / "mine.txt").write_text("mine")
    assert (board.home / WORK).is_dir()
    assert "board: clean" in cli("devices", "clean", "board").out
    assert not (board.home / WORK).exists()
    assert (board.home / "mine.txt").read_text() == "mine"
    (board.home / "mine.txt").unlink()
    assert cli.json("devices", "clean", "board")["cleaned"] == {"board": True}  # also where nothing is


def test_clean_refuses_a_folder_that_is_not_ours(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board, work_dir="precious"))
    (board.home / "precious").mkdir()
    (board.home / "precious" / "data").write_text("mine")
    document = cli.json("devices", "clean", "board", code=4)
    assert document["cleaned"] == {"board": False}
    assert "is not edgebench's folder" in document["problems"]["board"]
    assert (board.home / "precious" / "data").read_text() == "mine"
    (board.home / "precious" / "data").unlink()
    (board.home / "precious").rmdir()


def test_clean_of_a_board_that_is_away_fails_it_alone(cli: Cli, fleet: Fleet) -> None:
    one, two = fleet.devices
    write_inventory(cli, entry("good", one), entry("away", two, ssh_port="1"))
    assert cli.json("devices", "clean", "all", code=4)["cleaned"] == {"good": True, "away": False}
