"""Any number of devices in memory: a transport that speaks the probe's protocol, as a board far away would.

For what only the controller does with a large fleet: planning, scheduling, storing. Facts are what this
computer's own probe says; outputs of ONNX Runtime's artifacts are computed, once for all devices; times are
invented. Nothing of edgebench is replaced but the transport.
"""

from __future__ import annotations

import io
import json
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgebench.device.session import open_session
from edgebench.records import Device
from edgebench.transport.base import Channel, Completed, Credentials, Transport
from edgebench.transport.connect import TRANSPORTS

WORK = "/simulated/.edgebench"
FREE_BYTES = 1 << 36
STEP_NS = 1_000_000


class Timing(NamedTuple):
    """What one launch of a file takes, and how many cores others kept busy meanwhile."""

    samples_ns: list[int]
    foreign_load: float | None = None
    baseline_ns: list[int] | None = None  # in a duet


# (file, launch of the device, the other file of a duet) -> timing
Times = Callable[[Path, int, Path | None], Timing]

_played: list[tuple[dict[str, Any], Times | None]] = []


def facts_of_this_computer(home: Path) -> dict[str, Any]:
    """What its probe says of it."""
    device = Device(name="here", target="", transport="local", work_dir=str(home / "recorder"))
    with open_session(device, home=home) as session:
        facts: dict[str, Any] = msgspec.to_builtins(session.facts())
        return facts


@contextmanager
def played(facts: dict[str, Any], times: Times | None = None) -> Iterator[None]:
    """While this is open every ssh device is a simulated one with these facts, and takes these times."""
    real = TRANSPORTS["ssh"]
    _played.append((facts, times))
    TRANSPORTS["ssh"] = "tests.fleet.simulated:SimulatedTransport"
    try:
        yield
    finally:
        TRANSPORTS["ssh"] = real
        _played.pop()


def inventory(count: int, target: str = "linux-x86_64") -> str:
    """An inventory of so many devices, none of which is there."""
    key = "SHA256:" + "A" * 43
    lines = [
        f'  sim-{number:04}: {{target: {target}, address: 192.0.2.1, host_key: "{key}"}}'
        for number in range(count)
    ]
    return "\n".join(["version: 1", "devices:", *lines]) + "\n"


class Files(NamedTuple):
    """A device's files: sizes by path, and by digest where their bytes are on this computer."""

    sizes: dict[str, int]
    sources: dict[str, Path]


@lru_cache(maxsize=64)
def computed(
    model: Path, samples: tuple[tuple[tuple[str, Path], ...], ...], outputs: tuple[str, ...]
) -> tuple[dict[str, bytes], ...]:
    """What ONNX Runtime computes of each sample, as `.npy` files by output name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    made = []
    for sample in samples:
        arrays = session.run(list(outputs), {name: np.load(path) for name, path in sample})
        made.append({name: _npy(array) for name, array in zip(outputs, arrays, strict=True)})
    return tuple(made)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


class SimulatedTransport(Transport):
    """One device. Its files are names with sizes."""

    def __init__(self, device: Device, *, credentials: Credentials | None = None) -> None:
        del credentials
        self._facts, times = _played[-1]
        self._files = Files({}, {})
        self._probe = _Probe(self._facts, self._files, times)
        self.name = device.name

    def connect(self) -> None:
        """Nothing to do."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """The bootstrap's question: where the probe goes, and whether it is there."""
        del timeout_s, stdin, max_output_bytes
        digest, part = argv[-2:]
        final = f"{WORK}/probe/probe-{digest}.pyz"
        if (uploaded := self._files.sizes.pop(f"{WORK}/probe/{part}", None)) is not None:
            self._files.sizes[final] = uploaded
        footing = {
            "python": self._facts["python"],
            "executable": "/usr/bin/python3",
            "error": None,
            "work": WORK,
            "final": final,
            "part": f"{WORK}/probe/{part}",
            "have": final in self._files.sizes,
            "free_bytes": FREE_BYTES,
        }
        return Completed(0, b"edgebench:" + json.dumps(footing).encode() + b"\n", b"")

    def open(self, argv: Sequence[str]) -> Channel:
        """The probe's session."""
        del argv
        return SimulatedChannel(self._probe)

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """The file's size is noted."""
        size_bytes = source.stat().st_size
        self._files.sizes[destination] = size_bytes
        self._files.sources[PurePosixPath(destination).stem] = source
        if progress is not None:
            progress(size_bytes - offset)
        return size_bytes - offset

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """One of the outputs that were computed last."""
        del max_bytes
        content = self._probe.outputs[source]
        destination.write_bytes(content)
        return len(content)

    def close(self) -> None:
        """Nothing is open."""


class SimulatedChannel(Channel):
    """Lines in, lines out; each request is answered where it is sent."""

    def __init__(self, probe: _Probe) -> None:
        self._probe = probe
        self._out: queue.Queue[bytes] = queue.Queue()
        self._out.put(_line({"event": "hello", "protocol": 1, "pid": 1, "python": "3", "work": WORK}))

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Answer every line."""
        del timeout_s
        for line in data.splitlines():
            request = json.loads(line)
            if request["op"] == "beat":
                self._out.put(_line({"event": "beat"}))
            else:
                for message in self._probe.answer(request):
                    self._out.put(_line({"id": request["id"], **message}))

    def receive(self, *, timeout_s: float) -> bytes | None:
        """The next line."""
        try:
            return self._out.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def stderr_tail(self) -> str:
        """Nothing."""
        return ""

    def exit_status(self) -> int | None:
        """It runs."""
        return None

    def close(self) -> None:
        """The output ends."""
        self._out.put(b"")


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class _Probe:
    """The answers of one device's probe (docs/probe-protocol.md)."""

    def __init__(self, facts: dict[str, Any], files: Files, times: Times | None) -> None:
        self._facts = facts
        self._files = files
        self._times = times
        self._folders: dict[str, str] = {}
        self._named: dict[str, str] = {}  # paths in folders -> digests
        self._launches = 0
        self.outputs: dict[str, bytes] = {}

    def answer(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The messages that follow a request, without its id."""
        known = {"launch": self._launch, "infer": self._infer, "have": self._have, "commit": self._commit}
        known |= {"assemble": self._assemble, "unpack": self._assemble, "duet": self._launch}
        fixed = {
            "facts": self._facts,
            "conditions": {},
            "room": {"removed": [], "free_bytes": FREE_BYTES},
            "lease": {},
            "end": {},
        }
        op = request["op"]
        if op == "launch":
            yield from ({"event": "phase", "phase": each} for each in ("import", "load", "samples", "done"))
        if op in known:
            yield {"ok": True, "result": known[op](request)}
        elif op in fixed:
            yield {"ok": True, "result": fixed[op]}
        else:
            yield {"ok": False, "error": {"kind": "bad_request", "message": f"no {op}", "detail": ""}}

    def _have(self, request: dict[str, Any]) -> dict[str, Any]:
        there, missing = {}, []
        for folder in request["folders"]:
            key = f"{folder['kind']}/{folder['digest']}"
            if key in self._folders:
                there[key] = self._folders[key]
            else:
                missing += [
                    each["sha256"]
                    for each in folder["files"]
                    if self._files.sizes.get(f"{WORK}/store/{each['sha256']}") != each["size_bytes"]
                ]
        return {
            "missing": missing,
            "partial": {},
            "free_bytes": FREE_BYTES,
            "incoming": f"{WORK}/incoming",
            "folders": there,
        }

    def _commit(self, request: dict[str, Any]) -> dict[str, Any]:
        digest = request["sha256"]
        self._files.sizes[f"{WORK}/store/{digest}"] = self._files.sizes.pop(f"{WORK}/incoming/{digest}.part")
        return {}

    def _assemble(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = "bundles" if request["op"] == "unpack" else "artifacts"
        path = str(PurePosixPath(WORK) / kind / request["digest"])
        self._folders[f"{kind}/{request['digest']}"] = path
        self._named |= {f"{path}/{each['path']}": each["sha256"] for each in request.get("files", ())}
        return {"path": path}

    def _infer(self, request: dict[str, Any]) -> dict[str, Any]:
        spec = request["spec"]
        model = self._source(f"{spec['artifact']}/{spec['entry']['model']}")
        samples = tuple(
            tuple((each["name"], self._source(each["path"])) for each in sample) for sample in spec["samples"]
        )
        made = computed(model, samples, tuple(spec["outputs"]))
        self.outputs = {
            f"{WORK}/outputs/{number}/{name}": content
            for number, outputs in enumerate(made)
            for name, content in outputs.items()
        }
        told = [[_told(number, *each) for each in outputs.items()] for number, outputs in enumerate(made)]
        return {"samples": told, "runtime_version": "simulated", "effective": {}}

    def _source(self, path: str) -> Path:
        return self._files.sources[self._named[path]]

    def _model(self, spec: dict[str, Any]) -> Path:
        return self._source(f"{spec['artifact']}/{spec['entry']['model']}")

    def _launch(self, request: dict[str, Any]) -> dict[str, Any]:
        self._launches += 1
        spec = request["spec"]
        count = spec["workload"]["min_samples"]
        timing = Timing([STEP_NS + number % 7 for number in range(count)])
        if self._times is not None:
            other = spec.get("beside")
            timing = self._times(
                self._model(spec), self._launches, None if other is None else self._model(other)
            )
        duet = {} if timing.baseline_ns is None else {"baseline_ns": timing.baseline_ns}
        return {
            "started_unix_s": 1_700_000_000.0 + self._launches,
            "import_ns": STEP_NS,
            "load_ns": STEP_NS,
            "first_inference_ns": STEP_NS,
            "warmup_ns": [STEP_NS] * 10,
            "warmup_stable": True,
            "samples_ns": timing.samples_ns,
            "memory": {"method": "unknown"},
            "before": {},
            "after": {},
            "runtime_version": "simulated",
            "effective": {},
            "foreign_load": timing.foreign_load,
            **duet,
        }


def _told(sample: int, name: str, content: bytes) -> dict[str, Any]:
    array = np.load(io.BytesIO(content))
    return {
        "name": name,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "path": f"{WORK}/outputs/{sample}/{name}",
        "size_bytes": len(content),
    }
