"""One open device with the probe running: lease, push, infer, launch (docs/probe-protocol.md)."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edgebench.device.bootstrap import install_probe
from edgebench.device.bundle import Bundle, probe_archive, resolve
from edgebench.device.heart import LOCAL_SILENCE_S, SILENCE_S, Heart
from edgebench.device.leases import IMPATIENT, MAX_WORD, Patience, holder_of
from edgebench.device.wire import Wire
from edgebench.errors import (
    BugError,
    DeviceBusy,
    DeviceError,
    EdgebenchError,
    ModelError,
    RuntimeDied,
    printable,
)
from edgebench.model.complaints import in_plain_words
from edgebench.records import (
    Artifact,
    ArtifactFile,
    Conditions,
    Device,
    Facts,
    Launch,
    Record,
    Workload,
    prepared,
)
from edgebench.transport.base import Channel, Transport
from edgebench.transport.connect import open_transport

if TYPE_CHECKING:
    import numpy as np

HELLO_TIMEOUT_S = 30.0
REQUEST_TIMEOUT_S = 120.0
RENEW_S = 300.0  # a lease outlasts the next request by this at least
MAX_OUTPUT_BYTES = 512 << 20
LAUNCH_SLACK_S = 120.0  # import and load on a slow board, beside the timed part

T = TypeVar("T")


class Lease(Record, frozen=True):
    """What a lease is for; shown to whoever finds the device busy."""

    run: str
    purpose: str
    seconds: float = 6 * 3600.0


class InputSet(Record, frozen=True):
    """Samples for parity and timing as `.npy` files: one tuple of (input name, file path) a sample."""

    digest: str
    folder: str
    files: tuple[ArtifactFile, ...]
    samples: tuple[tuple[tuple[str, str], ...], ...]


class Placed(Record, frozen=True):
    """Where an artifact, its inputs and its runtime lie on the device, and how many bytes had to travel."""

    artifact: str
    inputs: str
    bundle: str | None
    moved_bytes: int


class Session:
    """An open session; use as a context manager. Requests come from one thread, `abort` from any."""

    def __init__(self, device: Device, transport: Transport, channel: Channel, home: Path) -> None:
        self.id = secrets.token_hex(6)
        self.device = device
        self._transport = transport
        self._home = home
        self._ids = iter(range(1, 1 << 31))
        self._closed = threading.Event()
        self._lease: Lease | None = None
        self._lease_end = 0.0
        self._heart = Heart(channel, device.name, self.abort)
        self._wire = Wire(self._heart, device.name)
        try:
            self._hello = self._wire.receive_hello(timeout_s=HELLO_TIMEOUT_S)
        except BaseException:
            self.abort()
            raise
        self._heart.judge()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the probe politely, then the connection; never raises."""
        if self._closed.is_set():
            return
        with contextlib.suppress(EdgebenchError):  # it is gone already, or will notice the silence
            self._request("end", timeout_s=10.0)
        self.abort()

    def abort(self) -> None:
        """Drop the connection at once: the probe sees its stdin end and clears up by itself. Never raises."""
        self._closed.set()
        self._heart.close()
        self._transport.close()

    # --- what one can ask ---

    def lease(self, lease: Lease) -> None:
        """Exclusive use of the device, renewed while the session works; DeviceBusy names the holder."""
        self._take(lease, lease.seconds)
        self._lease = lease

    def _take(self, lease: Lease, seconds: float) -> None:
        words = {"run": lease.run, "purpose": lease.purpose, "user": _user(), "controller": platform.node()}
        holder = {key: word[:MAX_WORD] for key, word in words.items()}
        asked = time.monotonic()
        self._request("lease", holder=holder, seconds=seconds, scope=self.device.lease or "board")
        self._lease_end = asked + seconds

    def _renew(self, request_s: float) -> None:
        """Before a request: the lease must outlast it. A controller that hangs renews nothing."""
        if self._lease is None:
            return
        left_s = self._lease_end - time.monotonic()
        if left_s < max(self._lease.seconds / 2, request_s + RENEW_S):
            self._take(self._lease, max(self._lease.seconds, request_s + 2 * RENEW_S))

    def facts(self) -> Facts:
        """What the device is."""
        return self._typed(Facts, self._request("facts"))

    def conditions(self) -> Conditions:
        """The state of the device now."""
        return self._typed(Conditions, self._request("conditions"))

    def versions(self, runtime: str, bundle: str | None) -> dict[str, str]:
        """The version of a runtime as the device itself imports it."""
        return self._typed(dict[str, str], self._request("versions", runtime=runtime, bundle=bundle))

    def clean(self, keep: Sequence[str] = ()) -> int:
        """Bytes freed by removing all artifacts, bundles and probes that are not in use."""
        return int(self._request("clean", keep=list(keep)).get("freed_bytes", 0))

    def place(self, artifact: Artifact, folder: Path, inputs: InputSet, facts: Facts) -> Placed:
        """Artifact, inputs and runtime on the device; only what it lacks travels, and is verified there."""
        bundle = None if self.device.transport == "local" else resolve(artifact.runtime, facts, self._home)
        sources = {file.sha256: folder / file.path for file in artifact.files}
        sources |= {file.sha256: Path(inputs.folder) / file.path for file in inputs.files}
        files = [*artifact.files, *inputs.files]
        if bundle is not None:
            sources |= {wheel.sha256: Path(bundle.folder) / wheel.path for wheel in bundle.wheels}
            files += bundle.wheels
        moved = self._push(files, sources)
        return Placed(
            artifact=self._assemble(artifact.digest, artifact.files),
            inputs=self._assemble(inputs.digest, inputs.files),
            bundle=self._unpack(bundle),
            moved_bytes=moved,
        )

    def infer(
        self,
        artifact: Artifact,
        placed: Placed,
        inputs: InputSet,
        threads: int = 0,
        *,
        time_s: float | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """The device's own outputs, one mapping a sample, by ONNX output name; `time_s` bounds it."""
        spec = self._spec(artifact, placed, inputs, Workload(threads=threads))
        spec |= {} if time_s is None else {"timeout_s": time_s}
        result = self._request("infer", timeout_s=_limit_s(spec), spec=spec)
        samples = result.get("samples")
        if not isinstance(samples, list) or len(samples) != len(inputs.samples):
            raise self._nonsense("infer", "a number of samples that differs from what was sent")
        return [self._fetch(outputs) for outputs in samples]

    def launch(
        self,
        artifact: Artifact,
        placed: Placed,
        inputs: InputSet,
        workload: Workload,
        number: int,
        phase: Callable[[str], None],
    ) -> Launch:
        """One launch: a fresh process on the device, its raw numbers checked for shape and sense."""
        spec = self._spec(artifact, placed, inputs, workload)
        result = self._request("launch", timeout_s=_limit_s(spec), phase=phase, spec=spec)
        started = result.pop("started_unix_s", None)
        result |= {"number": number, "session": self.id, "started_utc": _utc(started)}
        return self._typed(Launch, result)

    # --- pushing ---

    def _push(self, files: Sequence[ArtifactFile], sources: Mapping[str, Path]) -> int:
        wanted = [{"sha256": file.sha256, "size_bytes": file.size_bytes} for file in files]
        have = self._request("have", files=wanted)
        sizes = {file.sha256: file.size_bytes for file in files}
        missing = [digest for digest in have.get("missing", ()) if digest in sizes]
        partial = have.get("partial", {})
        incoming = PurePosixPath(str(have.get("incoming", "")))
        self._check_room(sum(sizes[digest] - _offset(partial, digest) for digest in missing), have)
        moved = 0
        for digest in missing:
            offset = _offset(partial, digest)
            moved += self._transport.put(sources[digest], str(incoming / f"{digest}.part"), offset=offset)
            self._request("commit", sha256=digest, size_bytes=sizes[digest])
        return moved

    def _check_room(self, needed_bytes: int, have: dict[str, Any]) -> None:
        free_bytes = have.get("free_bytes")
        # Files are stored once and linked, wheels are unpacked beside: three times covers both.
        if isinstance(free_bytes, int) and free_bytes < 3 * needed_bytes:
            raise DeviceError(
                f"{self.device.name}: disk full: {needed_bytes} bytes are to be pushed and unpacked, "
                f"{free_bytes} are free in {self.device.work_dir}",
                hint=f"free space on the device, or: edgebench devices clean {self.device.name}",
            )

    def _assemble(self, digest: str, files: Sequence[ArtifactFile]) -> str:
        listed = [{"path": f.path, "sha256": f.sha256, "size_bytes": f.size_bytes} for f in files]
        return str(self._request("assemble", digest=digest, files=listed).get("path"))

    def _unpack(self, bundle: Bundle | None) -> str | None:
        if bundle is None:
            return None
        wheels = [wheel.sha256 for wheel in bundle.wheels]
        result = self._request("unpack", timeout_s=1200.0, digest=bundle.digest, wheels=wheels)
        return str(result.get("path"))

    # --- specs and results ---

    def _spec(
        self, artifact: Artifact, placed: Placed, inputs: InputSet, workload: Workload
    ) -> dict[str, Any]:
        return {
            "runtime": artifact.runtime,
            "bundle": placed.bundle,
            "artifact": placed.artifact,
            "entry": artifact.entry,
            "blobs": artifact.blobs,
            "options": artifact.options,
            "samples": [
                [{"name": name, "path": f"{placed.inputs}/{path}"} for name, path in sample]
                for sample in inputs.samples
            ],
            "outputs": [output.name for output in artifact.outputs],
            "workload": {
                "threads": workload.threads,
                "warmup_samples": workload.warmup_samples,
                "max_warmup_s": workload.max_warmup_s,
                "min_samples": workload.min_samples,
                "min_duration_s": workload.min_duration_s,
                "max_duration_s": workload.max_duration_s,
            },
            "timeout_s": workload.max_warmup_s + workload.max_duration_s + LAUNCH_SLACK_S,
        }

    def _fetch(self, outputs: object) -> dict[str, np.ndarray]:
        import tempfile

        import numpy as np

        fetched: dict[str, np.ndarray] = {}
        for output in self._typed(list[_Output], outputs):
            with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
                path = Path(folder) / "output.npy"
                self._get(output.path, path)
                try:
                    fetched[output.name] = np.load(path, allow_pickle=False)
                except (ValueError, OSError, EOFError) as error:
                    raise self._nonsense("infer", f"an output file that is no array ({error})") from error
        return fetched

    def _get(self, source: str, destination: Path) -> None:
        """Fetch a file of the session's run folder, which goes when the session ends."""
        try:
            self._transport.get(source, destination, max_bytes=MAX_OUTPUT_BYTES)
        except DeviceError:
            self._request("have", files=[])  # where the session has ended, that is the reason to give
            raise

    # --- the wire ---

    def _request(
        self,
        op: str,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        phase: Callable[[str], None] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        if op not in ("lease", "end"):
            self._renew(timeout_s)
        number = next(self._ids)
        end_s = time.monotonic() + timeout_s
        self._wire.send({"id": number, "op": op, **fields})
        while True:
            message = self._wire.receive(timeout_s=end_s - time.monotonic())
            if message.get("id") != number:
                continue  # a late answer to a request that was given up
            if "event" in message:
                if phase is not None:
                    phase(str(message.get("phase", ""))[:32])
                continue
            if message.get("ok") is True and isinstance(message.get("result"), dict):
                result: dict[str, Any] = message["result"]
                return result
            raise self._failure(op, message.get("error"))

    def _failure(self, op: str, error: object) -> EdgebenchError:
        said = error if isinstance(error, dict) else {}
        kind, message = (
            str(said.get("kind", "failed")),
            printable(str(said.get("message", "no reason given"))),
        )
        detail = printable(str(said.get("detail", "")), lines=True)[-8192:]
        text = f"{self.device.name}: {in_plain_words(message)}"
        if kind == "busy":
            return DeviceBusy(
                text,
                hint="wait for it (--wait 10min) or choose another device",
                holder=holder_of(said.get("holder")),
            )
        if kind in ("model_load", "inference"):
            return ModelError(text, hint=_CORRECT, detail=detail)
        if kind == "bad_request":
            return BugError(f"{text} (request {op})", detail=detail)
        hint = _HINTS.get(kind, "the detail holds the end of the device's log")
        died = op in _RUNS and kind in ("crashed", "timeout", "failed")
        return (RuntimeDied if died else DeviceError)(
            text, hint=hint, detail=detail, retryable=kind in ("crashed", "corrupt", "timeout")
        )

    def _typed(self, kind: type[T], data: object) -> T:
        try:
            return msgspec.convert(data, prepared(kind))
        except msgspec.ValidationError as error:
            raise self._nonsense(getattr(kind, "__name__", str(kind)), str(error)) from error

    def _nonsense(self, what: str, why: str) -> DeviceError:
        return DeviceError(
            f"{self.device.name}: the probe's answer ({what}) makes no sense: {printable(why)[:300]}",
            hint=f"edgebench devices clean {self.device.name}, then run again",
        )


class _Output(Record, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    size_bytes: int


_CORRECT = (
    "correct what the runtime names in the model, or try another runtime; its own words are in the detail"
)
_RUNS = ("infer", "launch")  # what a runtime's process is started for
_HINTS = {
    "no_space": "free space on the device, or: edgebench devices clean NAME",
    "corrupt": "check the device's storage (dmesg, fsck), then run again",
    "runtime_missing": "edgebench runtimes shows what is installed and what to type to get the rest",
    "out_of_memory": "use a smaller model, fewer threads or a device with more memory",
    "timeout": "give the launch more time (max_duration_s in the plan's workload) or look at the board",
    "crashed": "the runtime crashed on the device; the detail holds the end of its log",
}


def open_session(
    device: Device, *, home: Path, lease: Lease | None = None, patience: Patience = IMPATIENT
) -> Session:
    """A session on `device`, leased when `lease` says what for; DeviceError or DeviceBusy."""
    transport = open_transport(device)
    transport.connect()
    try:
        archive, digest = probe_archive(home)
        footing = install_probe(transport, device, archive, digest)
        silence_s = LOCAL_SILENCE_S if device.transport == "local" else SILENCE_S
        argv = [footing.executable, footing.final, "session", "--work", footing.work]
        session = Session(device, transport, transport.open([*argv, "--silence", f"{silence_s:g}"]), home)
    except BaseException:
        transport.close()
        raise
    try:
        if lease is not None:
            patience.until_free(lambda: session.lease(lease))
    except BaseException:
        session.close()
        raise
    return session


def save_inputs(samples: Sequence[Mapping[str, np.ndarray]], root: Path) -> InputSet:
    """The samples as `.npy` files below `root`, named by content."""
    import io
    import os

    import numpy as np

    folder = root / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, ArtifactFile] = {}
    listed = []
    for sample in samples:
        row = []
        for name, array in sample.items():
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(array, order="C"), allow_pickle=False)  # a scalar stays one
            content = buffer.getvalue()
            digest = hashlib.sha256(content).hexdigest()
            path = f"{digest}.npy"
            if not (folder / path).exists():
                part = folder / f".{secrets.token_hex(6)}.part"
                part.write_bytes(content)
                os.replace(part, folder / path)
            files[digest] = ArtifactFile(path=path, sha256=digest, size_bytes=len(content))
            row.append((name, path))
        listed.append(tuple(row))
    digest = hashlib.sha256(msgspec.json.encode([sorted(files), listed])).hexdigest()
    return InputSet(digest=digest, folder=str(folder), files=tuple(files.values()), samples=tuple(listed))


def read_samples(inputs: InputSet) -> list[dict[str, np.ndarray]]:
    """The samples of an input set as arrays."""
    import numpy as np

    folder = Path(inputs.folder)
    return [
        {name: np.load(folder / path, allow_pickle=False) for name, path in sample}
        for sample in inputs.samples
    ]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "somebody"


def _offset(partial: object, digest: str) -> int:
    value = partial.get(digest, 0) if isinstance(partial, dict) else 0
    return value if isinstance(value, int) and value >= 0 else 0


def _limit_s(spec: dict[str, Any]) -> float:
    return float(spec["timeout_s"]) + 30.0


def _utc(unix_s: object) -> str:
    from datetime import UTC, datetime

    if not isinstance(unix_s, int | float) or not 0 <= unix_s < 4e9:
        return "unknown"
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
