"""`--ort-format`: ONNX Runtime's artifact with its nodes fused beforehand, and in the .ort format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.commands import DIGITS, QUICK, Cli
from tests.models import generate

FUSED = {"optimized": "model.onnx", "ort": "model.ort"}


def convert(cli: Cli, name: str, ort_format: str, *arguments: object) -> Any:
    path = name if "/" in name else generate.write(cli.folder, name)
    (made,) = cli.json("convert", path, "--to", "onnxruntime", "--ort-format", ort_format, *arguments)[
        "artifacts"
    ]
    return made


def operators(made: Any) -> set[str]:
    path = Path(made["folder"]) / made["artifact"]["entry"]["model"]
    return {node.op_type for node in onnx.load(path).graph.node}


def signed_activations(made: Any) -> bool:
    """Whether a quantized network's first value is int8 (its zero point is)."""
    path = Path(made["folder"]) / made["artifact"]["entry"]["model"]
    graph = onnx.load(path).graph
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    (zero,) = (tensor for tensor in graph.initializer if tensor.name == first.input[2])
    return bool(zero.data_type == onnx.TensorProto.INT8)


@pytest.mark.parametrize("ort_format", FUSED)
@pytest.mark.parametrize(
    "name", ["conv_net", "conv_net_fp16", "conv_net_qdq", "conv_net_integer", "if_net", "lstm_net"]
)
def test_what_is_fused_beforehand_is_proven_like_any_other(cli: Cli, name: str, ort_format: str) -> None:
    made = convert(cli, name, ort_format)
    artifact = made["artifact"]
    assert artifact["entry"] == {"model": FUSED[ort_format]}
    assert artifact["options"]["format"] == ort_format
    assert made["parity"]["passed"]
    assert made["parity"]["computed_by"] == "runtime"
    assert any("level extended" in note for note in artifact["notes"])


def test_nodes_are_fused_in_the_optimised_file_alone(cli: Cli) -> None:
    assert "FusedConv" not in operators(convert(cli, "conv_net", "onnx"))
    assert "FusedConv" in operators(convert(cli, "conv_net", "optimized"))


def test_an_ort_file_is_one_and_says_which_versions_read_it(cli: Cli) -> None:
    made = convert(cli, "conv_net", "ort")
    assert (Path(made["folder"]) / "model.ort").read_bytes()[4:8] == b"ORTM"
    (note,) = (note for note in made["artifact"]["notes"] if ".ort format" in note)
    assert "fits onnxruntime 1.16 and newer" in note


def test_each_format_is_an_artifact_of_its_own_and_comes_from_the_store(cli: Cli) -> None:
    made = {name: convert(cli, DIGITS, name) for name in ("onnx", "optimized", "ort")}
    assert len({each["artifact"]["digest"] for each in made.values()}) == 3
    assert len({each["artifact"]["key"] for each in made.values()}) == 3
    again = convert(cli, DIGITS, "ort")
    assert again["cached"]
    assert again["artifact"]["digest"] == made["ort"]["artifact"]["digest"]


def test_int8_keeps_its_sign_for_arm_alone(cli: Cli) -> None:
    asked = ("--precision", "int8", "--calibration", Path(DIGITS).with_name("digits-calibration.npz"))
    plain = convert(cli, DIGITS, "onnx", *asked, "--arch", "aarch64")
    assert signed_activations(plain)
    source = str(Path(plain["folder"]) / "model.onnx")
    for arch, signed in (("aarch64", True), ("x86_64", False)):
        assert signed_activations(convert(cli, source, "optimized", "--arch", arch)) is signed


def test_copies_of_two_formats_lie_side_by_side_and_verify(cli: Cli) -> None:
    for name in ("onnx", "optimized", "ort"):
        convert(cli, DIGITS, name, "-o", "out")
    folders = list((cli.folder / "out").iterdir())
    assert len(folders) == 3
    for folder in folders:
        assert "pass on controller" in cli("verify", DIGITS, folder).out


def test_a_format_for_nobody_is_the_users_mistake(cli: Cli) -> None:
    told = cli.fails(2, "user", "convert", DIGITS, "--to", "openvino", "--ort-format", "ort")
    assert "--ort-format ort is for onnxruntime" in told
    assert "'orx' is not one of" in cli("convert", DIGITS, "--to", "ncnn", "--ort-format", "orx", code=2).err


def test_a_run_measures_what_is_fused_beforehand(cli: Cli) -> None:
    document = cli.json("run", DIGITS, "--to", "onnxruntime", "--ort-format", "ort", *QUICK)
    assert not document["failures"]
    (row,) = document["measurements"]
    assert row["status"] == "ok"


def test_a_plan_compares_formats_of_one_model(cli: Cli) -> None:
    lines = ["version: 1", "runtimes: [onnxruntime]", "workload: {launches: 1, min_samples: 10, threads: 1}"]
    lines += ["models:", f"  - {{path: {DIGITS}, name: plain}}"]
    lines += [f"  - {{path: {DIGITS}, name: fused, ort_format: ort}}"]
    plan = cli.folder / "plan.yaml"
    plan.write_text("\n".join(lines))
    document = cli.json("run", "--plan", plan)
    assert not document["failures"]
    sizes = {row["model"]: row["artifact_bytes"] for row in document["measurements"]}
    assert sizes["plain"] != sizes["fused"]
    plan.write_text("\n".join(lines).replace("ort_format: ort", "ort_format: orz"))
    told = cli.fails(2, "user", "run", "--plan", plan)
    assert 'plan.yaml:6: unknown ort_format "orz"' in told
    assert 'did you mean "ort"?' in told
