"""Convert once, keep for ever: the artifact store is asked first, then a converter in a process of its own.

    look up the key -> (miss) start the worker -> prepare the model meanwhile -> the worker converts -> put

The worker (`edgebench.convert.worker`) has a time limit, a memory limit and a process group of its own. A
tool that hangs or crashes is an error with its log's tail; what it wrote is gone with its temporary folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

import edgebench
from edgebench.artifacts import ArtifactStore
from edgebench.convert.base import (
    Answer,
    Converter,
    Produced,
    Request,
    Task,
    converter,
    says_out_of_memory,
)
from edgebench.errors import (
    BugError,
    EdgebenchError,
    InfrastructureError,
    ModelError,
    UserError,
)
from edgebench.records import Artifact, ModelInfo, Record, decode, encode, replace
from edgebench.units import format_bytes, format_duration

_LOG_TAIL_BYTES = 4096
_MAX_ANSWER_BYTES = 16 << 20
_ROOT = str(Path(edgebench.__file__).resolve().parents[1])
# -P keeps the working folder, where tools write, off the import path; ours is put at the end of it
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from edgebench.convert.worker import main; main()"


class Limits(Record, frozen=True):
    """What one conversion may take. `memory_bytes` bounds the data of each of its processes."""

    time_s: float = 900.0
    memory_bytes: int = 16 << 30


class Wanted(Record, frozen=True):
    """What is to be made, known without opening the model; all of it is part of the artifact's key.

    `model_digest` is that of the file the user gave; `ingredients` is everything else that the prepared model
    depends on: shapes, recipe steps, the digest of calibration data ... `options`: those of the way chosen.
    """

    runtime: str
    precision: str
    model: str
    variant: str
    model_digest: str
    ingredients: dict[str, str] = {}
    options: dict[str, str] = {}


class Prepared(NamedTuple):
    """An ONNX file in the form the runtime wants, fully static, and what `model.inspect` says of it.

    `calibration`: samples for a converter that finds ranges itself; their digest belongs to the ingredients.
    """

    path: Path
    info: ModelInfo
    calibration: Path | None = None


class Conversion(NamedTuple):
    """The artifact, whether it was there already, and seconds: preparing, in the tool, checking, in all."""

    artifact: Artifact
    cached: bool
    prepare_s: float = 0.0
    tool_s: float = 0.0
    check_s: float = 0.0
    total_s: float = 0.0


def convert(
    wanted: Wanted,
    prepare: Callable[[], Prepared],
    store: ArtifactStore,
    *,
    home: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Conversion:
    """The artifact of `wanted`: from the store when it is there, else converted and stored.

    `prepare` is called on a miss only, while the worker starts. Errors: ModelError (refused, or the tool
    crashed on the model), InfrastructureError (a tool is missing, the time or memory limit was reached, the
    disk is full).
    """
    started = time.perf_counter()
    maker = converter(wanted.runtime, home)
    versions = maker.tool_versions()
    key = cache_key(wanted, maker, versions)
    found = store.lookup(key)
    if found is not None:
        return Conversion(found, cached=True, total_s=time.perf_counter() - started)
    with _scratch(home) as scratch:
        with _Worker(wanted, home, scratch, limits) as worker:
            prepared = prepare()
            prepare_s = time.perf_counter() - started
            request = _request(maker, prepared, wanted)
            produced = worker.convert(request, maker.command(request, worker.work))
        draft = _draft(wanted, key, prepared.info, produced, versions)
        convert_s = time.perf_counter() - started - prepare_s
        artifact = store.put(worker.output, replace(draft, convert_s=convert_s), take=True)
    return Conversion(
        artifact,
        cached=False,
        prepare_s=prepare_s,
        tool_s=produced.tool_s,
        check_s=produced.check_s,
        total_s=time.perf_counter() - started,
    )


def cache_key(wanted: Wanted, maker: Converter, versions: dict[str, str]) -> str:
    """The sha256 over everything that decides what comes out: what is wanted, how, and by which tools."""
    form = maker.forms.get(wanted.precision)
    ingredients = {
        "wanted": wanted,
        "revision": maker.revision,
        "options": form.options if form else {},
        "tools": versions,
    }
    return hashlib.sha256(encode(ingredients)).hexdigest()


def _request(maker: Converter, prepared: Prepared, wanted: Wanted) -> Request:
    """The request for the worker; ModelError when the runtime cannot take the prepared model."""
    refusal = maker.refuse(prepared.info, wanted.precision)
    if refusal is not None:
        raise ModelError(refusal.reason, hint=refusal.hint)
    return Request(
        model_path=str(prepared.path.resolve()),
        info=prepared.info,
        precision=wanted.precision,
        options=maker.forms[wanted.precision].options | wanted.options,
        calibration=None if prepared.calibration is None else str(prepared.calibration.resolve()),
    )


def _draft(
    wanted: Wanted, key: str, info: ModelInfo, produced: Produced, versions: dict[str, str]
) -> Artifact:
    return Artifact(
        digest="",
        key=key,
        runtime=wanted.runtime,
        precision=wanted.precision,
        model=wanted.model,
        variant=wanted.variant,
        model_digest=wanted.model_digest,
        files=(),
        size_bytes=0,
        entry=produced.entry,
        inputs=info.inputs,
        outputs=info.outputs,
        blobs=produced.blobs,
        options=produced.options,
        tool_versions=versions,
        lineage=info.lineage,
        notes=produced.notes,
    )


@contextlib.contextmanager
def _scratch(home: Path | None) -> Iterator[Path]:
    """An empty temporary folder, gone afterwards; where it cannot be used, InfrastructureError says why.

    It lies in the home, so that what was made there moves into the artifact store without a copy.
    """
    try:
        parent = None if home is None else home / "tmp"
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgebench-convert-", dir=parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise InfrastructureError(
            f"the conversion cannot use its temporary folder: {error.strerror or error}",
            hint="make room, or set EDGEBENCH_HOME (or TMPDIR) to a folder on another disk",
            detail=str(error),
        ) from error


# --- the worker process -------------------------------------------------------------------------


class _Worker:
    """One converter in a process of its own; a context manager. At its end all that it started is killed.

    Below `scratch`: `out` gets the artifact's files, `work` is its working and temporary folder, `task.json`
    what it is asked, `log` what it prints.
    """

    def __init__(self, wanted: Wanted, home: Path | None, scratch: Path, limits: Limits) -> None:
        self.output = scratch / "out"
        self.work = scratch / "work"
        self._log = scratch / "log"
        self._task = scratch / "task.json"
        self._wanted = wanted
        self._limits = limits
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Worker:
        self.output.mkdir()
        self.work.mkdir()
        command = [sys.executable, "-P", "-c", _BOOT, _ROOT, self._wanted.runtime]
        home = "" if self._home is None else str(self._home.resolve())
        command += [home, str(self._limits.memory_bytes), str(self._task)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.work,
                env=os.environ | {"TMPDIR": str(self.work), "ORT_DISABLE_TELEMETRY": "1"},
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._running()
        _kill_group(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def convert(self, request: Request, command: tuple[str, ...]) -> Produced:
        """What the converter produced in `output`; the errors of `edgebench.convert.run.convert`."""
        self._task.write_bytes(encode(Task(request=request, folder=str(self.output), command=command)))
        line = self._ask()
        if line is None:
            raise self._death()
        answer = decode(Answer, line, source="the answer of the conversion worker")
        if answer.produced is None:
            raise self._reported(answer)
        return answer.produced

    def _ask(self) -> bytes | None:
        """The worker's answer once it is told that its task is written; None when it ended without one."""
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise BugError("the conversion worker has no pipes")
        try:
            process.stdin.write(b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        return self._read_line(process.stdout)

    def _read_line(self, pipe: IO[bytes]) -> bytes | None:
        deadline = time.monotonic() + self._limits.time_s
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise self._too_slow()
                if not selector.select(left_s):
                    continue
                chunk = os.read(pipe.fileno(), 1 << 16)
                received += chunk
                if not chunk:
                    return None
                if len(received) > _MAX_ANSWER_BYTES:
                    raise BugError("the conversion worker gave an endless answer", detail=self._tail())
        return bytes(received)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BugError("the conversion worker was not started")
        return self._process

    # --- what went wrong ---

    def _what(self) -> str:
        return f"{self._wanted.model} to {self._wanted.runtime} {self._wanted.precision}"

    def _reported(self, answer: Answer) -> EdgebenchError:
        detail = answer.detail or self._tail()
        if says_out_of_memory(f"{answer.message}\n{answer.detail}\n{self._tail()}"):
            return self._too_large(detail)
        for kind in (ModelError, InfrastructureError, UserError):
            if kind.owner == answer.owner:
                return kind(answer.message, hint=answer.hint or "try another runtime", detail=detail)
        return BugError(answer.message, hint=answer.hint, detail=detail)

    def _death(self) -> EdgebenchError:
        """Why the worker ended without an answer: memory, or a crash of the SDK in it."""
        status = self._running().wait()
        tail = self._tail()
        if status == -signal.SIGKILL or says_out_of_memory(tail):
            return self._too_large(tail)
        if status >= 0:
            return BugError(f"the worker converting {self._what()} ended with status {status}", detail=tail)
        return ModelError(
            f"the converter crashed ({signal.Signals(-status).name}) while converting {self._what()}",
            hint="try another runtime; the log's tail names the step",
            detail=tail,
        )

    def _too_slow(self) -> InfrastructureError:
        return InfrastructureError(
            f"converting {self._what()} was stopped after {format_duration(self._limits.time_s)}",
            hint="allow it more time: EDGEBENCH_CONVERT_TIMEOUT_S; or try another runtime",
            detail=self._tail(),
        )

    def _too_large(self, detail: str) -> InfrastructureError:
        return InfrastructureError(
            f"converting {self._what()} needs more than {format_bytes(self._limits.memory_bytes)} of memory",
            hint="allow it more: EDGEBENCH_CONVERT_MEMORY_MIB; or convert on a larger computer",
            detail=detail,
        )

    def _tail(self) -> str:
        """The end of what the worker and its tools printed."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace").strip()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already; macOS says "permission"
        os.killpg(process.pid, signal.SIGKILL)
