"""TensorRT over real SSH: built on the board, kept there, proven, timed; with a stand-in for trtexec."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from tests.commands import DIGITS, Cli, follows_schema
from tests.fleet.boards import WORK, assert_clean, entry, write_inventory
from tests.fleet.fixtures import running_fleet
from tests.fleet.netns import HOME, FleetDevice, Spec
from tests.standins import trtexec

pytestmark = pytest.mark.fleet

PLACE = "standin"
ORIN = {"version": 100300, "capability": "8.7", "device": "Orin"}
TIMES_MS = [2.0, 2.25, 2.5]
TARGET = """\
version: 1
name: {name}
summary: What a test's stand-in for trtexec plays
platform: {{os: linux, arch: x86_64, accelerator: gpu}}
python: ">=3.6"
runtimes:
  onnxruntime: {{precisions: [fp32]}}
  tensorrt:
    build_on: device
    precisions: [fp32, fp16]
    options: {{tensorrt_version: "{version}", compute_capability: "{capability}"}}
"""


class Stand(NamedTuple):
    """A server whose login finds the stand-in, and where that lies as seen from here."""

    device: FleetDevice
    folder: Path

    def play(self, **config: Any) -> None:
        """Let the stand-in play something from now on."""
        recorded = f"{HOME}/{PLACE}/recorded"
        trtexec.configure(self.folder, **{**ORIN, "times_ms": TIMES_MS, "outputs": recorded, **config})

    def builds(self) -> int:
        """How many engines were built so far."""
        return sum(any(word.startswith("--onnx") for word in call) for call in trtexec.calls(self.folder))

    def engines(self) -> list[Path]:
        """The engines that the board keeps."""
        return sorted((self.device.home / WORK / "engines").glob("*/engine.plan"))

    def programs(self) -> list[int]:
        """Processes of the stand-in, and children of its own."""
        return [pid for pid in self.device.pids() if _is_program(pid)]


def _is_program(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"trtexec\0" in words or words == b"sleep\x001000\0"


@pytest.fixture(scope="module")
def server() -> Iterator[FleetDevice]:
    """A server whose logins are told where trtexec lies."""
    with running_fleet([Spec(options=(f"SetEnv EDGEBENCH_TRTEXEC={HOME}/{PLACE}/trtexec",))]) as fleet:
        if fleet.kind != "netns":
            pytest.skip("missing tool: network namespaces (root, iproute2)")
        yield fleet.devices[0]


@pytest.fixture
def stand(server: FleetDevice, cli: Cli) -> Iterator[Stand]:
    """The board with a fresh stand-in for an Orin, as the fleet's only device, with inputs in inputs.npz."""
    made = Stand(server, server.home / PLACE)
    trtexec.install(made.folder)
    made.play()
    (made.folder / "calls").unlink(missing_ok=True)
    write_inputs(cli, made)
    owner = server.home.stat()
    for path in [made.folder, *made.folder.rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid)
    write_target(cli, "orin", "10.3.0", "8.7")
    write_inventory(cli, entry("orin-1", server, target="orin"))
    yield made
    server.heal()
    cli("devices", "clean", "orin-1", code=None)


def write_inputs(cli: Cli, stand: Stand) -> None:
    """Two samples, and what ONNX Runtime computes of them as the stand-in's recordings."""
    images = np.random.default_rng(7).normal(size=(2, 1, 8, 8)).astype(np.float32)
    np.savez(cli.folder / "inputs.npz", image=images)
    session = onnxruntime.InferenceSession(DIGITS, providers=["CPUExecutionProvider"])
    for image in images:
        (logits,) = session.run(None, {"image": image[None]})
        told = {"logits": ("float32", logits.shape, logits.ravel().tolist())}
        trtexec.record(stand.folder / "recorded", [image.tobytes()], told)


def write_target(cli: Cli, name: str, version: str, capability: str) -> None:
    folder = cli.folder / "targets"
    folder.mkdir(exist_ok=True)
    text = TARGET.format(name=name, version=version, capability=capability)
    (folder / f"{name}.yaml").write_text(text)
    (cli.folder / "edgebench.toml").write_text('targets = "targets"\n')


RUN = ("run", DIGITS, "--to", "tensorrt", "--inputs", "inputs.npz", "--launches", "2", "--min-samples", "30")


def test_an_engine_is_built_measured_and_kept(cli: Cli, stand: Stand) -> None:
    answer = cli(*RUN, "--json")
    follows_schema(answer.document)
    assert answer.document["failures"] == []
    (measured,) = answer.document["measurements"]
    assert measured["status"] == "ok"
    assert measured["latency_ms"]["p50"] == 2.25
    assert measured["runtime_version"] == "10.3.0"
    assert measured["import_ms"] is None
    assert measured["first_inference_ms"] is None
    assert measured["load_ms"] > 0
    assert measured["memory"]["engine_bytes"] == 266 << 20
    assert measured["memory"]["peak_bytes"] > 1 << 20
    assert measured["parity"]["device"]["passed"]
    assert measured["parity"]["device"]["where"] == "orin-1"
    engine = measured["engine"]
    (kept,) = stand.engines()
    assert not engine["cached"]
    assert engine["size_bytes"] == kept.stat().st_size
    assert engine["build_s"] > 0
    assert engine["gpu"] == "Orin"
    assert "--fp16" not in engine["flags"]
    assert "import tensorrt fails" in engine["outputs_by"]
    assert "orin-1: build" in answer.err
    assert stand.builds() == 1
    again = cli.json(*RUN)["measurements"][0]["engine"]
    assert again == {**engine, "cached": True}
    assert stand.builds() == 1
    assert "build" in cli("report").out
    assert_clean(stand.device)
    assert stand.programs() == []
