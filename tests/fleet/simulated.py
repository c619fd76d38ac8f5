"""Any number of devices in memory: a transport that speaks the probe's protocol, as a board far away would.

For what only the controller does with a large fleet: planning, scheduling, storing. Facts and outputs are
what this computer's own probe says; times are invented. Nothing of edgebench is replaced but the transport.
"""

from __future__ import annotations

import io
import json
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgebench.device.session import open_session
from edgebench.pipeline import Prepared, Workbench
from edgebench.records import Device
from edgebench.transport.base import Channel, Completed, Credentials, Transport
from edgebench.transport.connect import TRANSPORTS

WORK = "/simulated/.edgebench"
FREE_BYTES = 1 << 36
STEP_NS = 1_000_000


class Recording(NamedTuple):
    """What every simulated device answers: its facts, and the outputs of each sample as `.npy` files."""

    facts: dict[str, Any]
    outputs: tuple[dict[str, bytes], ...]


_played: list[Recording] = []


def record(prepared: Prepared, bench: Workbench) -> Recording:
    """What this computer's own probe says of itself and computes."""
    device = Device(name="recorder", target="", transport="local", work_dir=str(bench.home / "recorder"))
    with open_session(device, home=bench.home) as session:
        facts = msgspec.to_builtins(session.facts())
    folder = bench.artifacts.path(prepared.artifact.digest)
    samples = bench.infer(prepared.artifact, folder, prepared.inputs)
    return Recording(facts, tuple({name: _npy(array) for name, array in each.items()} for each in samples))


@contextmanager
def played(recording: Recording) -> Iterator[None]:
    """While this is open every ssh device is a simulated one."""
    real = TRANSPORTS["ssh"]
    _played.append(recording)
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


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


class SimulatedTransport(Transport):
    """One device. Its files are names with sizes."""

    def __init__(self, device: Device, *, credentials: Credentials | None = None) -> None:
        del credentials
        self._recording = _played[-1]
        self._sizes: dict[str, int] = {}
        self._probe = _Probe(self._recording, self._sizes)
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
        if (uploaded := self._sizes.pop(f"{WORK}/probe/{part}", None)) is not None:
            self._sizes[final] = uploaded
        footing = {
            "python": self._recording.facts["python"],
            "executable": "/usr/bin/python3",
            "error": None,
            "work": WORK,
            "final": final,
            "part": f"{WORK}/probe/{part}",
            "have": final in self._sizes,
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
        self._sizes[destination] = size_bytes
        if progress is not None:
            progress(size_bytes - offset)
        return size_bytes - offset

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """One of the recorded outputs."""
        del max_bytes
        sample, name = source.removeprefix(f"{WORK}/outputs/").split("/")
        content = self._recording.outputs[int(sample)][name]
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
            if "id" in request:
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

    def __init__(self, recording: Recording, sizes: dict[str, int]) -> None:
        self._recording = recording
        self._sizes = sizes
        self._folders: dict[str, str] = {}
        self._launches = 0

    def answer(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The messages that follow a request, without its id."""
        known = {"launch": self._launch, "infer": self._infer, "have": self._have, "commit": self._commit}
        known |= {"assemble": self._assemble, "unpack": self._assemble}
        fixed = {
            "facts": self._recording.facts,
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
                    if self._sizes.get(f"{WORK}/store/{each['sha256']}") != each["size_bytes"]
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
        self._sizes[f"{WORK}/store/{digest}"] = self._sizes.pop(f"{WORK}/incoming/{digest}.part")
        return {}

    def _assemble(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = "bundles" if request["op"] == "unpack" else "artifacts"
        path = str(PurePosixPath(WORK) / kind / request["digest"])
        self._folders[f"{kind}/{request['digest']}"] = path
        return {"path": path}

    def _infer(self, request: dict[str, Any]) -> dict[str, Any]:
        samples = [
            [
                {
                    "name": name,
                    "dtype": "float32",
                    "shape": [],
                    "path": f"{WORK}/outputs/{number}/{name}",
                    "size_bytes": len(content),
                }
                for name, content in outputs.items()
            ]
            for number, outputs in enumerate(self._recording.outputs[: len(request["spec"]["samples"])])
        ]
        return {"samples": samples, "runtime_version": "simulated", "effective": {}}

    def _launch(self, request: dict[str, Any]) -> dict[str, Any]:
        self._launches += 1
        count = request["spec"]["workload"]["min_samples"]
        return {
            "started_unix_s": 1_700_000_000.0 + self._launches,
            "import_ns": STEP_NS,
            "load_ns": STEP_NS,
            "first_inference_ns": STEP_NS,
            "warmup_ns": [STEP_NS] * 10,
            "warmup_stable": True,
            "samples_ns": [STEP_NS + number % 7 for number in range(count)],
            "memory": {"method": "unknown"},
            "before": {},
            "after": {},
            "runtime_version": "simulated",
            "effective": {},
            "foreign_load": None,
        }
