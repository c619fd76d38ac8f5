"""The run folder: DIR/runs/<pid>-<token>/, held by flock while its session lives, removed at its end."""

import binascii
import contextlib
import fcntl
import os
import shutil
import threading
import time
from typing import Iterator, Optional

from .wire import ProbeError

REMOVAL_S = 3.0  # a killed child or an interrupted unpacking may still write for a moment


class RunFolder:
    """A session's own folder for everything unfinished or passing."""

    def __init__(self, work: str, token: str) -> None:
        self._guard = threading.Lock()
        self._leaving = False
        self._runs = os.path.join(work, "runs")
        os.makedirs(self._runs, mode=0o700, exist_ok=True)
        self.token = token
        self.path = os.path.join(self._runs, "%d-%s" % (os.getpid(), token))
        self._descriptor: Optional[int] = None
        while self._descriptor is None:  # a session that clears up may take it before it is held
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._descriptor = _hold(self.path)

    def fresh(self, name: str) -> str:
        """A new, empty folder inside; an earlier one of that name is removed."""
        path = os.path.join(self.path, name)
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path, 0o700)
        return path

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """While this is open nothing is removed: what is in the folder can get its final name."""
        with self._guard:
            if self._leaving:
                raise ProbeError("ending", "the session is ending")
            yield

    def remove_stale(self) -> None:
        """Remove the folders of sessions that are gone."""
        for name in os.listdir(self._runs):
            path = os.path.join(self._runs, name)
            descriptor = _hold(path)
            if descriptor is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)

    def remove(self) -> None:
        """Remove the folder with everything in it; what cannot be removed goes at the next leased session."""
        with self._guard:
            self._leaving = True
        remove_folder(self.path)


def new_token() -> str:
    """16 hex digits that no other session has."""
    return binascii.hexlify(os.urandom(8)).decode("ascii")


def remove_folder(path: str) -> None:
    """Remove a folder, again and again for a while: somebody may still write into it."""
    deadline = time.monotonic() + REMOVAL_S
    while os.path.isdir(path) and time.monotonic() < deadline:
        shutil.rmtree(path, ignore_errors=True)
        if os.path.isdir(path):
            time.sleep(0.05)


def is_free(path: str) -> bool:
    """Whether nobody holds a run folder: its session is gone."""
    descriptor = _hold(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def is_held(path: str) -> bool:
    """True for the run folder of a living session."""
    descriptor = _hold(path)
    if descriptor is None:
        return os.path.isdir(path)
    os.close(descriptor)
    return False


def _hold(path: str) -> Optional[int]:
    """A descriptor that locks the folder, or None when another session has it or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None
