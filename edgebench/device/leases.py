"""Busy devices: who holds one, and waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from edgebench.errors import DeviceBusy, Holder, printable
from edgebench.records import Record, prepared

BUSY_POLL_S = 3.0
MAX_WORD = 256  # characters of each word that says who holds a lease


class Patience(NamedTuple):
    """How a busy device is waited for: for how long, who hears of each attempt, what ends the waiting early.

    `announce` gets the refusal and the seconds waited so far; `pause` waits, and is true to give up.
    """

    wait_s: float = 0.0
    announce: Callable[[DeviceBusy, float], None] = lambda _busy, _waited_s: None
    pause: Callable[[float], bool] = threading.Event().wait

    def until_free(self, take: Callable[[], None]) -> None:
        """Take a lease as soon as it is free; DeviceBusy when it stays busy."""
        began = time.monotonic()
        while True:
            try:
                take()
                return
            except DeviceBusy as busy:
                waited_s = time.monotonic() - began
                if waited_s >= self.wait_s:
                    raise
                self.announce(busy, waited_s)
                if self.pause(min(BUSY_POLL_S, self.wait_s - waited_s)):
                    raise


IMPATIENT = Patience()


class _Told(Record, frozen=True):
    """What a busy device says of its holder."""

    holder: dict[str, str]
    pid: int | None = None
    since_s: float | None = None
    left_s: float | None = None


def holder_of(told: object) -> Holder | None:
    """Who holds a busy device, as the device says it; None where that makes no sense."""
    try:
        said = msgspec.convert(told, prepared(_Told))
    except msgspec.ValidationError:
        return None
    words = {key: printable(word)[:MAX_WORD] for key, word in said.holder.items()}
    return Holder(
        user=words.get("user", "somebody"),
        controller=words.get("controller", "an unknown controller"),
        run=words.get("run", "unknown"),
        purpose=words.get("purpose", "purpose unknown"),
        since_s=said.since_s,
        left_s=said.left_s,
    )
