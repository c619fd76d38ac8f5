"""Training steps: what each makes of a network, and that the ONNX file computes just that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgebench import model
from edgebench.compress import training
from edgebench.compress.training import (
    ChannelPrune,
    Distill,
    FineTune,
    HeadPrune,
    LayerDrop,
    MlpPrune,
    Progress,
    Qat,
    Sparsify,
    Trained,
    TrainSettings,
)
from examples.samples import digits
from tests.model.running import run

HERE = "tests.compress.training.factories"
Train = Callable[..., Trained]
ROUGH = FineTune(epochs=3, learning_rate=2e-3)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Steps on a factory of this folder, written to `out.onnx`."""

    def started(factory: str, *steps: tuple[str, Any], **settings: Any) -> Trained:
        told = TrainSettings(work=tmp_path / "work", device="cpu", **settings)
        return training.train(f"{HERE}:{factory}", steps, told, out=tmp_path / "out.onnx")

    return started


def _right_share(path: Path) -> float:
    """Of the 300 pictures that the factories report on."""
    inputs, labels = (each[:300].numpy() for each in digits().test)
    logits = run(path, {"image": inputs})["logits"]
    return float((logits.argmax(axis=1) == labels).mean())


def _weights(path: Path) -> list[np.ndarray]:
    """Of convolutions and matrices, as they are stored."""
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    return [each for each in arrays if each.ndim >= 2]


# --- channels ---------------------------------------------------------------------------------------


def test_a_pruned_and_tuned_network_is_a_small_onnx_file_that_still_knows_digits(
    train: Train, tmp_path: Path
) -> None:
    told: list[Progress] = []
    steps = [("fine-tune", ROUGH), ("channel-prune", ChannelPrune(ratio=0.5)), ("fine-tune", ROUGH)]
    settings = TrainSettings(work=tmp_path / "work", device="cpu")
    out = tmp_path / "out.onnx"
    made = training.train(f"{HERE}:residual", steps, settings, out=out, tell=told.append)
    before, after = made.macs
    assert after < 0.4 * before
    assert made.parameters[1] < 0.4 * made.parameters[0]
    assert made.test.n == 300
    assert made.test.value == pytest.approx(_right_share(out), abs=0.004)
    assert made.test.low is not None
    assert 0.5 < made.test.low < made.test.value
    assert [each.epoch for each in told] == [1, 2, 3, 1, 2, 3]
    assert all(each.left_s >= 0 for each in told)
    assert made.info.variant == "tuned-channels-50-tuned"
    assert model.inspect(out).macs == pytest.approx(after, rel=0.1)


def test_the_file_tells_its_lineage_and_nothing_of_the_machine(train: Train, tmp_path: Path) -> None:
    made = train("residual", ("fine-tune", FineTune(epochs=1)), ("channel-prune", ChannelPrune()))
    written = (tmp_path / "out.onnx").read_bytes()
    for noise in (b"stack_trace", b"pkg.torch", b"residual.py", str(Path.cwd()).encode()):
        assert noise not in written
    proto = onnx.load(tmp_path / "out.onnx")
    stored = json.loads({each.key: each.value for each in proto.metadata_props}["edgebench.lineage"])
    assert stored == json.loads(json.dumps(made.lineage))
    assert [each["step"] for each in stored] == ["fine-tune", "channel-prune"]
    assert stored[0]["factory"] == f"{HERE}:residual"
    assert stored[0]["seed"] == 0
    assert stored[0]["versions"]["torch"]
    assert stored[0]["validation"]["n"] == 200
    assert stored[1]["test"]["low"] < stored[1]["test"]["value"] < stored[1]["test"]["high"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "lamp", "fpgm", "random"])
def test_every_importance_prunes(train: Train, importance: Any) -> None:
    made = train("residual", ("channel-prune", ChannelPrune(ratio=0.5, importance=importance)))
    assert made.macs[1] < 0.4 * made.macs[0]


def test_channels_are_ranked_over_all_layers_where_asked(train: Train) -> None:
    made = train("residual", ("channel-prune", ChannelPrune(ratio=0.4, scope="global", round_to=2)))
    assert made.macs[1] < made.macs[0]


def test_pruning_in_parts_trains_between_them(train: Train) -> None:
    options = ChannelPrune(ratio=0.5, iterations=2, epochs_between=1, round_to=1)
    made = train("residual", ("channel-prune", options))
    assert [each["step"] for each in made.lineage] == ["channel-prune", "fine-tune"] * 2
    assert made.macs[1] < 0.4 * made.macs[0]


def test_ignored_layers_keep_their_channels(train: Train, tmp_path: Path) -> None:
    train("residual", ("channel-prune", ChannelPrune(ratio=0.5, ignore=("blocks.*.conv1",))))
    shapes = [each.shape for each in _weights(tmp_path / "out.onnx")]
    assert sum(shape[0] in (16, 32, 64) for shape in shapes) >= 4


def test_a_frozen_network_is_pruned_like_any_other(train: Train) -> None:
    made = train("frozen", ("channel-prune", ChannelPrune(ratio=0.5)))
    assert made.macs[1] < 0.4 * made.macs[0]


def test_inside_of_shuffled_units_channels_go(train: Train) -> None:
    from examples.networks.shuffle import HIDDEN_ONLY

    made = train("shuffle", ("channel-prune", ChannelPrune(ratio=0.5, ignore=HIDDEN_ONLY)))
    assert made.macs[1] < 0.75 * made.macs[0]


def test_a_detector_is_pruned_and_keeps_its_outputs(train: Train) -> None:
    made = train("detector", ("channel-prune", ChannelPrune(ratio=0.5)), ("fine-tune", FineTune(epochs=1)))
    assert made.macs[1] < 0.4 * made.macs[0]
    assert made.info.outputs[0].shape[1:] == (64, 8)
    assert made.test.name == "average_precision"
    assert made.test.n == 32


# --- blocks, heads, neurons -------------------------------------------------------------------------


def test_the_block_that_is_missed_least_goes(train: Train) -> None:
    made = train("residual", ("fine-tune", ROUGH), ("layer-drop", LayerDrop(count=1)))
    assert made.macs[1] < made.macs[0]
    assert made.lineage[1]["parameters"] < made.lineage[0]["parameters"]


def test_layers_of_a_transformer_go(train: Train, tmp_path: Path) -> None:
    made = train("transformer", ("layer-drop", LayerDrop(count=2)), ("fine-tune", FineTune(epochs=1)))
    assert made.macs[1] < 0.5 * made.macs[0]
    assert made.test.value == pytest.approx(_right_share(tmp_path / "out.onnx"), abs=0.004)


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "random"])
def test_heads_and_neurons_of_a_transformer_go(train: Train, tmp_path: Path, importance: Any) -> None:
    made = train(
        "transformer",
        ("head-prune", HeadPrune(ratio=0.5, importance=importance)),
        ("mlp-prune", MlpPrune(ratio=0.5, importance=importance)),
        ("fine-tune", FineTune(epochs=1)),
    )
    assert made.macs[1] < 0.6 * made.macs[0]
    assert made.test.value == pytest.approx(_right_share(tmp_path / "out.onnx"), abs=0.004)


# --- zeros and the grid -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "share"),
    [
        (Sparsify(share=0.8, epochs=1), 0.8),
        (Sparsify(share=0.7, scope="global", epochs=1), 0.7),
        (Sparsify(pattern="2:4", epochs=1, ignore=("head",)), 0.5),
    ],
)
def test_zeros_stay_through_all_training_that_follows(
    train: Train, tmp_path: Path, options: Sparsify, share: float
) -> None:
    train("residual", ("sparsify", options), ("fine-tune", FineTune(epochs=1)), ("qat", Qat(epochs=1)))
    weights = _weights(tmp_path / "out.onnx")
    zeros = sum(int((each == 0).sum()) for each in weights) / sum(each.size for each in weights)
    assert zeros == pytest.approx(share, abs=0.05)


def test_two_of_every_four_input_channels_are_zero(train: Train, tmp_path: Path) -> None:
    train("residual", ("sparsify", Sparsify(pattern="2:4", epochs=1)))
    grouped = [each for each in _weights(tmp_path / "out.onnx") if each.ndim == 4 and each.shape[1] % 4 == 0]
    assert grouped
    for each in grouped:
        groups = np.moveaxis(each, 1, -1).reshape(-1, 4)
        assert ((groups != 0).sum(axis=1) <= 2).all()


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_lie_on_the_grid_after_qat(train: Train, tmp_path: Path, bits: Any) -> None:
    made = train("residual", ("fine-tune", ROUGH), ("qat", Qat(epochs=2, bits=bits)))
    largest = 2 ** (bits - 1) - 1
    convolutions = [each for each in _weights(tmp_path / "out.onnx") if each.ndim == 4]
    assert convolutions
    for each in convolutions:
        rows = each.reshape(len(each), -1)
        steps = np.abs(rows).max(axis=1, keepdims=True) / largest
        assert np.abs(rows / steps - np.round(rows / steps)).max() < 1e-2
    operators = onnx.load(tmp_path / "out.onnx").graph.node
    assert not {"QuantizeLinear", "BatchNormalization"} & {node.op_type for node in operators}
    assert made.test.value == pytest.approx(_right_share(tmp_path / "out.onnx"), abs=0.004)


# --- teachers ---------------------------------------------------------------------------------------


def test_a_student_learns_from_the_network_before(train: Train, tmp_path: Path) -> None:
    distil = Distill(student=f"{HERE}:small_residual", epochs=4, learning_rate=3e-3)
    made = train("residual", ("fine-tune", ROUGH), ("distill", distil))
    assert made.parameters[1] < 0.5 * made.parameters[0]
    assert made.test.value > 0.5
    assert made.test.value == pytest.approx(_right_share(tmp_path / "out.onnx"), abs=0.004)


def test_layers_are_imitated_across_kinds_of_networks(train: Train) -> None:
    features = {"stem": "stem", "fuse": "blocks.3"}
    distil = Distill(student=f"{HERE}:small_hybrid", epochs=1, features=features)
    made = train("residual", ("fine-tune", ROUGH), ("distill", distil))
    assert [each["step"] for each in made.lineage] == ["fine-tune", "distill"]


def test_the_network_before_pruning_teaches_afterwards(train: Train) -> None:
    taught = FineTune(epochs=1, teacher="original")
    made = train("residual", ("fine-tune", ROUGH), ("channel-prune", ChannelPrune()), ("fine-tune", taught))
    assert made.lineage[2]["settings"]["teacher"] == "original"


def test_a_detector_teaches_a_smaller_one(train: Train) -> None:
    made = train("detector", ("distill", Distill(student=f"{HERE}:small_detector", epochs=1)))
    assert made.macs[1] < made.macs[0]


def test_a_detector_without_a_soft_loss_teaches_by_features(train: Train) -> None:
    distil = Distill(student=f"{HERE}:small_detector", epochs=1, features={"neck": "neck"})
    made = train("detector_without_soft_loss", ("distill", distil))
    assert made.macs[1] < made.macs[0]


# --- all together -----------------------------------------------------------------------------------


def test_three_horses_pull_one_cart(train: Train, tmp_path: Path) -> None:
    made = train(
        "residual",
        ("fine-tune", ROUGH),
        ("distill", Distill(student=f"{HERE}:small_residual", epochs=2)),
        ("channel-prune", ChannelPrune(ratio=0.3, round_to=2)),
        ("fine-tune", FineTune(epochs=1, teacher="original")),
        ("qat", Qat(epochs=1, teacher="original")),
    )
    assert made.macs[1] < 0.2 * made.macs[0]
    assert made.test.value == pytest.approx(_right_share(tmp_path / "out.onnx"), abs=0.004)


def test_an_older_opset_is_really_older(train: Train, tmp_path: Path) -> None:
    made = train("residual", ("fine-tune", FineTune(epochs=1)), opset=13)
    assert made.info.opset["ai.onnx"] == 13
    assert made.test.value == pytest.approx(_right_share(tmp_path / "out.onnx"), abs=0.004)
