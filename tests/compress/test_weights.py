"""Steps that change weights alone, and mixed precision: what comes out, and that it still answers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgebench import compress, model
from edgebench.compress.base import Sensitivity
from edgebench.compress.mixed import fewest
from edgebench.errors import ModelError, UserError
from edgebench.records import ModelInfo, decode
from tests.model.running import run
from tests.models import generate

DEMO = Path(str(files("edgebench"))) / "demo"
DIGITS, CALIBRATION = DEMO / "digits.onnx", DEMO / "digits-calibration.npz"


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    """200 of the 500 test pictures, with their labels."""
    path = tmp_path / "validation.npz"
    with np.load(DEMO / "digits-test.npz") as held_out:
        np.savez(path, image=held_out["image"][:200], labels=held_out["labels"][:200])
    return path


def _apply(
    tmp_path: Path, *steps: str, source: Path = DIGITS, validation: Path | None = None
) -> tuple[ModelInfo, Path]:
    out = tmp_path / "out.onnx"
    chosen = compress.Settings(calibration=CALIBRATION, validation=validation)
    return compress.apply(source, steps, chosen, out=out), out


def _right_answers(path: Path) -> int:
    with np.load(DEMO / "digits-test.npz") as held_out:
        logits = run(path, {"image": held_out["image"]})["logits"]
        return int((logits.argmax(axis=1) == held_out["labels"]).sum())


def _weights(path: Path) -> Iterator[np.ndarray]:
    for tensor in onnx.load(path).graph.initializer:
        if sum(size > 1 for size in tensor.dims) >= 2:
            yield numpy_helper.to_array(tensor)


# --- weights alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "variant", "most_bytes", "right"),
    [("int8-weights", "int8-weights", 240_000, 495), ("int4-weights", "int4-weights", 180_000, 485)],
)
def test_weights_alone_are_stored_as_integers(
    tmp_path: Path, step: str, variant: str, most_bytes: int, right: int
) -> None:
    info, out = _apply(tmp_path, step)
    assert (info.variant, info.precision) == (variant, "mixed")
    assert info.size_bytes < most_bytes
    assert not any(name == "QuantizeLinear" for name in info.operators)
    assert _right_answers(out) >= right
    onnx.checker.check_model(onnx.load(out), full_check=True)


def _linear(rows: int, columns: int, operator: str = "MatMul") -> ModelProto:
    weight = np.random.default_rng(3).standard_normal((rows, columns)).astype(np.float32)
    node = helper.make_node(operator, ["x", "w"], ["y"], **({"transB": 1} if operator == "Gemm" else {}))
    inner, outer = (columns, rows) if operator == "Gemm" else (rows, columns)
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outer])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 32), (48, 20), (96, 64)])
@pytest.mark.parametrize(("step", "share"), [("int8-weights", 0.01), ("int4-weights", 0.2)])
def test_what_is_stored_is_near_what_was(
    tmp_path: Path, operator: str, rows: int, columns: int, step: str, share: float
) -> None:
    """In blocks where the inner axis divides so, else with one scale for each output channel."""
    source = generate.save(_linear(rows, columns, operator), tmp_path / "linear.onnx")
    compress.apply(source, [step], compress.Settings(), out=tmp_path / "out.onnx")
    x = np.random.default_rng(5).standard_normal(model.inspect(source).inputs[0].shape).astype(np.float32)
    before, after = (run(path, {"x": x})["y"] for path in (source, tmp_path / "out.onnx"))
    assert np.abs(after - before).max() < share * np.abs(before).max()


def test_a_model_without_large_weights_has_none_to_store(tmp_path: Path) -> None:
    source = generate.save(_linear(4, 4), tmp_path / "small.onnx")
    with pytest.raises(ModelError, match="256 values or more"):
        compress.apply(source, ["int8-weights"], compress.Settings(), out=tmp_path / "out.onnx")


# --- two of four, clusters, what is idle --------------------------------------------------------------


def test_two_of_each_four_weights_become_zero(tmp_path: Path) -> None:
    info, out = _apply(tmp_path, "prune:pattern=2:4")
    assert info.variant == "pruned-2-4"
    assert info.sparsity == pytest.approx(0.5, abs=0.01)
    checked = 0
    for values in _weights(out):
        if values.ndim == 4 and values.shape[1] % 4 == 0:
            groups = np.moveaxis(values, 1, -1).reshape(-1, 4)
            assert (np.count_nonzero(groups, axis=1) <= 2).all()
            checked += 1
    assert checked >= 3
    assert _right_answers(out) >= 450


@pytest.mark.parametrize("values", [4, 16, 256])
def test_clusters_leave_few_values_and_pack_well(tmp_path: Path, values: int) -> None:
    info, out = _apply(tmp_path, f"cluster:values={values}")
    assert info.variant == f"clustered-{values}"
    assert all(np.unique(each).size <= values for each in _weights(out))
    packed, plain = (len(zlib.compress(path.read_bytes(), 6)) for path in (out, DIGITS))
    assert packed < (0.5 if values <= 16 else 0.75) * plain
    assert values < 16 or _right_answers(out) >= 490


def test_what_was_pruned_stays_zero_in_clusters(tmp_path: Path) -> None:
    info, out = _apply(tmp_path, "prune:share=0.5", "cluster:values=16")
    assert info.sparsity >= 0.49
    assert all(np.unique(each).size <= 16 for each in _weights(out))


def test_clean_removes_what_no_output_needs_and_changes_nothing(tmp_path: Path) -> None:
    proto = generate.conv_net()
    first = proto.graph.node[0].output[0]
    proto.graph.node.append(helper.make_node("Relu", [first], ["nobody"]))
    proto.graph.node.append(helper.make_node("Sigmoid", ["nobody"], ["reads"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((40, 40), np.float32), "unused"))
    for node in proto.graph.node[1:3]:
        for place, name in enumerate(node.input):
            if name == first:
                node.input[place] = "passed"
    proto.graph.node.insert(1, helper.make_node("Identity", [first], ["passed"]))
    source = generate.save(proto, tmp_path / "idle.onnx")
    before = model.inspect(source)
    info = compress.apply(source, ["clean"], compress.Settings(), out=tmp_path / "out.onnx")
    assert "Identity" not in info.operators
    assert "Sigmoid" not in info.operators
    assert info.parameters == before.parameters - 1600
    feed = model.random_inputs(model.inspect(source), 1)
    one, other = run(source, feed), run(tmp_path / "out.onnx", feed)
    assert all(np.array_equal(one[name], other[name]) for name in one)


# --- ranges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", ["entropy", "percentile,percentile=99.9"])
def test_other_ranges_clip_and_still_answer(
    tmp_path: Path, ranges: str, capsys: pytest.CaptureFixture[str]
) -> None:
    info, out = _apply(tmp_path, f"int8-static:ranges={ranges}")
    assert info.precision == "int8-qdq"
    assert f"ranges={ranges.partition(',')[0]}" in info.lineage[0]
    scales = {}
    for path in (out, tmp_path / "minmax.onnx"):
        if path != out:
            chosen = compress.Settings(calibration=CALIBRATION)
            compress.apply(DIGITS, ["int8-static"], chosen, out=path)
        proto = onnx.load(path)
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        scales[path] = [
            float(stored[node.input[1]]) for node in proto.graph.node if node.op_type == "QuantizeLinear"
        ]
    assert sum(scales[out]) < sum(scales[tmp_path / "minmax.onnx"])
    assert _right_answers(out) >= 470
    assert capsys.readouterr() == ("", "")


# --- mixed precision ------------------------------------------------------------------------------------


def test_the_costliest_layers_stay_float_until_the_budget_holds(tmp_path: Path) -> None:
    info, out = _apply(tmp_path, "int8-mixed:min_snr=45 dB")
    assert (info.variant, info.precision) == ("int8-mixed", "int8-qdq")
    path = tmp_path / compress.SENSITIVITY_FILE
    table = decode(Sensitivity, path.read_bytes(), source=str(path))
    kept = [each for each in table.layers if each.kept_float]
    assert 0 < len(kept) < len(table.layers)
    assert kept == list(table.layers[: len(kept)])
    assert [each.snr_db for each in table.layers] == sorted(each.snr_db for each in table.layers)
    assert table.snr_db >= 45
    feed = {"image": np.load(CALIBRATION)["image"][:4]}
    before, after = run(DIGITS, feed)["logits"], run(out, feed)["logits"]
    noise = float(np.square(before - after).sum() / np.square(before).sum())
    assert 10 * np.log10(1 / noise) >= 44
    assert "float=" in info.lineage[0]


def test_a_wide_budget_keeps_nothing_float_and_a_narrow_one_leaves_no_int8(tmp_path: Path) -> None:
    info, _ = _apply(tmp_path, "int8-mixed:min_snr=20 dB")
    assert "float=0" in info.lineage[0]
    with pytest.raises(ModelError, match="no layer can be int8 within the budget"):
        _apply(tmp_path, "int8-mixed:min_snr=120 dB")


def test_a_budget_of_accuracy_is_judged_on_labelled_samples(tmp_path: Path, validation: Path) -> None:
    _apply(tmp_path, "int8-mixed:max_drop=1 pp", validation=validation)
    path = tmp_path / compress.SENSITIVITY_FILE
    table = decode(Sensitivity, path.read_bytes(), source=str(path))
    assert table.accuracy is not None
    assert table.accuracy.n == 200
    assert table.accuracy.drop is not None
    assert table.accuracy.drop <= 0.01
    assert table.accuracy.drop_low is not None


def test_a_budget_of_accuracy_needs_labels_that_fit(tmp_path: Path, validation: Path) -> None:
    with pytest.raises(UserError, match="needs labelled validation samples"):
        _apply(tmp_path, "int8-mixed:max_drop=1 pp")
    with pytest.raises(UserError, match='no output "logit"') as caught:
        _apply(tmp_path, "int8-mixed:max_drop=1 pp,output=logit", validation=validation)
    assert '"logits"' in caught.value.hint
    with np.load(validation) as file:
        np.savez(tmp_path / "beyond.npz", image=file["image"], labels=file["labels"] + 3)
    with pytest.raises(UserError, match="a label is 12"):
        _apply(tmp_path, "int8-mixed:max_drop=1 pp", validation=tmp_path / "beyond.npz")


@pytest.mark.parametrize("source", ["conv_net", "deconv_net"])
def test_every_float_layer_reads_what_it_read_before(tmp_path: Path, source: str) -> None:
    """With all layers float but one the network differs from the float one by that layer alone."""
    path = generate.write(tmp_path, source)
    static = model.prepare(path, shapes={}, out=tmp_path / "static.onnx")
    samples = [model.random_inputs(static, seed) for seed in range(4)]
    np.savez(
        tmp_path / "some.npz",
        **{name: np.concatenate([each[name] for each in samples]) for name in samples[0]},
    )
    chosen = compress.Settings(calibration=tmp_path / "some.npz")
    compress.apply(tmp_path / "static.onnx", ["int8-mixed:min_snr=5 dB"], chosen, out=tmp_path / "out.onnx")
    table = decode(Sensitivity, (tmp_path / compress.SENSITIVITY_FILE).read_bytes(), source="table")
    assert min(each.snr_db for each in table.layers) >= table.snr_db - 3


@settings(max_examples=50)
@given(st.integers(0, 40), st.integers(0, 41))
def test_halving_finds_the_fewest(most: int, least: int) -> None:
    assert fewest(most, lambda count: count >= least) == min(most, least)
