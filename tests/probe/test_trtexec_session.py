"""Engines built, timed, run and profiled by a session, with a stand-in trtexec that replays recordings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgebench.probe.runtimes.tensorrt import TensorRt
from edgebench.records import Launch, Tensor
from tests.probe import trt_bench
from tests.probe.harness import QUICK, Probe, children, eventually, running
from tests.probe.trt_bench import Bench
from tests.standins import trtexec


@pytest.fixture
def bench(open_probe: Callable[..., Probe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """TensorRT 8.2.1 on a Jetson Nano."""
    return ready(open_probe, tmp_path, monkeypatch, "8.2.1")


def ready(
    open_probe: Callable[..., Probe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> Bench:
    folder = tmp_path / "standin"
    program = trtexec.install(folder, version=trt_bench.NUMBERS[version], outputs=tmp_path / "recorded")
    monkeypatch.setenv("EDGEBENCH_TRTEXEC", str(program))
    probe = open_probe()
    probe.lease()
    return Bench(probe, folder, trt_bench.place(probe, version))


def test_an_engine_is_built_once(bench: Bench) -> None:
    first = bench.probe.result("build", spec=bench.spec())
    assert not first["cached"]
    assert first["build_s"] > 0
    assert first["size_bytes"] == Path(first["engine"]).stat().st_size
    assert first["flags"] == ["--profilingVerbosity=detailed", "--workspace=256", "--buildOnly", "--fp16"]
    second = bench.probe.result("build", spec=bench.spec())
    assert second["cached"]
    assert second["engine"] == first["engine"]
    assert bench.builds() == 1


@pytest.mark.parametrize("version", trt_bench.NUMBERS)
def test_every_version_builds_and_measures_with_its_own_options(
    open_probe: Callable[..., Probe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    bench = ready(open_probe, tmp_path, monkeypatch, version)
    trtexec.configure(bench.folder, version=trt_bench.NUMBERS[version], times_ms=[5.0, 1.25, 1.5])
    engine = bench.probe.result("build", spec=bench.spec())["engine"]
    launched = bench.probe.result("launch", spec=bench.spec(engine=engine, samples=[sample(bench)]))
    assert launched["runtime_version"] == version
    assert set(launched["samples_ns"]) == {5_000_000, 1_250_000, 1_500_000}
    assert bool(launched["warmup_ns"]) == (version < "8.5" and version[0] == "8")
    assert launched["load_ns"] > 0
    assert launched["import_ns"] is None


def sample(bench: Bench, array: np.ndarray | None = None) -> list[dict[str, Any]]:
    """The inputs of one sample on the device."""
    array = np.arange(4, dtype=np.float32).reshape(1, 4) if array is None else array
    folder = bench.probe.place({"x.npy": trt_bench.npy(array)})
    return [{"name": "x", "path": f"{folder}/x.npy"}]


# --- building ------------------------------------------------------------------------------------


def test_progress_tells_lines_and_seconds(bench: Bench) -> None:
    trtexec.configure(bench.folder, version=8201, build_s=2)
    bench.probe.result("build", spec=bench.spec())
    assert bench.probe.phases == ["import", "build", "done"]
    told = bench.probe.progress
    assert 2 <= len(told) <= 8
    assert [each["elapsed_s"] for each in told] == sorted(each["elapsed_s"] for each in told)
    assert any("[I] [TRT] tactic" in each["line"] for each in told)


def test_a_build_needs_the_lease(open_probe: Callable[..., Probe], tmp_path: Path) -> None:
    error = open_probe().error("build", spec={})
    assert error["kind"] == "bad_request"
    assert "lease" in error["message"]


def test_nothing_is_built_for_other_runtimes(bench: Bench) -> None:
    error = bench.probe.error("build", spec={**bench.spec(), "runtime": "replay"})
    assert error["kind"] == "bad_request"
    assert "replay" in error["message"]


def test_a_hanging_build_ends_with_its_children_at_the_time_out(bench: Bench) -> None:
    trtexec.configure(bench.folder, version=8201, hang="build")
    error = bench.probe.error("build", spec=bench.spec(timeout_s=2.0))
    assert error["kind"] == "timeout"
    assert "phase build" in error["message"]
    assert programs(bench) == []
    assert not engines(bench)


def programs(bench: Bench) -> list[int]:
    """Processes that run below the session's own, other than its children."""
    return [pid for child in children(bench.probe.process.pid) for pid in (child, *children(child))]


def engines(bench: Bench) -> list[Path]:
    return sorted((bench.probe.work / "engines").glob("*/engine.plan"))


def test_a_cut_off_build_leaves_no_process_and_no_half_engine(bench: Bench) -> None:
    trtexec.configure(bench.folder, version=8201, hang="build")
    bench.probe.start("build", spec=bench.spec(timeout_s=600))
    bench.probe.until_phase("build")
    eventually(lambda: len(programs(bench)) > 1, "trtexec to run")
    started = programs(bench)
    bench.probe.process.kill()
    eventually(lambda: not any(running(pid) for pid in started), "the end of trtexec")
    assert not engines(bench)


def test_a_killed_launch_process_takes_trtexec_with_it(bench: Bench) -> None:
    trtexec.configure(bench.folder, version=8201, hang="build")
    number = bench.probe.start("build", spec=bench.spec(timeout_s=600))
    bench.probe.until_phase("build")
    eventually(lambda: len(programs(bench)) > 1, "trtexec to run")
    started = programs(bench)
    (launch,) = children(bench.probe.process.pid)
    os.kill(launch, signal.SIGKILL)
    assert not bench.probe.reply(number)["ok"]
    eventually(lambda: not any(running(pid) for pid in started), "the end of trtexec")
    assert not engines(bench)
    trtexec.configure(bench.folder, version=8201)
    assert not bench.probe.result("build", spec=bench.spec())["cached"]


def test_what_is_kept_is_known_by_what_it_was_built_for(bench: Bench) -> None:
    first = bench.probe.result("build", spec=bench.spec())
    assert first["key"]["model"] == trt_bench.info().digest
    assert first["key"]["tensorrt"] == "8.2.1"
    assert first["key"]["compute_capability"] == "5.3"
    assert "{" not in json.dumps(list(first["key"].values()))
    other = trt_bench.place(bench.probe, precision="fp32")
    fp32 = Bench(bench.probe, bench.folder, other)
    second = bench.probe.result("build", spec=fp32.spec())
    assert second["engine"] != first["engine"]
    assert len(engines(bench)) == 2
    assert "Loaded 12 bytes of timing cache" not in str(second["warnings"])
    assert bench.builds() == 2


def test_a_broken_timing_cache_is_thrown_away(bench: Bench) -> None:
    bench.probe.result("build", spec=bench.spec())
    (timing,) = (bench.probe.work / "engines").glob("*/timing.cache")
    timing.write_bytes(b"changed")
    fp32 = Bench(bench.probe, bench.folder, trt_bench.place(bench.probe, precision="fp32"))
    bench.probe.result("build", spec=fp32.spec())
    assert timing.read_bytes() == b"timing cache"


@pytest.mark.parametrize("damage", ["engine", "note", "missing"])
def test_a_broken_engine_is_built_again(bench: Bench, damage: str) -> None:
    engine = Path(bench.probe.result("build", spec=bench.spec())["engine"])
    if damage == "engine":
        engine.write_bytes(engine.read_bytes()[:-1])
    elif damage == "note":
        engine.with_name("note.json").write_text("{")
    else:
        engine.unlink()
    again = bench.probe.result("build", spec=bench.spec())
    assert not again["cached"]
    assert bench.builds() == 2


def test_clean_removes_engines_but_those_that_are_named(bench: Bench) -> None:
    engine = Path(bench.probe.result("build", spec=bench.spec())["engine"])
    bench.probe.result("clean", keep=[engine.parent.name])
    assert engines(bench) == [engine]
    assert bench.probe.result("clean", keep=[])["freed_bytes"] > 0
    assert not list((bench.probe.work / "engines").iterdir())


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        ({"version": 100300}, "wrong_version", "the device has TensorRT 10.3.0"),
        ({"version": 8201, "capability": "8.7"}, "wrong_version", "compute capability 8.7"),
        ({"version": 8201, "unpassed": "build"}, "model_load", "without"),
        ({"version": 8201, "crash": "build"}, "crashed", "SIGSEGV"),
        ({"version": 8201, "errors": {"build": ["[TRT] one", "two"]}}, "model_load", "trtexec: [TRT] one"),
    ],
)
def test_a_build_that_fails(bench: Bench, config: dict[str, Any], kind: str, said: str) -> None:
    trtexec.configure(bench.folder, **config)
    error = bench.probe.error("build", spec=bench.spec())
    assert error["kind"] == kind
    assert said in error["message"]
    assert not engines(bench)


def test_an_option_that_this_trtexec_does_not_know(bench: Bench) -> None:
    plan = trt_bench.plan("8.2.1").replace(b'"--buildOnly"', b'"--buildOnly","--heuristic"')
    artifact = bench.probe.place({"model.onnx": trt_bench.MODEL, "plan.json": plan})
    error = bench.probe.error("build", spec=Bench(bench.probe, bench.folder, artifact).spec())
    assert error["kind"] == "bad_request"
    assert error["message"] == "trtexec 8.2.1 does not know the option --heuristic"


def test_trtexec_that_is_not_there(open_probe: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_TRTEXEC", "/nowhere/trtexec")
    error = open_probe().error("versions", runtime="tensorrt", bundle=None)
    assert error["kind"] == "tool_missing"
    assert "EDGEBENCH_TRTEXEC names /nowhere/trtexec" in error["message"]


def test_versions_asks_trtexec(bench: Bench) -> None:
    assert bench.probe.result("versions", runtime="tensorrt", bundle=None) == {"tensorrt": "8.2.1"}


# --- launches ------------------------------------------------------------------------------------


def launched(bench: Bench, **workload: Any) -> dict[str, Any]:
    engine = bench.probe.result("build", spec=bench.spec())["engine"]
    plain = {**QUICK, "max_warmup_s": 0.5, **workload}
    return bench.probe.result(
        "launch", spec=bench.spec(engine=engine, samples=[sample(bench)], workload=plain)
    )


def test_a_launch_is_one_process_with_the_plans_options(bench: Bench) -> None:
    trtexec.configure(bench.folder, version=8201, times_ms=[200.0, 1.0], unstable=True)
    told = launched(bench)
    (call,) = [call for call in trtexec.calls(bench.folder) if "--exportTimes=times.json" in call]
    assert call[1:5] == ["--noDataTransfers", "--useSpinWait", "--warmUp=500", "--duration=1"]
    assert bench.probe.phases == ["import", "load", "warmup", "done"]
    assert told["first_inference_ns"] == 200_000_000
    assert len(told["samples_ns"]) >= QUICK["min_samples"]
    assert told["memory"]["engine_bytes"] == 266 << 20
    assert told["memory"]["peak_bytes"] >= told["memory"]["model_bytes"] > 1 << 20
    assert told["memory"]["available_drop_bytes"] >= 0
    assert told["effective"]["gpu"] == "NVIDIA Tegra X1"
    assert told["effective"]["flags"].startswith("--noDataTransfers --useSpinWait --warmUp=500")
    assert "unstable" in told["effective"]["warning"]
    assert "foreign_load" in told
    assert not list((bench.probe.work / "runs").glob("*/trtexec-*"))
    del told["started_unix_s"]
    typed = msgspec.convert({**told, "number": 1, "session": "s", "started_utc": "u"}, Launch)
    assert typed.import_ns is None


def test_a_slow_network_gets_as_many_samples_as_there_is_time_for(bench: Bench) -> None:
    trtexec.configure(bench.folder, version=8201, times_ms=[100.0], infer_s=30)
    engine = bench.probe.result("build", spec=bench.spec())["engine"]
    workload = {**QUICK, "min_samples": 1000, "max_warmup_s": 0.1, "max_duration_s": 1.0}
    number = bench.probe.start(
        "launch", spec=bench.spec(engine=engine, samples=[sample(bench)], workload=workload)
    )
    bench.probe.until_phase("warmup")
    trtexec.configure(bench.folder, version=8201, times_ms=[100.0])
    told = bench.probe.reply(number)["result"]
    assert len(told["samples_ns"]) == 10
    assert told["effective"]["flags"].endswith("--duration=1 --iterations=1")


def test_samples_begin_when_the_warm_up_is_over(bench: Bench) -> None:
    trtexec.configure(bench.folder, version=8201, infer_s=1.5)
    launched(bench, max_warmup_s=0.2)
    assert bench.probe.phases == ["import", "load", "warmup", "samples", "done"]


@pytest.mark.parametrize("what", ["errors", "unpassed", "crash"])
def test_a_launch_that_fails(bench: Bench, what: str) -> None:
    engine = bench.probe.result("build", spec=bench.spec())["engine"]
    played: Any = {"measure": ["[TRT] bad"]} if what == "errors" else "measure"
    trtexec.configure(bench.folder, version=8201, **{what: played})
    error = bench.probe.error("launch", spec=bench.spec(engine=engine, samples=[sample(bench)]))
    assert error["kind"] == ("crashed" if what == "crash" else "inference")


def test_a_launch_without_an_engine_is_a_bad_request(bench: Bench) -> None:
    error = bench.probe.error("launch", spec=bench.spec(samples=[sample(bench)]))
    assert error["kind"] == "bad_request"
    assert "build first" in error["message"]


def test_an_engine_outside_of_the_work_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(b"x")
    spec = bench.spec(samples=[sample(bench)], engine=str(tmp_path / "engine.plan"))
    assert "outside the work folder" in bench.probe.error("launch", spec=spec)["message"]


def test_a_hanging_launch_ends_with_its_children(bench: Bench) -> None:
    engine = bench.probe.result("build", spec=bench.spec())["engine"]
    trtexec.configure(bench.folder, version=8201, hang="measure")
    spec = bench.spec(engine=engine, samples=[sample(bench)], timeout_s=2.0)
    assert bench.probe.error("launch", spec=spec)["kind"] == "timeout"
    assert programs(bench) == []


# --- outputs -------------------------------------------------------------------------------------


def inferred(bench: Bench, *arrays: np.ndarray) -> tuple[list[np.ndarray], dict[str, str]]:
    engine = bench.probe.result("build", spec=bench.spec())["engine"]
    samples = [sample(bench, array) for array in arrays]
    result = bench.probe.result("infer", spec=bench.spec(engine=engine, samples=samples))
    return [np.load(each[0]["path"]) for each in result["samples"]], result["effective"]


def test_each_sample_is_a_process_of_its_own(bench: Bench, tmp_path: Path) -> None:
    arrays = [np.full((1, 4), value, dtype=np.float32) for value in (1, 2)]
    for number, array in enumerate(arrays):
        outputs = {"y": ("float32", [1, 3], [number + 0.5, float("inf"), 1e-9])}
        trtexec.record(tmp_path / "recorded", [array.tobytes()], outputs)
    trtexec.configure(bench.folder, version=8201, outputs=tmp_path / "recorded")
    found, effective = inferred(bench, *arrays)
    assert found[0].dtype == np.float32
    assert found[0].shape == (1, 3)
    assert [each[0, 0] for each in found] == [0.5, 1.5]
    assert np.isinf(found[0][0, 1])
    assert "import tensorrt fails" in effective["outputs_by"]
    assert sum("--exportOutput=outputs.json" in call for call in trtexec.calls(bench.folder)) == 2


def test_int64_is_fed_and_read_as_int32_where_the_binding_says_so(bench: Bench, tmp_path: Path) -> None:
    whole = Tensor(name="x", dtype="int64", shape=(2,)), Tensor(name="y", dtype="int64", shape=(2,))
    plan = trt_bench.plan("8.2.1", model=trt_bench.info((whole[0],), (whole[1],)))
    artifact = bench.probe.place({"model.onnx": trt_bench.MODEL, "plan.json": plan})
    given = np.array([3, -4], dtype=np.int64)
    outputs = {"y": ("int32", [2], [-9, 2_147_483_647])}
    trtexec.record(tmp_path / "recorded", [given.astype(np.int32).tobytes()], outputs)
    trtexec.configure(bench.folder, version=8201, outputs=tmp_path / "recorded")
    (found,), _ = inferred(Bench(bench.probe, bench.folder, artifact), given)
    assert found.dtype == np.int64
    assert found.tolist() == [-9, 2_147_483_647]


@pytest.mark.parametrize("version", ["8.2.1", "10.3.0"])
def test_tensorrts_own_python_package_gives_exact_bytes(
    open_probe: Callable[..., Probe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    library = stand_in_cuda(tmp_path)
    (tmp_path / "python").mkdir()
    shutil.copy(Path(trtexec.__file__).with_name("tensorrt_module.py"), tmp_path / "python" / "tensorrt.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    monkeypatch.setenv("STANDIN_TENSORRT", version)
    bench = ready(open_probe, tmp_path, monkeypatch, version)
    given = np.array([[1, 2, 7, 0]], dtype=np.float32)
    (found,), effective = inferred(bench, given)
    assert np.array_equal(found[0], given[0, :3] / np.float32(3))
    assert effective["outputs_by"] == "TensorRT's Python package, exact bytes"
    assert effective["gpu_memory_bytes"] == str(4 * 4 + 3 * 4)
    assert effective["context_bytes"] == "4096"
    assert int(effective["load_ns"]) > 0
    assert int(effective["first_inference_ns"]) > 0


def test_another_version_of_the_python_package_is_left_alone(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_probe: Callable[..., Probe]
) -> None:
    (tmp_path / "python").mkdir()
    shutil.copy(Path(trtexec.__file__).with_name("tensorrt_module.py"), tmp_path / "python" / "tensorrt.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    monkeypatch.setenv("STANDIN_TENSORRT", "10.3.0")
    bench.probe.end()
    array = np.zeros((1, 4), dtype=np.float32)
    trtexec.record(tmp_path / "recorded", [array.tobytes()], {"y": ("float32", [1, 3], [1, 2, 3])})
    _, effective = inferred(ready(open_probe, tmp_path, monkeypatch, "8.2.1"), array)
    assert effective["outputs_by"].endswith("the Python package is of TensorRT 10.3.0")


def stand_in_cuda(tmp_path: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("missing tool: cc (apt-get install gcc libc6-dev)")
    library = tmp_path / "cuda" / "libcudart.so.12"
    library.parent.mkdir()
    source = Path(trtexec.__file__).with_name("cudart.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    return library


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8.0.1", "8.2.1", "10.3.0", "11.0.0"])
def test_layers_have_times_kinds_and_nodes(
    open_probe: Callable[..., Probe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    bench = ready(open_probe, tmp_path, monkeypatch, version)
    layers = ["Conv_0 + Relu_1", 'Conv "quoted"']
    trtexec.configure(bench.folder, version=trt_bench.NUMBERS[version], layers=layers)
    engine = bench.probe.result("build", spec=bench.spec())["engine"]
    spec = {**bench.spec(), "engine": engine}
    spec["entry"] = {part: f"{bench.artifact}/{path}" for part, path in spec["entry"].items()}
    monkeypatch.chdir(tmp_path)
    runtime = TensorRt(spec)
    runtime.import_runtime()
    (inputs,) = [runtime.read_sample(sample(bench))]
    found = runtime.profile(inputs, 12)
    kind = "unknown" if version == "8.0.1" else "CaskConvolution"
    assert found[0] == {
        "name": "Conv_0 + Relu_1",
        "kind": kind,
        "mean_ns": 100_000,
        "unit": "GPU",
        "nodes": ["Conv_0", "Relu_1"],
    }
    assert found[1]["name"] == 'Conv "quoted"'
    assert runtime.profiled["repeats"] == 12
    (call,) = [call for call in trtexec.calls(bench.folder) if "--dumpProfile" in call]
    assert "--iterations=12" in call
    assert list(tmp_path.glob("trtexec-*")) == []
