"""Commands and long-lived processes over a link: both outputs are always drained, every wait ends."""

from __future__ import annotations

import contextlib
import selectors
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgebench.errors import DeviceError
from edgebench.transport.base import CHUNK_BYTES, OUTPUT_GRACE_S, Deadline, Sink, Tail
from edgebench.transport.ssh.base import SLACK_S, Link

if TYPE_CHECKING:
    import paramiko

SLICE_S = 0.1  # how often a wait for output looks whether the process or the link has ended
END_S = 2.0  # how long a process may take to end by itself once its stdin is closed


class SshChannel:
    """A long-lived process on the device. Sending is safe from several threads, receiving belongs to one."""

    def __init__(self, device: str, link: Link, channel: paramiko.Channel) -> None:
        self._device = device
        self._link = link
        self._channel = channel
        self._sending = threading.Lock()
        self._draining = threading.Lock()
        self._tail = Tail()
        self._closed = False

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Write all of `data` to the process's stdin; DeviceError when the process or link is gone."""
        deadline = Deadline(timeout_s)
        if not self._sending.acquire(timeout=timeout_s):
            raise self._stuck(timeout_s)
        try:
            with self._watched("sending", timeout_s):
                self._send(data, deadline)
        finally:
            self._sending.release()

    def _send(self, data: bytes, deadline: Deadline) -> None:
        start = 0
        while start < len(data):
            try:
                sent = self._channel.send(data[start : start + CHUNK_BYTES])
                if sent == 0:
                    raise OSError("stdin is closed")
                start += sent
            except TimeoutError as error:
                if deadline.passed():
                    raise self._stuck(deadline.limit_s) from error
            except OSError as error:
                if not self._link.settled_alive():
                    raise
                raise DeviceError(
                    f"{self._device}: the process ended while written to (status {self.exit_status()})",
                    detail=self.stderr_tail(),
                    retryable=True,
                ) from error

    def receive(self, *, timeout_s: float) -> bytes | None:
        """Some bytes of stdout; b"" at its end; None when nothing came within `timeout_s`."""
        if self._closed:
            return b""
        deadline = Deadline(timeout_s)
        with self._watched("waiting for output", timeout_s):
            while True:
                self._drain_stderr()
                ended = _output_ended(self._channel)
                if self._channel.recv_ready():
                    return self._channel.recv(1 << 16)
                if ended:
                    return self._end()
                if deadline.passed():
                    return None
                _wait_for_output(self._channel, deadline.left_s())

    def _end(self) -> bytes:
        if not self._channel.eof_received and not self._link.settled_alive():
            raise EOFError
        self._channel.status_event.wait(OUTPUT_GRACE_S)  # it follows the end of the output
        self._drain_stderr()
        return b""

    def stderr_tail(self) -> str:
        """The last 16 KiB of stderr so far, decoded with replacement."""
        with contextlib.suppress(DeviceError), self._watched("reading stderr", SLACK_S):
            self._drain_stderr()
        return self._tail.text()

    def _drain_stderr(self) -> None:
        with self._draining:
            while self._channel.recv_stderr_ready():
                self._tail.add(self._channel.recv_stderr(1 << 16))

    def exit_status(self) -> int | None:
        """The exit status (-1: killed by a signal), or None while the process runs or where it is unknown."""
        if not self._channel.status_event.is_set():
            return None
        known = self._channel.exit_status != -1 or self._channel.eof_received
        return self._channel.exit_status if known else None

    def close(self) -> None:
        """End stdin, wait a moment, ask the process to end, release the channel; never raises."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(DeviceError), self._watched("closing", END_S):
            self._channel.shutdown_write()
            if not self._wait_for_end():
                send_signal(self._channel, "TERM")
            self._channel.close()

    def _wait_for_end(self) -> bool:
        deadline = Deadline(END_S)
        while not deadline.passed():
            self._drain_stderr()
            while self._channel.recv_ready():
                self._channel.recv(1 << 16)
            if self._channel.status_event.wait(0.01):
                return True
        return False

    @contextlib.contextmanager
    def _watched(self, what: str, limit_s: float) -> Iterator[None]:
        with self._link.mapped_errors(self._device, what), self._link.watchdog.within(limit_s + SLACK_S):
            yield

    def _stuck(self, timeout_s: float) -> DeviceError:
        return DeviceError(
            f"{self._device}: the process did not read its input for {timeout_s:g} s",
            hint="the board may be overloaded or hung; look at it, then run again",
            detail=self.stderr_tail(),
            retryable=True,
        )


class Exchange:
    """Feeds a command's stdin and drains both outputs in one loop, so that neither side blocks the other."""

    def __init__(self, channel: paramiko.Channel, stdin: Iterator[bytes], stdout: Sink, stderr: Sink) -> None:
        self._channel = channel
        self._stdin = stdin
        self._pending = memoryview(b"")
        self._feeding = True
        self._stdout = stdout
        self._stderr = stderr

    def finish(self, deadline: Deadline) -> int | None:
        """The exit status once the output is read (-1: none came), or None when it took too long."""
        grace: Deadline | None = None
        while not deadline.passed():
            output_ended = _output_ended(self._channel)
            moved = self._drain()
            if self._channel.status_event.is_set():
                if moved or grace is None:
                    grace = Deadline(OUTPUT_GRACE_S)
                if output_ended or grace.passed():
                    return self._channel.exit_status
            elif self._feeding:
                self._feed()
                continue
            self._wait(output_ended, deadline)
        return None

    def _drain(self) -> bool:
        moved = False
        while self._channel.recv_ready():
            self._stdout.add(self._channel.recv(1 << 16))
            moved = True
        while self._channel.recv_stderr_ready():
            self._stderr.add(self._channel.recv_stderr(1 << 16))
            moved = True
        return moved

    def _feed(self) -> None:
        """Send one piece of stdin, or end it; waits at most a slice for the other side to take it."""
        self._pending = self._pending or memoryview(next(self._stdin, b""))
        if not self._pending:
            self._feeding = False
            self._channel.shutdown_write()
            return
        try:
            sent = self._channel.send(self._pending)  # type: ignore[arg-type]  # it takes memory as it is
            self._pending = self._pending[sent:]
        except TimeoutError:
            return
        except OSError:
            self._feeding = False  # the command ended without reading all

    def _wait(self, output_ended: bool, deadline: Deadline) -> None:
        if output_ended:
            self._channel.status_event.wait(min(SLICE_S, deadline.left_s()))
        else:
            _wait_for_output(self._channel, deadline.left_s())


def _output_ended(channel: paramiko.Channel) -> bool:
    return bool(channel.eof_received) or channel.closed


def _wait_for_output(channel: paramiko.Channel, timeout_s: float) -> None:
    """Return when output may be there. In slices: paramiko can lose a wake-up of two streams."""
    with selectors.DefaultSelector() as selector:
        selector.register(channel.fileno(), selectors.EVENT_READ)
        selector.select(min(SLICE_S, timeout_s))


def send_signal(channel: paramiko.Channel, name: str) -> None:
    """Ask the server to signal the command's process group (RFC 4254, 6.9; OpenSSH 7.9 and newer)."""
    import paramiko

    if channel.closed or channel.transport is None:
        return
    message = paramiko.Message()
    message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_boolean(False)
    message.add_string(name)
    channel.transport._send_user_message(message)  # type: ignore[attr-defined]  # as Channel does; no public way
