"""The pulse of a session: beats go out, answers must come back, whatever else the session is doing.

Without it a stopped SSH server, a hung board or a link that was cut during a long transfer would be noticed
minutes later. The numbers (docs/decisions.md): a beat every second; the probe ends itself after 8 s without
one, so that a board is free and clean within 10 s of a cut; outages of up to 6 s are survived, because TCP
sends again 0.2, 0.6, 1.4, 3 and 6.2 s after the first loss. The controller is more patient, with boards that
swap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgebench.errors import DeviceError, EdgebenchError, printable
from edgebench.transport.base import Channel

BEAT = b'{"op":"beat"}\n'
BEAT_S = 1.0
SILENCE_S = 8.0  # how long a probe waits for a beat before it ends itself
LOCAL_SILENCE_S = 30.0  # no link can be cut here, and converting keeps this computer busy
QUIET_S = 15.0  # how long a probe may say nothing at all, once it has spoken
SEND_TIMEOUT_S = 15.0
MAX_UNREAD_BYTES = 32 << 20


class Heart:
    """A `Channel` that is read and kept alive by a thread of its own.

    `on_death` is called when it falls silent. Any thread may send, one receives.
    """

    def __init__(self, channel: Channel, device: str, on_death: Callable[[], None]) -> None:
        self._channel = channel
        self._device = device
        self._on_death = on_death
        self._changed = threading.Condition()
        self._unread = bytearray()
        self._ended = False
        self._error: EdgebenchError | None = None
        self._judging = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"heart-{device}", daemon=True)
        self._thread.start()

    def judge(self) -> None:
        """From now on silence is an error: the probe has spoken once."""
        self._judging = True

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """As the channel does."""
        self._channel.send(data, timeout_s=timeout_s)

    def receive(self, *, timeout_s: float) -> bytes | None:
        """As the channel does; DeviceError too once the probe has fallen silent."""
        with self._changed:
            self._changed.wait_for(lambda: self._unread or self._ended, timeout_s)
            if self._unread:
                data = bytes(self._unread)
                self._unread.clear()
                self._changed.notify_all()
                return data
            if self._error is not None:
                raise self._error
            return b"" if self._ended else None

    def stderr_tail(self) -> str:
        """As the channel has it."""
        return self._channel.stderr_tail()

    def exit_status(self) -> int | None:
        """As the channel has it."""
        return self._channel.exit_status()

    def close(self) -> None:
        """Stop beating and close the channel; never raises."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._channel.close()

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._beat_and_listen()
        except EdgebenchError as error:
            self._end(error)
            self._on_death()

    def _beat_and_listen(self) -> None:
        next_beat = time.monotonic() + BEAT_S
        quiet_s = 0.0
        while not self._closed:
            left_s = next_beat - time.monotonic()
            if left_s <= 0:
                self._channel.send(BEAT, timeout_s=SEND_TIMEOUT_S)
                next_beat = time.monotonic() + BEAT_S
                continue
            if self._is_full(left_s):
                continue
            chunk = self._channel.receive(timeout_s=left_s)
            if chunk == b"":
                self._end(None)
                return
            # what this computer slept (a closed lid) is no silence of the device: only the waiting counts
            quiet_s = 0.0 if chunk else quiet_s + left_s
            if chunk:
                self._keep(chunk)
            elif self._judging and quiet_s >= QUIET_S:
                raise self._silent()

    def _is_full(self, wait_s: float) -> bool:
        """Wait for the reader where far too much was not read yet: a device may send what it likes."""
        with self._changed:
            if len(self._unread) < MAX_UNREAD_BYTES:
                return False
            self._changed.wait(wait_s)
            return True

    def _keep(self, chunk: bytes) -> None:
        with self._changed:
            self._unread += chunk
            self._changed.notify_all()

    def _end(self, error: EdgebenchError | None) -> None:
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def _silent(self) -> DeviceError:
        return DeviceError(
            f"{self._device}: the probe said nothing for {QUIET_S:g} s: the board or its network hangs",
            hint="look at the board and its network, then run again",
            detail=printable(self._channel.stderr_tail(), lines=True),
            retryable=True,
        )
