"""Engines built, timed, run and profiled by a session, with a stand-in trtexec that replays recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.probe import trt_bench
from tests.probe.harness import Probe
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
