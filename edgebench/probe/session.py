"""The session: holds the lease, answers requests one at a time, watches for silence, leaves nothing behind.

Three threads: one reads stdin (so that heartbeats count while a request runs), one waits for the end
(silence, end of stdin, a signal, the lease's end) and clears up, and the main one does the work. A fourth
tells others who holds the board. The parent process guards all that (guard.py).
"""

import contextlib
import errno
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from . import check, checkup, conditions, facts, guard, lease, orphans, specs, trtexec, wire
from .child import Children
from .engines import ENGINE, TIMING, Engines, Kept, complete_key
from .knobs import FAILED
from .preparation import Preparation
from .room import FOLDERS
from .runs import RunFolder, new_token
from .store import Store, Wanted, end_uploads, free_bytes, probe_key
from .uses import Uses
from .watch import Watch, filled
from .wire import NO_SPACE, Json, Output, ProbeError

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
    "checkup": "op_checkup",
    "prepare": "op_prepare",
    "restore": "op_restore",
    "versions": "op_versions",
    "have": "op_have",
    "room": "op_room",
    "commit": "op_commit",
    "assemble": "op_assemble",
    "unpack": "op_unpack",
    "build": "op_build",
    "launch": "op_launch",
    "duet": "op_duet",
    "infer": "op_infer",
    "profile": "op_profile",
    "clean": "op_clean",
}
# `infer` needs no lease: the controller computes its references in many processes at once and times nothing
LEASED = (
    "prepare",
    "restore",
    "room",
    "commit",
    "assemble",
    "unpack",
    "build",
    "launch",
    "duet",
    "profile",
    "clean",
)


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
        self._watch = Watch(self._program, self._run.path, self._run.token)
        self._lease = lease.Lease(work)
        self._preparation = Preparation(work, self._locks)
        self._prepared_here = False
        self._uses = Uses(work, self._run.path)
        self._uses.note(probe_key(self._program))
        self._store = Store(work, self._program, self._run, self._uses)
        self._engines = Engines(work, self._run.whole)

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
            self._uses.begin_lease()
        restored = [] if self._prepared_here else self._preparation.restore()
        return {"restored": restored} if restored else {}

    def _sweep(self) -> None:
        orphans.kill_dead_sessions(self._run.token)

    def op_facts(self, _request: Json, _number: int) -> Json:
        """What the device is."""
        return facts.read()

    def op_conditions(self, _request: Json, _number: int) -> Json:
        """The state it is in."""
        return conditions.read()

    def _locks(self) -> Tuple[int, ...]:
        return self._lease.descriptors

    def op_checkup(self, request: Json, _number: int) -> Json:
        """What else a doctor wants to know: who runs there, room, clock, leases, leftovers, rights."""
        wanted = check.table(request, "prepare", None)
        return checkup.read(self._work, self._run.path, self._preparation, wanted)

    def op_prepare(self, request: Json, _number: int) -> Json:
        """Bring the board into the state that the inventory asks for; undone at the end of the session."""
        self._prepared_here = True
        return {"changes": self._preparation.apply(check.table(request, "wanted"))}

    def op_restore(self, _request: Json, _number: int) -> Json:
        """Undo the preparation now."""
        return {"restored": self._preparation.restore()}

    def op_versions(self, request: Json, _number: int) -> Json:
        """The version of a runtime, found by importing it in a fresh process."""
        spec = specs.for_versions(request, self._work)
        return self._ask({"task": "versions", "spec": spec}, specs.VERSIONS_TIMEOUT_S, lambda _phase: None)

    def op_have(self, request: Json, _number: int) -> Json:
        """Which files are missing, and which folders are there as a whole."""
        folders = [_wanted(each) for each in check.items(request, "folders", default=[])]
        listed = check.items(request, "files", default=[]) if folders else check.items(request, "files")
        files = [check.file_entry(each) for each in listed]
        return self._store.have(files, folders, self._lease.held)

    def op_room(self, request: Json, _number: int) -> Json:
        """Remove what was used least recently, so that more can be pushed."""
        needed = check.whole(request, "needed_bytes", 0, check.MAX_FILE_BYTES)
        quota = check.whole(request, "quota_bytes", 0, 1 << 60, None)
        keep = {check.digest(each, "keep") for each in check.items(request, "keep", default=[])}
        return self._store.make_room(needed, quota, keep)

    def op_commit(self, request: Json, _number: int) -> Json:
        """Verify an upload and keep it."""
        return self._store.commit(*check.file_entry(request))

    def op_assemble(self, request: Json, _number: int) -> Json:
        """Make an artifact's folder."""
        digest = check.digest(request.get("digest"), "digest")
        files = _files(request)
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

    def op_build(self, request: Json, number: int) -> Json:
        """The engine of an artifact: the one that is kept for just this device, or a new one."""
        fields = check.table(request, "spec")
        spec, timeout_s = specs.for_build(fields, self._work), check.number(fields, "timeout_s", 0.1, 86400)
        if spec["runtime"] != "tensorrt" or "plan" not in spec["entry"]:
            raise check.bad("nothing is built for %s on a device" % spec["runtime"])
        key = complete_key(trtexec.read_plan(spec["entry"]["plan"])["cache_key"], facts.read())
        kept = self._engines.engine(key)
        cached = kept is not None
        if kept is None:
            kept = self._build(spec, key, timeout_s, number)
        self._uses.note("engines/" + os.path.basename(os.path.dirname(kept.path)))
        return dict(kept.note, engine=kept.path, cached=cached)

    def _build(self, spec: Json, key: Dict[str, str], timeout_s: float, number: int) -> Kept:
        needed, free = (
            os.path.getsize(spec["entry"].get("model", spec["entry"]["plan"])),
            free_bytes(self._work),
        )
        if free < needed:  # known now, not after an hour
            raise ProbeError("no_space", "an engine needs about %d bytes, %d are free" % (needed, free))
        timing, scratch = self._engines.timing(key), self._run.fresh("build")
        task = {"task": "build", "spec": spec, "folder": scratch, "timing_cache": timing and timing.path}
        told = self._children.ask(
            [sys.executable, self._program, "launch"],
            task,
            timeout_s,
            self._phases(number),
            lambda progress: self._send(dict(progress, id=number, event="progress")),
        )
        told["artifact"] = os.path.basename(spec["artifact"])
        if not os.path.isfile(os.path.join(scratch, ENGINE)):
            raise ProbeError("failed", "the build wrote no engine")
        separate, timed = self._run.fresh("timing"), os.path.isfile(os.path.join(scratch, TIMING))
        if timed:
            os.rename(os.path.join(scratch, TIMING), os.path.join(separate, TIMING))
        kept = self._engines.keep_engine(key, scratch, told)
        if timed:
            self._engines.keep_timing(key, separate)
        return kept

    def op_launch(self, request: Json, number: int) -> Json:
        """The raw numbers of one launch."""
        task, timeout_s = self._task("launch", request)
        with self._forgetting(task):
            return self._watched(task, timeout_s, number)

    def op_duet(self, request: Json, number: int) -> Json:
        """The raw numbers of one launch of two models, turn by turn."""
        task, timeout_s = self._task("duet", request, specs.for_duet)
        return self._watched(task, timeout_s, number)

    def _watched(self, task: Json, timeout_s: float, number: int) -> Json:
        with self._watch.over() as watch:
            result = self._ask(task, timeout_s, watch.phases(self._phases(number)))
            return filled(result, watch.end())

    def op_infer(self, request: Json, number: int) -> Json:
        """The model's outputs on every sample."""
        task, timeout_s = self._task("infer", request)
        with self._forgetting(task):
            return self._ask(dict(task, folder=self._run.fresh("outputs")), timeout_s, self._phases(number))

    def op_profile(self, request: Json, number: int) -> Json:
        """Times of the model's layers, from a process of their own."""
        task, timeout_s = self._task("profile", request)
        return self._ask(dict(task, repeats=specs.repeats(request)), timeout_s, self._phases(number))

    def op_clean(self, request: Json, _number: int) -> Json:
        """Remove what is not to be kept."""
        keep = {check.digest(each, "keep") for each in check.items(request, "keep")}
        return self._store.clean(keep)

    @contextlib.contextmanager
    def _forgetting(self, task: Json) -> Iterator[None]:
        """An engine that its own TensorRT does not load any more is removed: the next try builds another."""
        try:
            yield
        except ProbeError as error:
            if error.kind == "corrupt" and task["spec"]["engine"]:
                self._engines.forget(task["spec"]["engine"])
            raise

    def _task(
        self, name: str, request: Json, checked: Callable[[Json, str], Json] = specs.checked
    ) -> Tuple[Json, float]:
        fields = check.table(request, "spec")
        self._uses.note(*specs.units(fields, self._work))
        task = {"task": name, "spec": checked(fields, self._work)}
        return task, check.number(fields, "timeout_s", 0.1, 86400)

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

    def _restore(self) -> None:
        """What this session prepared is undone before the lease goes; what fails is left to the next."""
        if not self._lease.held:
            return
        try:
            for each in self._preparation.leave():
                if each["state"] == FAILED:
                    _say("%s could not be restored: %s" % (each["what"], each["text"]))
        except Exception:  # noqa: BLE001 - the session ends whatever happens; the note stays for the next lease
            _say("the preparation could not be undone: %s" % traceback.format_exc())

    def _finish(self, status: int, last: Optional[Json] = None) -> None:
        """Kill the children, remove the run folder, give the lease back, end the process. From any thread."""
        self._ending.acquire()
        try:
            self._children.stop()
            self._watch.stop()
            self._restore()
            orphans.kill_session(self._run.token)
            if self._lease.held:
                end_uploads(self._work)
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


def _files(fields: Json) -> List[Tuple[str, str, int]]:
    """The files of a folder as (path, sha256, size)."""
    return [
        (check.relative(check.text(each, "path", limit=check.MAX_PATH)),) + check.file_entry(each)
        for each in check.items(fields, "files")
    ]


def _wanted(fields: Json) -> Wanted:
    """A folder that is asked for, with the files that it is made of."""
    kind = check.text(fields, "kind")
    if kind not in FOLDERS:
        raise check.bad('"kind" must be one of %s' % ", ".join(FOLDERS))
    return Wanted(kind, check.digest(fields.get("digest"), "digest"), _files(fields))


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
