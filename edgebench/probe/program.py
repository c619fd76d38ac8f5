"""One run of trtexec: its lines as they come, its memory at a low rate, its death with ours."""

import os
import selectors
import signal
import subprocess
import time
from typing import Any, Callable, NamedTuple, Optional, Sequence

from . import memory
from .child import out_of_memory_kills, signal_name
from .tree import Tree, kilobytes
from .trtexec import Log, environment, failure
from .wire import LineReader, ProbeError

TICK_S = 0.25
MAX_LINE_BYTES = 1 << 16
REPORT_S, HEARTBEAT_S = 0.5, 10.0  # between two lines of progress; between signs of life without any
MAX_PROGRESS_CHARACTERS = 200
PR_SET_PDEATHSIG = 1
METHOD = "VmRSS and VmHWM of trtexec, read every %g s" % TICK_S

Ended = NamedTuple("Ended", [("status", int), ("log", Log), ("stopped", bool)])


class Watch:
    """What a program and the whole system hold, read while the program runs. None is unknown, never 0."""

    def __init__(self) -> None:
        self.resident: Optional[int] = None
        self.peak: Optional[int] = None
        self._available_before = available()
        self._available_least: Optional[int] = self._available_before

    def look(self, pid: int) -> None:
        """Note the present sizes; what has ended keeps its last ones."""
        try:
            with open("/proc/%d/status" % pid) as file:
                resident, mark = memory.parse(file.read())
        except (OSError, ValueError):
            resident = mark = None
        if resident is not None:
            self.resident = resident
        self.peak = _larger(self.peak, mark)
        free = available()
        if free is not None and self._available_least is not None:
            self._available_least = min(self._available_least, free)

    def reset(self, pid: int) -> bool:
        """True when the kernel set the program's high-water mark back to its present size."""
        try:
            with open("/proc/%d/clear_refs" % pid, "w") as file:
                file.write("5")
        except (OSError, ValueError):
            return False
        self.peak = None
        return True

    def drop(self) -> Optional[int]:
        """How far the system's available memory fell below what it was at the start."""
        if self._available_before is None or self._available_least is None:
            return None
        return self._available_before - self._available_least


def available() -> Optional[int]:
    """MemAvailable in bytes."""
    return kilobytes(Tree().table("proc/meminfo"), "MemAvailable")


def _larger(one: Optional[int], other: Optional[int]) -> Optional[int]:
    known = [each for each in (one, other) if each is not None]
    return max(known) if known else None


class Run:
    """One process. `on_line` gets each line of its output, `on_tick` is called a few times a second.

    It is in our own process group, which the session kills, and dies with us where the kernel has that.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: str,
        on_line: Optional[Callable[[str, "Run"], None]] = None,
        on_tick: Optional[Callable[["Run"], None]] = None,
    ) -> None:
        self.log = Log()
        self.watch = Watch()
        self.limit: Optional[float] = None  # of time.monotonic(); set while it runs
        self._on_line = on_line
        self._on_tick = on_tick
        self._lines = LineReader(MAX_LINE_BYTES)
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment(argv[0]),
            preexec_fn=_dying_with_parent(),
        )

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def wait(self) -> Ended:
        """The end of it: status, log, and whether it was stopped because of `limit`."""
        finished = False
        try:
            finished = self._read_until_end()
        finally:
            if not finished:
                self._process.kill()
            status = self._finish()
        return Ended(status, self.log, not finished)

    def _finish(self) -> int:
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            return self._process.wait(10)
        except subprocess.TimeoutExpired:  # it closed its output and lives on
            self._process.kill()
            return self._process.wait()

    def _read_until_end(self) -> bool:
        """Read all output; False when the limit came first."""
        pipe: Any = self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                ready = selector.select(TICK_S)
                self.watch.look(self.pid)
                if ready:
                    chunk = os.read(pipe.fileno(), 65536)
                    if not chunk:
                        return True
                    self._take(chunk)
                if self._on_tick:
                    self._on_tick(self)
                if self.limit is not None and time.monotonic() > self.limit:
                    return False

    def _take(self, chunk: bytes) -> None:
        for line in self._lines.feed(chunk):
            text = "(a line that was too long)" if line is None else line.decode("utf-8", "replace")
            self.log.take(text)
            if self._on_line:
                self._on_line(text, self)


class Progress:
    """Lines of a build for the controller: not too many, and a sign of life when there are none."""

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._started = self._last = time.monotonic()
        self._line = ""

    def line(self, line: str) -> None:
        """Report a line, if the last one is a moment ago."""
        self._line = line[:MAX_PROGRESS_CHARACTERS]
        self._after(REPORT_S)

    def beat(self, _run: Run) -> None:
        """Report the last line again after a long silence."""
        self._after(HEARTBEAT_S)

    def _after(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._last >= seconds:
            self._last = now
            self._report(round(now - self._started, 1), self._line)


def demand(ended: Ended, kind: str, success_line: str, argv: Sequence[str], kills: Optional[int]) -> None:
    """Nothing where a run ended with status 0 and its success line; else the ProbeError of that kind."""
    if ended.status < 0:
        raise _death(ended, argv, kills)
    passed = any(line.startswith(success_line) for line in ended.log.banners)
    if ended.status != 0 or not passed:
        raise failure(kind, ended.status, ended.log, success_line, argv)


def _death(ended: Ended, argv: Sequence[str], kills: Optional[int]) -> ProbeError:
    number = -ended.status
    now = out_of_memory_kills()
    detail = "\n".join(["$ " + " ".join(argv)] + ended.log.tail)
    text = "trtexec was killed by %s (signal %d)" % (signal_name(number), number)
    if number == signal.SIGKILL and (kills is None or now is None or now > kills):
        return ProbeError("out_of_memory", text + ", probably out of memory", detail)
    return ProbeError("crashed", text, detail)


def output_of(argv: Sequence[str], timeout_s: float) -> str:
    """What a short run prints, both streams; ProbeError `tool_missing` when it cannot run."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env=environment(argv[0]),
            preexec_fn=_dying_with_parent(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ProbeError("tool_missing", "%s cannot be run: %s" % (argv[0], error)) from None
    return done.stdout[: 1 << 20].decode("utf-8", "replace")


def _dying_with_parent() -> Optional[Callable[[], Any]]:
    """What asks the kernel, in the child, for SIGKILL at our death; None where that cannot be."""
    try:
        import ctypes

        prctl: Any = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
