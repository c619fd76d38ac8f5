"""Who uses what below the work folder, and in which order: without a clock, which may be years off.

used.json counts the leases of this work folder and says at which of them each unit was used last.
runs/<session>/uses lists what a session uses; it counts while the session lives (its folder is locked).
"""

import contextlib
import fcntl
import json
import os
from typing import Dict, Iterator, Set

from .runs import is_held
from .wire import NO_SPACE

MAX_BYTES = 16 << 20


class Uses:
    """The uses of one session, and those of the others as far as they matter."""

    def __init__(self, work: str, run_path: str) -> None:
        self._work = work
        self._run_path = run_path
        self._noted = set()  # type: Set[str]
        self._lease_number = 0

    def begin_lease(self) -> None:
        """From now on uses are kept beyond the session: only one session at a time has the lease."""
        with self.still():
            note = self._read()
            self._lease_number = self._lease_number or note["leases"] + 1
            with _unless_full():
                self._write(self._lease_number, dict(note["used"], **self._own()))

    def note(self, *keys: str) -> None:
        """These are used: nobody removes them while this session lives."""
        new = set(keys) - self._noted
        if not new:
            return
        self._noted |= new
        with self.still(), _unless_full():
            with open(os.path.join(self._run_path, "uses"), "a") as file:
                file.write("".join(key + "\n" for key in sorted(new)))
            if self._lease_number:
                self._write(self._lease_number, dict(self._read()["used"], **self._own()))

    def last(self) -> Dict[str, int]:
        """At which lease each unit was used last; what is not named was never, as far as is known."""
        used = self._read()["used"]
        return dict(used)

    def own(self) -> Set[str]:
        """What this session uses."""
        return set(self._noted)

    def others(self) -> Set[str]:
        """What other living sessions use."""
        found = set()  # type: Set[str]
        runs = os.path.dirname(self._run_path)
        for name in os.listdir(runs):
            path = os.path.join(runs, name)
            if path != self._run_path and is_held(path):
                with contextlib.suppress(OSError, ValueError), open(os.path.join(path, "uses")) as file:
                    found |= set(file.read(MAX_BYTES).split("\n"))
        return found

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """While this is open nobody notes a use or removes what is not in use."""
        descriptor = os.open(
            os.path.join(self._work, "uses.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _own(self) -> Dict[str, int]:
        return dict.fromkeys(self._noted, self._lease_number)

    def _read(self) -> Dict:  # type: ignore[type-arg]  # JSON
        """The note with its shape checked; an empty one where there is none or it is damaged."""
        try:
            with open(os.path.join(self._work, "used.json")) as file:
                note = json.loads(file.read(MAX_BYTES))
            leases, used = int(note["leases"]), {str(key): int(each) for key, each in note["used"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return {"leases": 0, "used": {}}
        return {"leases": max(0, leases, *used.values()) if used else max(0, leases), "used": used}

    def _write(self, leases: int, used: Dict[str, int]) -> None:
        there = {key: each for key, each in used.items() if os.path.lexists(os.path.join(self._work, key))}
        part = os.path.join(self._run_path, "used.json")
        with open(part, "w") as file:
            file.write(json.dumps({"leases": leases, "used": there}))
        os.rename(part, os.path.join(self._work, "used.json"))


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
    """On a full disk the order of uses is lost, and nothing else: room can still be made."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
