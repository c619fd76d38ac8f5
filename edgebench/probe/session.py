"""The session: holds the lease, answers requests one at a time, watches for silence, leaves nothing behind.

Three threads: one reads stdin (so that heartbeats count while a request runs), one waits for the end
(silence, end of stdin, a signal, the lease's end) and clears up, and the main one does the work. A fourth
tells others who holds the board. The parent process guards all that (guard.py).
"""

import errno
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from typing import Callable, Optional, Tuple

from . import check, conditions, facts, guard, lease, orphans, specs, wire
from .child import Children
from .runs import RunFolder, new_token
from .store import NO_SPACE, Store
from .wire import Json, Output, ProbeError

PROTOCOL = 1
MAX_WAITING = 8
MAX_LEASE_S = 7 * 86400
COMPILE_TIMEOUT_S = 600
LOOK_S = 1.0  # how often the time is looked at
UNREAD_S = 1.0  # on a stalled board lines may have come that nobody had the time to read
EXIT_OK, EXIT_LOST, EXIT_WORK, EXIT_EXPIRED, EXIT_SILENCE = 0, 4, 73, 123, 124
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OPS = {
    "lease": "op_lease",
    "facts": "op_facts",
    "conditions": "op_conditions",
    "versions": "op_versions",
    "have": "op_have",
    "commit": "op_commit",
    "assemble": "op_assemble",
    "unpack": "op_unpack",
    "launch": "op_launch",
    "infer": "op_infer",
    "clean": "op_clean",
}
# `infer` needs no lease: the controller computes its references in many processes at once and times nothing
LEASED = ("commit", "assemble", "unpack", "launch", "clean")


def main(work: str, silence_s: float) -> None:
    """Serve requests until the end; never returns."""
    work, token = os.path.realpath(os.path.expanduser(work)), new_token()
    guard.stand(work, token, _say)
    output = wire.take_stdout()
    try:
        os.makedirs(work, mode=0o700, exist_ok=True)
        session = Session(work, token, silence_s, output)
    except OSError as error:
        _say("the work folder %s cannot be used: %s" % (work, error))
        sys.exit(EXIT_WORK)
    session.serve()


class Session:
    """One controller's session on this device."""

    def __init__(self, work: str, token: str, silence_s: float, output: Output) -> None:
        self._work = work
        self._silence_s = silence_s
        self._output = output
        self._program = os.path.abspath(sys.argv[0])
        self._requests: queue.Queue[Tuple[int, Json]] = queue.Queue(MAX_WAITING)
        self._last_line = time.monotonic()
        self._ending = threading.Lock()
        self._wake_reader, self._wake_writer = os.pipe()
        self._guard = os.getppid()
        self._run = RunFolder(work, token)
        self._children = Children(self._run.path, self._run.token)
        self._lease = lease.Lease(work)
        self._store = Store(work, self._program, self._run.whole)

    def serve(self) -> None:
        """Say hello, then answer requests one after another."""
        self._catch_signals()
        for work in (self._read_stdin, self._wait_for_end):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        self._send(
            {
                "event": "hello",
                "protocol": PROTOCOL,
                "pid": os.getpid(),
                "python": sys.version.split()[0],
                "work": self._work,
            }
        )
        while True:
            number, request = self._requests.get()
            if request.get("op") == "end":
                self._finish(EXIT_OK, {"id": number, "ok": True, "result": {}})
            self._send(self._reply(number, request))

    # --- the operations ---

    def op_lease(self, request: Json, _number: int) -> Json:
        """Take or renew the lease, then remove what dead sessions left."""
        fields = check.table(request, "holder")
        holder = {key: check.text(fields, key, "", lease.MAX_SHOWN) for key in lease.WORDS}
        seconds = check.number(request, "seconds", 1, MAX_LEASE_S)
        scope = check.text(request, "scope", "board")
        if scope not in lease.SCOPES:
            raise check.bad('"scope" must be one of %s' % ", ".join(lease.SCOPES))
        renewed = self._lease.held
        self._lease.take(holder, seconds, scope, self._sweep)
        self._children.lock_descriptors = self._lease.descriptors
        if not renewed:
            self._sweep()
            self._run.remove_stale()
        return {}

    def _sweep(self) -> None:
        orphans.kill_dead_sessions(self._run.token)

    def op_facts(self, _request: Json, _number: int) -> Json:
        """What the device is."""
        return facts.read()

    def op_conditions(self, _request: Json, _number: int) -> Json:
        """The state it is in."""
        return conditions.read()

    def op_versions(self, request: Json, _number: int) -> Json:
        """The version of a runtime, found by importing it in a fresh process."""
        spec = specs.for_versions(request, self._work)
        return self._ask({"task": "versions", "spec": spec}, specs.VERSIONS_TIMEOUT_S, lambda _phase: None)

    def op_have(self, request: Json, _number: int) -> Json:
        """Which files are missing."""
        return self._store.have([check.file_entry(each) for each in check.items(request, "files")])

    def op_commit(self, request: Json, _number: int) -> Json:
        """Verify an upload and keep it."""
        return self._store.commit(*check.file_entry(request))

    def op_assemble(self, request: Json, _number: int) -> Json:
        """Make an artifact's folder."""
        digest = check.digest(request.get("digest"), "digest")
        files = [
            (check.relative(check.text(each, "path", limit=check.MAX_PATH)),) + check.file_entry(each)
            for each in check.items(request, "files")
        ]
        if not files:
            raise check.bad('"files" must not be empty')
        return self._store.assemble(digest, files, self._run.fresh("assemble"))

    def op_unpack(self, request: Json, _number: int) -> Json:
        """Make a bundle's folder."""
        digest = check.digest(request.get("digest"), "digest")
        wheels = [check.digest(each, "a wheel") for each in check.items(request, "wheels")]
        if not wheels:
            raise check.bad('"wheels" must not be empty')
        return self._store.unpack(digest, wheels, self._run.fresh("unpack"), self._compile)

    def op_launch(self, request: Json, number: int) -> Json:
        """The raw numbers of one launch."""
        task, timeout_s = self._task("launch", request)
        return self._ask(task, timeout_s, self._phases(number))

    def op_infer(self, request: Json, number: int) -> Json:
        """The model's outputs on every sample."""
        task, timeout_s = self._task("infer", request)
        return self._ask(dict(task, folder=self._run.fresh("outputs")), timeout_s, self._phases(number))

    def op_clean(self, request: Json, _number: int) -> Json:
        """Remove what is not to be kept."""
        keep = {check.digest(each, "keep") for each in check.items(request, "keep")}
        return self._store.clean(keep)

    def _task(self, name: str, request: Json) -> Tuple[Json, float]:
        fields = check.table(request, "spec")
        return {"task": name, "spec": specs.checked(fields, self._work)}, check.number(
            fields, "timeout_s", 0.1, 86400
        )

    def _ask(self, task: Json, timeout_s: float, on_phase: Callable[[str], None]) -> Json:
        return self._children.ask([sys.executable, self._program, "launch"], task, timeout_s, on_phase)

    def _phases(self, number: int) -> Callable[[str], None]:
        return lambda phase: self._send({"id": number, "event": "phase", "phase": phase})

    def _compile(self, folder: str, final: str) -> None:
        """Byte-compile with this Python, so that no launch has to; what it cannot compile stays as it is."""
        argv = [sys.executable, "-m", "compileall", "-q", "-d", final, folder]
        self._children.run(argv, COMPILE_TIMEOUT_S)

    # --- requests and replies ---

    def _reply(self, number: int, request: Json) -> Json:
        try:
            return {"id": number, "ok": True, "result": self._do(number, request)}
        except ProbeError as error:
            return _failure(number, error)
        except OSError as error:
            return _failure(number, _os_error(error))
        except Exception as error:  # noqa: BLE001 - the session outlives every request: each failure becomes data
            kind = "out_of_memory" if isinstance(error, MemoryError) else "failed"
            text = "%s: %s" % (type(error).__name__, error)
            return _failure(number, ProbeError(kind, text[:1000], traceback.format_exc()))

    def _do(self, number: int, request: Json) -> Json:
        op = check.text(request, "op", limit=64)
        if op not in OPS:
            raise check.bad('there is no request "%s"; there are %s' % (op, ", ".join(sorted(OPS) + ["end"])))
        if op in LEASED and not self._lease.held:
            raise check.bad('"%s" needs the lease: ask for it first' % op)
        return dict(getattr(self, OPS[op])(request, number))

    def _send(self, message: Json) -> None:
        try:
            self._output.send(message)
        except OSError:  # the controller is gone
            self._finish(EXIT_LOST)

    # --- the reading thread ---

    def _read_stdin(self) -> None:
        lines = wire.LineReader()
        try:
            for chunk in iter(lambda: os.read(0, 65536), b""):
                for line in lines.feed(chunk):
                    self._last_line = time.monotonic()
                    self._receive(line)
        finally:
            os.write(self._wake_writer, b"\0")

    def _receive(self, line: Optional[bytes]) -> None:
        number = None
        try:
            if line is None:
                raise check.bad("a request is longer than %d bytes" % wire.MAX_LINE_BYTES)
            request = _parse(line)
            if request.get("op") == "beat":
                self._answer_beat()
                return
            number = check.whole(request, "id", 0, 1 << 53)
            self._requests.put_nowait((number, request))
        except ProbeError as error:
            self._send(_failure(number, error))
        except queue.Full:
            self._send(
                _failure(number, check.bad("%d requests are waiting: send one at a time" % MAX_WAITING))
            )

    def _answer_beat(self) -> None:
        try:
            self._output.send_if_ready({"event": "beat"})
        except OSError:  # the controller is gone
            self._finish(EXIT_LOST)

    # --- the end ---

    def _catch_signals(self) -> None:
        """Signals wake the waiting thread through a pipe: they work even while the main thread is busy."""
        os.set_blocking(self._wake_writer, False)
        for number in SIGNALS:
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake_writer)

    def _wait_for_end(self) -> None:
        while True:
            if self._is_silent():
                _say("no line came for %g s" % self._silence_s)
                self._finish(EXIT_SILENCE)
            left_s = self._lease.left_s()
            if left_s is not None and left_s <= 0:
                _say("the lease has ended: it was not renewed")
                self._finish(EXIT_EXPIRED)
            ready, _, _ = select.select([self._wake_reader], [], [], min(LOOK_S, self._silence_s))
            for reason in bytearray(os.read(self._wake_reader, 64) if ready else b""):
                if reason == 0 or reason in SIGNALS:
                    _say("stdin ended" if reason == 0 else "signal %d" % reason)
                    self._finish(128 + reason if reason else EXIT_OK)

    def _is_silent(self) -> bool:
        """True when no line came for too long, although the reading thread had the time to take it."""
        if time.monotonic() < self._last_line + self._silence_s:
            return False
        if select.select([0], [], [], 0)[0]:
            time.sleep(UNREAD_S)
        return time.monotonic() >= self._last_line + self._silence_s

    def _finish(self, status: int, last: Optional[Json] = None) -> None:
        """Kill the children, remove the run folder, give the lease back, end the process. From any thread."""
        self._ending.acquire()
        try:
            self._children.stop()
            orphans.kill_session(self._run.token)
            self._run.remove()
            self._lease.release()
            self._wake_guard()
            if last is not None:
                self._output.send(last)
        finally:
            os._exit(status)

    def _wake_guard(self) -> None:
        """A guard that somebody stopped would stay behind."""
        try:
            if os.getppid() == self._guard:
                os.kill(self._guard, signal.SIGCONT)
        except OSError:
            pass


def _failure(number: Optional[int], error: ProbeError) -> Json:
    return {"id": number, "ok": False, "error": error.to_json()}


def _os_error(error: OSError) -> ProbeError:
    if error.errno in NO_SPACE:
        return ProbeError("no_space", "the device's disk is full: %s" % error)
    if error.errno == errno.ENOMEM:
        return ProbeError("out_of_memory", "the device is out of memory: %s" % error)
    return ProbeError("failed", "%s" % error, traceback.format_exc())


def _parse(line: bytes) -> Json:
    try:
        return wire.parse(line)
    except ValueError as error:
        raise check.bad("a request must be one JSON object a line: %s" % error) from None


def _say(text: str) -> None:
    try:
        sys.stderr.write("probe: %s\n" % text)
        sys.stderr.flush()
    except OSError:  # whoever listened is gone; that must not keep the session from ending
        pass
