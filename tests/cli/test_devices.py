"""`edgebench devices` on real SSH servers: scan trusts nobody, clean removes what is ours alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from edgebench.records import Facts, from_json
from tests.commands import DIGITS, QUICK, Cli, finish, read_until, started_run
from tests.fleet.boards import WORK, assert_clean, entry, probes, write_inventory
from tests.fleet.netns import USER_ID, Fleet, FleetDevice, make_key

pytestmark = pytest.mark.fleet

GPU_BOX = """\
version: 1
name: gpu-box
summary: A computer with a GPU, for a test
platform: {os: linux, arch: x86_64, accelerator: gpu}
python: ">=3.6"
runtimes:
  tensorrt:
    build_on: device
    precisions: [fp32, fp16]
    options: {tensorrt_version: "10.3.0", compute_capability: "8.7"}
"""


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
    found = cli.json("devices", "doctor", code=1)["devices"]
    levels = {name: {finding["level"] for finding in findings} for name, findings in found.items()}
    assert "wrong" not in levels["good"] | levels["here"]
    assert "wrong" in levels["other"]
    assert levels["away"] == {"wrong"}
    assert levels["sick"] == {"warn"}
    assert all(finding["next"] for finding in found["away"] + found["sick"])
    assert found["away"][0]["check"] == "reach"
    for runtime in ("onnxruntime", "ncnn", "openvino"):  # pushed and imported there, or here
        for name in ("good", "here"):
            (finding,) = [each for each in found[name] if each["check"] == f"runtime {runtime}"]
            assert finding["level"] == "ok"
            assert "is imported there" in finding["what"]
    (mismatch,) = [each for each in found["other"] if each["check"] == "target" and "aarch64" in each["what"]]
    assert "choose another target" in mismatch["next"]
    assert all("would fit" in each["what"] for each in found["other"] if each["check"].startswith("runtime"))
    plain = cli("devices", "doctor", code=1)
    assert "no fan" in plain.out
    assert "good: doctor runtime onnxruntime" in plain.err  # what takes long says so
    assert not probes(one)
    assert_clean(one)


def test_the_doctor_names_who_holds_a_board_and_measures_nothing_there(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    process = cli.start("run", DIGITS, "--to", "onnxruntime", "--threads", "1", "--min-duration", "2 s")
    run = started_run(read_until(process, "launch 1/5"))
    found = cli.json("devices", "doctor", "board")["devices"]["board"]
    (lease,) = [finding for finding in found if finding["check"] == "lease"]
    assert lease["level"] == "warn"
    assert run in lease["what"]
    assert "--wait" in lease["next"]
    runtimes = [finding["what"] for finding in found if finding["check"].startswith("runtime")]
    assert runtimes
    assert all("would fit" in what for what in runtimes)
    os.kill(process.pid, signal.SIGTERM)
    finish(process)


def test_the_doctor_names_what_keeps_a_board_busy(cli: Cli, board: FleetDevice) -> None:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    write_inventory(cli, entry("board", board))
    inside = ["nsenter", "-m", "-p", "-n", "-t", board.root.parts[2]]
    busy = subprocess.Popen([*inside, "sh", "-c", "while :; do :; done"])
    try:
        found = cli.json("devices", "doctor", "board")["devices"]["board"]
    finally:
        for pid in Path(f"/proc/{busy.pid}/task/{busy.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        busy.wait(30)
    (load,) = [finding for finding in found if finding["check"] == "load"]
    assert load["level"] == "warn"
    assert re.search(r"\bsh \(pid \d+\) [01]", load["what"])
    assert "ps -fp" in load["next"]


def test_the_doctor_clears_up_after_dead_sessions(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    dead = board.home / WORK / "runs" / "4711-0123456789abcdef"
    dead.mkdir(parents=True)
    (dead / "rest").write_text("x")
    for path in (board.home / WORK, dead.parent, dead, dead / "rest"):
        shutil.chown(path, USER_ID if board.kind == "netns" else os.getuid())
    found = cli.json("devices", "doctor", "board")["devices"]["board"]
    (leftovers,) = [finding for finding in found if finding["check"] == "leftovers"]
    assert "1 folder of sessions that died: removed now" in leftovers["what"]
    assert not dead.exists()


def test_the_doctor_finds_a_full_disk(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    cli("devices", "doctor", "board")
    board.fill_disk(leave_bytes=20 << 20)
    found = cli.json("devices", "doctor", "board", code=1)["devices"]["board"]
    (disk,) = [finding for finding in found if finding["check"] == "disk"]
    assert disk["level"] == "wrong"
    assert "devices clean board" in disk["next"]


def test_the_doctor_looks_for_trtexec_where_a_target_has_tensorrt(
    cli: Cli, board: FleetDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cli.folder / "targets").mkdir()
    (cli.folder / "targets" / "gpu-box.yaml").write_text(GPU_BOX)
    monkeypatch.setenv("EDGEBENCH_TARGETS", str(cli.folder / "targets"))
    write_inventory(cli, entry("board", board, target="gpu-box"))
    found = cli.json("devices", "doctor", "board", code=1)["devices"]["board"]
    (finding,) = [each for each in found if each["check"] == "runtime tensorrt"]
    assert finding["level"] == "wrong"
    assert "trtexec" in finding["what"]
    assert finding["next"]


def test_the_doctor_stays_readable_on_a_narrow_terminal(
    cli: Cli, board: FleetDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inventory(cli, entry("board", board, target="raspberry-pi-5"))
    monkeypatch.setattr("edgebench.cli.output.terminal_width", lambda: 44)
    out = cli("devices", "doctor", "board", code=1).out
    assert max(map(len, out.splitlines())) <= 44
    assert "next: choose another target" in " ".join(out.split())


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
