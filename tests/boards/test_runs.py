"""Runs on real SSH servers: the same path as here, and everything that goes wrong between here and there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edgebench.store import Store, sqlite_url
from edgebench.tools import find_pnnx
from tests.commands import (
    DIGITS,
    LONG,
    QUICK,
    Cli,
    finish,
    follows_schema,
    read_until,
    started_run,
    stored,
    wait_until,
)
from tests.convert.support import pnnx_home
from tests.fleet.boards import (
    WORK,
    assert_clean,
    entry,
    kill,
    login_script,
    probes,
    two_boards,
    without_python,
    write_inventory,
)
from tests.fleet.netns import Fleet, FleetDevice, MissingTool, Spec, make_key
from tests.models.published import published

pytestmark = pytest.mark.fleet

RUN = ("run", DIGITS, "--to", "onnxruntime", *QUICK)
WRONG_KEY = f'"SHA256:{"A" * 43}"'


# --- the whole path ------------------------------------------------------------------------------


def test_two_boards_and_this_computer_in_one_table(cli: Cli, fleet: Fleet) -> None:
    here = "  here: {transport: local, lease: folder}"
    write_inventory(cli, *(entry(f"board-0{n}", each) for n, each in enumerate(fleet.devices, 1)), here)
    answer = cli(*RUN, "--json")
    follows_schema(answer.document)
    measured = {each["device"]: each for each in answer.document["measurements"]}
    assert set(measured) == {"board-01", "board-02", "here"}
    assert answer.document["failures"] == []
    for name, each in measured.items():
        assert each["status"] == "ok"
        assert each["latency_ms"]["p50"] > 0
        assert each["memory"]["peak_bytes"] > 1 << 20
        assert each["parity"]["device"]["passed"]
        assert each["parity"]["device"]["where"] == name
        assert each["facts"]
    table = cli("report").out
    assert all(name in table for name in measured)
    for device in fleet.devices:
        assert_clean(device)


@pytest.mark.models
def test_a_published_network_beside_ours_on_two_boards_and_here(
    cli: Cli, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = published("ppocr-cls")
    monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    here = "  here: {transport: local, lease: folder}"
    write_inventory(cli, *(entry(f"board-0{n}", each) for n, each in enumerate(fleet.devices, 1)), here)
    words = (
        "run",
        DIGITS,
        str(network),
        "--to",
        "onnxruntime,ncnn",
        "--shape",
        "x=1,3,48,192",
        *QUICK,
        "--json",
    )
    document = cli(*words).document
    assert document["failures"] == []
    cells = {(each["model"], each["runtime"], each["device"]) for each in document["measurements"]}
    assert len(cells) == len(document["measurements"]) == 2 * 2 * 3
    assert all(each["parity"]["device"]["passed"] for each in document["measurements"])


def test_what_is_there_is_not_pushed_again(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    for _ in range(2):
        run = cli.json(*RUN)["run"]
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        (measurement,) = store.measurements(run)
    assert measurement.pushed_bytes == 0


def test_an_artifact_is_verified_on_a_board(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    digest = cli.json("convert", DIGITS, "--to", "onnxruntime")["artifacts"][0]["artifact"]["digest"]
    assert "pass on board" in cli("verify", DIGITS, digest, "--on", "board").out
    document = cli.json("verify", DIGITS, digest, "--on", "board")
    assert document["parity"]["where"] == "board"
    assert document["parity"]["passed"]
    assert 'did you mean "board"' in cli.fails(2, "user", "verify", DIGITS, digest, "--on", "bord")
    assert_clean(board)


# --- who may use a board -------------------------------------------------------------------------


def test_a_busy_board_is_75_and_waiting_helps(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    first = cli.start(*LONG, "--launches", "5")
    run = started_run(read_until(first, "board: launch 1/5"))
    (failure,) = cli.json(*RUN, code=75)["failures"]
    assert f"run {run}, edgebench run), since " in failure["message"]
    assert ", for at most 5 h 59 min more" in failure["message"]
    assert "leased" in cli("devices", "clean", "board", code=4).out
    waiting = cli(*RUN, "--wait", "60 s", "--json")
    assert waiting.document["counts"]["ok"] == 1
    assert waiting.err.count("board: wait in use by ") == 1
    assert f"(run {run}, edgebench run)" in waiting.err
    assert finish(first).code == 0
    assert_clean(board)


# --- interruptions -------------------------------------------------------------------------------


def test_an_interrupted_run_leaves_the_boards_clean(cli: Cli, fleet: Fleet) -> None:
    two_boards(cli, fleet)
    process = cli.start(*LONG, "--launches", "4")
    seen = read_until(process, "board-01: launch 2/4")
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert answer.code == 130
    for device in fleet.devices:
        assert_clean(device)
    run = started_run(seen)
    assert f"edgebench run --resume {run}" in answer.err
    before = stored(cli, run)
    assert before
    document = cli.json("run", "--resume", run)
    assert [each["launches"] for each in document["measurements"]] == [4, 4]
    assert all(launch in stored(cli, run) for launch in before)


def test_a_killed_controller_leaves_the_boards_clean(cli: Cli, fleet: Fleet) -> None:
    two_boards(cli, fleet)
    process = cli.start(*LONG, "--launches", "4")
    run = started_run(read_until(process, "board-01: launch 3/4"))
    process.kill()
    finish(process)
    for device in fleet.devices:
        assert_clean(device)
    before = stored(cli, run)
    document = cli.json("run", "--resume", run)
    assert [each["launches"] for each in document["measurements"]] == [4, 4]
    assert all(launch in stored(cli, run) for launch in before)


def test_a_killed_probe_costs_one_launch_and_the_run_goes_on(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    process = cli.start(*LONG, "--launches", "3", "--json")
    run = started_run(read_until(process, "board: launch 2/3"))
    kill(board, "session")
    answer = finish(process)
    assert answer.code == 0, answer.err
    assert answer.document["counts"]["ok"] == 1
    launches = stored(cli, run)
    assert [launch.number for launch in launches] == [1, 2, 3]
    assert len({launch.session for launch in launches}) == 2
    assert_clean(board)


def test_a_killed_launch_is_tried_again(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    process = cli.start(*LONG, "--launches", "3", "--json")
    run = started_run(read_until(process, "board: launch 2/3"))
    kill(board, "launch")
    answer = finish(process)
    assert answer.code == 0, answer.err
    assert [launch.number for launch in stored(cli, run)] == [1, 2, 3]
    assert_clean(board)


def test_a_launch_that_is_killed_again_and_again_is_the_devices_failure(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    process = cli.start(*LONG, "--launches", "2", "--json")
    run = started_run(read_until(process, "board: launch 1/2"))
    first = _kill_launch(board, set())
    _kill_launch(board, {first})
    answer = finish(process)
    assert answer.code == 4
    (failure,) = answer.document["failures"]
    assert failure["owner"] == "device"
    assert "SIGKILL" in failure["message"]
    assert failure["hint"]
    assert stored(cli, run) == []
    assert_clean(board)


def _kill_launch(board: FleetDevice, but: set[int]) -> int:
    wait_until(lambda: set(probes(board, "launch")) - but, "another launch process")
    (pid,) = set(probes(board, "launch")) - but
    os.kill(pid, signal.SIGKILL)
    return pid


# --- boards that cannot be reached ---------------------------------------------------------------


def failed(cli: Cli, *entries: str, code: int = 4) -> str:
    """What a run on the device `bad` says; beside it `good` (if given) is measured all the same."""
    write_inventory(cli, *entries)
    document = cli.json(*RUN, code=code)
    (failure,) = document["failures"]
    assert (failure["device"], failure["owner"], failure["exit_code"]) == ("bad", "device", code)
    assert failure["hint"]
    assert document["counts"]["ok"] == len(entries) - 1
    doctor = cli.json("devices", "doctor", "bad", code=1)["devices"]["bad"]
    assert doctor[-1]["level"] == "wrong"
    return f"{failure['message']}\n{failure['hint']}"


def test_a_wrong_host_key_fails_that_board_alone(cli: Cli, fleet: Fleet) -> None:
    one, two = fleet.devices
    said = failed(cli, entry("bad", one, host_key=WRONG_KEY), entry("good", two))
    assert one.fingerprints[0] in said
    assert "devices scan" in said
    assert not probes(one)


def test_a_board_without_a_pinned_key_is_not_even_tried(cli: Cli, board: FleetDevice) -> None:
    before = (board.folder / "log").read_text().count("Connection from")
    said = failed(cli, entry("bad", board, host_key=""))
    assert "no host key is pinned" in said
    assert "do not know" in said
    assert f"edgebench devices scan {board.address}" in said
    assert (board.folder / "log").read_text().count("Connection from") == before


def test_a_bad_login(cli: Cli, board: FleetDevice) -> None:
    make_key(cli.folder / "other")
    said = failed(cli, entry("bad", board, ssh_key_file=str(cli.folder / "other")))
    assert board.user in said
    assert "PRIVATE" not in said


def test_a_key_file_that_is_not_there(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("bad", board, ssh_key_file=str(cli.folder / "nothing")))
    answer = cli(*RUN, code=None)
    assert answer.code in (2, 4)
    assert str(cli.folder / "nothing") in answer.out + answer.err


def test_a_refused_port(cli: Cli, board: FleetDevice) -> None:
    assert "port 1 " in failed(cli, entry("bad", board, ssh_port="1")) + " "


def test_an_unreachable_board(cli: Cli, board: FleetDevice) -> None:
    said = failed(cli, entry("bad", board, address="no-such-board.invalid"))
    assert "no-such-board.invalid" in said


# --- boards that are not fit ---------------------------------------------------------------------


def test_a_board_without_python(cli: Cli, board: FleetDevice) -> None:
    with without_python(board):
        said = failed(cli, entry("bad", board))
    assert "no Python 3.6 or newer" in said
    assert "install python3" in said
    assert_clean(board)


def test_a_full_disk(cli: Cli, board: FleetDevice) -> None:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    write_inventory(cli, entry("bad", board))
    cli("devices", "clean", "bad")
    board.fill_disk(leave_bytes=4096)
    before = sorted(path.name for path in board.home.iterdir())
    said = failed(cli, entry("bad", board))
    assert "full" in said
    assert "free space" in said
    assert sorted(path.name for path in board.home.iterdir() if path.name != WORK) == before
    assert_clean(board)
    board.heal()
    assert cli.json(*RUN)["counts"]["ok"] == 1


@pytest.fixture(scope="module")
def small_board() -> FleetDevice:
    """A server whose home takes the probe, and no runtime."""
    try:
        fleet = Fleet([Spec(home_mib=16)]).__enter__()
    except MissingTool as missing:
        pytest.skip(f"missing tool: {missing}")
    with fleet:
        if fleet.kind != "netns":
            pytest.skip("missing tool: network namespaces (root, iproute2)")
        yield fleet.devices[0]


def test_a_disk_too_small_for_the_runtime(cli: Cli, small_board: FleetDevice) -> None:
    write_inventory(cli, entry("bad", small_board))
    (failure,) = cli.json(*RUN, code=4)["failures"]
    assert failure["owner"] == "device"
    assert "disk full" in failure["message"]
    assert "edgebench devices clean bad" in failure["hint"]
    assert list((small_board.home / WORK / "store").glob("*")) == []
    assert_clean(small_board)


# --- boards that talk nonsense -------------------------------------------------------------------


def test_a_login_that_greets_is_told_how_to_be_silent(cli: Cli, board: FleetDevice) -> None:
    with login_script(board, "echo Welcome to this board\n"):
        said = failed(cli, entry("bad", board))
    assert "Welcome to this board" in said
    assert ".bashrc" in said
    with login_script(board, "[ -t 1 ] || return\necho Welcome to this board\n"):
        assert cli.json(*RUN)["counts"]["ok"] == 1


def test_a_login_that_greets_on_stderr_is_no_obstacle(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    with login_script(board, "echo Have fun >&2\n"):
        assert cli.json(*RUN)["counts"]["ok"] == 1


ONLY_SESSIONS = 'case "$BASH_EXECUTION_STRING" in *" session "*) {} ;; esac\n'


@pytest.mark.parametrize(
    "noise", ["yes garbage", "tr '\\0' x < /dev/zero", "echo '{\"event\": 3}'; exit 0", "exit 1"]
)
def test_garbage_in_the_place_of_the_probe(cli: Cli, board: FleetDevice, noise: str) -> None:
    with login_script(board, ONLY_SESSIONS.format(noise)):
        said = failed(cli, entry("bad", board))
    assert "bad: " in said
    assert_clean(board)


def test_garbage_between_the_probes_words(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("bad", board))
    when = "$HOME/now"
    script = f"(until [ -e {when} ]; do sleep 0.1; done; yes garbage) &"
    with login_script(board, ONLY_SESSIONS.format(script)):
        process = cli.start(*LONG, "--launches", "3", "--json")
        run = started_run(read_until(process, "bad: launch 2/3"))
        (board.home / "now").touch()
        answer = finish(process)
    (board.home / "now").unlink()
    assert answer.code == 4
    (failure,) = answer.document["failures"]
    assert failure["owner"] == "device"
    assert "not the probe's protocol" in failure["message"]
    assert len(stored(cli, run)) == 1
    assert len(answer.out) + len(answer.err) < 1 << 20
    assert_clean(board)


def test_terminal_escapes_from_a_board_never_reach_the_terminal(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("bad", board))
    with login_script(
        board, ONLY_SESSIONS.format("printf '\\033[31mred\\n'; printf '\\033]0;x\\007' >&2; exit 9")
    ):
        answer = cli(*RUN, code=4)
    assert "\x1b" not in answer.out + answer.err
    assert "\x07" not in answer.out + answer.err


def test_other_peoples_files_are_left_alone(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    (board.home / "mine.txt").write_text("mine")
    before = {path.name for path in board.home.iterdir()} | {WORK}
    cli(*RUN)
    assert {path.name for path in board.home.iterdir()} == before
    (board.home / "mine.txt").unlink()
    assert not Path.home().joinpath(".ssh").exists()
