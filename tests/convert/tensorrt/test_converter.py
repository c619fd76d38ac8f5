"""The whole way: through the worker into the store, at the command line, and what refuses to be measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgebench import compress, model
from edgebench.artifacts import ArtifactStore
from edgebench.convert.base import converter
from edgebench.convert.run import Conversion, Prepared, Wanted, convert
from edgebench.convert.tensorrt.base import board_of
from edgebench.convert.tensorrt.plan import BuildPlan
from edgebench.convert.tensorrt.preflight import preflight
from edgebench.errors import ConfigError, ModelError, UserError
from edgebench.fleet import plan as plans
from edgebench.fleet import start as starts
from edgebench.records import Artifact, Device, ModelInfo, decode, from_json
from edgebench.targets import all_targets, parse
from tests.commands import DEMO, DIGITS, Cli, cli, shared_home
from tests.convert import support
from tests.convert.tensorrt.nets import VERSIONS

__all__ = ["cli", "shared_home"]
NANO = {"tensorrt_version": "8.2.1", "compute_capability": "5.3"}
ORIN = {"tensorrt_version": "10.3.0", "compute_capability": "8.7"}


def converted(
    ready: Prepared, folder: Path, precision: str = "fp32", options: dict[str, str] = ORIN
) -> tuple[Conversion, ArtifactStore]:
    store = ArtifactStore(folder / "store")
    wanted = Wanted(
        runtime="tensorrt",
        precision=precision,
        model="net",
        variant="test",
        model_digest=ready.info.digest,
        options=options,
    )
    return convert(wanted, lambda: ready, store, limits=support.QUICK), store


def plan_of(made: Conversion, store: ArtifactStore) -> BuildPlan:
    path = store.path(made.artifact.digest) / made.artifact.entry["plan"]
    return decode(BuildPlan, path.read_bytes(), source="plan.json")


def calibrated(folder: Path) -> Prepared:
    """conv_net in int8 as the converter's own form makes it."""
    ready = support.prepared("conv_net", folder)
    samples = folder / "samples.npz"
    np.savez(samples, image=np.random.default_rng(0).random((8, 3, 16, 16), dtype=np.float32))
    steps = converter("tensorrt").forms["int8"].steps
    out = folder / "int8.onnx"
    return Prepared(out, compress.apply(ready.path, steps, compress.Settings(calibration=samples), out=out))


# --- the converter --------------------------------------------------------------------------------


def test_one_model_gives_one_plan_for_each_version(tmp_path):
    ready = support.prepared("conv_net", tmp_path)
    nano, store = converted(ready, tmp_path, options=NANO)
    orin, _ = converted(ready, tmp_path, options=ORIN)
    again, _ = converted(ready, tmp_path, options=NANO)
    assert nano.artifact.digest != orin.artifact.digest
    assert again.cached
    assert nano.artifact.entry == {"model": "model.onnx", "plan": "plan.json"}
    assert "--workspace=256" in plan_of(nano, store).build
    assert "--memPoolSize=workspace:256" in plan_of(orin, store).build
    written = model.inspect(store.path(nano.artifact.digest) / "model.onnx")
    assert written.opset["ai.onnx"] == 13
    assert written.digest == plan_of(nano, store).model_digest


def test_int8_as_edgebench_makes_it_needs_no_rewriting_and_passes_every_version(tmp_path):
    ready = calibrated(tmp_path)
    assert ready.info.precision == "int8-qdq"
    proto = model.load(ready.path)
    kinds = {each.data_type for each in proto.graph.initializer if each.name.endswith("zero_point")}
    assert kinds == {onnx.TensorProto.INT8}
    for version in VERSIONS:
        board = board_of({"tensorrt_version": version, "compute_capability": "8.7"})
        assert {each.rule for each in preflight(proto, board, "int8")} <= {"operator-table"}


def test_int8_reaches_the_plan_as_flags_and_the_lineage_stays(tmp_path):
    made, store = converted(calibrated(tmp_path), tmp_path, "int8")
    assert plan_of(made, store).build[-2:] == ("--int8", "--fp16")
    assert any(
        "int8-static" in step
        for step in model.inspect(store.path(made.artifact.digest) / "model.onnx").lineage
    )


def test_a_refusal_names_every_problem_and_leaves_nothing_behind(tmp_path):
    ready = support.prepared("conv_net_qdq", tmp_path)
    with pytest.raises(ModelError) as caught:
        converted(ready, tmp_path, "int8", NANO)
    assert "compute capability 5.3 does not compute with 8-bit integers" in caught.value.message
    assert "codes from 128 on would saturate" in caught.value.message
    assert "fp16" in caught.value.hint
    assert "image_quantize" in caught.value.detail
    assert not list((tmp_path / "store").glob("objects/*/*"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tensorrt_version": "8.2.1"},
        {**NANO, "tensorrt_version": "7.1.3"},
        {**NANO, "workspace_mib": "-1"},
    ],
)
def test_wrong_options_are_errors_of_the_user(tmp_path, options):
    with pytest.raises(UserError):
        converted(support.prepared("conv_net", tmp_path), tmp_path, options=options)


def test_the_size_of_the_workspace_can_be_given(tmp_path):
    made, store = converted(
        support.prepared("conv_net", tmp_path), tmp_path, options=ORIN | {"workspace_mib": "1024"}
    )
    assert "--memPoolSize=workspace:1024" in plan_of(made, store).build


@pytest.mark.parametrize(
    ("operators", "precision", "word"),
    [
        ({"ConvInteger": 1}, "fp32", "ConvInteger"),
        ({"com.microsoft::QLinearAdd": 1, "QLinearConv": 2}, "fp32", "QLinearConv"),
        ({"Conv": 1}, "int8-dynamic", "int8-dynamic"),
    ],
)
def test_what_no_version_takes_is_refused_before_any_work(operators, precision, word):
    info = from_json(
        ModelInfo,
        {
            "name": "net",
            "variant": "fp32",
            "digest": "0" * 64,
            "size_bytes": 1,
            "ir_version": 8,
            "opset": {"ai.onnx": 13},
            "inputs": [],
            "outputs": [],
            "parameters": 1,
            "macs": 1,
            "operators": operators,
            "precision": "fp32",
            "sparsity": 0.0,
        },
        source="test",
    )
    refusal = converter("tensorrt").refuse(info, precision)
    assert refusal is not None
    assert word in refusal.reason
    assert refusal.hint


# --- the command line -----------------------------------------------------------------------------


def test_convert_for_a_kind_of_device(cli: Cli, tmp_path: Path) -> None:
    (made,) = cli.json("convert", DIGITS, "--to", "tensorrt", "--target", "jetson-nano", "-o", tmp_path)[
        "artifacts"
    ]
    artifact = from_json(Artifact, made["artifact"], source="convert")
    assert artifact.options["tensorrt_version"] == "8.2.1"
    assert made["parity"]["passed"]
    assert made["parity"]["computed_by"] == "interpreter"
    assert Path(made["folder"]).name.endswith("tensorrt-8.2.1-cc5.3")
    assert json.loads((Path(made["folder"]) / "plan.json").read_text())["tensorrt"] == "8.2.1"
    assert "pass" in cli("verify", DIGITS, made["folder"]).out


def test_convert_int8_and_fp16_for_an_orin(cli: Cli) -> None:
    samples = ("--calibration", DEMO / "digits-calibration.npz", "--inputs", DEMO / "digits-test.npz")
    made = cli.json(
        "convert",
        DIGITS,
        "--to",
        "tensorrt",
        "--target",
        "jetson-orin-nano",
        "--precision",
        "fp16,int8",
        *samples,
    )["artifacts"]
    assert [each["artifact"]["precision"] for each in made] == ["fp16", "int8"]


def test_int8_for_a_nano_is_refused_at_once(cli: Cli) -> None:
    refused = cli(
        "convert", DIGITS, "--to", "tensorrt", "--target", "jetson-nano", "--precision", "int8", code=4
    )
    assert "tensorrt on target jetson-nano does not take int8" in refused.err
    assert "--precision fp32 or fp16 of the float model" in refused.err


def test_without_a_target_nobody_knows_the_version(cli: Cli) -> None:
    refused = cli("convert", DIGITS, "--to", "tensorrt", code=2)
    assert "--target jetson-orin-nano" in refused.err
    assert (
        "does not offer tensorrt"
        in cli("convert", DIGITS, "--to", "tensorrt", "--target", "raspberry-pi-5", code=4).err
    )


# --- in runs --------------------------------------------------------------------------------------


def test_a_run_takes_tensorrt_where_the_target_offers_it():
    targets = all_targets()
    device = Device(name="nano", target="jetson-nano", transport="ssh", address="10.0.0.1")
    infos = {"net.onnx": model.inspect(Path(DIGITS))}
    named = plans.Plan(models=(plans.PlannedModel(path="net.onnx"),), runtimes=("tensorrt",))
    (job,) = plans.expand(named, [device], targets, infos).jobs
    assert dict(starts.assignment(job, targets).cell.options) == {
        "compute_capability": "5.3",
        "tensorrt_version": "8.2.1",
    }
    open_plan = plans.Plan(models=(plans.PlannedModel(path="net.onnx"),))
    expansion = plans.expand(open_plan, [device], targets, infos)
    assert {each.job.runtime for each in expansion.jobs} == {"onnxruntime", "ncnn", "tensorrt"}
    assert expansion.refused == ()
    int8 = plans.Plan(models=named.models, runtimes=("tensorrt",), precisions=("int8",))
    (refused,) = plans.expand(int8, [device], targets, infos).refused
    assert "does not take int8" in refused.reason


# --- targets --------------------------------------------------------------------------------------

TARGET = """\
version: 1
name: board
summary: A board
platform: {os: linux, arch: aarch64, accelerator: gpu}
python: ">=3.6"
runtimes:
  tensorrt:
    {build_on: device, precisions: [fp16], options: {tensorrt_version: "8.2.1", compute_capability: "5.3"}}
"""


def test_a_target_says_version_and_gpu():
    assert parse(TARGET, "board.yaml").runtimes["tensorrt"].options["compute_capability"] == "5.3"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("build_on: device, ", "", "is built on the device"),
        ('tensorrt_version: "8.2.1", ', "", "tensorrt_version is missing"),
        ('"8.2.1"', "10.3", "tensorrt_version is"),
        ('"8.2.1"', '"eight"', "tensorrt_version is"),
        ('"5.3"', "5.3", "compute_capability is"),
    ],
)
def test_a_target_that_says_it_wrong_is_refused(old, new, word):
    with pytest.raises(ConfigError, match=word):
        parse(TARGET.replace(old, new), "board.yaml")


@pytest.mark.models
@pytest.mark.parametrize(
    "name", ["ppocr-cls", "ppocr-v4-det", "ppocr-v6-det", "silero-vad-16k", "akiki-vad", "open-nsfw"]
)
def test_published_networks_have_a_plan_for_the_oldest_board(name, tmp_path):
    from tests.models.published import PUBLISHED, published

    out = tmp_path / "canonical.onnx"
    info = model.prepare(published(name), shapes=PUBLISHED[name].shapes, out=out)
    ready = Prepared(out, info)
    made, store = converted(ready, tmp_path, options=NANO)
    path = store.path(made.artifact.digest) / "model.onnx"
    assert model.inspect(path).opset["ai.onnx"] <= 13
    feeds = model.random_inputs(info, 1)
    before = support.reference(ready, feeds)
    for output, value in support.reference(Prepared(path, info), feeds).items():
        np.testing.assert_allclose(value, before[output], atol=1e-4 * max(1.0, np.abs(before[output]).max()))


def test_what_a_strongly_typed_version_leaves_open_is_told(tmp_path: Path) -> None:
    thor = {"tensorrt_version": "11.0", "compute_capability": "11.0"}
    ready = support.prepared("conv_net", tmp_path / "model")
    made, _ = converted(ready, tmp_path / "fp32", options=thor)
    assert any("TF32" in note for note in made.artifact.notes)
    made, _ = converted(ready, tmp_path / "older")
    assert not any("TF32" in note for note in made.artifact.notes)
    (tmp_path / "calibrated").mkdir()
    made, _ = converted(calibrated(tmp_path / "calibrated"), tmp_path / "int8", "int8", options=thor)
    assert any("what is not quantized runs in float32" in note for note in made.artifact.notes)
