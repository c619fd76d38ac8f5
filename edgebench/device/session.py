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
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from edgebench.device.answers import (
    Built,
    Checkup,
    Hello,
    NonsenseError,
    Output,
    Undone,
    fields_of,
    harmless,
    own_path,
    read_array,
    wrong_pairs,
)
from edgebench.device.bootstrap import install_probe
from edgebench.device.bundle import probe_archive, resolve
from edgebench.device.heart import LOCAL_SILENCE_S, SILENCE_S, Heart
from edgebench.device.leases import IMPATIENT, MAX_WORD, Patience, holder_of
from edgebench.device.push import ANSWER_S, DamagedUpload, Folder, Progress, Removed, push
from edgebench.device.wire import Wire
from edgebench.errors import (
    BugError,
    DeviceBusy,
    DeviceError,
    EdgebenchError,
    ModelError,
    NoDuet,
    RuntimeDied,
    printable,
)
from edgebench.model.complaints import in_plain_words
from edgebench.records import (
    Artifact,
    ArtifactFile,
    Conditions,
    Device,
    Engine,
    Facts,
    Launch,
    Preparation,
    Prepared,
    Profile,
    Record,
    Workload,
    prepared,
    replace,
)
from edgebench.transport.base import Channel, Deadline, Transport
from edgebench.transport.connect import open_transport

if TYPE_CHECKING:
    import numpy as np

HELLO_TIMEOUT_S = 30.0
RENEW_S = 300.0  # a lease outlasts the next request by this at least
OF_AN_ARTIFACT = ("artifact", "entry", "blobs", "options", "outputs", "engine")  # in a spec
MAX_OUTPUT_BYTES = 512 << 20
MAX_LAYERS, MAX_LAYER_NS = 200_000, 10**13  # together they fit into 63 bits
LAUNCH_SLACK_S = 120.0  # import and load on a slow board, beside the timed part
TRIES_WITH_ENGINE = 2  # trtexec cannot be told a longest time: a second try has fewer samples
MAX_PROGRESS_S = 1e7

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
    """Where an artifact, its inputs and its runtime lie on the device; the bytes that had to travel for it.

    `removed`: what was used least recently there and had to go. `engine` is what the device built of the
    artifact, where it had to.
    """

    artifact: str
    inputs: str
    bundle: str | None
    moved_bytes: int
    removed: tuple[Removed, ...] = ()
    engine: str | None = None


class Computed(NamedTuple):
    """A device's own outputs, one mapping a sample, and what its runtime says of how it computed them."""

    samples: list[dict[str, np.ndarray]]
    effective: dict[str, str]


class Session:
    """An open session; use as a context manager. Requests come from one thread, `abort` from any."""

    def __init__(self, device: Device, transport: Transport, channel: Channel, home: Path) -> None:
        self.id = secrets.token_hex(6)
        self.device = device
        self._transport = transport
        self._home = home
        self._ids = iter(range(1, 1 << 31))
        self._closed = threading.Event()
        self.prepared: tuple[Prepared, ...] = ()
        self._is_prepared = False
        self.notes: tuple[str, ...] = ()  # what was, or could not be, undone of a board's preparation
        self._lease: Lease | None = None
        self._lease_end = 0.0
        self._heart = Heart(channel, device.name, self.abort)
        self._wire = Wire(self._heart, device.name)
        try:
            hello = self._wire.receive_hello(timeout_s=HELLO_TIMEOUT_S)
            self._hello = self._typed(Hello, fields_of(Hello, hello))
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
            if self._is_prepared:
                self._note_restored(self._request("restore"), only_failed=True)
            self._request("end", timeout_s=10.0)
        self.abort()

    def abort(self) -> None:
        """Drop the connection at once: the probe sees its stdin end and clears up by itself. Never raises."""
        self._closed.set()
        self._heart.close()
        self._transport.close()

    @property
    def is_closed(self) -> bool:
        """True once this side has ended the session."""
        return self._closed.is_set()

    # --- what one can ask ---

    def lease(self, lease: Lease) -> None:
        """Exclusive use of the device, renewed while the session works; DeviceBusy names the holder."""
        self._take(lease, lease.seconds)
        self._lease = lease

    def _take(self, lease: Lease, seconds: float) -> None:
        words = {"run": lease.run, "purpose": lease.purpose, "user": _user(), "controller": platform.node()}
        holder = {key: word[:MAX_WORD] for key, word in words.items()}
        asked = time.monotonic()
        scope = self.device.lease or "board"
        self._note_restored(self._request("lease", holder=holder, seconds=seconds, scope=scope))
        self._lease_end = asked + seconds

    def _renew(self, request_s: float) -> None:
        """Before a request: the lease must outlast it. A controller that hangs renews nothing."""
        if self._lease is None:
            return
        left_s = self._lease_end - time.monotonic()
        if left_s < max(self._lease.seconds / 2, request_s + RENEW_S):
            self._take(self._lease, max(self._lease.seconds, request_s + 2 * RENEW_S))

    def prepare(self, wanted: Preparation) -> None:
        """The board in the state that is asked for, until the session ends; else DeviceError."""
        self._is_prepared = True
        result = self._request("prepare", wanted=msgspec.to_builtins(wanted))
        self.prepared = self._typed(tuple[Prepared, ...], result.get("changes"))

    def checkup(self, wanted: Preparation | None) -> Checkup:
        """What a doctor wants to know beside facts and conditions; no lease is needed."""
        return self._typed(Checkup, self._request("checkup", prepare=msgspec.to_builtins(wanted)))

    def install_runtime(self, runtime: str, facts: Facts) -> str | None:
        """Where the runtime lies on the device, pushed if need be; None where the device has its own."""
        bundle = None if self.device.transport == "local" else resolve(runtime, facts, self._home)
        if bundle is None:
            return None
        folder = Folder("bundles", bundle.digest, bundle.wheels, bundle.folder)
        pushed = push([folder], self.device, self._transport, self._request, lambda _moved, _total: None)
        return pushed.paths[folder.key]

    def _note_restored(self, result: dict[str, Any], *, only_failed: bool = False) -> None:
        """Keep what the probe told of undone preparations."""
        for each in self._typed(tuple[Undone, ...], result.get("restored", [])):
            if each.state == "failed":
                self.notes += (f"{each.what} could not be restored: {printable(each.text)}",)
            elif not only_failed:
                how = "left as it is" if each.state == "left" else "restored"
                text = f"an earlier session had prepared the board; {how}: {printable(each.text)}"
                self.notes += (text,)

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
        return self._typed(int, self._request("clean", keep=list(keep)).get("freed_bytes", 0))

    def place(
        self,
        artifact: Artifact,
        folder: Path,
        inputs: InputSet,
        facts: Facts,
        progress: Progress = lambda _moved, _total: None,
    ) -> Placed:
        """Artifact, inputs and runtime on the device; only what it lacks travels, and is verified there.

        `progress` gets the bytes that travelled so far and those that must.
        """
        folders = [
            Folder("artifacts", artifact.digest, artifact.files, str(folder)),
            Folder("artifacts", inputs.digest, inputs.files, inputs.folder),
        ]
        if self.device.transport != "local":
            bundle = resolve(artifact.runtime, facts, self._home)
            if bundle is not None:
                folders.append(Folder("bundles", bundle.digest, bundle.wheels, bundle.folder))
        pushed = push(folders, self.device, self._transport, self._request, progress)
        paths = [pushed.paths[each.key] for each in folders]
        return Placed(
            artifact=paths[0],
            inputs=paths[1],
            bundle=paths[2] if len(paths) > 2 else None,
            moved_bytes=pushed.moved_bytes,
            removed=pushed.removed,
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
        return self.computed(artifact, placed, inputs, threads, time_s=time_s).samples

    def computed(
        self,
        artifact: Artifact,
        placed: Placed,
        inputs: InputSet,
        threads: int = 0,
        *,
        time_s: float | None = None,
    ) -> Computed:
        """The device's own outputs, as `infer`, with what the runtime says that it did."""
        spec = self._spec(artifact, placed, inputs, Workload(threads=threads))
        spec |= {} if time_s is None else {"timeout_s": time_s}
        result = self._request("infer", timeout_s=_limit_s(spec), spec=spec)
        samples = result.get("samples")
        if not isinstance(samples, list) or len(samples) != len(inputs.samples):
            raise self._nonsense("infer", "a number of samples that differs from what was sent")
        effective = self._typed(dict[str, str], result.get("effective", {}))
        return Computed([self._fetch(outputs, artifact) for outputs in samples], effective)

    def build(
        self,
        artifact: Artifact,
        placed: Placed,
        progress: Callable[[float, str], None],
        *,
        timeout_s: float,
    ) -> tuple[Placed, Engine]:
        """The artifact with its engine, built by the device unless it kept one.

        `progress` gets seconds and a line, first when a build begins.
        """
        spec = {
            "runtime": artifact.runtime,
            "artifact": placed.artifact,
            "entry": artifact.entry,
            "options": artifact.options,
            "timeout_s": timeout_s,
        }

        def begun(phase: str) -> None:
            if phase == "build":
                progress(0.0, "")

        limit_s = _limit_s(spec)
        result = self._request("build", timeout_s=limit_s, phase=begun, progress=progress, spec=spec)
        told = self._typed(Built, {name: result.get(name) for name in Built.__struct_fields__})
        return replace(placed, engine=told.engine), told.record()

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
        return self._launched("launch", self._spec(artifact, placed, inputs, workload), number, phase)

    def duet(
        self,
        candidate: Artifact,
        placed: Placed,
        baseline: Artifact,
        beside: Placed,
        inputs: InputSet,
        workload: Workload,
        number: int,
        phase: Callable[[str], None],
        *,
        baseline_first: bool,
    ) -> Launch:
        """One launch of both in one process on the device, turn by turn: the candidate's launch.

        `baseline_ns` are the baseline's times, each beside the sample of its place. Who is loaded first has
        the first turn; it alternates from launch to launch. NoDuet where the runtime cannot do that.
        """
        if candidate.runtime != baseline.runtime:
            raise NoDuet(f"a duet needs one runtime, not {candidate.runtime} beside {baseline.runtime}")
        spec = self._spec(candidate, placed, inputs, workload)
        other = self._spec(baseline, beside, inputs, workload)
        spec["beside"] = {key: other[key] for key in OF_AN_ARTIFACT}
        spec["baseline_first"] = baseline_first
        launch = self._launched("duet", spec, number, phase)
        if wrong := wrong_pairs(launch):
            raise self._nonsense("duet", wrong)
        return launch

    def _launched(self, op: str, spec: dict[str, Any], number: int, phase: Callable[[str], None]) -> Launch:
        result = self._request(op, timeout_s=_limit_s(spec), phase=phase, spec=spec)
        started = result.pop("started_unix_s", None)
        result |= {"number": number, "session": self.id, "started_utc": _utc(started)}
        return self._typed(Launch, result)

    def profile(
        self,
        artifact: Artifact,
        placed: Placed,
        inputs: InputSet,
        workload: Workload,
        repeats: int,
        phase: Callable[[str], None] = lambda _name: None,
    ) -> Profile:
        """Times of the model's layers from a process of their own, as the device tells them."""
        spec = self._spec(artifact, placed, inputs, workload)
        result = self._request("profile", timeout_s=_limit_s(spec), phase=phase, spec=spec, repeats=repeats)
        result["started_utc"] = _utc(result.pop("started_unix_s", None))
        profile = self._typed(Profile, result)
        times = [layer.mean_ns for layer in profile.layers] + [profile.total_ns or 0]
        if len(times) > MAX_LAYERS or not all(0 <= each <= MAX_LAYER_NS for each in times):
            raise self._nonsense("profile", "times that no inference takes")
        return profile

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
            "engine": placed.engine,
            "workload": {
                "threads": workload.threads,
                "warmup_samples": workload.warmup_samples,
                "max_warmup_s": workload.max_warmup_s,
                "min_samples": workload.min_samples,
                "min_duration_s": workload.min_duration_s,
                "max_duration_s": workload.max_duration_s,
            },
            "timeout_s": workload.max_warmup_s
            + workload.max_duration_s * (1 if placed.engine is None else TRIES_WITH_ENGINE)
            + LAUNCH_SLACK_S,
        }

    def _fetch(self, outputs: object, artifact: Artifact) -> dict[str, np.ndarray]:
        """The arrays of one sample, by output name: those of the artifact, from below the work folder."""
        import tempfile

        told = self._typed(list[Output], outputs)
        wanted = [output.name for output in artifact.outputs]
        if sorted(output.name for output in told) != sorted(wanted):
            raise self._nonsense("infer", f"other outputs than {', '.join(wanted)}")
        fetched: dict[str, np.ndarray] = {}
        for output in told:
            with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
                path = Path(folder) / "output.npy"
                try:
                    source = own_path(output.path, self._hello.work)
                    self._get(source, path)
                    fetched[output.name] = read_array(path, MAX_OUTPUT_BYTES)
                except NonsenseError as error:
                    raise self._nonsense("infer", str(error)) from error
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
        timeout_s: float = ANSWER_S,
        phase: Callable[[str], None] | None = None,
        progress: Callable[[float, str], None] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        if op not in ("lease", "end"):
            self._renew(timeout_s)
        number = next(self._ids)
        self._wire.send({"id": number, "op": op, **fields})
        deadline = Deadline(timeout_s)  # of the whole request: events and strange answers do not extend it
        while True:
            message = self._wire.receive(timeout_s=deadline.left_s())
            if message.get("id") != number:
                continue  # a late answer to a request that was given up
            if "event" in message:
                if progress is not None and message.get("event") == "progress":
                    progress(*_progress(message))
                elif phase is not None:
                    phase(printable(str(message.get("phase", ""))[:32]))
                continue
            if message.get("ok") is True and isinstance(message.get("result"), dict):
                result: dict[str, Any] = message["result"]
                return result
            raise self._failure(op, message.get("error"))

    def _failure(self, op: str, error: object) -> EdgebenchError:
        said = error if isinstance(error, dict) else {}
        kind, message = (
            str(said.get("kind", "failed")),
            printable(str(said.get("message", "no reason given"))[:2000]),
        )
        detail = printable(str(said.get("detail", ""))[-8192:], lines=True)
        text = f"{self.device.name}: {in_plain_words(message)}"
        if kind == "busy":
            return DeviceBusy(
                text,
                hint="wait for it (--wait 10min) or choose another device",
                holder=holder_of(said.get("holder")),
            )
        if kind in ("model_load", "inference"):
            return ModelError(text, hint=_CORRECT, detail=detail)
        if kind == "corrupt" and op == "commit":
            return DamagedUpload(text, hint=_HINTS[kind], detail=detail, retryable=True)
        if kind == "no_duet":
            return NoDuet(text, hint="measure it in separate launches")
        if kind == "not_allowed":
            grant = f"grant it there (sudo visudo -f /etc/sudoers.d/edgebench) with this line: {detail}"
            return DeviceError(text, hint=grant)
        if kind == "bad_request":
            return BugError(f"{text} (request {op})", detail=detail)
        hint = _HINTS.get(kind, "the detail holds the end of the device's log").format(self.device.name)
        died = op in _RUNS and kind in ("crashed", "timeout", "failed")
        again = kind in ("crashed", "corrupt", "ending") or (kind == "timeout" and op != "build")
        if op == "build" and kind == "timeout":
            hint = "EDGEBENCH_BUILD_TIMEOUT_S gives a slow board more time; its log's end is in the detail"
        return (RuntimeDied if died else DeviceError)(text, hint=hint, detail=detail, retryable=again)

    def _typed(self, kind: type[T], data: object) -> T:
        try:
            return msgspec.convert(harmless(data), prepared(kind))
        except (msgspec.ValidationError, NonsenseError) as error:
            raise self._nonsense(getattr(kind, "__name__", str(kind)), str(error)) from error

    def _nonsense(self, what: str, why: str) -> DeviceError:
        return DeviceError(
            f"{self.device.name}: the probe's answer ({what}) makes no sense: {printable(why)[:300]}",
            hint=f"edgebench devices clean {self.device.name}, then run again",
        )


_CORRECT = (
    "correct what the runtime names in the model, or try another runtime; its own words are in the detail"
)
_RUNS = ("build", "infer", "launch", "duet", "profile")  # what a runtime's process is started for
_HINTS = {
    "no_space": "free space on the device, or: edgebench devices clean {} "
    "(work_quota in the inventory says how much edgebench may take there)",
    "corrupt": "check the device's storage (dmesg, fsck), then run again",
    "tool_missing": "on a Jetson: sudo apt install libnvinfer-bin; elsewhere EDGEBENCH_TRTEXEC names it",
    "wrong_version": "give the device a target of its own: a copy of its target file with the device's "
    "tensorrt_version and compute_capability (targets: in edgebench.toml)",
    "runtime_missing": "edgebench runtimes shows what is installed and what to type to get the rest",
    "noexec": "give a folder elsewhere as work_dir in the inventory, for example /var/lib/edgebench",
    "out_of_memory": "use a smaller model, fewer threads or a device with more memory",
    "ending": "something on the device ended it; run again",
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


def _progress(message: dict[str, Any]) -> tuple[float, str]:
    elapsed_s = message.get("elapsed_s")
    if not isinstance(elapsed_s, int | float) or not 0 <= elapsed_s < MAX_PROGRESS_S:
        elapsed_s = 0.0
    return float(elapsed_s), printable(str(message.get("line", "")))[:200]


def _limit_s(spec: dict[str, Any]) -> float:
    return float(spec["timeout_s"]) + 30.0


def _utc(unix_s: object) -> str:
    from datetime import UTC, datetime

    if not isinstance(unix_s, int | float) or not 0 <= unix_s < 4e9:
        return "unknown"
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
