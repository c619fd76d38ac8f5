"""Children of the session: each in a process group of its own, bounded in time and output, none left."""

import collections
import errno
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from . import wire
from .wire import Json, ProbeError

STOPPED_S = 4.0  # a child that somebody stopped is not waited for longer
LOOK_S = 1.0  # how often is looked whether it was stopped
GRACE_S = 5.0  # from its last message to its end
DRAIN_BYTES = 1 << 20
Ended = collections.namedtuple("Ended", "message status stderr")


class Children:
    """Starts one child at a time; `stop` kills it from any thread and lets no other begin."""

    def __init__(self, folder: str, token: str) -> None:
        self.folder = folder
        # inherited by children: the lease lasts until the last of them is gone
        self.lock_descriptors: Tuple[int, ...] = ()
        self._token = token
        self._guard = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._stopping = False

    def stop(self) -> None:
        """Kill the running child and its process group; no child starts afterwards."""
        with self._guard:
            self._stopping = True
            if self._process is not None:
                _kill_group(self._process)

    def ask(
        self,
        argv: Sequence[str],
        task: Json,
        timeout_s: float,
        on_phase: Callable[[str], None],
        on_progress: Callable[[Json], None] = lambda _told: None,
    ) -> Json:
        """What a launch process answers to `task`; ProbeError when it fails, dies or is not done in time."""
        kills = out_of_memory_kills()
        process = self._start(argv, subprocess.PIPE)
        talk = _Talk(process, task, on_phase, on_progress)
        try:
            talk.until(time.monotonic() + timeout_s, timeout_s)
        except BaseException:
            _kill_group(process)  # too late, or talking nonsense: no grace
            raise
        finally:
            status = self._end(process)
        talk.drain()
        for pipe in (process.stdin, process.stdout, process.stderr):
            _close(pipe)
        if talk.answer is None:
            raise death(status, talk.phase, talk.stderr(), kills, out_of_memory_kills())
        return _result(talk)

    def run(self, argv: Sequence[str], timeout_s: float) -> Optional[int]:
        """The exit status of a silent helper, or None when it could not start or was not done in time."""
        through = [sys.executable, os.path.abspath(sys.argv[0]), "helper", str(os.getpid()), "--"]
        try:
            process = self._start(through + list(argv), subprocess.DEVNULL)
        except OSError:
            return None
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self._end(process)

    def _start(self, argv: Sequence[str], pipe: int) -> "subprocess.Popen[bytes]":
        with self._guard:
            if self._stopping:
                raise ProbeError("ending", "the session is ending")
            process = subprocess.Popen(
                argv,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
                pass_fds=self.lock_descriptors,
            )
            self._process = process
            return process

    def _environment(self) -> Dict[str, str]:
        """The session's, with everything that a library might write kept inside the run folder."""
        inside = {"TMPDIR": self.folder, "XDG_CACHE_HOME": self.folder, "EDGEBENCH_RUN": self._token}
        inside["CUDA_CACHE_PATH"] = self.folder  # else kernels that CUDA compiles go into ~/.nv
        quiet = {
            "ORT_DISABLE_TELEMETRY": "1"
        }  # onnxruntime would open connections and write outside our folder
        return dict(os.environ, PYTHONDONTWRITEBYTECODE="1", **dict(quiet, **inside))

    def _end(self, process: "subprocess.Popen[bytes]") -> int:
        """The exit status, after the whole group is gone."""
        _wait_unreaped(process, GRACE_S)
        _kill_group(process)
        status = process.wait()
        with self._guard:
            self._process = None
        return status


class _Talk:
    """The conversation with one launch process: the task in, phases and one answer out, its stderr's tail."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        task: Json,
        on_phase: Callable[[str], None],
        on_progress: Callable[[Json], None],
    ) -> None:
        self.answer: Any = None
        self.phase = "start"
        self._process = process
        self._stopped_since: Optional[float] = None
        self._on_phase = on_phase
        self._on_progress = on_progress
        self._lines = wire.LineReader()
        self._unsent = wire.encode(task)
        self._tail = bytearray()
        self._stdin, self._stdout, self._stderr = (
            pipe.fileno() for pipe in (process.stdin, process.stdout, process.stderr) if pipe is not None
        )
        self._selector = selectors.DefaultSelector()
        os.set_blocking(self._stdin, False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
        self._selector.register(self._stdout, selectors.EVENT_READ, self._read)
        self._selector.register(self._stderr, selectors.EVENT_READ, self._read_stderr)
        self._open = True

    def until(self, deadline: float, timeout_s: float) -> None:
        """Return with an answer or at the end of its messages; ProbeError `timeout` at the deadline."""
        with self._selector:
            while self._open and self.answer is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise self._timeout(timeout_s)
                for key, _ in self._selector.select(min(left_s, LOOK_S)):
                    key.data()
                self._check_not_stopped()

    def _check_not_stopped(self) -> None:
        """ProbeError for a child that stays stopped: it would never be done."""
        if not _is_stopped(self._process):
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = time.monotonic()
        elif time.monotonic() - self._stopped_since >= STOPPED_S:
            text = "the launch process was stopped from outside in phase %s" % self.phase
            raise ProbeError("crashed", text, self.stderr())

    def drain(self) -> None:
        """Take what the dead child left in its stderr pipe."""
        os.set_blocking(self._stderr, False)
        for _ in range(DRAIN_BYTES // 65536):
            try:
                chunk = os.read(self._stderr, 65536)
            except OSError:
                return
            if not chunk:
                return
            self._keep(chunk)

    def stderr(self) -> str:
        """The last 16 KiB of stderr."""
        return bytes(self._tail).decode("utf-8", "replace")

    def _timeout(self, timeout_s: float) -> ProbeError:
        text = "the launch was not done after %g s (phase %s) and was stopped" % (timeout_s, self.phase)
        return ProbeError("timeout", text, self.stderr())

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            return
        except OSError:  # it died: its messages and status say why
            self._unsent = b""
        if not self._unsent:
            self._selector.unregister(self._stdin)

    def _read(self) -> None:
        chunk = os.read(self._stdout, 65536)
        if not chunk:
            self._open = False
            return
        for line in self._lines.feed(chunk):
            self._take(line)

    def _take(self, line: Optional[bytes]) -> None:
        try:
            message = wire.parse(b"" if line is None else line)
        except ValueError as error:
            raise ProbeError(
                "failed", "the launch process sent something that is no message: %s" % error, self.stderr()
            ) from None
        if isinstance(message.get("phase"), str):
            self.phase = message["phase"]
            self._on_phase(self.phase)
        elif isinstance(message.get("progress"), dict):
            self._on_progress(message["progress"])
        else:
            self.answer = message

    def _read_stderr(self) -> None:
        chunk = os.read(self._stderr, 65536)
        if not chunk:
            self._selector.unregister(self._stderr)
        self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        self._tail += chunk
        del self._tail[: -wire.TAIL_BYTES]


def _result(talk: _Talk) -> Json:
    answer = talk.answer
    if isinstance(answer.get("result"), dict):
        return dict(answer["result"])
    error = answer.get("error")
    if not isinstance(error, dict):
        raise ProbeError("failed", "the launch process ended without a result", talk.stderr())
    detail = "\n".join(part for part in (talk.stderr().rstrip(), str(error.get("detail", ""))) if part)
    raise ProbeError(str(error.get("kind")), str(error.get("message")), detail)


def death(
    status: int, phase: str, stderr: str, kills_before: Optional[int], kills_after: Optional[int]
) -> ProbeError:
    """The ProbeError for a child that ended without an answer. SIGKILL means memory only with reason."""
    if status >= 0:
        return ProbeError(
            "failed", "the launch process ended with status %d in phase %s" % (status, phase), stderr
        )
    name = signal_name(-status)
    text = "the launch process was killed by %s (signal %d) in phase %s" % (name, -status, phase)
    if -status != signal.SIGKILL:
        return ProbeError("crashed", text, stderr)
    if kills_before is None or kills_after is None:
        return ProbeError("out_of_memory", text + ", probably out of memory", stderr)
    if kills_after > kills_before:
        return ProbeError("out_of_memory", text + " by the kernel, which ran out of memory", stderr)
    return ProbeError("crashed", text + " from outside: the kernel counted no out-of-memory kill", stderr)


def signal_name(number: int) -> str:
    """ "SIGSEGV" for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def out_of_memory_kills() -> Optional[int]:
    """How many processes the kernel has killed for lack of memory since boot; None before Linux 4.13."""
    try:
        with open("/proc/vmstat") as file:
            found = re.search(r"^oom_kill (\d+)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPERM):  # gone already (macOS says EPERM of zombies)
            raise


def _wait_unreaped(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Wait for the end without collecting the status: until then nobody else can get the group's number."""
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        if process.returncode is not None or _has_ended(process):
            return
        time.sleep(0.005)


def _is_stopped(process: "subprocess.Popen[bytes]") -> bool:
    if not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError:  # it has ended
        return False


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError:
        return True


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # unsent bytes of a child that died
        pass
