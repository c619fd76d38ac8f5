"""The guard: the session's parent, which clears up after it when it cannot do so itself.

A session that is killed leaves its run folder, its note and perhaps what its children started; one that is
stopped (SIGSTOP, a frozen debugger) would keep the board for ever. The kernel tells a parent of both.
"""

import os
import signal
import time
from typing import Callable, Optional

from . import orphans, prctl
from .lease import read_note, remove_note
from .runs import remove_folder
from .store import end_uploads

STOPPED_S = 4.0  # a session that is stopped longer than that is ended
POLL_S = 0.2
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stand(work: str, token: str, say: Callable[[str], None]) -> None:
    """Return in a new process, which is the session; this one stays to guard it and never returns."""
    guard = os.getpid()
    session = os.fork()
    if session:
        _guard(session, work, token, say)
    prctl.die_with_parent(signal.SIGTERM, guard)


def _guard(session: int, work: str, token: str, say: Callable[[str], None]) -> None:
    for number in FORWARDED:
        signal.signal(number, lambda number, _frame: _send(session, number))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)  # the channel's ends belong to the session alone
    os.dup2(nothing, 1)
    status = _end_of(session, say)
    orphans.kill_session(token)
    remove_folder(os.path.join(work, "runs", "%d-%s" % (session, token)))
    note = os.path.join(work, "lease.json")
    if read_note(note).get("pid") == session:  # it held the lease
        end_uploads(work)
        remove_note(note)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _end_of(session: int, say: Callable[[str], None]) -> int:
    """The wait status of the session at its end; it is ended when it stays stopped."""
    while True:
        status = os.waitpid(session, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status):
            changed = _after_a_stop(session)
            status = status if changed is None else changed
        if os.WIFSTOPPED(status):
            say("the session was stopped from outside for %g s and is ended" % STOPPED_S)
            _send(session, signal.SIGKILL)
        elif os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return status


def _after_a_stop(session: int) -> Optional[int]:
    """The wait status of a stopped session once it is continued or has ended; None when it stays stopped."""
    deadline = time.monotonic() + STOPPED_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(session, os.WCONTINUED | os.WNOHANG)
        if pid:
            return status
        time.sleep(POLL_S)
    return None


def _send(session: int, number: int) -> None:
    try:
        os.kill(session, number)
    except OSError:  # it has ended
        pass
