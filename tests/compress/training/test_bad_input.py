"""What a factory, its data, a network or a list of steps can have wrong: told before any training, with a way
out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgebench.compress import training
from edgebench.compress.training import (
    ChannelPrune,
    Distill,
    FineTune,
    HeadPrune,
    LayerDrop,
    MlpPrune,
    Qat,
    Sparsify,
    TrainSettings,
)
from edgebench.errors import EdgebenchError, ModelError, UserError

HERE = "tests.compress.training.factories"
TUNE = ("fine-tune", FineTune(epochs=1))


def _refused(tmp_path: Path, factory: str, *steps: tuple[str, Any], **more: Any) -> EdgebenchError:
    settings = TrainSettings(work=tmp_path / "work", **({"device": "cpu"} | more))
    with pytest.raises(EdgebenchError) as caught:
        training.train(factory, steps, settings, out=tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
    return caught.value


FACTORIES = {
    "returns_a_tuple": "returned a value of type tuple and no dict",
    "returns_no_network": "module is a value of type type and no torch.nn.Module",
    "without_test": 'returned no "test"',
    "used_up": "train is used up after one pass",
    "takes_another_example": "failed",
    "one_sample": "example has 1 sample",
    "empty_validation": "validation is empty",
    "wrong_shapes": "test, batch 2 has inputs torch.float32 [50, 1, 8, 6]... the example's",
    "labels_out_of_range": "has the label 10; the network has 10 classes",
    "labels_as_floats": "the labels of train, batch 1 are torch.float32",
    "not_a_number": "validation, batch 1 has NaN or infinity in image",
    "shared_sample": "a sample of test is in train too",
}
WITH_SIGNATURE = ("returns_a_tuple", "returns_no_network", "without_test", "used_up", "one_sample")


@pytest.mark.parametrize("factory", FACTORIES)
def test_what_a_factory_has_wrong_is_told_before_training(tmp_path: Path, factory: str) -> None:
    error = _refused(tmp_path, f"{HERE}:{factory}", TUNE)
    assert isinstance(error, UserError)
    for part in FACTORIES[factory].split("..."):
        assert part in error.message
    assert ('"module": network' in error.hint) == (factory in WITH_SIGNATURE)
    assert not (tmp_path / "work").exists()


def test_a_factory_that_raises_is_blamed_by_line(tmp_path: Path) -> None:
    error = _refused(tmp_path, f"{HERE}:raises", TUNE)
    assert "failed at factories.py:" in error.message
    assert "in raises: RuntimeError: no weights here" in error.message
    assert "Traceback" in error.detail


@pytest.mark.parametrize(
    ("factory", "message", "hint"),
    [
        ("nothing", "names no function", "mynet:build"),
        ("no.such.module:build", "there is no module no", "PYTHONPATH"),
        (f"{HERE}:residal", "has no function residal", 'did you mean "residual"?'),
        (f"{HERE}:unknown_key", 'returned "validate"', 'did you mean "validation"?'),
    ],
)
def test_names_that_do_not_exist_are_told_with_the_nearest(
    tmp_path: Path, factory: str, message: str, hint: str
) -> None:
    error = _refused(tmp_path, factory, TUNE)
    assert message in error.message
    assert hint in error.hint


ORDERS = [
    (["qat", "fine-tune"], "fine-tune after qat would take the weights off their 8-bit grid"),
    (["qat", "channel-prune"], "channel-prune after qat"),
    (["sparsify", "channel-prune"], "channel-prune after sparsify would lose its zeros"),
    (["sparsify", "distill"], "distill after sparsify"),
    ([], "no training step was named"),
    (["chanel-prune"], 'no training step "chanel-prune"'),
]


@pytest.mark.parametrize(("names", "message"), ORDERS)
def test_steps_in_an_impossible_order_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    options = {
        "qat": Qat(),
        "fine-tune": FineTune(),
        "channel-prune": ChannelPrune(),
        "chanel-prune": ChannelPrune(),
        "sparsify": Sparsify(),
        "distill": Distill(student="a:b"),
    }
    error = _refused(tmp_path, f"{HERE}:residual", *((name, options[name]) for name in names))
    assert isinstance(error, UserError)
    assert message in error.message
    assert error.hint


def test_a_network_that_cannot_be_pruned_is_told_by_layer_and_reason(tmp_path: Path) -> None:
    error = _refused(tmp_path, f"{HERE}:halved", ("channel-prune", ChannelPrune(round_to=1)))
    assert isinstance(error, ModelError)
    assert "cannot lose a channel: body: " in error.message
    assert "ignore: [body" in error.hint


def test_shuffled_channels_are_told_by_layer(tmp_path: Path) -> None:
    error = _refused(tmp_path, f"{HERE}:shuffle", ("channel-prune", ChannelPrune()))
    assert isinstance(error, ModelError)
    assert "stages.0" in error.message
    assert "ignore: [" in error.hint


def test_the_hint_of_what_to_ignore_is_right(tmp_path: Path) -> None:
    error = _refused(tmp_path, f"{HERE}:shuffle", ("channel-prune", ChannelPrune()))
    names = error.hint.partition("[")[2].partition("]")[0].split(", ")
    step = ("channel-prune", ChannelPrune(ignore=tuple(names)))
    settings = TrainSettings(work=tmp_path / "work", device="cpu")
    made = training.train(f"{HERE}:shuffle", [step], settings, out=tmp_path / "out.onnx")
    assert made.macs[1] < made.macs[0]


REFUSED = [
    ("residual", ("channel-prune", ChannelPrune(ratio=0.1, round_to=64)), "removed nothing", "round_to"),
    ("residual", ("channel-prune", ChannelPrune(ignore=("haed",))), 'no layer "haed"', '"head"'),
    ("residual", ("head-prune", HeadPrune()), "finds no attention", "qkv"),
    ("residual", ("mlp-prune", MlpPrune()), "finds no MLP with the linear layers `fc1`", "timm"),
    ("transformer", ("mlp-prune", MlpPrune(ratio=0.1, round_to=64)), "removed nothing", "ratio"),
    ("residual", ("layer-drop", LayerDrop(count=3)), "finds none after blocks.", "count: "),
    ("residual", ("sparsify", Sparsify(ignore=("stem.9",))), 'no layer "stem.9"', "stem."),
    ("branching", ("qat", Qat(epochs=1)), "cannot be traced", "branches"),
    ("residual", ("distill", Distill(student=f"{HERE}:sixteen_classes")), "(2, 16)", "same shapes"),
    ("residual", ("distill", Distill(student=f"{HERE}:raises")), "no weights here", "correct it"),
    (
        "residual",
        ("distill", Distill(student=f"{HERE}:small_residual", features={"stem": "steam"})),
        'no layer "steam"',
        "stem",
    ),
    (
        "residual",
        ("distill", Distill(student=f"{HERE}:small_residual", features={"stem": "head"})),
        "cannot compare stem",
        "same number of axes",
    ),
    (
        "detector_without_soft_loss",
        ("distill", Distill(student=f"{HERE}:small_detector")),
        "a loss of its own",
        "soft_loss",
    ),
]


@pytest.mark.parametrize(("factory", "step", "message", "hint"), REFUSED)
def test_steps_that_do_not_fit_the_network_say_why(
    tmp_path: Path, factory: str, step: tuple[str, Any], message: str, hint: str
) -> None:
    error = _refused(tmp_path, f"{HERE}:{factory}", step)
    assert message in error.message
    assert hint in error.hint


def test_a_missing_folder_and_a_missing_device_are_told_first(tmp_path: Path) -> None:
    settings = TrainSettings(work=tmp_path / "work", device="cpu")
    with pytest.raises(UserError, match="no folder"):
        training.train(f"{HERE}:residual", [TUNE], settings, out=tmp_path / "none" / "out.onnx")
    import torch

    if not torch.cuda.is_available():
        error = _refused(tmp_path, f"{HERE}:residual", TUNE, device="cuda")
        assert "no CUDA device" in error.message
