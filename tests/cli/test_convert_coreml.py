"""`edgebench convert --to coreml`: what a package may be, what is cut off before, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgebench.tools import find_pnnx
from tests.commands import DEMO, DIGITS, QUICK, Cli
from tests.convert.coreml.test_package import operations, spec_of
from tests.convert.support import pnnx_home
from tests.models import detector, flexible, generate

# --- before NonMaxSuppression ----------------------------------------------------------------------


@pytest.fixture
def found(cli: Cli) -> Path:
    return detector.write(cli.folder / "detector.onnx")


def test_a_detector_is_refused_with_the_flag_that_helps(cli: Cli, found: Path) -> None:
    told = cli.fails(4, "model", "convert", found, "--to", "coreml")
    assert "NonMaxSuppression" in told
    assert "--cut-nms" in told


@pytest.mark.parametrize("runtime", ["coreml", "onnxruntime", "openvino", "ncnn"])
def test_a_detector_is_cut_for_every_runtime(
    cli: Cli, found: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "ncnn":
        monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    (made,) = cli.json("convert", found, "--to", runtime, "--cut-nms")["artifacts"]
    outputs = [each["name"] for each in made["artifact"]["outputs"]]
    assert outputs == ["features", "boxes", "scores"]
    assert made["parity"]["passed"]
    assert made["artifact"]["lineage"][0].startswith("cut-nms from sha256:")


def test_cutting_what_is_not_there(cli: Cli) -> None:
    told = cli.fails(2, "user", "convert", DIGITS, "--to", "onnxruntime", "--cut-nms")
    assert "has no NonMaxSuppression" in told


def test_a_cut_artifact_can_be_verified_against_the_whole_model(cli: Cli, found: Path) -> None:
    (made,) = cli.json("convert", found, "--to", "onnxruntime", "--cut-nms")["artifacts"]
    digest = made["artifact"]["digest"]
    assert cli.json("verify", found, digest)["parity"]["passed"]


def test_a_cut_model_is_another_artifact(cli: Cli, found: Path) -> None:
    (whole,) = cli.json("convert", found, "--to", "onnxruntime")["artifacts"]
    (made,) = cli.json("convert", found, "--to", "onnxruntime", "--cut-nms")["artifacts"]
    assert whole["artifact"]["key"] != made["artifact"]["key"]
    assert whole["artifact"]["model_digest"] != made["artifact"]["model_digest"]


def test_a_run_cuts_the_models_that_have_it(cli: Cli, found: Path) -> None:
    told = cli.fails(2, "user", "run", DIGITS, "--to", "onnxruntime", "--cut-nms")
    assert "no model has a NonMaxSuppression" in told
    document = cli.json("run", found, DIGITS, "--to", "onnxruntime", "--cut-nms", *QUICK)
    assert document["failures"] == []
    assert len(document["measurements"]) == 2


# --- open sizes and image inputs ---------------------------------------------------------------------


@pytest.fixture
def network(cli: Cli) -> Path:
    return flexible.save(flexible.convolutional(), cli.folder / "open.onnx")


def only(cli: Cli, *arguments: object) -> Any:
    (made,) = cli.json("convert", *arguments)["artifacts"]
    assert made["parity"]["passed"]
    assert made["parity"]["computed_by"] == "interpreter"
    return made


def test_a_flexible_package_is_proven_at_several_shapes(cli: Cli, network: Path) -> None:
    made = only(cli, network, "--to", "coreml", "--flexible", "x=1..2,3,16..40,16..40@1,3,24,24")
    tried = made["parity"]["inputs"]
    assert tried.startswith("generated at x=1x3x24x24; x=1x3x16x16; x=2x3x40x40; x=")
    assert len(tried.split(";")) == 4
    assert made["artifact"]["options"]["flexible.x"] == "1..2,3,16..40,16..40@1,3,24,24"
    assert any("takes the shapes" in note for note in made["artifact"]["notes"])
    again = cli.json("verify", network, made["artifact"]["digest"])
    assert again["parity"]["inputs"] == tried


def test_other_limits_are_another_artifact(cli: Cli, network: Path) -> None:
    keys = {
        only(cli, network, "--to", "coreml", "--flexible", text)["artifact"]["key"]
        for text in ("x=1..2,3,16,16", "x=1..3,3,16,16", "x=1,3,16,16|2,3,16,16")
    }
    assert len(keys) == 3


def test_real_inputs_are_tried_at_the_default_shape(cli: Cli, network: Path) -> None:
    np.savez(cli.folder / "real.npz", x=np.random.default_rng(0).random((3, 3, 24, 24)).astype(np.float32))
    flags = ("--to", "coreml", "--flexible", "x=1..2,3,16..40,16..40@1,3,24,24", "--inputs", "real.npz")
    assert only(cli, network, *flags)["parity"]["inputs"].startswith("real.npz at x=1x3x24x24; x=")


def test_shapes_that_the_model_itself_does_not_take(cli: Cli) -> None:
    random = np.random.default_rng(1)
    weights = {"w": random.random((2, 3, 2, 2)).astype(np.float32), "by": np.array([1, 1, 2, 2], np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["half"], strides=[2, 2]),
        helper.make_node("Resize", ["half", "", "by"], ["whole"]),
        helper.make_node("Concat", ["x", "whole"], ["y"], axis=1),
    ]
    path = flexible.save(
        flexible.made(nodes, {"x": [1, 3, "H", "W"]}, ["y"], weights), cli.folder / "even.onnx"
    )
    told = cli.fails(4, "model", "convert", path, "--to", "coreml", "--flexible", "x=1,3,16..32,16..32")
    assert "does not compute at every shape tried" in told
    assert "--flexible 'NAME=1,3,64,64|1,3,96,96'" in told
    only(cli, path, "--to", "coreml", "--flexible", "x=1,3,16,16|1,3,32,16")


def test_what_needs_an_open_size_is_refused(fresh_cli: Cli) -> None:
    nodes = [helper.make_node("Trilu", ["x"], ["y"], name="corner")]
    path = flexible.save(flexible.made(nodes, {"x": ["H", "W"]}, ["y"], {}), fresh_cli.folder / "tri.onnx")
    told = fresh_cli.fails(
        4, "model", "convert", path, "--to", "coreml", "--flexible", "x=2..8,2..8", "-o", "out"
    )
    assert 'Trilu "corner"' in told
    assert "--shape" in told
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to", "coreml", "--flexible", "x=1..2"), "1 axes, and it has 4"),
        (("--to", "coreml", "--flexible", "x=1..2,3,9,9", "--shape", "x=1,3,9,9"), "@1,3,9,9"),
        (("--to", "coreml", "--flexible", "x=a"), "neither a size nor a range"),
        (("--to", "coreml", "--image", "x=rgba"), "rgb"),
        (("--to", "onnxruntime", "--flexible", "x=1..2,3,16,16"), "--to coreml"),
        (("--to", "ncnn", "--image", "x=rgb"), "--to coreml"),
        (("--to", "coreml", "--flexible", "x=1..2,3,16,16", "--precision", "int8"), "QDQ"),
    ],
)
def test_flags_that_do_not_fit(cli: Cli, network: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in cli.fails(2, "user", "convert", network, *arguments)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_image_package_is_proven_on_pixels(cli: Cli, network: Path, precision: str) -> None:
    flags = ("--to", "coreml", "--image", "x=bgr,scale=1/255,bias=-0.485:-0.456:-0.406")
    shape = ("--shape", "x=1,3,24,32")
    made = only(cli, network, *flags, *shape, "--precision", precision)
    assert any("image input (bgr)" in note for note in made["artifact"]["notes"])
    assert "image input" in cli("convert", network, *flags, *shape, "--precision", precision).err
    assert cli.json("verify", network, made["artifact"]["digest"], *shape)["parity"]["passed"]


def test_the_users_pixels(cli: Cli, network: Path) -> None:
    flags = ("--to", "coreml", "--image", "x=rgb,scale=1/255", "--shape", "x=1,3,24,32", "--inputs", "p.npz")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 32)).astype(np.uint8)
    np.savez(cli.folder / "p.npz", x=pixels)
    assert only(cli, network, *flags)["parity"]["inputs"] == "p.npz"
    np.savez(cli.folder / "p.npz", x=pixels / np.float32(255))
    assert "pixels" in cli.fails(2, "user", "convert", network, *flags)


# --- compressed models -------------------------------------------------------------------------------


def package_of(made: Any) -> Path:
    return Path(made["folder"]) / "model.mlpackage"


def test_qdq_becomes_w8a8(cli: Cli) -> None:
    made = only(cli, generate.write(cli.folder, "conv_net_qdq"), "--to", "coreml")
    assert made["artifact"]["precision"] == "int8"
    assert made["artifact"]["options"]["minimum_target"] == "iOS17"
    found = operations(package_of(made))
    assert {"constexpr_affine_dequantize", "quantize", "dequantize"} <= set(found)


def test_a_qdq_model_keeps_its_open_batch(cli: Cli) -> None:
    net = generate.conv_net_qdq()
    (tensor,) = net.graph.input
    tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    for output in net.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "N"
    sizes = [str(dim.dim_value) for dim in tensor.type.tensor_type.shape.dim[1:]]
    path = flexible.save(net, cli.folder / "open_qdq.onnx")
    made = only(cli, path, "--to", "coreml", "--flexible", f"{tensor.name}=1..4,{','.join(sizes)}")
    assert {"constexpr_affine_dequantize", "quantize"} <= set(operations(package_of(made)))


def test_a_float_model_becomes_w8a8_with_samples(cli: Cli) -> None:
    samples = ("--calibration", DEMO / "digits-calibration.npz", "--inputs", DEMO / "digits-test.npz")
    made = only(cli, DIGITS, "--to", "coreml", "--precision", "int8", *samples)
    assert {"constexpr_affine_dequantize", "quantize", "dequantize"} <= set(operations(package_of(made)))


def test_dynamic_int8_becomes_weight_only_and_is_labelled(cli: Cli) -> None:
    path = generate.write(cli.folder, "conv_net_integer")
    made = only(cli, path, "--to", "coreml")
    found = operations(package_of(made))
    assert "constexpr_affine_dequantize" in found
    assert "quantize" not in found
    assert any("weight-only int8" in note for note in made["artifact"]["notes"])
    assert "weight-only int8" in cli("convert", path, "--to", "coreml").err


def test_pruned_weights_become_sparse(cli: Cli) -> None:
    random = np.random.default_rng(5)
    weight = random.standard_normal((64, 96)).astype(np.float32)
    weight[np.abs(weight) < 1] = 0
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    net = flexible.made(nodes, {"x": [2, 64]}, ["y"], {"w": weight})
    made = only(cli, flexible.save(net, cli.folder / "pruned.onnx"), "--to", "coreml")
    assert "constexpr_sparse_to_dense" in operations(package_of(made))
    assert made["artifact"]["size_bytes"] < weight.nbytes


@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
def test_weights_of_four_bits_in_blocks(cli: Cli, kind: str) -> None:
    random = np.random.default_rng(7)
    low = -8 if kind == "INT4" else 0
    weights = {"s": (random.random((4, 32)) * 0.1 + 0.01).astype(np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    net = flexible.made(nodes, {"x": [2, 64]}, ["y"], weights, opset=21)
    for name, shape in (("q", (64, 32)), ("z", (4, 32))):
        values = random.integers(low, low + 16, shape).reshape(-1)
        net.graph.initializer.append(helper.make_tensor(name, getattr(TensorProto, kind), shape, values))
    net.ir_version = 10
    made = only(cli, flexible.save(net, cli.folder / f"{kind}.onnx"), "--to", "coreml")
    assert made["artifact"]["options"]["minimum_target"] == "iOS18"
    assert "constexpr_blockwise_shift_scale" in operations(package_of(made))


def test_half_precision(cli: Cli) -> None:
    for source in (DIGITS, generate.write(cli.folder, "conv_net_fp16")):
        made = only(cli, source, "--to", "coreml", "--precision", "fp16")
        assert made["artifact"]["precision"] == "fp16"


# --- what the package says of itself -----------------------------------------------------------------


def test_the_package_names_its_origin(cli: Cli) -> None:
    net = flexible.convolutional()
    for key, value in {"author": "Ada", "licence": "MIT", "version": "2.1"}.items():
        net.metadata_props.add(key=key, value=value)
    path = flexible.save(net, cli.folder / "told.onnx")
    flags = ("--to", "coreml", "--flexible", "x=1..2,3,16,16", "--image", "x=rgb")
    assert "a rgb image is [1, 3" in cli.fails(2, "user", "convert", path, *flags)
    made = only(cli, path, *flags[:4])
    told = spec_of(package_of(made)).description.metadata
    assert (told.author, told.license, told.versionString) == ("Ada", "MIT", "2.1")
    said = told.userDefined
    assert said["edgebench.source_sha256"] == sha256(path.read_bytes()).hexdigest()
    assert said["edgebench.lineage"].startswith("open x=1..2,3,16,16@1,3,16,16 from sha256:")
    assert said["edgebench.inputs"] == "flexible.x=1..2,3,16,16@1,3,16,16"
    assert said["edgebench.version"]


def test_the_digest_is_the_same_in_every_process(fresh_cli: Cli) -> None:
    digests = set()
    for seed in ("1", "2"):
        home = fresh_cli.folder / f"home-{seed}"
        flags = ["--to", "coreml", "--flexible", "x=1..2,3,16,16", "--json"]
        source = flexible.save(flexible.convolutional(), fresh_cli.folder / "open.onnx")
        done = subprocess.run(
            [sys.executable, "-m", "edgebench", "convert", str(source), *flags],
            env=os.environ | {"PYTHONHASHSEED": seed, "EDGEBENCH_HOME": str(home)},
            capture_output=True,
            check=True,
            timeout=120,
        )
        (made,) = json.loads(done.stdout)["artifacts"]
        digests.add(made["artifact"]["digest"])
    assert len(digests) == 1
