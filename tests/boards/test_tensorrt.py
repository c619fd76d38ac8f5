"""TensorRT over real SSH: built on the board, kept there, proven, timed; with a stand-in for trtexec."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from tests.commands import DIGITS, Cli, finish, follows_schema, read_until, wait_until
from tests.fleet.boards import WORK, assert_clean, entry, probes, write_inventory
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
limits: {{max_foreign_cores: 4096}}  # other tests run beside these
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


def failed(cli: Cli, code: int, *more: str) -> dict[str, Any]:
    """The one failure of a run that must end so."""
    document = cli.json(*RUN, *more, code=code)
    follows_schema(document)
    (failure,) = document["failures"]
    assert failure["hint"]
    return dict(failure)


def assert_nothing_left(stand: Stand) -> None:
    """No process of the stand-in, no half engine, no file of a session."""
    assert_clean(stand.device)
    wait_until(lambda: not stand.programs(), "the end of trtexec and of its children")
    assert stand.engines() == []
    folder = stand.device.home / WORK / "engines"
    assert [path.name for path in folder.rglob("*") if path.is_file() and path.name != "note.json"] in (
        [],
        ["timing.cache"],
    )


def test_a_build_that_fails_tells_trtexecs_own_words(cli: Cli, stand: Stand) -> None:
    lines = [
        '[TRT] ModelImporter.cpp:773: While parsing node number 5 [Resize -> "y"]:',
        "Failed to parse onnx file",
        "Failed to create engine from model or file.",
    ]
    stand.play(errors={"build": lines})
    failure = failed(cli, 4)
    assert failure["owner"] == "model"
    assert "While parsing node number 5" in failure["message"]
    for line in lines:
        assert f"[E] {line}" in failure["detail"]
    assert "trtexec --onnx=" in failure["detail"]
    assert_nothing_left(stand)


def test_a_build_that_does_not_say_passed_is_none(cli: Cli, stand: Stand) -> None:
    stand.play(unpassed="build")
    assert 'without "&&&& PASSED"' in failed(cli, 4)["message"]
    assert_nothing_left(stand)


def test_another_version_on_the_board_is_told_with_the_way_out(cli: Cli, stand: Stand) -> None:
    stand.play(version=8502)
    failure = failed(cli, 4)
    assert failure["owner"] == "device"
    assert "the device has TensorRT 8.5.2" in failure["message"]
    assert "the plan is for 10.3.0" in failure["message"]
    assert "tensorrt_version" in failure["hint"]
    assert_nothing_left(stand)
    doctor = cli.json("devices", "doctor", code=1)["devices"]["orin-1"]
    (told,) = [each for each in doctor if each["level"] == "wrong"]
    assert told["what"] == "tensorrt 8.5.2, and target orin is for 10.3.0"


def test_another_gpu_on_the_board_is_told_before_the_build_has_begun(cli: Cli, stand: Stand) -> None:
    stand.play(capability="7.2", build_s=600)
    failure = failed(cli, 4)
    assert "compute capability 7.2, and the plan is for 8.7" in failure["message"]
    assert_nothing_left(stand)


def test_a_board_without_trtexec_is_told_where_it_was_looked_for(cli: Cli, stand: Stand) -> None:
    (stand.folder / "trtexec").rename(stand.folder / "elsewhere")
    failure = failed(cli, 4)
    assert "EDGEBENCH_TRTEXEC names" in failure["message"]
    assert "libnvinfer-bin" in failure["hint"]
    (told,) = [
        each
        for each in cli.json("devices", "doctor", code=1)["devices"]["orin-1"]
        if each["check"] == "runtime tensorrt"
    ]
    assert told["level"] == "wrong"
    (stand.folder / "elsewhere").rename(stand.folder / "trtexec")
    doctor = cli.json("devices", "doctor", code=None)["devices"]["orin-1"]
    (told,) = [each for each in doctor if each["check"] == "runtime tensorrt"]
    assert (told["level"], told["what"]) == ("ok", "tensorrt 10.3.0 is there")


@pytest.mark.parametrize("what", ["infer", "measure"])
def test_a_failing_run_of_a_built_engine_keeps_the_engine(cli: Cli, stand: Stand, what: str) -> None:
    stand.play(errors={what: ["[TRT] Error Code 1: Cuda Runtime (an illegal memory access was encountered)"]})
    failure = failed(cli, 4)
    assert "an illegal memory access" in failure["message"]
    assert len(stand.engines()) == 1
    assert stand.programs() == []


def test_a_hanging_build_is_killed_with_its_children(
    cli: Cli, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBENCH_BUILD_TIMEOUT_S", "3")
    stand.play(hang="build")
    failure = failed(cli, 4)
    assert "not done after 3 s" in failure["message"]
    assert "EDGEBENCH_BUILD_TIMEOUT_S" in failure["hint"]
    assert stand.builds() == 1
    assert_nothing_left(stand)


def test_a_killed_session_and_a_killed_controller_leave_no_build_behind(cli: Cli, stand: Stand) -> None:
    stand.play(build_s=600)
    process = cli.start(*RUN)
    read_until(process, "orin-1: build")
    wait_until(stand.programs, "trtexec")
    first = set(stand.programs())
    for session in probes(stand.device, "session"):  # its guard, too
        os.kill(session, signal.SIGKILL)
    wait_until(lambda: not first & set(stand.programs()), "the end of the first build")
    wait_until(lambda: set(stand.programs()) - first, "the build of the second try")
    process.kill()
    finish(process)
    assert_nothing_left(stand)
    stand.play(build_s=0)
    assert cli.json(*RUN)["counts"]["ok"] == 1
    assert_clean(stand.device)
    assert len(stand.engines()) == 1


def test_an_engine_that_was_changed_is_built_again(cli: Cli, stand: Stand) -> None:
    cli(*RUN)
    (engine,) = stand.engines()
    content = bytearray(engine.read_bytes())
    content[-1] ^= 1
    engine.write_bytes(content)
    (measured,) = cli.json(*RUN)["measurements"]
    assert not measured["engine"]["cached"]
    assert stand.builds() == 2


def test_an_engine_that_does_not_load_any_more_is_built_again(cli: Cli, stand: Stand) -> None:
    cli(*RUN)
    stand.play(driver=2)
    (measured,) = cli.json(*RUN)["measurements"]
    assert not measured["engine"]["cached"]
    assert stand.builds() == 2


def test_another_precision_is_another_engine_with_the_same_timing_cache(cli: Cli, stand: Stand) -> None:
    cli(*RUN, "--precision", "fp32,fp16")
    assert len(stand.engines()) == 2
    assert len(list((stand.device.home / WORK / "engines").glob("*/timing.cache"))) == 1


def test_a_full_disk_is_told_and_leaves_no_half_engine(cli: Cli, stand: Stand) -> None:
    cli(*RUN)
    cli("devices", "clean", "orin-1")
    stand.play(engine_bytes=64 << 20)
    stand.device.fill_disk(leave_bytes=24 << 20)
    failure = failed(cli, 4)
    assert failure["owner"] == "device"
    assert "disk" in failure["message"]
    assert "free space" in failure["hint"]
    assert_nothing_left(stand)
    stand.device.heal()
    assert cli.json(*RUN)["counts"]["ok"] == 1


def test_an_unstable_gpu_is_a_warning_in_its_own_words(cli: Cli, stand: Stand) -> None:
    stand.play(unstable=True)
    (measured,) = cli.json(*RUN)["measurements"]
    assert any("[W] * GPU compute time is unstable" in each for each in measured["warnings"])


def test_an_artifact_is_verified_by_the_boards_engine(cli: Cli, stand: Stand) -> None:
    told = cli.json("convert", DIGITS, "--to", "tensorrt", "--target", "orin")
    digest = told["artifacts"][0]["artifact"]["digest"]
    document = cli.json("verify", DIGITS, digest, "--inputs", "inputs.npz", "--on", "orin-1")
    assert document["parity"]["passed"]
    assert document["parity"]["where"] == "orin-1"


def test_wrong_outputs_are_never_timed(cli: Cli, stand: Stand) -> None:
    for path in (stand.folder / "recorded").iterdir():
        path.write_text(path.read_text().replace("[[", "[[").replace("0.", "1.", 1))
    failure = failed(cli, 4)
    assert "does not compute the same on orin-1" in failure["message"]
    assert not any("--exportTimes=times.json" in call for call in trtexec.calls(stand.folder))
