"""The lease as real processes: of the board, of a folder, its end, its holder's answer, and who is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.probe.fakes import fake_spec, replay_spec
from tests.probe.harness import DEADLINE_S, Probe, build_zip, children, eventually, running

Open = Callable[..., Probe]
NOBODY = 65534
ADA = {"run": "r7", "controller": "laptop", "user": "ada", "purpose": "edgebench run"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip file that every user can read."""
    folder = tmp_path_factory.mktemp("program")
    for each in (folder, folder.parent, folder.parent.parent):
        each.chmod(0o755)
    made = build_zip(folder / "probe.pyz")
    made.chmod(0o644)
    return made


@pytest.fixture
def on_a_board(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Turns a work folder's name into a program that starts sessions in a network of their own."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], check=False).returncode != 0:
        pytest.skip("missing tool: network namespaces (root, unshare)")
    board = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    ours = os.readlink("/proc/self/ns/net")
    eventually(lambda: os.readlink(f"/proc/{board.pid}/ns/net") != ours, "a board")

    def python(user: str) -> Path:
        script = tmp_path / f"python-{user}"
        switch = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups" if user == "nobody" else ""
        script.write_text(f'#!/bin/sh\nexec nsenter -n -t {board.pid} {switch} {sys.executable} "$@"\n')
        script.chmod(0o755)
        return script

    yield python
    board.kill()
    board.wait()


class Opener:
    """Starts sessions, each in a folder of its own."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder, self.opened = program, folder, list[Probe]()

    def __call__(self, python: Path, name: str, owner: int = 0) -> Probe:
        work = self.folder / name
        if not work.exists():
            work.mkdir()
            os.chown(work, owner, owner)
        self.opened.append(Probe(self.program, work, python=str(python)))
        return self.opened[-1]


@pytest.fixture
def opener(program: Path, tmp_path: Path) -> Iterator[Opener]:
    for each in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        each.chmod(0o755)
    made = Opener(program, tmp_path)
    yield made
    for probe in made.opened:
        probe.close()


def board_lease(probe: Probe, **changes: Any) -> dict[str, Any]:
    return probe.ask("lease", **{"holder": ADA, "seconds": 3600, "scope": "board", **changes})


def test_another_user_with_another_folder_does_not_get_the_board(
    opener: Opener, on_a_board: Callable[[str], Path]
) -> None:
    ours, theirs = opener(on_a_board("root"), "ours"), opener(on_a_board("nobody"), "theirs", NOBODY)
    assert board_lease(ours)["ok"]
    error = board_lease(theirs)["error"]
    assert error["kind"] == "busy"
    assert "in use by ada on laptop (run r7, edgebench run), since " in error["message"]
    assert ", for at most 59 min more" in error["message"]
    assert error["holder"]["holder"] == ADA
    assert error["holder"]["pid"] == ours.pid
    assert 3590 < error["holder"]["left_s"] <= 3600
    assert ours.end() == 0
    assert board_lease(theirs)["ok"]


def test_the_board_is_free_at_once_after_kill_9(opener: Opener, on_a_board: Callable[[str], Path]) -> None:
    python = on_a_board("root")
    first, second = opener(python, "one"), opener(python, "two")
    assert board_lease(first)["ok"]
    os.kill(first.pid, signal.SIGKILL)
    assert board_lease(second)["ok"]


def test_a_launch_keeps_the_board_when_its_session_is_gone(
    opener: Opener, on_a_board: Callable[[str], Path]
) -> None:
    """A process that escaped every guard still holds what it inherited: nobody else measures beside it."""
    python = on_a_board("root")
    first, second = opener(python, "one"), opener(on_a_board("root"), "two")
    assert board_lease(first)["ok"]
    argv = [sys.executable, "-c", "import os, time; os.setsid(); time.sleep(600)"]
    escape = f"os.posix_spawn({argv[0]!r}, {argv!r}, {{}})"  # without a token in its environment
    first.start("launch", spec=fake_spec(first, on_run=f"{escape}; time.sleep(600)"))
    first.until_phase("first")
    (launch,) = children(first.pid)
    eventually(lambda: len(children(launch)) == 1, "the escape")
    (escaped,) = children(launch)
    try:
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait(DEADLINE_S)
        assert running(escaped)
        error = board_lease(second)["error"]
        assert error["kind"] == "busy"
        assert "does not say who it is" in error["message"]
        assert error["holder"] is None
    finally:
        os.kill(escaped, signal.SIGKILL)
    eventually(lambda: bool(board_lease(second)["ok"]), "the board is free")


def test_leases_of_folders_do_not_meet(opener: Opener) -> None:
    first, second = opener(Path(sys.executable), "one"), opener(Path(sys.executable), "two")
    assert board_lease(first, scope="folder")["ok"]
    assert board_lease(second, scope="folder")["ok"]


def test_an_unknown_scope_is_refused(open_probe: Open) -> None:
    error = open_probe().error("lease", holder={}, seconds=60, scope="world")
    assert "board, folder" in error["message"]


def test_whoever_connects_and_says_nothing_blocks_nobody(
    opener: Opener, on_a_board: Callable[[str], Path]
) -> None:
    ours, theirs = opener(on_a_board("root"), "ours"), opener(on_a_board("root"), "theirs")
    assert board_lease(ours)["ok"]
    idle = subprocess.Popen(
        [str(on_a_board("root")), "-c", CONNECT, "20"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert idle.stdout
    assert idle.stdout.readline() == b"connected\n"
    assert "ada on laptop" in board_lease(theirs)["error"]["message"]
    idle.communicate()
    assert ours.end() == 0


CONNECT = """
import socket, sys
kept = []
for _ in range(int(sys.argv[1])):
    each = socket.socket(socket.AF_UNIX)
    each.settimeout(1)
    try:
        each.connect("\\0edgebench-lease")
    except OSError:
        break
    kept.append(each)
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("says", ["", "x" * 100000, "[]\n", '{"holder": 7}\n', '{"holder": {"user": []}}\n'])
def test_a_stranger_at_the_address_is_no_holder_with_a_name(
    opener: Opener, on_a_board: Callable[[str], Path], says: str
) -> None:
    argv = [str(on_a_board("root")), "-c", STRANGER, says]
    stranger = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert stranger.stdout
    assert stranger.stdout.readline() == b"bound\n"
    error = board_lease(opener(on_a_board("root"), "ours"))["error"]
    assert error["kind"] == "busy"
    assert "does not say who it is" in error["message"]
    stranger.communicate()


STRANGER = """
import socket, sys, threading
door = socket.socket(socket.AF_UNIX)
door.bind("\\0edgebench-lease")
door.listen(8)
def answer():
    while True:
        asker, _ = door.accept()
        try:
            asker.sendall(sys.argv[1].encode())
        except OSError:
            pass
threading.Thread(target=answer, daemon=True).start()
print("bound", flush=True)
sys.stdin.read()
"""


# --- its end -------------------------------------------------------------------------------------


def test_a_lease_that_is_not_renewed_ends_the_session(open_probe: Open) -> None:
    probe = open_probe()
    probe.result("lease", holder=ADA, seconds=1, scope="folder")
    probe.start("launch", spec=fake_spec(probe, on_run="time.sleep(3600)"))
    assert probe.process.wait(DEADLINE_S) == 123
    assert list((probe.work / "runs").iterdir()) == []
    assert not (probe.work / "lease.json").exists()
    eventually(lambda: b"the lease has ended" in probe.stderr, "it says why")


def test_a_renewed_lease_lasts(open_probe: Open) -> None:
    probe = open_probe()
    since = set()
    for _ in range(8):
        probe.result("lease", holder=ADA, seconds=2, scope="folder")
        since.add((probe.work / "lease.json").read_text().partition('"since_monotonic_s"')[2].split(",")[0])
        time.sleep(0.5)
    assert len(since) == 1
    assert probe.end() == 0


# --- who is left ---------------------------------------------------------------------------------

ESCAPE = (
    "import subprocess, sys; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
)


def escaped_from(probe: Probe) -> int:
    """Start a launch whose helper leaves its process group, and wait for the helper."""
    probe.start("launch", spec=fake_spec(probe, on_run=f"{ESCAPE}; time.sleep(3600)"))
    probe.until_phase("first")
    (launch,) = children(probe.pid)
    eventually(lambda: len(children(launch)) == 1, "the helper")
    return children(launch)[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_what_a_launch_started_dies_with_the_session(probe: Probe, number: int) -> None:
    helper = escaped_from(probe)
    os.kill(probe.pid, number)
    probe.process.wait(DEADLINE_S)
    assert not running(helper)


def test_what_is_left_of_a_dead_session_dies_at_the_next_lease(open_probe: Open) -> None:
    probe = open_probe()
    probe.lease()
    helper = escaped_from(probe)
    os.kill(probe.process.pid, signal.SIGSTOP)
    os.kill(probe.pid, signal.SIGKILL)
    os.kill(probe.process.pid, signal.SIGKILL)
    probe.process.wait(DEADLINE_S)
    assert running(helper)
    second = open_probe()
    second.lease()
    assert not running(helper)
    assert second.result("launch", spec=replay_spec(second))["load_ns"] == 22


def test_a_living_sessions_processes_are_left_alone(open_probe: Open, program: Path, tmp_path: Path) -> None:
    living = open_probe()
    living.lease()
    helper = escaped_from(living)
    other = Probe(program, tmp_path / "other")
    try:
        other.lease()
        assert running(helper)
    finally:
        other.close()


def test_a_helper_dies_with_the_session_at_once(tmp_path: Path) -> None:
    """Without a guard and without waiting for the next lease."""
    program = str(build_zip(tmp_path / "probe.pyz"))
    argv = [sys.executable, program, "helper", str(os.getpid()), "--", sys.executable, "-c", "print('on')"]
    assert subprocess.run(argv, check=True, capture_output=True, timeout=DEADLINE_S).stdout == b"on\n"
    script = f"import subprocess, os, sys, time; {SHOW}; time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", script, program], stdout=subprocess.PIPE)
    assert parent.stdout
    helper = int(parent.stdout.readline())
    eventually(lambda: Path(f"/proc/{helper}/cmdline").read_bytes().startswith(b"sleep"), "it runs")
    parent.kill()
    parent.communicate()
    eventually(lambda: not running(helper), "the helper dies with its parent")


SHOW = (
    "argv = [sys.executable, sys.argv[1], 'helper', str(os.getpid()), '--', 'sleep', '600']; "
    "print(subprocess.Popen(argv).pid, flush=True)"
)
