"""Files over ssh: what only large ones, stuck servers and chatty logins show."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from edgebench.errors import DeviceError
from edgebench.records import replace
from edgebench.transport.ssh import Timeouts
from tests.fleet.boards import login_script
from tests.fleet.netns import FleetDevice
from tests.transport.conftest import QUICK, Connect

MIB = 1 << 20
HURRIED = Timeouts(
    connect_s=2.0, banner_s=3.0, auth_s=5.0, channel_s=5.0, dead_link_s=3.0, transfer_min_s=1.0
)


def large(tmp_path: Path, size_bytes: int = 40 * MIB) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(size_bytes))
    return path


@pytest.mark.timeout(60)
def test_a_server_that_freezes_while_it_takes_a_file(
    connect: Connect, board: FleetDevice, tmp_path: Path
) -> None:
    """It may take 400 s at the speed that is just allowed; but nothing moves, and that is seen at once."""
    transport = connect(board.record(), timeouts=HURRIED)

    def freeze(_moved: int) -> None:
        board.stop()

    started = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        transport.put(large(tmp_path), "large", progress=freeze)
    assert time.monotonic() - started < 30
    assert caught.value.retryable


@pytest.mark.timeout(60)
def test_a_file_that_stops_coming(connect: Connect, board: FleetDevice, tmp_path: Path) -> None:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    os.mkfifo(board.home / "pipe", 0o666)
    transport = connect(board.record(), timeouts=HURRIED)
    with pytest.raises(DeviceError, match="nothing moved for 1 s"):
        transport.get("pipe", tmp_path / "got", max_bytes=1 << 30)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_reader_is_waited_for(connect: Connect, board: FleetDevice, tmp_path: Path) -> None:
    """Slower than the time without a move, on the whole, but always moving."""
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    source = large(tmp_path, 6 * MIB)
    board.rate_limit(20)
    started = time.monotonic()
    transport = connect(board.record(), timeouts=HURRIED)
    assert transport.put(source, "slow") == 6 * MIB
    assert time.monotonic() - started > 1.5
    assert (board.home / "slow").read_bytes() == source.read_bytes()


def test_a_login_that_prints_does_not_damage_an_upload(
    connect: Connect, board: FleetDevice, tmp_path: Path
) -> None:
    source = large(tmp_path, 100_000)
    with login_script(board, "echo edgebench:7; echo welcome >&2\n"):
        transport = connect(board.record(), timeouts=QUICK)
        assert transport.put(source, "there") == 100_000
        assert transport.put(source, "there", offset=100_000) == 0
    assert (board.home / "there").read_bytes() == source.read_bytes()


def test_a_file_is_continued_behind_a_link(connect: Connect, board: FleetDevice, tmp_path: Path) -> None:
    source = large(tmp_path, 1000)
    (board.home / "real").write_bytes(source.read_bytes()[:400])
    os.chmod(board.home / "real", 0o666)
    (board.home / "link").symlink_to("real")
    transport = connect(replace(board.record(), name="linked"))
    assert transport.put(source, "link", offset=400) == 600
    assert (board.home / "real").read_bytes() == source.read_bytes()


@pytest.mark.timeout(120)
def test_a_short_message_overtakes_a_large_file(connect: Connect, board: FleetDevice, tmp_path: Path) -> None:
    """Behind two megabytes that wait in the kernel a session's beat would come 8 s late on this link."""
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    source = large(tmp_path, 3 * MIB)
    board.rate_limit(2)
    transport = connect(board.record(), timeouts=Timeouts())
    echo = transport.open(["cat"])
    sending = threading.Thread(target=transport.put, args=(source, "large"))
    sending.start()
    took_s = []
    while sending.is_alive():
        started = time.monotonic()
        echo.send(b"beat\n", timeout_s=60.0)
        assert echo.receive(timeout_s=60.0) == b"beat\n"
        took_s.append(time.monotonic() - started)
        time.sleep(0.2)
    sending.join()
    assert (board.home / "large").read_bytes() == source.read_bytes()
    assert statistics.median(took_s) < 3.0, took_s
