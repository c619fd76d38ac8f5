"""Launches through a real session: recorded timings, misbehaving runtimes, and the three real ones."""

from __future__ import annotations

import os
import signal
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.probe import child, clock, foreign, launch, memory, timing
from edgebench.probe.runtimes.base import RUNTIMES
from edgebench.probe.runtimes.replay import RecordedClock
from edgebench.records import MEASURED, Launch
from tests.probe.fakes import HANG, SEGFAULT, fake_spec, npy, recording, replay_spec
from tests.probe.harness import QUICK, Probe, children, eventually, launches, running, spec

PHASES = ["import", "load", "first", "warmup", "samples", "done"]


def as_launch(result: dict[str, Any]) -> Launch:
    """The result decoded as strictly as the controller does."""
    plain = {key: value for key, value in result.items() if key != "started_unix_s"}
    return msgspec.convert({**plain, "number": 1, "session": "s", "started_utc": "t"}, Launch)


# --- recorded timings ---


def test_a_replay_gives_the_recorded_times(probe: Probe) -> None:
    result = probe.result("launch", spec=replay_spec(probe, effective={"precision": "fp32"}))
    assert probe.phases == PHASES
    measured = as_launch(result)
    assert (measured.import_ns, measured.load_ns, measured.first_inference_ns) == (11, 22, 33)
    assert measured.warmup_ns == (1000,) * 20
    assert measured.warmup_stable
    assert measured.samples_ns == tuple([900, 1000, 1100] * 6 + [900, 1000])
    assert measured.runtime_version == "recorded"
    assert measured.effective == {"precision": "fp32"}
    assert result["started_unix_s"] > 1e9


def test_samples_last_as_long_as_asked(probe: Probe) -> None:
    workload = {"min_samples": 1, "min_duration_s": 1.0, "max_duration_s": 60.0}
    result = probe.result("launch", spec=replay_spec(probe, workload, samples_ns=[300_000_000]))
    assert len(result["samples_ns"]) == 4


def test_samples_end_at_the_longest_time(probe: Probe) -> None:
    workload = {"min_samples": 1000, "min_duration_s": 0.0, "max_duration_s": 1.0}
    result = probe.result("launch", spec=replay_spec(probe, workload, samples_ns=[400_000_000]))
    assert len(result["samples_ns"]) == 3


def test_samples_are_bounded_in_number(probe: Probe) -> None:
    workload = {"min_samples": 200_000, "min_duration_s": 80_000.0, "max_duration_s": 80_000.0}
    result = probe.result("launch", spec=replay_spec(probe, workload, samples_ns=[5]))
    assert len(result["samples_ns"]) == 200_000


def test_an_unsteady_warm_up_ends_and_says_so(probe: Probe) -> None:
    workload = {"max_warmup_s": 1.0}
    result = probe.result(
        "launch",
        spec=replay_spec(probe, workload, warmup_ns=[10_000_000, 20_000_000] * 5 + [40_000_000] * 10),
    )
    assert not result["warmup_stable"]
    assert sum(result["warmup_ns"]) >= 1_000_000_000


def test_a_warm_up_goes_on_until_it_is_steady(probe: Probe) -> None:
    workload = {"max_warmup_s": 10.0, "warmup_samples": 3}
    times = [9000] * 10 + [5000] * 10 + [4000] * 20
    result = probe.result("launch", spec=replay_spec(probe, workload, warmup_ns=times))
    assert result["warmup_stable"]
    assert result["warmup_ns"] == times


def test_no_warm_up_at_all(probe: Probe) -> None:
    result = probe.result("launch", spec=replay_spec(probe, {"max_warmup_s": 0.0}))
    assert result["warmup_ns"] == []
    assert not result["warmup_stable"]


def test_replayed_outputs_are_files(probe: Probe) -> None:
    plain = {**replay_spec(probe), "samples": [[], []]}
    result = probe.result("infer", spec=plain)
    assert len(result["samples"]) == 2
    (output,) = result["samples"][1]
    assert (output["name"], output["dtype"], output["shape"]) == ("y", "float32", [1, 3])
    assert output["size_bytes"] == Path(output["path"]).stat().st_size
    assert output["path"].startswith(str(probe.work))
    assert np.load(output["path"]).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"not json",
        recording(samples_ns=[]),
        recording(warmup_ns=[-1]),
        recording(first_ns=None),
    ],
)
def test_a_broken_recording(hardy: Probe, content: bytes) -> None:
    artifact = hardy.place({"model.json": content})
    assert hardy.error("launch", spec=spec("replay", artifact))["kind"] == "model_load"


def test_the_controller_measures_only_runtimes_that_the_probe_has() -> None:
    assert set(MEASURED) <= set(RUNTIMES)


# --- specs that are wrong ---


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime": "tensorflow"},
        {"runtime": "../x"},
        {"runtime": None},
        {"artifact": "/etc"},
        {"artifact": "relative"},
        {"artifact": None},
        {"entry": {"model": "missing.json"}},
        {"entry": {"model": "../../lock"}},
        {"entry": {"model": "/etc/passwd"}},
        {"entry": {}},
        {"entry": []},
        {"blobs": {"x": 1}},
        {"options": {"a": 1}},
        {"options": {"unknown": "x"}},
        {"samples": []},
        {"samples": [[{"name": "x", "path": "/etc/passwd"}]]},
        {"samples": [[{"name": "x"}]]},
        {"samples": [7]},
        {"outputs": []},
        {"outputs": [1]},
        {"workload": None},
        {"workload": {}},
        {"workload": {**QUICK, "threads": -1}},
        {"workload": {**QUICK, "threads": 1.5}},
        {"workload": {**QUICK, "min_samples": 0}},
        {"workload": {**QUICK, "min_samples": 10**9}},
        {"workload": {**QUICK, "max_duration_s": "long"}},
        {"timeout_s": 0},
        {"timeout_s": None},
    ],
)
def test_wrong_specs(hardy: Probe, changes: dict[str, Any]) -> None:
    error = hardy.error("launch", spec={**replay_spec(hardy), **changes})
    assert error["kind"] == "bad_request"


def test_after_all_that_a_launch_still_works(hardy: Probe) -> None:
    assert hardy.result("launch", spec=replay_spec(hardy))["load_ns"] == 22


def test_a_bundle_that_is_not_there(probe: Probe) -> None:
    plain = {**replay_spec(probe), "bundle": str(probe.work / "bundles" / ("a" * 64))}
    assert probe.error("launch", spec=plain)["kind"] == "runtime_missing"


# --- runtimes that misbehave ---


def test_a_crash_names_the_signal_and_shows_the_log(probe: Probe) -> None:
    code = f"os.write(2, b'about to die'); {SEGFAULT}"
    error = probe.error("launch", spec=fake_spec(probe, on_load=code))
    assert error["kind"] == "crashed"
    assert "SIGSEGV" in error["message"]
    assert "phase load" in error["message"]
    assert "about to die" in error["detail"]
    assert probe.result("launch", spec=replay_spec(probe))["load_ns"] == 22


def test_a_launch_that_takes_too_long(probe: Probe) -> None:
    plain = {**fake_spec(probe, on_run=HANG), "timeout_s": 1.5}
    error = probe.error("launch", spec=plain)
    assert error["kind"] == "timeout"
    assert children(probe.pid) == []


def test_a_timeout_kills_what_the_launch_started(probe: Probe, tmp_path: Path) -> None:
    file = repr(str(tmp_path / "pid"))
    start = f"import subprocess; open({file}, 'w').write(str(subprocess.Popen(['sleep', '3600']).pid))"
    code = f"{start}; {HANG}"
    error = probe.error("launch", spec={**fake_spec(probe, on_run=code), "timeout_s": 2.5})
    assert error["kind"] == "timeout"
    grandchild = int((tmp_path / "pid").read_text())
    eventually(lambda: not running(grandchild), "the whole group is killed")


def test_a_kill_from_outside_is_not_blamed_on_memory(probe: Probe) -> None:
    if child.out_of_memory_kills() is None:
        pytest.skip("this kernel does not count its out-of-memory kills")
    number = probe.start("launch", spec=fake_spec(probe, on_run=HANG))
    probe.until_phase("first")
    (process,) = launches(probe.pid)
    os.kill(process, signal.SIGKILL)
    error = probe.reply(number)["error"]
    assert error["kind"] == "crashed"
    assert "SIGKILL" in error["message"]


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        (0, 0, "crashed", "no out-of-memory kill"),
        (3, 4, "out_of_memory", "ran out of memory"),
        (None, None, "out_of_memory", "probably out of memory"),
    ],
)
def test_sigkill_means_memory_only_with_evidence(
    before: int | None, after: int | None, kind: str, words: str
) -> None:
    error = child.death(-9, "load", "tail", before, after)
    assert error.kind == kind
    assert "SIGKILL" in error.message
    assert words in error.message


@pytest.mark.parametrize(
    ("moments", "kind", "words"),
    [
        ({"on_import": "raise ImportError('no such thing')"}, "runtime_missing", "no such thing"),
        ({"on_import": "raise AttributeError('numpy is too new')"}, "runtime_missing", "numpy is too new"),
        ({"on_load": "raise ValueError('bad model\\nsecond line')"}, "model_load", "bad model"),
        ({"on_run": "raise ValueError('bad input')"}, "inference", "bad input"),
        ({"on_load": "raise MemoryError()"}, "out_of_memory", "MemoryError"),
        ({"on_load": "raise RuntimeError('std::bad_alloc')"}, "out_of_memory", "bad_alloc"),
        ({"on_run": "raise OSError(28, 'No space left on device')"}, "no_space", "No space"),
        ({"on_load": "os._exit(7)"}, "failed", "status 7"),
        ({"on_load": "sys.exit(0)"}, "failed", "status"),
        ({"on_run": "raise KeyboardInterrupt()"}, "crashed", "SIGINT"),
    ],
)
def test_failures_are_told_apart(hardy: Probe, moments: dict[str, str], kind: str, words: str) -> None:
    error = hardy.error("launch", spec=fake_spec(hardy, **moments))
    assert error["kind"] == kind
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_noise_on_stdout_is_no_message(probe: Probe) -> None:
    noise = "print('{\"result\": {}}', flush=True); os.write(1, b'{\"phase\": 1}\\nnoise\\n')"
    plain = fake_spec(probe, on_import=noise, on_load=noise, on_run=noise)
    measured = as_launch(probe.result("launch", spec=plain))
    assert measured.runtime_version == "9.9.9"
    assert measured.effective["provider"] == "FakeProvider"


def test_endless_noise_on_stderr_is_bounded(probe: Probe) -> None:
    code = "os.write(2, b'x' * 1000000 + b'the end'); raise ValueError('x')"
    error = probe.error("launch", spec=fake_spec(probe, on_load=code))
    assert error["kind"] == "model_load"
    assert len(error["detail"]) <= 16 << 10


def test_nan_outputs_are_for_the_controller_to_judge(probe: Probe) -> None:
    result = probe.result("infer", spec=fake_spec(probe))
    assert np.isnan(np.load(result["samples"][0][0]["path"])).all()


def test_a_library_leaves_nothing_behind(probe: Probe, tmp_path: Path) -> None:
    code = "import tempfile; tempfile.mkdtemp(); open('litter', 'w').write('x')"
    probe.result("launch", spec=fake_spec(probe, on_load=code))
    assert probe.end() == 0
    assert os.listdir(tmp_path / "work" / "runs") == []
    assert os.listdir(tmp_path) == ["work"]


# --- versions ---


def test_version_of_a_bundle(probe: Probe) -> None:
    bundle = fake_spec(probe)["bundle"]
    assert probe.result("versions", runtime="onnxruntime", bundle=bundle) == {"onnxruntime": "9.9.9"}
    assert probe.result("versions", runtime="replay", bundle=None) == {"replay": "recorded"}


def test_a_runtime_that_is_missing(open_probe: Callable[..., Probe]) -> None:
    probe = open_probe()
    probe.lease()
    bundle = fake_spec(probe, on_import="raise ImportError('libgomp.so.1: cannot open')")["bundle"]
    error = probe.error("versions", runtime="onnxruntime", bundle=bundle)
    assert error["kind"] == "runtime_missing"
    assert "libgomp.so.1" in error["message"]


# --- real runtimes ---


def measure_and_infer(probe: Probe, plain: dict[str, Any]) -> tuple[Launch, np.ndarray[Any, Any]]:
    measured = as_launch(probe.result("launch", spec=plain))
    assert len(measured.samples_ns) >= 20
    assert min(measured.samples_ns) > 0
    ladder = measured.memory
    assert ladder.start_bytes
    assert ladder.runtime_bytes
    assert ladder.runtime_bytes > ladder.start_bytes
    assert ladder.peak_bytes
    assert ladder.model_bytes
    assert ladder.peak_bytes >= ladder.model_bytes
    result = probe.result("infer", spec=plain)
    assert result["runtime_version"] == measured.runtime_version
    (output,) = result["samples"][0]
    array: np.ndarray[Any, Any] = np.load(output["path"])
    assert list(array.shape) == output["shape"]
    return measured, array


def tiny_model() -> bytes:
    """y = relu(x + 1) on [1, 3, 4, 4]."""
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, 3, 4, 4]
    nodes = [helper.make_node("Add", ["x", "one"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


X = np.random.default_rng(7).standard_normal((1, 3, 4, 4)).astype(np.float32)


def with_input(probe: Probe, runtime: str, files: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    inputs = probe.place({"x.npy": npy(X)})
    return spec(runtime, probe.place(files), samples=[[{"name": "x", "path": f"{inputs}/x.npy"}]], **changes)


def test_onnxruntime(probe: Probe) -> None:
    entry, options = {"model": "model.onnx"}, {"graph_optimization": "off"}
    plain = with_input(probe, "onnxruntime", {"model.onnx": tiny_model()}, entry=entry, options=options)
    measured, output = measure_and_infer(probe, plain)
    np.testing.assert_allclose(output, np.maximum(X + 1, 0), rtol=1e-6)
    assert measured.effective == {
        "provider": "CPUExecutionProvider",
        "threads": "1",
        "graph_optimization": "off",
        "format": "onnx",
    }
    wrong = {**plain, "outputs": ["z"]}
    assert probe.error("infer", spec=wrong)["kind"] == "model_load"
    broken = with_input(probe, "onnxruntime", {"model.onnx": b"no model"}, entry=entry)
    assert probe.error("launch", spec=broken)["kind"] == "model_load"
    misfed = with_input(probe, "onnxruntime", {"model.onnx": tiny_model()}, entry=entry)
    misfed["samples"][0][0]["name"] = "wrong"
    assert probe.error("launch", spec=misfed)["kind"] == "inference"


def test_openvino(probe: Probe) -> None:
    pytest.importorskip("openvino", reason="missing tool: openvino")
    plain = with_input(probe, "openvino", {"model.onnx": tiny_model()}, entry={"model": "model.onnx"})
    measured, output = measure_and_infer(probe, plain)
    np.testing.assert_allclose(output, np.maximum(X + 1, 0), rtol=1e-6)
    assert measured.effective["precision"] == "f32"
    assert measured.effective["threads"] == "1"
    assert probe.error("infer", spec={**plain, "outputs": ["z"]})["kind"] == "model_load"


NCNN_PARAM = b"7767517\n2 2\nInput in0 0 1 in0\nReLU relu 1 1 in0 out0\n"


def test_ncnn(probe: Probe) -> None:
    pytest.importorskip("ncnn", reason="missing tool: ncnn")
    names = {"entry": {"param": "m.param", "bin": "m.bin"}, "blobs": {"x": "in0", "y": "out0"}}
    plain = with_input(probe, "ncnn", {"m.param": NCNN_PARAM, "m.bin": b""}, **names)
    measured, output = measure_and_infer(probe, plain)
    np.testing.assert_array_equal(output, np.maximum(X, 0))
    assert measured.effective["precision"] == "fp32"
    assert measured.effective["threads"] == "1"
    fp16 = probe.result("launch", spec={**plain, "options": {"fp16": "on"}})
    assert fp16["effective"]["precision"] == "fp16"
    wrong = {**plain, "blobs": {"x": "in0", "y": "out7"}}
    assert probe.error("infer", spec=wrong)["kind"] == "inference"
    assert probe.error("launch", spec=wrong)["kind"] == "inference"
    broken = with_input(probe, "ncnn", {"m.param": b"0\n", "m.bin": b""}, **names)
    assert probe.error("launch", spec=broken)["kind"] == "model_load"


# --- the parts that need no process ---


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=20, max_size=60))
def test_settled_compares_the_last_two_medians(times: list[int]) -> None:
    last, previous = np.median(times[-10:]), np.median(times[-20:-10])
    assert timing.settled(array("q", times)) == (abs(last - previous) < 0.01 * previous)


@settings(deadline=None)
@given(
    st.lists(st.integers(10**6, 10**9), min_size=1, max_size=50),
    st.integers(1, 50),
    st.floats(0, 2),
    st.floats(0, 4),
)
def test_samples_obey_the_workload(times: list[int], least: int, soft_s: float, hard_s: float) -> None:
    recorded, position = RecordedClock(), iter(range(10**6))

    def run() -> None:
        recorded.now_ns += times[next(position) % len(times)]

    workload = {"min_samples": least, "min_duration_s": soft_s, "max_duration_s": hard_s}
    samples = timing.take_samples(run, recorded, workload)
    total = sum(samples)
    assert len(samples) >= 1
    assert total >= hard_s * 1e9 or (len(samples) >= least and total >= soft_s * 1e9)
    without_last = total - samples[-1]
    assert without_last < hard_s * 1e9 or len(samples) == 1
    assert len(samples) == 1 or len(samples) - 1 < least or without_last < soft_s * 1e9


def test_the_clock_is_monotonic_and_in_nanoseconds() -> None:
    start = clock.tick()
    end = clock.tick()
    assert 0 <= clock.to_ns(end - start) < 10**9
    assert clock.TICKS_PER_S in (1.0, 1e9)


def test_proc_stat_without_idle_time() -> None:
    assert foreign.parse_busy("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3\n") == 171
    assert foreign.parse_busy("") is None
    assert foreign.parse_busy("intr 1 2 3 4 5") is None


def test_status_lines() -> None:
    assert memory.parse("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n") == (1 << 20, 2 << 20)
    assert memory.parse("") == (None, None)


def test_the_peak_is_that_of_the_timed_part_alone() -> None:
    if not memory.reset_peak():
        pytest.skip("this kernel does not reset the high-water mark")
    block = bytearray(os.urandom(1 << 20) * 64)
    ladder = memory.Ladder()
    del block
    ladder.before_samples()
    ladder.after_samples()
    plain = ladder.to_json()
    assert plain["steady_peak_bytes"] < plain["peak_bytes"] - (32 << 20)
    assert "clear_refs" in plain["method"]


def test_the_header_of_every_output_file(tmp_path: Path) -> None:
    for name in ("float32", "float16", "int64", "uint8", "bool", "float64", "int32"):
        array = np.zeros((2, 1, 3), dtype=name)
        np.save(tmp_path / "a.npy", array)
        found = launch.describe(str(tmp_path / "a.npy"))
        assert (found["dtype"], found["shape"]) == (name, [2, 1, 3])
    np.save(tmp_path / "a.npy", np.float32(1.0))
    assert launch.describe(str(tmp_path / "a.npy"))["shape"] == []
