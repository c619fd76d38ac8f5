"""`edgebench convert` and `edgebench verify`: whole artifacts or none, proven or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, parser

from edgebench.records import Artifact, ParityReport, from_json
from edgebench.tools import find_pnnx
from tests.commands import DEMO, DIGITS, Cli
from tests.convert.support import pnnx_home
from tests.models import generate

MANIFEST = "edgebench.json"


def convert(cli: Cli, *arguments: object, model: object = DIGITS) -> Artifact:
    (made,) = cli.json("convert", model, "--to", "onnxruntime", *arguments)["artifacts"]
    return from_json(Artifact, made["artifact"], source="convert")


# --- convert -------------------------------------------------------------------------------------


def test_an_artifact_in_words_and_in_json(cli: Cli) -> None:
    plain = cli("convert", DIGITS, "--to", "onnxruntime")
    assert "pass" in plain.out
    assert "controller: parity digits fp32 on onnxruntime" in plain.err
    (made,) = cli.json("convert", DIGITS, "--to", "onnxruntime")["artifacts"]
    artifact = from_json(Artifact, made["artifact"], source="convert")
    assert artifact.digest[:12] in plain.out
    assert artifact.tool_versions["onnxruntime"]
    assert artifact.size_bytes == sum(file.size_bytes for file in artifact.files)
    parity = from_json(ParityReport, made["parity"], source="convert")
    assert parity.passed
    assert {"max_abs", "max_rel", "cosine", "snr_db"} <= set(made["parity"]["outputs"][0])
    assert Path(made["folder"]).is_dir()


def test_the_second_time_it_is_kept(fresh_cli: Cli) -> None:
    first, second = (fresh_cli.json("convert", DIGITS, "--to", "onnxruntime") for _ in range(2))
    assert [first["artifacts"][0]["cached"], second["artifacts"][0]["cached"]] == [False, True]
    assert first["artifacts"][0]["artifact"] == second["artifacts"][0]["artifact"]
    assert "kept" in fresh_cli("convert", DIGITS, "--to", "onnxruntime").out
    assert fresh_cli.leftovers() == []


def test_several_runtimes_and_precisions_at_once(cli: Cli) -> None:
    calibration = ("--calibration", DEMO / "digits-calibration.npz", "--inputs", DEMO / "digits-test.npz")
    document = cli.json(
        "convert",
        DIGITS,
        "--to",
        "onnxruntime,openvino",
        "--precision",
        "fp32,fp16,int8,int8-dynamic",
        *calibration,
    )
    cells = [(made["artifact"]["runtime"], made["artifact"]["precision"]) for made in document["artifacts"]]
    precisions = ("fp32", "fp16", "int8", "int8-dynamic")
    assert cells == [(runtime, one) for runtime in ("onnxruntime", "openvino") for one in precisions]
    assert all(made["parity"]["passed"] for made in document["artifacts"])
    assert document["failures"] == []


def test_an_input_made_a_constant_decides_an_if(cli: Cli) -> None:
    path = generate.write(cli.folder, "if_by_input")
    assert "--set" in cli.fails(4, "model", "convert", path, "--to", "coreml")
    assert "no input" in cli.fails(2, "user", "convert", path, "--to", "coreml", "--set", "mood=1")
    made = {mode: convert(cli, "--set", f"mode={mode}", model=path) for mode in (0, 1)}
    assert made[0].digest != made[1].digest
    assert [each.name for each in made[1].inputs] == ["x"]
    report = cli.json("verify", path, made[1].digest, "--set", "mode=1")["parity"]
    assert report["passed"]
    cli("verify", path, made[1].digest, "--set", "mode=0", code=4)


def test_a_model_that_does_not_run_on_generated_inputs_says_which_to_give(cli: Cli) -> None:
    """An index beyond a table of two rows: generated whole numbers go up to nine."""
    node = helper.make_node("Gather", ["table", "x"], ["y"], name="look_up")
    inputs = [generate.tensor("x", [64], TensorProto.INT64)]
    table = {"table": np.ones((2, 3), np.float32)}
    net = generate.build([node], inputs, [generate.tensor("y", [64, 3])], table)
    path = generate.save(net, cli.folder / "table.onnx")
    told = cli.fails(4, "model", "convert", path, "--to", "onnxruntime")
    assert "does not run on generated inputs" in told
    assert "--inputs" in told
    assert "--set" in told


def test_what_the_optimiser_cannot_take_runs_without_it(cli: Cli) -> None:
    """A branch never taken that is impossible in these shapes, which ONNX Runtime finds out while folding."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 4] x, bool flag) => (float[p, q] y) {
          y = If (flag) <
            then_branch = yes () => (float[n, 4] a) { shape = Shape (x) a = Reshape (x, shape) },
            else_branch = no () => (float[k, l] b) {
              sizes = Shape (x) same = Neg (sizes) back = Neg (same) again = Reshape (x, back)
              weight = Constant <value = float[2, 1] {1, 1}> () b = MatMul (again, weight)
            }
          >
        }"""
    path = generate.save(parser.parse_model(text), cli.folder / "picky.onnx")
    np.savez(cli.folder / "inputs.npz", x=np.ones((3, 4), np.float32), flag=np.array(True))
    asked = ("--shape", "x=3,4", "--inputs", cli.folder / "inputs.npz")
    made = convert(cli, *asked, model=path)
    assert made.options["graph_optimization"] == "off"
    assert "optimisations" in made.notes[0]


def test_ncnn_goes_through_pnnx(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    (made,) = cli.json("convert", DIGITS, "--to", "ncnn", "--precision", "fp16")["artifacts"]
    assert made["artifact"]["precision"] == "fp16"
    assert made["parity"]["passed"]


def test_ncnn_in_int8_wants_samples_and_says_whose_int8_it_is(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    wanted = ("convert", DIGITS, "--to", "ncnn", "--precision", "int8")
    assert "--calibration" in cli.fails(2, "user", *wanted)
    assert "nothing.npz" in cli.fails(2, "user", *wanted, "--calibration", "nothing.npz")
    samples = ("--calibration", DEMO / "digits-calibration.npz", "--inputs", DEMO / "digits-test.npz")
    (made,) = cli.json(*wanted, *samples)["artifacts"]
    assert made["parity"]["passed"]
    assert made["artifact"]["notes"][0].startswith("requantised-by-edgebench")


def test_without_pnnx_ncnn_says_what_to_type(cli: Cli) -> None:
    assert "edgebench runtimes install pnnx" in cli.fails(
        4, "infrastructure", "convert", DIGITS, "--to", "ncnn"
    )


def test_one_cell_that_fails_does_not_take_the_others_with_it(cli: Cli) -> None:
    answer = cli("convert", DIGITS, "--to", "onnxruntime,ncnn", code=4)
    assert "failed (infrastructure): ncnn fp32:" in answer.err
    document = cli.json("convert", DIGITS, "--to", "onnxruntime,ncnn", code=4)
    assert [made["artifact"]["runtime"] for made in document["artifacts"]] == ["onnxruntime"]
    assert [(failed["runtime"], failed["owner"]) for failed in document["failures"]] == [
        ("ncnn", "infrastructure")
    ]


def test_copies_are_whole_and_replaced_by_the_next(cli: Cli) -> None:
    for _ in range(2):
        cli("convert", DIGITS, "--to", "onnxruntime", "-o", "out")
        (folder,) = (cli.folder / "out").iterdir()
        artifact = from_json(Artifact, json.loads((folder / MANIFEST).read_bytes()), source="manifest")
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert there == {MANIFEST, *(file.path for file in artifact.files)}


def test_a_folder_that_is_not_ours_is_not_replaced(cli: Cli) -> None:
    folder = cli.folder / "out" / "digits-fp32-fp32-onnxruntime"
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("mine")
    assert "no artifact of ours" in cli.fails(
        2, "user", "convert", DIGITS, "--to", "onnxruntime", "-o", "out"
    )
    assert [path.name for path in folder.iterdir()] == ["precious.txt"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_output_that_is_a_file(cli: Cli) -> None:
    (cli.folder / "out").write_text("")
    assert "-o" in cli.fails(4, "infrastructure", "convert", DIGITS, "--to", "onnxruntime", "-o", "out")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to", "onxruntime"), 'did you mean "onnxruntime"'),
        (("--to", "ncn"), 'did you mean "ncnn"'),
        (("--to", ""), "onnxruntime"),
        (("--to", "onnxruntime", "--precision", "int-8"), 'did you mean "int8"'),
        (("--to", "onnxruntime", "--precision", "fp8"), 'no precision "fp8"'),
        (("--to", "onnxruntime", "--shape", "x"), "shape"),
        (("--to", "onnxruntime", "--shape", "nobody=1,3"), "nobody"),
        (("--to", "onnxruntime", "--inputs", "nothing.npz"), "nothing.npz"),
    ],
)
def test_unknown_words_name_the_nearest(fresh_cli: Cli, arguments: tuple[str, ...], told: str) -> None:
    assert told in fresh_cli.fails(2, "user", "convert", DIGITS, *arguments, "-o", "out")
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()


def test_int8_without_samples_says_how_to_give_them(cli: Cli) -> None:
    told = cli.fails(2, "user", "convert", DIGITS, "--to", "onnxruntime", "--precision", "int8")
    assert "--calibration" in told


def test_a_precision_that_a_runtime_cannot_take_names_those_it_can(cli: Cli) -> None:
    arguments = ("--to", "tensorrt", "--target", "jetson-orin-nano", "--precision", "int8-dynamic")
    told = cli.fails(4, "model", "convert", DIGITS, *arguments)
    assert "tensorrt on target jetson-orin-nano does not take int8-dynamic" in told
    assert "fp32 or fp16" in told


def test_a_compressed_model_is_not_compressed_again(cli: Cli) -> None:
    path = generate.write(cli.folder, "conv_net_qdq")
    told = cli.fails(4, "model", "convert", path, "--to", "onnxruntime", "--precision", "fp16")
    assert "already int8-qdq" in told


def test_an_open_shape_must_be_given(fresh_cli: Cli) -> None:
    path = generate.write(fresh_cli.folder, "conv_net_dynamic_size")
    told = fresh_cli.fails(2, "user", "convert", path, "--to", "onnxruntime", "-o", "out")
    assert "--shape image=" in told
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()
    made = fresh_cli.json("convert", path, "--to", "onnxruntime", "--shape", "image=1,3,24,16")["artifacts"][
        0
    ]
    assert made["artifact"]["inputs"][0]["shape"] == [1, 3, 24, 16]


def test_an_open_batch_is_one_unless_told(cli: Cli) -> None:
    path = generate.write(cli.folder, "conv_net_dynamic")
    assert convert(cli, model=path).inputs[0].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("verb", ["convert", "run"])
def test_nan_outputs_are_the_models_fault(fresh_cli: Cli, verb: str) -> None:
    path = generate.write(fresh_cli.folder, "nan_output")
    if verb == "convert":
        told = fresh_cli.fails(4, "model", "convert", path, "--to", "onnxruntime", "-o", "out")
    else:
        (failure,) = fresh_cli.json("run", path, "--to", "onnxruntime", code=4)["failures"]
        assert (failure["owner"], failure["stage"]) == ("model", "prepare")
        assert failure["hint"]
        told = failure["message"]
    assert "NaN" in told
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()


@pytest.mark.parametrize("runtime", ["openvino", "ncnn"])
def test_an_operator_that_the_runtime_lacks_is_named(
    fresh_cli: Cli, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "ncnn":
        monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    net = generate.build([node], [generate.tensor("x", [1, 3, 3])], [generate.tensor("y", [1])])
    path = generate.save(net, fresh_cli.folder / "det.onnx")
    told = fresh_cli.fails(4, "model", "convert", path, "--to", runtime, "-o", "out")
    assert "Det" in told or "det" in told.replace("det:", "")
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()


def test_an_operator_that_onnx_does_not_know_is_named(fresh_cli: Cli) -> None:
    path = generate.write(fresh_cli.folder, "custom_domain")
    (operator,) = {node.op_type for node in generate.custom_domain().graph.node if node.domain}
    assert operator in fresh_cli.fails(4, "model", "convert", path, "--to", "onnxruntime", "-o", "out")
    assert fresh_cli.leftovers() == []


def test_an_unknown_processor(cli: Cli) -> None:
    assert "'z80' is not one of" in cli("convert", DIGITS, "--to", "onnxruntime", "--arch", "z80", code=2).err


# --- verify --------------------------------------------------------------------------------------


def test_verify_takes_a_folder_and_a_digest(cli: Cli) -> None:
    digest = convert(cli, "-o", "out").digest
    (folder,) = (cli.folder / "out").iterdir()
    for name in (folder, digest, digest[:12]):
        assert "pass on controller" in cli("verify", DIGITS, name).out
        document = cli.json("verify", DIGITS, name)
        assert document["artifact"] == digest
        assert document["parity"]["passed"]


def test_verify_with_real_inputs(cli: Cli) -> None:
    digest = convert(cli).digest
    document = cli.json("verify", DIGITS, digest, "--inputs", DEMO / "digits-test.npz")
    assert document["parity"]["inputs"] == "digits-test.npz"


def test_a_changed_file_of_a_copy_is_noticed(cli: Cli) -> None:
    artifact = convert(cli, "-o", "out")
    (folder,) = (cli.folder / "out").iterdir()
    path = folder / artifact.files[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    told = cli.fails(4, "infrastructure", "verify", DIGITS, folder)
    assert "not those of its edgebench.json" in told
    assert convert(cli).digest == artifact.digest  # what the folder holds never becomes what convert serves
    assert cli.leftovers() == []


def test_a_missing_or_foreign_file_of_a_copy_is_noticed(cli: Cli) -> None:
    artifact = convert(cli, "-o", "out")
    (folder,) = (cli.folder / "out").iterdir()
    (folder / "more.txt").write_text("")
    assert "not those of its" in cli.fails(4, "infrastructure", "verify", DIGITS, folder)
    (folder / "more.txt").unlink()
    (folder / artifact.files[0].path).unlink()
    assert "not those of its" in cli.fails(4, "infrastructure", "verify", DIGITS, folder)


def test_a_changed_file_of_the_store_is_noticed(fresh_cli: Cli) -> None:
    made = fresh_cli.json("convert", DIGITS, "--to", "onnxruntime")["artifacts"][0]
    path = Path(made["folder"]) / made["artifact"]["files"][0]["path"]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    digest = made["artifact"]["digest"]
    answer = fresh_cli("verify", DIGITS, digest, code=4)
    assert "error (infrastructure)" in answer.err
    assert path.name in answer.err
    assert (
        fresh_cli.json("convert", DIGITS, "--to", "onnxruntime")["artifacts"][0]["artifact"]["digest"]
        == digest
    )
    assert fresh_cli.json("verify", DIGITS, digest)["parity"]["passed"]


def test_a_damaged_manifest_is_noticed(cli: Cli) -> None:
    convert(cli, "-o", "out")
    (folder,) = (cli.folder / "out").iterdir()
    (folder / MANIFEST).write_text("{")
    answer = cli("verify", DIGITS, folder, code=None)
    assert answer.code in (2, 4)
    assert MANIFEST in answer.err


def test_the_wrong_model_is_noticed(cli: Cli) -> None:
    digest = convert(cli).digest
    other = generate.write(cli.folder, "conv_net")
    assert "do not have the same inputs and outputs" in cli.fails(2, "user", "verify", other, digest)


def test_another_model_of_the_same_interface_fails_parity(cli: Cli) -> None:
    own = generate.write(cli.folder, "conv_net")
    changed = generate.conv_net()
    weight = changed.graph.initializer[0]
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * -1.5).tobytes()
    other = generate.save(changed, cli.folder / "other.onnx")
    digest = convert(cli, model=own).digest
    answer = cli("verify", other, digest, code=4)
    assert "FAIL on controller" in answer.out
    assert not cli.json("verify", other, digest, code=4)["parity"]["passed"]


def test_artifacts_that_are_not_there(cli: Cli) -> None:
    assert "abcdef012345" in cli.fails(2, "user", "verify", DIGITS, "abcdef012345")
    assert "digest" in cli.fails(2, "user", "verify", DIGITS, "no digest at all")
    assert MANIFEST in cli.fails(2, "user", "verify", DIGITS, cli.folder)
