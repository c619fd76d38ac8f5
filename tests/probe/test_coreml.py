"""The probe's side of Core ML, against a stand-in for a Mac: types, names, units, compiling, refusals."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.convert.coreml.graphs import converted, network, reference
from tests.probe.fakes import npy
from tests.probe.harness import Probe, sha256, spec, wheel
from tests.standins import macs

FEEDS = {
    "a/1": np.arange(6, dtype=np.int64).reshape(2, 3),
    "h": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
    "s": np.array(2.0, np.float32),
}


@pytest.fixture
def standin(tmp_path: Path) -> bytes:
    """The stand-in for coremltools as a wheel."""
    macs.standin_wheel(tmp_path / "coremltools.whl")
    return (tmp_path / "coremltools.whl").read_bytes()


@pytest.fixture
def mac(open_probe: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch) -> Probe:
    """A leased session on what tells of macOS."""
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(macs.STANDINS / "mac"), before]).rstrip(":"))
    probe = open_probe()
    probe.lease()
    return probe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A package of int64, float16 and scalar inputs: its files, names, and what it should compute."""
    nodes = [
        helper.make_node("Cast", ["a/1"], ["f"], to=1),
        helper.make_node("Cast", ["h"], ["g"], to=1),
        helper.make_node("Add", ["f", "g"], ["sum"]),
        helper.make_node("Mul", ["sum", "s"], ["out:0"]),
        helper.make_node("Cast", ["out:0"], ["whole"], to=7),
    ]
    net = network(nodes, FEEDS, {"out:0": np.float32, "whole": np.int64})
    with warnings.catch_warnings():  # coremltools leaves temporary folders to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        produced, package = converted(net, tmp_path_factory.mktemp("package"))
        gc.collect()
    files = {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file()
    }
    return {"files": files, "produced": produced, "wanted": reference(net, FEEDS)}


def coreml_spec(probe: Probe, made: dict[str, Any], bundle: str | None, **options: str) -> dict[str, Any]:
    inputs = probe.place({f"{k}.npy": npy(np.asarray(each)) for k, each in enumerate(FEEDS.values())})
    produced = made["produced"]
    return spec(
        "coreml",
        probe.place(made["files"]),
        bundle=bundle,
        entry=produced.entry,
        blobs=produced.blobs,
        options={**produced.options, **options},
        samples=[[{"name": name, "path": f"{inputs}/{k}.npy"} for k, name in enumerate(FEEDS)]],
        outputs=["out:0", "whole"],
    )


def test_any_type_is_fed_as_core_ml_takes_it(mac: Probe, standin: bytes, made: dict[str, Any]) -> None:
    plain = coreml_spec(mac, made, mac.bundle(standin))
    result = mac.result("infer", spec=plain)
    outputs = {each["name"]: np.load(each["path"]) for each in result["samples"][0]}
    np.testing.assert_allclose(outputs["out:0"], made["wanted"]["out:0"], rtol=1e-3)
    np.testing.assert_array_equal(outputs["whole"], made["wanted"]["whole"])
    assert result["effective"] == {"compute_units": "all"}


def test_a_package_is_compiled_once_a_session_and_gone_with_it(
    mac: Probe, standin: bytes, made: dict[str, Any]
) -> None:
    plain = coreml_spec(mac, made, mac.bundle(standin), compute_units="cpu_only")

    def compiled() -> list[tuple[str, int]]:
        return [(str(path), path.stat().st_mtime_ns) for path in mac.work.glob("runs/*/coreml-*/*.mlmodelc")]

    mac.result("infer", spec=plain)
    first = compiled()
    assert len(first) == 1
    result = mac.result("launch", spec=plain)
    assert compiled() == first
    assert result["load_ns"] > 0
    assert len(result["samples_ns"]) >= 20
    assert result["effective"] == {"compute_units": "cpu_only"}
    mac.end()
    assert compiled() == []


def test_the_plan_tells_units_and_shares(mac: Probe, standin: bytes, made: dict[str, Any]) -> None:
    result = mac.result("profile", spec=coreml_spec(mac, made, mac.bundle(standin)), repeats=5)
    assert result["estimated"] is True
    assert "compute plan" in result["method"]
    assert {layer["unit"] for layer in result["layers"]} == {"CPU"}
    assert "const" not in {layer["kind"] for layer in result["layers"]}
    total = sum(layer["mean_ns"] for layer in result["layers"])
    assert 0.9 * result["total_ns"] < total <= result["total_ns"]


def test_a_linux_device_has_no_core_ml(probe: Probe, standin: bytes, made: dict[str, Any]) -> None:
    error = probe.error("infer", spec=coreml_spec(probe, made, probe.bundle(standin)))
    assert error["kind"] == "runtime_missing"
    assert "Core ML is a part of macOS, and this device runs Linux" in error["message"]


def test_a_mac_without_coremltools_says_what_is_missing(mac: Probe, made: dict[str, Any]) -> None:
    broken = mac.bundle(wheel({"coremltools/__init__.py": "raise ImportError('no dylib')\n"}))
    error = mac.error("infer", spec=coreml_spec(mac, made, broken))
    assert error["kind"] == "runtime_missing"
    assert "no dylib" in error["message"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compute_units": "ane"}, 'compute_units="ane"'),
        ({"threads": "2"}, "no option threads"),
        ({"image.x": "rgb"}, "takes pictures"),
    ],
)
def test_options_that_it_cannot_honour_are_refused(
    mac: Probe, made: dict[str, Any], options: dict[str, str], said: str
) -> None:
    error = mac.error("infer", spec=coreml_spec(mac, made, None, **options))
    assert error["kind"] == "bad_request"
    assert said in error["message"]


def test_a_package_that_does_not_compile_is_the_models_fault(
    mac: Probe, standin: bytes, made: dict[str, Any]
) -> None:
    plain = coreml_spec(mac, made, mac.bundle(standin))
    other = mac.place({"model.txt": sha256(b"x").encode()})
    error = mac.error("infer", spec={**plain, "artifact": other, "entry": {"package": "model.txt"}})
    assert error["kind"] == "model_load"
    assert list(mac.work.glob("runs/*/coreml-part-*")) == []
