"""The heart of a session: beats, silence, death, and a device that sends far too much."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from edgebench.device import heart
from edgebench.device.heart import BEAT, Heart
from edgebench.errors import DeviceError


class Line:
    """A channel whose other end is the test."""

    def __init__(self) -> None:
        self.coming: queue.Queue[bytes | DeviceError] = queue.Queue()
        self.sent: list[bytes] = []
        self.answers = False
        self.closed = threading.Event()

    def send(self, data: bytes, *, timeout_s: float) -> None:
        self.sent.append(data)
        if self.answers:
            self.coming.put(b'{"event":"beat"}\n')

    def receive(self, *, timeout_s: float) -> bytes | None:
        try:
            found = self.coming.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(found, DeviceError):
            raise found
        return found

    def stderr_tail(self) -> str:
        return "the last words"

    def exit_status(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed.set()
        self.coming.put(b"")


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "BEAT_S", 0.05)
    monkeypatch.setattr(heart, "QUIET_S", 0.5)


def beating(line: Line) -> tuple[Heart, threading.Event]:
    died = threading.Event()
    return Heart(line, "nano", died.set), died


def test_it_beats_and_passes_on_what_comes(line: Line) -> None:
    made, _ = beating(line)
    line.coming.put(b"hello")
    assert made.receive(timeout_s=5) == b"hello"
    assert made.receive(timeout_s=0.2) is None
    assert line.sent.count(BEAT) >= 2
    made.close()
    assert made.receive(timeout_s=5) == b""
    assert line.closed.is_set()


def test_silence_is_no_error_before_the_probe_has_spoken(line: Line) -> None:
    made, died = beating(line)
    assert made.receive(timeout_s=1.0) is None
    assert not died.is_set()
    made.close()


def test_a_silent_probe_is_dead_also_when_nobody_waits_for_it(line: Line) -> None:
    made, died = beating(line)
    made.judge()
    assert died.wait(5)
    with pytest.raises(DeviceError, match=r"nano: the probe said nothing for 0\.5 s") as caught:
        made.receive(timeout_s=1)
    assert caught.value.retryable
    assert caught.value.detail == "the last words"


def test_answered_beats_keep_it_alive(line: Line) -> None:
    line.answers = True
    made, died = beating(line)
    made.judge()
    assert not died.wait(1.5)
    made.close()


def test_a_link_that_drops_is_said_after_what_came_before(line: Line) -> None:
    made, died = beating(line)
    line.coming.put(b"last")
    line.coming.put(DeviceError("the link dropped"))
    assert died.wait(5)
    assert made.receive(timeout_s=1) == b"last"
    with pytest.raises(DeviceError, match="the link dropped"):
        made.receive(timeout_s=1)


def test_what_nobody_reads_is_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "MAX_UNREAD_BYTES", 10_000)
    made, _ = beating(line)
    made.judge()
    for _ in range(100):
        line.coming.put(b"x" * 1000)
    time.sleep(1.0)
    assert 80 <= line.coming.qsize() <= 91
    read = b""
    while len(read) < 100_000:
        chunk = made.receive(timeout_s=5)
        assert chunk
        read += chunk
    made.close()
