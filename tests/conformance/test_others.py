"""The other makers' routes: how their packages are fed and judged, and what becomes of processes that die."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conformance import cases, others
from tests.conformance.child import Child
from tests.conformance.other_evaluator import judged
from tests.conformance.pool import Pool

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
DIES = "import os, signal, sys\nsys.stdin.readline()\nos.kill(os.getpid(), signal.SIGSEGV)"
HANGS = "import sys, time\nsys.stdin.readline()\ntime.sleep(600)"


@pytest.mark.parametrize(
    ("script", "limit_s", "answer", "fate"),
    [
        (ECHO, 30.0, b"hello\n", ""),
        (DIES, 30.0, None, "died by SIGSEGV"),
        (HANGS, 0.5, None, "took longer than 0.5 s"),
        ("raise SystemExit(3)", 30.0, None, "ended with 3"),
    ],
)
def test_a_child_answers_or_its_fate_is_known(
    script: str, limit_s: float, answer: bytes | None, fate: str
) -> None:
    child = Child([sys.executable, "-c", script], {})
    try:
        assert (child.ask(b"hello", limit_s), child.fate) == (answer, fate)
    finally:
        child.end()


def test_a_converter_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that dies over every second model: refused, crashed, and refused by the next process."""
    script = tmp_path / "converter.py"
    script.write_text(
        "import os, sys\n"
        "sys.stdin.readline()\n"
        'print(\'{"verdict": "refused", "reason": "no"}\', flush=True)\n'
        "sys.stdin.readline()\n"
        "os.abort()\n"
    )
    monkeypatch.setattr(others, "CONVERTER", script)
    case = cases.cases("frozen", cases.cache_folder())[0]
    route = others.OtherRoute("onnxsim", Path(sys.executable), tmp_path)
    try:
        outcomes = [route.judge(case) for _ in range(3)]
    finally:
        route.end()
    assert [each.verdict for each in outcomes] == ["refused", "crashed", "refused"]
    assert outcomes[1].reason == "the converter died by SIGABRT"
    assert {each.runtime for each in outcomes} == {"onnxsim"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that adds its inputs "x_1" and "two", made with coremltools alone."""
    coremltools = pytest.importorskip("coremltools", reason="missing tool: coremltools")
    from coremltools.converters.mil import Builder as mb

    specs = [mb.TensorSpec(shape=(3,)), mb.TensorSpec(shape=(1,))]

    @mb.program(input_specs=specs, opset_version=coremltools.target.iOS17)
    def program(x_1: object, two: object) -> object:
        return mb.add(x=x_1, y=two, name="sum")

    made = coremltools.convert(
        program,
        source="milinternal",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS17,
        skip_model_load=True,
    )
    path = tmp_path / "m.mlpackage"
    made.save(str(path))
    return path


def _case(folder: Path, **arrays: np.ndarray) -> Path:
    """The files of a case: inputs "x.1" and "two", output "y"."""
    for file, names in (("inputs", ["x.1", "two"]), ("outputs", ["y"])):
        np.savez(folder / f"{file}.npz", **{str(place): arrays[name] for place, name in enumerate(names)})
        (folder / f"{file}.json").write_text(json.dumps(names))
    return folder


@pytest.mark.filterwarnings("ignore")  # coremltools' own
@pytest.mark.parametrize(
    ("two", "expected", "verdict"),
    [
        (np.float32(2), [3, 4, 5], "passed"),  # a scalar is one element in Core ML; outputs are renamed
        (np.float32(2), [3, 4, 6], "wrong"),
        (np.float32([2, 2, 2]), [3, 4, 5], "refused"),  # does not fit what the package declares
    ],
)
def test_packages_of_others_are_evaluated(
    package: Path, tmp_path: Path, two: np.ndarray, expected: list[int], verdict: str
) -> None:
    folder = _case(tmp_path, **{"x.1": np.float32([1, 2, 3]), "two": two, "y": np.float32(expected)})
    answer = judged(package, folder)
    assert answer.verdict == verdict, answer
    assert bool(answer.reason) is (verdict != "passed")


def test_both_routes_side_by_side() -> None:
    """Both convert a sum, neither knows Det, and onnx2coreml drops the mode of SpaceToDepth."""
    if not others.installed(cases.cache_folder()):
        pytest.skip("onnx2coreml and onnxsim are installed by `make conformance`, which was not run here")
    known = {case.name: case for case in cases.cases("frozen", cases.cache_folder())}
    with Pool(cases.cache_folder()) as pool:
        for runtime, name, verdict in (
            ("onnx2coreml", "test_add", "passed"),
            ("onnx2coreml", "test_det_2d", "refused"),
            ("onnx2coreml", "test_spacetodepth_crd_mode_example", "wrong"),
            ("onnxsim", "test_add", "passed"),
            ("onnxsim", "test_det_2d", "refused"),
        ):
            outcome = pool.judge(known[name], runtime)
            assert (outcome.runtime, outcome.verdict) == (runtime, verdict), outcome
