"""The exact commands for every version, as they were read from trtexec's own sources."""

from __future__ import annotations

import pytest

from edgebench.convert.tensorrt.base import parse_version
from edgebench.convert.tensorrt.plan import (
    Binding,
    BuildPlan,
    build_arguments,
    build_plan,
    infer_arguments,
    measure_arguments,
    profile_arguments,
)
from edgebench.records import ModelInfo, Tensor, decode, encode
from tests.convert.tensorrt.nets import VERSIONS, board

FILES = "--onnx={model} --saveEngine={engine} --timingCacheFile={timing_cache}"
DETAILED = "--profilingVerbosity=detailed"
STEADY = "--noDataTransfers --useSpinWait"
HOW_LONG = "--warmUp={warmup_ms} --duration={duration_s} --iterations={iterations}"
X = (Binding(name="x", dtype="float32", binding_dtype="float32", shape=(1, 3)),)

BUILD = {
    "8.0.1": f"{FILES} --workspace=256 --buildOnly",
    "8.2.1": f"{FILES} {DETAILED} --workspace=256 --buildOnly",
    "8.4.1": f"{FILES} {DETAILED} --memPoolSize=workspace:256 --buildOnly",
    "8.5.2": f"{FILES} {DETAILED} --memPoolSize=workspace:256 --buildOnly",
    "8.6.2": f"{FILES} {DETAILED} --memPoolSize=workspace:256 --skipInference",
    "10.3.0": f"{FILES} {DETAILED} --memPoolSize=workspace:256 --skipInference",
    "10.16.2": f"{FILES} {DETAILED} --memPoolSize=workspace:256 --skipInference",
    "11.0.0": f"{FILES} {DETAILED} --memPoolSize=workspace:256 --skipInference",
}
# flags that end trtexec of that version, or mean nothing there
FORBIDDEN = {
    "8.0.1": ("--profilingVerbosity", "--memPoolSize", "--skipInference", "--exportLayerInfo"),
    "8.2.1": ("--memPoolSize", "--skipInference", "--noCudaGraph"),
    "8.4.1": ("--skipInference", "--noCudaGraph"),
    "8.5.2": ("--skipInference", "--noCudaGraph"),
    "8.6.2": ("--buildOnly", "--noCudaGraph"),
    "10.3.0": ("--workspace", "--buildOnly", "--explicitBatch", "--heuristic", "--noCudaGraph"),
    "10.16.2": ("--workspace", "--buildOnly", "--explicitBatch", "--heuristic", "--noCudaGraph"),
    "11.0.0": (
        "--workspace",
        "--buildOnly",
        "--fp16",
        "--int8",
        "--best",
        "--noDataTransfers",
        "--useSpinWait",
    ),
}


def words(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments)


@pytest.mark.parametrize("version", VERSIONS)
def test_build(version):
    old = parse_version(version) < (11, 0, 0)
    nano, orin = board(version, (5, 3)), board(version)
    assert words(build_arguments(nano, "fp32")) == BUILD[version]
    assert words(build_arguments(orin, "fp32")) == BUILD[version] + (" --noTF32" if old else "")
    assert words(build_arguments(orin, "fp16")) == BUILD[version] + (" --fp16" if old else "")
    assert words(build_arguments(orin, "int8")) == BUILD[version] + (" --int8 --fp16" if old else "")
    assert "workspace:1024" in words(build_arguments(orin, "fp16", 1024)) or "--workspace=1024" in words(
        build_arguments(orin, "fp16", 1024)
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_measure_infer_and_profile(version):
    steady = STEADY if parse_version(version) < (11, 0, 0) else "--noCudaGraph"
    assert words(measure_arguments(board(version), X)) == (
        f"--loadEngine={{engine}} {steady} {HOW_LONG} --loadInputs=x:{{input0}} --exportTimes={{times}}"
    )
    assert words(infer_arguments(board(version), X)) == (
        f"--loadEngine={{engine}} {steady} --warmUp=0 --duration=0 --iterations=1 "
        "--loadInputs=x:{input0} --exportOutput={outputs}"
    )
    layers = "" if version == "8.0.1" else " --exportLayerInfo={layers}"
    apart = " --separateProfileRun" if parse_version(version) < (11, 0, 0) else ""
    assert words(profile_arguments(board(version), X)) == (
        f"--loadEngine={{engine}} {steady} {HOW_LONG} --loadInputs=x:{{input0}} "
        f"--dumpProfile --exportProfile={{profile}}{layers}{apart}"
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_flag_that_the_version_does_not_know(version, precision):
    plan = build_plan(info(), board(version), precision)
    for arguments in (plan.build, plan.measure, plan.infer, plan.profile):
        assert not [each for each in arguments if each.partition("=")[0] in FORBIDDEN[version]]
        assert not [each for each in arguments if "sparsity" in each or "best" in each]


def info() -> ModelInfo:
    return ModelInfo(
        name="net",
        variant="fp32",
        digest="ab" * 32,
        size_bytes=1,
        ir_version=8,
        opset={"ai.onnx": 13},
        inputs=(
            Tensor(name="ids:0", dtype="int64", shape=(1, 8)),
            Tensor(name="mask", dtype="float32", shape=(1, 8)),
        ),
        outputs=(Tensor(name="y", dtype="float32", shape=(1, 2)),),
        parameters=1,
        macs=1,
        operators={"Add": 1},
        precision="fp32",
        sparsity=0.0,
    )


def test_names_with_a_colon_are_quoted_and_int64_is_int32_in_8():
    old, new = build_plan(info(), board("8.2.1", (5, 3)), "fp16"), build_plan(info(), board("10.3.0"), "fp16")
    assert "--loadInputs='ids:0':{input0},mask:{input1}" in old.measure
    assert [each.binding_dtype for each in old.inputs] == ["int32", "float32"]
    assert [each.binding_dtype for each in new.inputs] == ["int64", "float32"]


def test_a_model_without_inputs_loads_none():
    assert not [each for each in measure_arguments(board("10.3.0"), ()) if "loadInputs" in each]


@pytest.mark.parametrize(
    ("version", "held"),
    [("8.2.1", True), ("8.4.3", True), ("8.5.0", True), ("8.5.2", False), ("10.3.0", False)],
)
def test_whose_times_hold_the_warm_up(version, held):
    assert build_plan(info(), board(version), "fp32").times_hold_warmup == held


def test_the_cache_key_holds_all_that_an_engine_depends_on():
    key = build_plan(info(), board("8.2.1", (5, 3)), "fp16").cache_key
    assert key == {
        "model": "ab" * 32,
        "tensorrt": "8.2.1",
        "compute_capability": "5.3",
        "flags": "--profilingVerbosity=detailed --workspace=256 --buildOnly --fp16",
        "gpu": "{gpu}",
        "jetpack": "{jetpack}",
        "l4t": "{l4t}",
        "power_mode": "{power_mode}",
    }


def test_every_placeholder_is_explained_and_every_number_has_a_default():
    plan = build_plan(info(), board("10.3.0"), "int8")
    used = {
        part.partition("}")[0]
        for arguments in (plan.build, plan.measure, plan.infer, plan.profile)
        for each in arguments
        for part in each.split("{")[1:]
    }
    assert used == set(plan.placeholders)
    assert set(plan.defaults) < used


def test_a_plan_survives_its_json():
    plan = build_plan(info(), board("11.0.0"), "fp16", nodes=("Add_0",))
    assert decode(BuildPlan, encode(plan), source="plan.json") == plan
