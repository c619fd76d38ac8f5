"""The session as a real process: lease, life and death, requests that are wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.probe.fakes import HANG, fake_spec, replay_spec
from tests.probe.harness import DEADLINE_S, Probe, build_folder, children, eventually, running

Open = Callable[..., Probe]


def run_folders(probe: Probe) -> list[str]:
    return os.listdir(probe.work / "runs")


def test_hello_and_end(open_probe: Open) -> None:
    probe = open_probe()
    assert probe.hello["event"] == "hello"
    assert probe.hello["protocol"] == 1
    assert children(probe.process.pid) == [probe.hello["pid"]]  # the session and its guard
    assert probe.hello["work"] == str(probe.work.resolve())
    assert len(run_folders(probe)) == 1
    assert probe.end() == 0
    assert run_folders(probe) == []


def test_the_same_as_a_folder(open_probe: Open, tmp_path: Path) -> None:
    probe = open_probe(program=build_folder(tmp_path / "probe"))
    probe.lease()
    assert probe.result("launch", spec=replay_spec(probe))["load_ns"] == 22
    assert probe.end() == 0


def test_the_work_folder_is_private(probe: Probe) -> None:
    assert stat.S_IMODE(probe.work.stat().st_mode) == 0o700


def test_one_lease_at_a_time(open_probe: Open) -> None:
    first, second = open_probe(), open_probe()
    first.lease()
    first.lease()  # the holder may renew it
    error = second.error("lease", holder={"run": "r2"}, seconds=60, scope="folder")
    assert error["kind"] == "busy"
    assert "me on here" in error["message"]
    assert error["holder"]["holder"] == {"run": "r1", "controller": "here", "user": "me", "purpose": "test"}
    assert error["holder"]["pid"] == first.pid
    assert first.end() == 0
    assert not (first.work / "lease.json").exists()
    second.lease()


def test_a_killed_session_is_cleared_up_by_its_guard(open_probe: Open) -> None:
    first = open_probe()
    first.lease()
    child = hanging_launch(first)
    os.kill(first.pid, signal.SIGKILL)
    assert first.process.wait(DEADLINE_S) == 128 + signal.SIGKILL
    assert not running(child)
    assert run_folders(first) == []
    assert not (first.work / "lease.json").exists()
    open_probe().lease()


def test_a_killed_guard_ends_its_session(open_probe: Open) -> None:
    first = open_probe()
    first.lease()
    child = hanging_launch(first)
    first.process.kill()
    eventually(lambda: not running(first.pid) and not running(child), "the session and its launch end")
    assert run_folders(first) == []
    open_probe().lease()


def test_what_a_killed_session_and_guard_leave_goes_at_the_next_lease(open_probe: Open) -> None:
    first = open_probe()
    first.lease()
    os.kill(first.process.pid, signal.SIGSTOP)  # it shall not see the session's end
    os.kill(first.pid, signal.SIGKILL)
    first.process.kill()
    first.process.wait(DEADLINE_S)
    assert len(run_folders(first)) == 1
    second = open_probe()
    second.lease()
    assert run_folders(second) == [name for name in run_folders(second) if name.startswith(f"{second.pid}-")]
    assert second.end() == 0
    assert run_folders(second) == []


def test_a_stopped_session_is_ended_by_its_guard(open_probe: Open) -> None:
    first, second = open_probe(), open_probe()
    first.lease()
    child = hanging_launch(first)
    os.kill(first.pid, signal.SIGSTOP)
    error = second.error("lease", holder={}, seconds=60, scope="folder")
    assert error["kind"] == "busy"
    assert first.process.wait(10) == 128 + signal.SIGKILL
    assert not running(child)
    assert run_folders(second) == [name for name in run_folders(second) if str(second.pid) in name]
    eventually(lambda: b"was stopped from outside" in first.stderr, "the guard says why")
    second.lease()


def test_a_session_that_is_stopped_for_a_moment_goes_on(probe: Probe) -> None:
    os.kill(probe.pid, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(probe.pid, signal.SIGCONT)
    assert probe.result("have", files=[])["missing"] == []
    assert probe.end() == 0


def test_a_stopped_guard_does_not_stay_behind(probe: Probe) -> None:
    os.kill(probe.process.pid, signal.SIGSTOP)
    probe.result("end")
    assert probe.process.wait(DEADLINE_S) == 0


def test_a_stopped_launch_is_not_waited_for(probe: Probe) -> None:
    number = probe.start("launch", spec=fake_spec(probe, on_run=HANG))
    probe.until_phase("first")
    (child,) = children(probe.pid)
    os.kill(child, signal.SIGSTOP)
    error = probe.reply(number)["error"]
    assert error["kind"] == "crashed"
    assert "stopped from outside in phase first" in error["message"]
    assert not running(child)


def test_a_living_session_keeps_its_run_folder(open_probe: Open) -> None:
    looking, leasing = open_probe(), open_probe()
    leasing.lease()
    assert len(run_folders(looking)) == 2


@pytest.mark.parametrize("op", ["commit", "assemble", "unpack", "launch", "clean"])
def test_writing_needs_the_lease(open_probe: Open, op: str) -> None:
    error = open_probe().error(op)
    assert error["kind"] == "bad_request"
    assert "lease" in error["message"]


def test_looking_needs_no_lease(open_probe: Open) -> None:
    probe = open_probe()
    assert probe.result("facts")["os"] in ("linux", "macos")
    assert "load_1m" in probe.result("conditions")
    assert probe.result("have", files=[])["missing"] == []


def test_the_end_of_stdin_ends_the_session(probe: Probe) -> None:
    assert probe.process.stdin
    probe.process.stdin.close()
    assert probe.process.wait(DEADLINE_S) == 0
    assert run_folders(probe) == []


def test_a_reader_that_is_gone_ends_the_session(program: Path, tmp_path: Path) -> None:
    argv = [sys.executable, str(program), "session", "--work", str(tmp_path / "work"), "--silence", "300"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        assert b"hello" in process.stdout.readline()
        process.stdout.close()

        def has_ended() -> bool:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b'{"op":"beat"}\n')
            return process.poll() is not None

        eventually(has_ended, "its end")
        assert process.returncode == 4
    assert os.listdir(tmp_path / "work" / "runs") == []


def test_beats_are_not_answered_while_nobody_reads(program: Path, tmp_path: Path) -> None:
    """A full pipe must not keep the session from hearing that its controller lives."""
    argv = [sys.executable, str(program), "session", "--work", str(tmp_path / "work"), "--silence", "3"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        for _ in range(400):
            process.stdin.write(b'{"op":"beat"}\n' * 20)
            process.stdin.flush()
            time.sleep(0.01)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0


def test_silence_ends_the_session(open_probe: Open) -> None:
    probe = open_probe(silence_s=0.3)
    assert probe.process.wait(DEADLINE_S) == 124
    assert run_folders(probe) == []
    eventually(lambda: b"no line came" in probe.stderr, "the reason is on stderr")


def test_heartbeats_keep_it_alive(open_probe: Open) -> None:
    probe = open_probe(silence_s=2.0)
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        probe.send(b'{"op":"beat"}\n')
        assert probe.process.poll() is None
        time.sleep(0.05)
    assert probe.result("have", files=[])["missing"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_session(probe: Probe, number: int) -> None:
    probe.process.send_signal(number)
    assert probe.process.wait(DEADLINE_S) == 128 + number
    assert run_folders(probe) == []


def hanging_launch(probe: Probe) -> int:
    """Start a launch that never ends; its process."""
    probe.start("launch", spec=fake_spec(probe, on_run=HANG))
    probe.until_phase("first")
    (child,) = children(probe.pid)
    return child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_launch_dies_with_its_session(probe: Probe, number: int, guarded: bool) -> None:
    child = hanging_launch(probe)
    if not guarded:
        os.kill(probe.process.pid, signal.SIGSTOP)
    os.kill(probe.pid, number)
    eventually(lambda: not running(child), "the launch must die")


def test_a_launch_dies_when_stdin_ends(probe: Probe) -> None:
    child = hanging_launch(probe)
    assert probe.process.stdin
    probe.process.stdin.close()
    assert probe.process.wait(DEADLINE_S) == 0
    eventually(lambda: not running(child), "a killed launch is gone")
    assert run_folders(probe) == []


def test_a_launch_dies_in_silence(open_probe: Open) -> None:
    probe = open_probe(silence_s=4.0)
    probe.lease()
    child = hanging_launch(probe)
    assert probe.process.wait(DEADLINE_S) == 124
    eventually(lambda: not running(child), "a killed launch is gone")
    assert run_folders(probe) == []


def test_heartbeats_count_while_a_launch_runs(open_probe: Open) -> None:
    probe = open_probe(silence_s=5.0)
    probe.lease()
    hanging_launch(probe)
    for _ in range(20):
        probe.send(b'{"op":"beat"}\n')
    assert probe.process.poll() is None


def test_the_lease_lasts_until_the_last_child_is_gone(open_probe: Open) -> None:
    """A stopped launch cannot end itself; the kernel ends it with its session, and the lease is free."""
    first, second = open_probe(), open_probe()
    first.lease()
    child = hanging_launch(first)
    os.kill(child, signal.SIGSTOP)
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: not running(child), "SIGKILL from the kernel reaches a stopped process too")
    second.lease()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00\xff\xfe",
        b"hello",
        b"[1, 2]",
        b'"text"',
        b"{}",
        b'{"id": 1}',
        b'{"op": "facts"}',
        b'{"id": "1", "op": "facts"}',
        b'{"id": -1, "op": "facts"}',
        b'{"id": true, "op": "facts"}',
        b'{"id": 1, "op": 7}',
        b'{"id": 1, "op": "__init__"}',
        b'{"id": 1, "op": "facts", "x": NaN}',
        b'{"id": ' + b"9" * 5000 + b"}",
        b"[" * 100000,
        b'{"a":' * 100000,
    ],
)
def test_garbage_is_a_bad_request_and_the_session_lives_on(hardy: Probe, line: bytes) -> None:
    hardy.send(line + b"\n")
    reply = hardy.receive()
    assert not reply["ok"]
    assert reply["error"]["kind"] == "bad_request"
    assert "Traceback" not in json.dumps(reply)
    assert hardy.result("have", files=[])["missing"] == []


def test_an_endless_line_is_refused_once(hardy: Probe) -> None:
    block = b"x" * (1 << 20)
    for _ in range(40):
        hardy.send(block)
    hardy.send(b"\n")
    reply = hardy.receive()
    assert reply["error"]["kind"] == "bad_request"
    assert hardy.result("have", files=[])["missing"] == []


def test_many_requests_at_once_are_bounded(probe: Probe) -> None:
    number = probe.start("launch", spec=fake_spec(probe, on_run=HANG))
    probe.until_phase("first")
    for extra in range(9):
        probe.send(json.dumps({"id": 1000 + extra, "op": "facts"}).encode() + b"\n")
    reply = probe.receive()
    assert reply["id"] == 1008
    assert reply["error"]["kind"] == "bad_request"
    assert number < 1000


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("lease", {}),
        ("lease", {"holder": {}, "seconds": 0}),
        ("lease", {"holder": {"run": "x" * 300}, "seconds": 5}),
        ("have", {}),
        ("have", {"files": [{"sha256": "zz", "size_bytes": 1}]}),
        ("have", {"files": [{"sha256": "../../etc/passwd", "size_bytes": 1}]}),
        ("commit", {"sha256": "A" * 64, "size_bytes": 1}),
        ("commit", {"sha256": "a" * 64, "size_bytes": -1}),
        ("assemble", {"digest": "a" * 64, "files": []}),
        ("assemble", {"digest": "../x", "files": [{}]}),
        ("unpack", {"digest": "a" * 64, "wheels": []}),
        ("unpack", {"digest": "a" * 64, "wheels": ["../x"]}),
        ("versions", {}),
        ("versions", {"runtime": "os"}),
        ("versions", {"runtime": "../../x"}),
        ("versions", {"runtime": "onnxruntime", "bundle": "relative"}),
        ("versions", {"runtime": "onnxruntime", "bundle": "/etc"}),
        ("clean", {"keep": ["x"]}),
        ("launch", {}),
        ("launch", {"spec": []}),
        ("launch", {"spec": {"artifact": "/etc"}}),
        ("reboot", {}),
    ],
)
def test_wrong_fields(hardy: Probe, op: str, fields: dict[str, object]) -> None:
    error = hardy.error(op, **fields)
    assert error["kind"] == "bad_request"
    assert error["message"]
    assert hardy.result("have", files=[])["missing"] == []


@pytest.mark.parametrize("bad", ["", "nothing", "session", "session --work x --silence 0", "launch x"])
def test_wrong_arguments(program: Path, tmp_path: Path, bad: str) -> None:
    argv = [sys.executable, str(program), *bad.split()]
    done = subprocess.run(
        argv, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert b"usage" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_work_folder_that_cannot_be(program: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    argv = [sys.executable, str(program), "session", "--work", str(tmp_path / "file" / "work")]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 73
    assert b"cannot be used" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""
