"""Processes that outlived their session, found by the token in their environment, never by a name."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from typing import Callable, Iterator, NamedTuple, Optional

from .runs import is_free
from .tree import pids

KILL_S = 3.0
TOKEN = re.compile(r"[0-9a-f]{16}\Z")
PS_S = 10.0
Marked = NamedTuple("Marked", [("pid", int), ("token", str), ("folder", str)])


def kill_dead_sessions(own_token: str) -> None:
    """Kill what sessions left that are gone: of every work folder, this user's alone."""
    _kill_all(lambda each: each.token != own_token and _is_dead(each))


def kill_session(token: str) -> None:
    """Kill what a session started, its own process excepted (that has no token in its environment)."""
    _kill_all(lambda each: each.token == token)


def _kill_all(wanted: Callable[[Marked], bool]) -> None:
    """Kill again and again until none is left: what is killed may have been starting another."""
    deadline = time.monotonic() + KILL_S
    while True:
        left = [each for each in marked() if wanted(each)]
        if not left or time.monotonic() > deadline:
            return
        for each in left:
            _kill(each.pid)
        time.sleep(0.02)


def _is_dead(process: Marked) -> bool:
    """Whether the session of a process is gone: nobody holds its run folder."""
    if not os.path.basename(process.folder).endswith("-" + process.token):
        return False
    folder = process.folder
    if sys.platform.startswith("linux"):  # as the process sees it: it may live in a container
        folder = "/proc/%d/root%s" % (process.pid, folder)
    try:
        os.lstat(folder)
    except OSError as error:
        return error.errno == errno.ENOENT
    return is_free(folder)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:  # it is gone
        pass


# --- finding them ---


def marked() -> Iterator[Marked]:
    """Every process of this user that carries a session's token."""
    found = _from_proc() if sys.platform.startswith("linux") else _from_ps()
    own = (os.getpid(), os.getppid())
    return (each for each in found if each.pid not in own)


def _from_proc() -> Iterator[Marked]:
    for pid in pids():
        folder = "/proc/%d" % pid
        try:
            if os.stat(folder).st_uid != os.getuid():
                continue
            with open(folder + "/environ", "rb") as file:
                words = file.read().decode("utf-8", "surrogateescape").split("\0")
        except OSError:  # it ended meanwhile, or is none of ours
            continue
        found = in_words(pid, words)
        if found is not None:
            yield found


def _from_ps() -> Iterator[Marked]:
    """macOS: `ps -E` shows the environment of this user's processes behind their commands."""
    argv = ["ps", "-x", "-E", "-ww", "-o", "pid=,command="]
    try:
        text = subprocess.check_output(argv, stderr=subprocess.DEVNULL, timeout=PS_S)
    except (OSError, subprocess.SubprocessError):
        return
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        pid, _, rest = line.strip().partition(" ")
        found = in_words(int(pid), rest.split(" ")) if pid.isdecimal() else None
        if found is not None:
            yield found


def in_words(pid: int, words: "list[str]") -> Optional[Marked]:
    """The process, where its environment (NAME=value words) names a session and its folder."""
    values = dict(word.partition("=")[::2] for word in words if "=" in word)
    token = values.get("EDGEBENCH_RUN", "")
    return Marked(pid, token, values.get("TMPDIR", "")) if TOKEN.match(token) else None
