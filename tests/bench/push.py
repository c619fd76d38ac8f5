"""Pushing a large file to a real SSH server, beside scp with the same cipher, at once and far away."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from edgebench.device.session import InputSet, Lease, open_session
from edgebench.pipeline import Cell, Workbench, prepare
from edgebench.records import Artifact, ArtifactFile, Device, Facts, replace
from edgebench.transport.ssh import SshTransport
from edgebench.transport.ssh.reach import CIPHERS
from tests.bench.measure import Figure, Line, Ratio, paired, wall_s
from tests.fleet.counting import counted
from tests.fleet.netns import Fleet, FleetDevice, MissingTool, Spec
from tests.fleet.relay import Relay, Weather

SLOWEST = 1 / 0.9  # the time of a push over that of scp: 0.9x of its speed
PAIRS = 7
HOME_MIB = 3072


def pushing(bench: Workbench, megabytes: int, model: Path) -> Iterator[Line]:
    """Push against scp at 0 ms and at 20 ms of round trip, and what an unchanged push costs."""
    try:
        with ExitStack() as stack:
            fleet = stack.enter_context(Fleet([Spec(home_mib=HOME_MIB)]))
            board = fleet.devices[0]
            files = _Files(bench, megabytes, model)
            yield from _against_scp(files, board, board.record(), "0 ms")
            relay = stack.enter_context(Relay(board, Weather(delay_ms=10.0)))
            yield from _against_scp(files, board, relay.record(), "20 ms")
            yield from unchanged(files, relay.record())
    except MissingTool as missing:
        yield Figure("push over SSH: not measured", float("inf"), 0.0, "", f"missing tool: {missing}")


class _Files:
    """One large artifact whose bytes are new each time, and what belongs to it."""

    def __init__(self, bench: Workbench, megabytes: int, model: Path) -> None:
        prepared = prepare(Cell(model_path=str(model), runtime="onnxruntime", precision="fp32"), bench)
        self.home = bench.home
        self.megabytes = megabytes
        self.inputs: InputSet = prepared.inputs
        self._plain = prepared.artifact
        self._folder = bench.home / "large"
        self._folder.mkdir(exist_ok=True)
        self.path = self._folder / "model.onnx"
        self.path.write_bytes(os.urandom(megabytes * 1_000_000))

    def renewed(self) -> tuple[Artifact, Path]:
        """An artifact that no device has."""
        with self.path.open("r+b") as file:
            file.write(os.urandom(16))
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entry = ArtifactFile(path=self.path.name, sha256=digest, size_bytes=self.path.stat().st_size)
        return replace(self._plain, digest=digest, files=(entry,)), self._folder


def _against_scp(files: _Files, board: FleetDevice, device: Device, trip: str) -> Iterator[Ratio]:
    def scp() -> float:
        return wall_s(_scp(files.path, device, board))

    def carried() -> float:
        """Log in, send, log out: what scp does."""
        started = time.perf_counter()
        transport = SshTransport(device)
        transport.connect()
        try:
            transport.put(files.path, "carried.bin")
        finally:
            transport.close()
        return time.perf_counter() - started

    yield _line(f"sending {files.megabytes} MB / scp, {trip}", carried, scp, "both with the login")
    with open_session(device, home=files.home, lease=Lease(run="bench", purpose="make bench")) as session:
        facts = session.facts()

        def pushed() -> float:
            artifact, folder = files.renewed()
            return _timed(lambda: session.place(artifact, folder, files.inputs, facts))

        pushed()  # brings the runtime too
        yield _line(
            f"push of {files.megabytes} MB / scp, {trip}",
            pushed,
            scp,
            "asked for, room made, sent, hashed and flushed there; the session is open",
        )


def _line(name: str, ours: Callable[[], float], scp: Callable[[], float], remark: str) -> Ratio:
    line = paired(name, ours, scp, pairs=PAIRS, limit=SLOWEST)
    return line._replace(remark=f"{remark}; {1 / line.ratio:.2f}x of scp's speed (0.9x is asked for)")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _scp(source: Path, device: Device, board: FleetDevice) -> list[str]:
    """scp with the cipher that edgebench prefers, to a server whose key it knows."""
    known = board.folder / "known_hosts"
    keys = (path.read_text() for path in sorted(board.folder.glob("host_*.pub")))
    known.write_text("".join(f"{device.address} {key}" for key in keys))
    options = (
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known}",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
    )
    argv = [
        "scp",
        "-q",
        "-F",
        "none",
        "-c",
        CIPHERS[0],
        "-i",
        str(board.key_file),
        "-P",
        str(device.ssh.port),
    ]
    argv += [word for option in options for word in ("-o", option)]
    return [*argv, str(source), f"{device.ssh.user}@{device.address}:scp.bin"]


def unchanged(files: _Files, device: Device) -> Iterator[Figure]:
    """What the second push of the same artifact waits for, and what it moves."""
    artifact, folder = files.renewed()
    with (
        counted() as counts,
        open_session(device, home=files.home, lease=Lease(run="bench", purpose="make bench")) as session,
    ):
        facts: Facts = session.facts()
        session.place(artifact, folder, files.inputs, facts)
        counts.clear()
        again = session.place(artifact, folder, files.inputs, facts)
        trips = sum(counts.values())
    yield Figure(f"push of an unchanged {files.megabytes} MB, round trips", float(trips), 1.0, "round trips")
    yield Figure(f"push of an unchanged {files.megabytes} MB, bytes", float(again.moved_bytes), 0.0, "bytes")
