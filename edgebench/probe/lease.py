"""The lease: flock(2) on DIR/lock, held for the whole session; DIR/lease.json tells others who holds it."""

import fcntl
import json
import os
import time
from typing import Optional

from .wire import Json, ProbeError

HANDOVER_S = 0.5  # a session that was just killed keeps the lock until its last child is gone
MAX_BYTES = 16 << 10


class Lease:
    """Exclusive use of a device. Never `lockf`: that lock drops when any descriptor of the file is closed."""

    def __init__(self, work: str) -> None:
        self._lock = os.path.join(work, "lock")
        self._note = os.path.join(work, "lease.json")
        self.descriptor: Optional[int] = None

    @property
    def held(self) -> bool:
        """True while this session holds the lease."""
        return self.descriptor is not None

    def take(self, holder: Json, seconds: float) -> None:
        """Take the lease, or renew it; ProbeError `busy` names the other holder."""
        if not self.held:
            self.descriptor = self._flock()
        now = time.time()
        self._write(
            {"holder": holder, "pid": os.getpid(), "started_unix_s": now, "until_unix_s": now + seconds}
        )

    def release(self) -> None:
        """Remove the note; the lock itself falls with the process (and its children)."""
        if self.held:
            try:
                os.remove(self._note)
            except OSError:
                pass

    def _flock(self) -> int:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + HANDOVER_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise self._busy() from None
            time.sleep(0.05)

    def _busy(self) -> ProbeError:
        note = self._read()
        holder = note.get("holder")
        if not isinstance(holder, dict):
            holder = {}
        who = "%s on %s" % (holder.get("user", "somebody"), holder.get("controller", "an unknown controller"))
        text = "the device is in use by %s (run %s, %s)" % (
            who,
            holder.get("run", "unknown"),
            holder.get("purpose", "purpose unknown"),
        )
        return ProbeError("busy", text, holder=note or None)

    def _read(self) -> Json:
        try:
            with open(self._note) as file:
                note = json.loads(file.read(MAX_BYTES))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def _write(self, note: Json) -> None:
        part = "%s.%d" % (self._note, os.getpid())
        with open(part, "w") as file:
            file.write(json.dumps(note))
        os.rename(part, self._note)
