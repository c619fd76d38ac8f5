"""Whatever a device prints, the wire gives a message or a DeviceError, in bounded time and memory."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.device import wire
from edgebench.device.wire import Wire
from edgebench.errors import DeviceError


class Recorded:
    """A channel that plays back recorded chunks, then its end."""

    def __init__(self, *chunks: bytes | None) -> None:
        self._chunks = list(chunks)
        self.sent = b""

    def send(self, data: bytes, *, timeout_s: float) -> None:
        self.sent += data

    def receive(self, *, timeout_s: float) -> bytes | None:
        return self._chunks.pop(0) if self._chunks else b""

    def stderr_tail(self) -> str:
        return "the last words"

    def exit_status(self) -> int | None:
        return None

    def close(self) -> None:
        return None


HELLO = b'{"event": "hello", "protocol": 1}\n'


def test_hello_is_found_behind_a_chatty_login() -> None:
    channel = Recorded(b"Welcome to Ubuntu 18.04\n\x1b[1mnews\n", HELLO)
    assert Wire(channel, "nano").receive_hello(timeout_s=1)["protocol"] == 1


def test_a_message_split_over_chunks_is_one_message() -> None:
    channel = Recorded(b'{"id": 1, ', b'"ok": true}\n{"id"', b": 2}\n")
    link = Wire(channel, "nano")
    assert [link.receive(timeout_s=1)["id"] for _ in range(2)] == [1, 2]


def test_endless_noise_before_hello_is_an_error() -> None:
    channel = Recorded(*[b"spam and eggs\n" * 1000] * 10)
    with pytest.raises(DeviceError, match="before the probe speaks"):
        Wire(channel, "nano").receive_hello(timeout_s=1)


def test_an_endless_line_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 1 << 20)
    channel = Recorded(*[b"x" * 65536] * 64)
    with pytest.raises(DeviceError, match="more than 1 MiB"):
        Wire(channel, "nano").receive(timeout_s=5)


def test_the_end_of_the_session_says_what_the_device_said_last() -> None:
    with pytest.raises(DeviceError, match="ended unexpectedly") as caught:
        Wire(Recorded(), "nano").receive(timeout_s=1)
    assert caught.value.detail == "the last words"
    assert caught.value.retryable


def test_silence_is_an_error_that_names_the_device() -> None:
    with pytest.raises(DeviceError, match="nano: the probe did not answer in time"):
        Wire(Recorded(None), "nano").receive(timeout_s=1)


def test_terminal_escapes_never_reach_a_message() -> None:
    with pytest.raises(DeviceError) as caught:
        Wire(Recorded(b"\x1b]0;owned\x07\n"), "nano").receive(timeout_s=1)
    assert caught.value.message.isprintable()


def test_what_is_sent_is_one_line() -> None:
    channel = Recorded()
    Wire(channel, "nano").send({"op": "beat", "text": "a\nb"})
    assert channel.sent.count(b"\n") == 1
    assert json.loads(channel.sent) == {"op": "beat", "text": "a\nb"}


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_arbitrary_bytes_give_messages_or_device_errors(chunks: list[bytes]) -> None:
    with pytest.raises(DeviceError) as caught:
        _read_all(Wire(Recorded(*chunks, b"\n"), "nano"))
    assert caught.value.message.isprintable()


def _read_all(link: Wire) -> None:
    while True:
        assert isinstance(link.receive(timeout_s=1), dict)
