"""The lease: exclusive use of the board, held for the whole session and until its last child is gone.

Two locks say so. flock(2) on DIR/lock guards the work folder. The board itself is guarded by something that
every login reaches, whatever its user and work folder, and that leaves no file: on Linux an abstract Unix
socket, which also tells whoever connects who holds the board; elsewhere flock on "/". Children inherit both.
DIR/lease.json says the same for people to read.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from typing import Callable, Optional, Tuple

from . import wire
from .wire import Json, ProbeError

HANDOVER_S = 1.0  # a session that was just killed keeps the lock until its last child is gone
SWEEP_S = 30.0  # between two looks for what dead sessions left, while somebody waits
MAX_BYTES = 16 << 10
MAX_SHOWN = 256
ANSWER_S = 1.0  # how long a holder of the board is listened to, and an asker is spoken to
ADDRESS = "\0edgebench-lease"
SCOPES = ("board", "folder")
WORDS = ("user", "controller", "run", "purpose")


class Lease:
    """Exclusive use of a device. Never `lockf`: that lock drops when any descriptor of the file is closed."""

    def __init__(self, work: str) -> None:
        self._lock = os.path.join(work, "lock")
        self._path = os.path.join(work, "lease.json")
        self._since_s = 0.0
        self._until_s = 0.0
        self._note: Json = {}
        self._sweep_again_s = 0.0
        self.descriptors: Tuple[int, ...] = ()

    @property
    def held(self) -> bool:
        """True while this session holds the lease."""
        return bool(self.descriptors)

    def left_s(self) -> Optional[float]:
        """Seconds until a lease that is not renewed ends; None while none is held."""
        return self._until_s - time.monotonic() if self.held else None

    def take(self, holder: Json, seconds: float, scope: str, sweep: Callable[[], object]) -> None:
        """Take the lease, or renew it; ProbeError `busy` names the other holder.

        `sweep` kills what dead sessions left: it is called before somebody is called busy.
        """
        if not self.held:
            self._acquire(scope, sweep)
            self._since_s = time.monotonic()
        self._until_s = time.monotonic() + seconds
        self._note = self._describe(holder)
        self._write(self._note)

    def release(self) -> None:
        """Remove the note; the lock itself falls with the process (and its children)."""
        if self.held:
            remove_note(self._path)

    def _describe(self, holder: Json) -> Json:
        """The note: times for people by the wall clock, and by the clock that never jumps for sums."""
        now_s = time.time() - time.monotonic()
        return {
            "holder": holder,
            "pid": os.getpid(),
            "since_utc": _utc(now_s + self._since_s),
            "until_utc": _utc(now_s + self._until_s),
            "since_monotonic_s": self._since_s,
            "until_monotonic_s": self._until_s,
        }

    # --- the locks ---

    def _acquire(self, scope: str, sweep: Callable[[], object]) -> None:
        """Both locks, tried for a moment. Asking again and again costs little: somebody measures there."""
        deadline = time.monotonic() + HANDOVER_S
        while True:
            ask = self._try(scope)
            if ask is None:
                return
            if time.monotonic() > self._sweep_again_s:
                sweep()
                self._sweep_again_s = time.monotonic() + SWEEP_S
            if time.monotonic() > deadline:
                raise busy(ask())
            time.sleep(0.05)

    def _try(self, scope: str) -> Optional[Callable[[], Json]]:
        """None once both locks are ours, else how to learn who has one."""
        folder = _flock(os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if folder is None:
            return lambda: read_note(self._path)
        if scope == "folder":
            self.descriptors = (folder,)
            return None
        board = self._bind() if sys.platform.startswith("linux") else _flock(os.open("/", os.O_RDONLY))
        if board is None:
            os.close(folder)
            return ask_holder if sys.platform.startswith("linux") else dict
        self.descriptors = (folder, board)
        return None

    def _bind(self) -> Optional[int]:
        board = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            board.bind(ADDRESS)
            board.listen(8)
        except OSError:
            board.close()
            return None
        threading.Thread(target=self._answer, args=(board,), name="lease", daemon=True).start()
        return board.fileno()

    def _answer(self, board: socket.socket) -> None:
        """Tell everybody who connects who holds the board."""
        while True:
            try:
                asker, _ = board.accept()
            except OSError:  # no descriptor is left, or the asker is gone: the next one may be answered
                time.sleep(ANSWER_S)
                continue
            try:
                asker.settimeout(ANSWER_S)
                asker.sendall(wire.encode(self._note))
            except OSError:
                pass
            finally:
                asker.close()

    def _write(self, note: Json) -> None:
        part = "%s.%d" % (self._path, os.getpid())
        try:
            with open(part, "w") as file:
                file.write(json.dumps(note))
            os.rename(part, self._path)
        except OSError:
            remove_note(part)
            raise


def remove_note(path: str) -> None:
    """The note is gone."""
    try:
        os.remove(path)
    except OSError:
        pass


def read_note(path: str) -> Json:
    """What a note says; {} where there is none that can be read."""
    try:
        with open(path) as file:
            note = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def ask_holder() -> Json:
    """What the holder of the board says; {} where it does not answer in time. It may be another user's."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        asking.settimeout(ANSWER_S)
        asking.connect(ADDRESS)
        return wire.parse(_received(asking))
    except (OSError, ValueError):
        return {}
    finally:
        asking.close()


def _received(asking: socket.socket) -> bytes:
    data, deadline = b"", time.monotonic() + ANSWER_S
    while len(data) < MAX_BYTES and time.monotonic() < deadline and not data.endswith(b"\n"):
        chunk = asking.recv(MAX_BYTES)
        if not chunk:
            break
        data += chunk
    return data


def busy(note: Json) -> ProbeError:
    """The error that names a holder: who, what for, since when and for how long at most."""
    words = _words(note.get("holder"))
    since_s, left_s = _times(note)
    if not words:
        text = (
            "the device is in use, and whoever holds it does not say who it is: "
            "a process of an ended session still runs, or the session hangs"
        )
    else:
        text = "the device is in use by %s on %s (run %s, %s)" % (
            words.get("user", "somebody"),
            words.get("controller", "an unknown controller"),
            words.get("run", "unknown"),
            words.get("purpose", "purpose unknown"),
        )
        if since_s is not None:
            text += ", since %s" % duration(since_s)
        if left_s is not None:
            text += ", for at most %s more" % duration(left_s)
    pid = note.get("pid")
    told = {"holder": words, "pid": pid if isinstance(pid, int) else None}
    return ProbeError("busy", text, holder=dict(told, since_s=since_s, left_s=left_s) if words else None)


def _words(holder: object) -> Json:
    if not isinstance(holder, dict):
        return {}
    return {key: holder[key][:MAX_SHOWN] for key in WORDS if isinstance(holder.get(key), str)}


def _times(note: Json) -> Tuple[Optional[float], Optional[float]]:
    """(seconds since the lease began, seconds left), by the device's clock that never jumps."""
    now = time.monotonic()
    since, until = note.get("since_monotonic_s"), note.get("until_monotonic_s")
    return (
        max(0.0, now - since) if isinstance(since, float) else None,
        max(0.0, until - now) if isinstance(until, float) else None,
    )


def duration(seconds: float) -> str:
    """ "40 s", "12 min" or "5 h 48 min"."""
    if seconds < 60:
        return "%d s" % seconds
    hours, minutes = divmod(int(seconds // 60), 60)
    if not hours:
        return "%d min" % minutes
    return "%d h %d min" % (hours, minutes) if minutes else "%d h" % hours


def _flock(descriptor: int) -> Optional[int]:
    """The descriptor once its file is locked; None where another session has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _utc(unix_s: float) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
    except (ValueError, OverflowError, OSError):  # a clock that is centuries off
        return "unknown"
