"""What an inventory asks of a board is done for the lease and undone after it, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.commands import DEADLINE_S, DIGITS, QUICK, Cli, finish, follows_schema, read_until, wait_until
from tests.fleet.boards import WORK, entry, kill, probes, write_inventory
from tests.fleet.netns import HOME, FleetDevice
from tests.standins.jetson import Jetson, as_jetson

pytestmark = pytest.mark.fleet

RUN = ("run", DIGITS, "--to", "onnxruntime", *QUICK)
TIMED = ("--threads", "1", "--min-samples", "20", "--min-duration", "1 s", "--launches", "2")
LONG = ("run", DIGITS, "--to", "onnxruntime", *TIMED)
ALL = "{power_mode: 15W, governor: performance, clocks: locked}"
FOUND = ("MAXN", ["ondemand", "ondemand"], False)
ASKED = ("15W", ["performance", "performance"], True)
ASKED_CLOCKS = '/usr/bin/jetson_clocks ""'
WORK_THERE = f"{HOME}/{WORK}"


@pytest.fixture
def jetson(board: FleetDevice) -> Iterator[Jetson]:
    """The first server as a Jetson that grants everything that a preparation needs."""
    with as_jetson(board) as made:
        made.allow_all(WORK_THERE)
        yield made


def ask(cli: Cli, board: FleetDevice, prepare: str) -> None:
    write_inventory(cli, entry("board", board, prepare=prepare))


def nothing_is_left(jetson: Jetson) -> None:
    work = jetson.board.home / WORK
    assert sorted(path.name for path in work.glob("*prepared*")) == []
    assert not (work / "jetson_clocks.conf").exists()


def test_a_board_is_prepared_for_the_run_and_as_before_afterwards(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    ask(cli, board, ALL)
    document = cli.json(*RUN)
    follows_schema(document)
    (measured,) = document["measurements"]
    assert measured["prepared"] == [
        {"what": "power_mode", "before": "MAXN", "after": "15W"},
        {"what": "governor", "before": "ondemand", "after": "performance"},
        {"what": "clocks", "before": "free", "after": "locked"},
    ]
    assert measured["facts"]["power_mode"] == "15W"  # read after the preparation
    assert measured["conditions"]["before"]["governor"] == "performance"
    assert measured["status"] == "ok"
    assert jetson.state == FOUND
    nothing_is_left(jetson)
    clocks = f"{WORK_THERE}/jetson_clocks.conf"
    tees = [
        f"/usr/bin/tee /sys/devices/system/cpu/cpufreq/{name}/scaling_governor"
        for name in ("policy0", "policy4")
    ]
    assert jetson.log == [
        "/usr/sbin/nvpmodel -m 1",
        *tees,
        f"/usr/bin/jetson_clocks --store {clocks}",
        ASKED_CLOCKS,
        f"/usr/bin/jetson_clocks --restore {clocks}",
        *tees,
        "/usr/sbin/nvpmodel -m 0",
    ]
    shown = " ".join(cli("report", document["run"]).out.split())
    assert "prepared: power mode MAXN → 15W, governor ondemand → performance, clocks free → locked" in shown


def test_a_board_that_nobody_asks_anything_of_is_left_alone(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    ask(cli, board, "{}")
    (measured,) = cli.json(*RUN)["measurements"]
    assert measured["prepared"] == []
    assert (jetson.log, jetson.state) == ([], FOUND)


def test_what_is_so_already_is_not_touched(cli: Cli, board: FleetDevice, jetson: Jetson) -> None:
    jetson.set_governor("performance")
    ask(cli, board, "{power_mode: MAXN, governor: performance}")
    (measured,) = cli.json(*RUN)["measurements"]
    assert [(each["before"], each["after"]) for each in measured["prepared"]] == [
        ("MAXN", "MAXN"),
        ("performance", "performance"),
    ]
    assert jetson.log == []
    assert jetson.governors == ["performance", "performance"]


def test_without_root_s_rights_nothing_is_measured_and_the_line_to_add_is_told(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    jetson.allow()
    ask(cli, board, ALL)
    (failure,) = cli.json(*RUN, code=4)["failures"]
    assert failure["owner"] == "device"
    assert "needs root" in failure["message"]
    line = failure["hint"].partition("with this line: ")[2]
    who, _, commands = line.partition(" ALL=(root) NOPASSWD: ")
    assert who == board.user
    assert (jetson.log, jetson.state) == ([], FOUND)
    nothing_is_left(jetson)
    jetson.allow(*commands.split(", "))  # exactly what it says is enough
    cli.json(*RUN)
    assert jetson.state == FOUND
    assert jetson.log


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("{power_mode: 25W}", "15W, 7W, MAXN, MAXN_REBOOT"),
        ("{governor: schedutil}", "ondemand performance powersave"),
    ],
)
def test_what_the_board_does_not_have_is_told_with_what_it_has(
    cli: Cli, board: FleetDevice, jetson: Jetson, prepare: str, said: str
) -> None:
    ask(cli, board, prepare)
    (failure,) = cli.json(*RUN, code=4)["failures"]
    assert said in failure["message"]
    assert (jetson.log, jetson.state) == ([], FOUND)


def test_a_mode_that_wants_a_reboot_is_refused_and_nobody_answers_for_the_user(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    ask(cli, board, "{power_mode: MAXN_REBOOT, governor: performance}")
    (failure,) = cli.json(*RUN, code=4)["failures"]
    assert "reboot" in failure["message"]
    assert jetson.state == FOUND
    assert not [line for line in jetson.log if "must not answer" in line]
    nothing_is_left(jetson)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_dead_controller_leaves_a_board_as_it_was(
    cli: Cli, board: FleetDevice, jetson: Jetson, number: signal.Signals
) -> None:
    ask(cli, board, ALL)
    process = cli.start(*LONG)
    read_until(process, "launch 1/2")
    assert jetson.state == ASKED
    os.kill(process.pid, number)
    finish(process)
    wait_until(lambda: jetson.state == FOUND, "the board as it was", DEADLINE_S)
    wait_until(lambda: not probes(board), "the end of the probe", DEADLINE_S)
    nothing_is_left(jetson)


def test_a_probe_told_to_end_restores_first(cli: Cli, board: FleetDevice, jetson: Jetson) -> None:
    ask(cli, board, ALL)
    process = cli.start(*LONG)
    read_until(process, "launch 1/2")
    for pid in probes(board, "session"):
        os.kill(pid, signal.SIGTERM)
    finish(process)
    assert jetson.state == FOUND
    nothing_is_left(jetson)


def killed_while_prepared(cli: Cli, board: FleetDevice, jetson: Jetson) -> None:
    """A board whose probe and controller were killed in the middle of a launch."""
    ask(cli, board, ALL)
    process = cli.start(*LONG)
    read_until(process, "launch 1/2")
    for pid in probes(board, "session"):
        os.kill(pid, signal.SIGSTOP)  # it must not see the controller's end
    os.kill(process.pid, signal.SIGKILL)
    kill(board, "session")
    finish(process)
    wait_until(lambda: not probes(board), "the end of all probes", DEADLINE_S)


def test_after_kill_9_the_next_lease_restores_and_says_so(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    killed_while_prepared(cli, board, jetson)
    assert jetson.state == ASKED
    note = json.loads((board.home / WORK / "prepared.json").read_text())
    before = [each["before"] for each in note["changes"]]
    assert before == ["MAXN", {"policy0": "ondemand", "policy4": "ondemand"}, "free"]
    ask(cli, board, "{}")
    (measured,) = cli.json(*RUN)["measurements"]
    assert measured["prepared"] == []
    assert measured["facts"]["power_mode"] == "MAXN"
    told = "an earlier session had prepared the board; restored"
    assert sum(told in each for each in measured["warnings"]) == 3
    assert jetson.state == FOUND
    nothing_is_left(jetson)


def test_killed_while_a_tool_still_runs(cli: Cli, board: FleetDevice, jetson: Jetson) -> None:
    """jetson_clocks goes on without its probe: the next session waits for it, then undoes it."""
    jetson.slow("jetson_clocks", 1)
    ask(cli, board, ALL)
    process = cli.start(*LONG)
    wait_until(lambda: ASKED_CLOCKS in jetson.log, "jetson_clocks at work", DEADLINE_S)
    os.kill(process.pid, signal.SIGKILL)
    kill(board, "session")
    finish(process)
    jetson.slow("jetson_clocks", 0)
    ask(cli, board, "{}")
    cli.json(*RUN, "--wait", "30 s")
    assert jetson.state == FOUND
    nothing_is_left(jetson)


def test_what_somebody_else_changed_since_is_left_as_it_is(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    ask(cli, board, "{power_mode: 15W, governor: performance}")
    process = cli.start(*LONG)
    read_until(process, "launch 1/2")
    jetson.set_governor("powersave")
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    wait_until(lambda: not probes(board), "the end of the probe", DEADLINE_S)
    assert jetson.state == ("MAXN", ["powersave", "powersave"], False)
    nothing_is_left(jetson)


def test_a_restoring_that_fails_is_told_and_tried_again(cli: Cli, board: FleetDevice, jetson: Jetson) -> None:
    ask(cli, board, "{power_mode: 15W}")
    process = cli.start(
        "run", DIGITS, "--to", "onnxruntime", "--threads", "1", "--min-duration", "1 s", "--launches", "2"
    )
    read_until(process, "launch 1/2")
    jetson.allow()  # the right is taken away meanwhile
    answer = finish(process)
    assert "power_mode could not be restored" in answer.err
    assert jetson.power_mode == "15W"
    assert (board.home / WORK / "prepared.json").exists()
    ask(cli, board, "{}")
    (measured,) = cli.json(*RUN)["measurements"]
    assert any("power_mode could not be restored" in each for each in measured["warnings"])
    jetson.allow_all(WORK_THERE)
    (measured,) = cli.json(*RUN)["measurements"]
    assert any("restored: power mode MAXN" in each for each in measured["warnings"])
    assert jetson.power_mode == "MAXN"
    nothing_is_left(jetson)


def test_the_doctor_tells_what_is_missing_for_a_preparation(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    def findings(code: int) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = {}
        for each in cli.json("devices", "doctor", "board", code=code)["devices"]["board"]:
            found.setdefault(each["check"], []).append(each)
        return found

    jetson.allow()
    ask(cli, board, ALL)
    (missing,) = findings(1)["preparation"]
    line = missing["next"].partition(": ")[2]
    assert line.startswith(f"{board.user} ALL=(root) NOPASSWD: /usr/sbin/nvpmodel -m 1")
    jetson.allow(*line.partition("NOPASSWD: ")[2].split(", "))
    found = findings(0)
    assert found["preparation"][0]["level"] == "ok"
    assert "each lease sets 15W" in found["power mode"][0]["what"]
    assert "each lease locks them" in found["clocks"][0]["what"]
    assert "each lease sets performance" in found["governor"][0]["what"]
    assert (jetson.log, jetson.state) == ([], FOUND)  # it looks, and touches nothing
    ask(cli, board, "{power_mode: 25W}")
    assert "the board has: 15W, 7W, MAXN" in findings(1)["preparation"][0]["what"]


def test_the_doctor_undoes_what_a_dead_session_prepared(cli: Cli, board: FleetDevice, jetson: Jetson) -> None:
    killed_while_prepared(cli, board, jetson)
    assert jetson.state == ASKED
    refused = cli.json("devices", "clean", "board", code=4)["problems"]["board"]
    assert "has to undo" in refused
    assert "devices doctor board" in refused
    found = cli.json("devices", "doctor", "board")["devices"]["board"]
    restored = [each["what"] for each in found if each["check"] == "restore"]
    assert len(restored) == 3
    assert any("power mode MAXN" in each for each in restored)
    assert jetson.state == FOUND
    nothing_is_left(jetson)
    assert cli.json("devices", "clean", "board")["cleaned"] == {"board": True}


def test_a_note_that_is_garbage_is_told_and_moves_nothing(
    cli: Cli, board: FleetDevice, jetson: Jetson
) -> None:
    ask(cli, board, "{}")
    cli.json(*RUN)
    note = board.home / WORK / "prepared.json"
    note.write_text(
        '{"boot": "", "changes": [{"what": "governor", "before": {"../../x": "y"}, "after": "z"}]}'
    )
    (measured,) = cli.json(*RUN)["measurements"]
    assert any("cannot be read" in each for each in measured["warnings"])
    assert jetson.log == []
    note.unlink()
