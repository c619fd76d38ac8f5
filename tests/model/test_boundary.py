"""What `--flexible` and `--image` may say, what it means for a model, and which shapes are tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebench import model
from edgebench.errors import UserError
from edgebench.model.flexible import from_options, to_options
from tests.models import flexible

# --- flexible ---------------------------------------------------------------------------------------


def test_ranges_and_lists_and_defaults() -> None:
    ranges = model.parse_flexible("x=1..8,3,224..448,224..448")
    assert (ranges.name, ranges.default) == ("x", (1, 3, 224, 224))
    assert ranges.takes((8, 3, 300, 448))
    assert not ranges.takes((9, 3, 300, 448))
    listed = model.parse_flexible("a=b=1,3,224,224|1,3,448,448@1,3,448,448")
    assert (listed.name, listed.default) == ("a=b", (1, 3, 448, 448))
    assert listed.takes((1, 3, 224, 224))
    assert not listed.takes((1, 3, 300, 300))
    assert from_options(to_options([ranges, listed])) == (ranges, listed)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1..8,3", "no name"),
        ("x=1..8,?", "neither a size nor a range"),
        ("x=1,3,4,4", "leaves no size open"),
        ("x=8..1,3", "upwards"),
        ("x=0..4,3", "1 or more"),
        ("x=1,3|1,3,4", "numbers of axes"),
        ("x=1,2..3|1,4", "range in it"),
        ("x=1..4,3@5,3", "none of its shapes"),
        ("x=1..100000,3,1..100000,8", "elements"),
    ],
)
def test_other_texts_are_refused(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        model.parse_flexible(text)
    assert caught.value.hint


def prepared(network: str, folder: Path, *texts: str) -> tuple[object, list[list[tuple[object, ...]]]]:
    path = flexible.save(getattr(flexible, network)(), folder / f"{network}.onnx")
    wanted = tuple(model.parse_flexible(text) for text in texts)
    info = model.prepare(path, shapes={}, flexible=wanted, out=folder / "canonical.onnx")
    return info, [[tensor.shape for tensor in each.inputs] for each in model.trials(info, wanted)]


def test_the_smallest_the_largest_the_default_and_one_between_are_tried(tmp_path: Path) -> None:
    _, tried = prepared("convolutional", tmp_path, "x=1..5,3,32..64,32..96@2,3,40,48")
    shapes = [shape for (shape,) in tried]
    assert shapes[:3] == [(2, 3, 40, 48), (1, 3, 32, 32), (5, 3, 64, 96)]
    _, _, height, width = shapes[3]
    assert height % 2 == width % 2 == 1, "sizes that divide well hide what goes wrong"
    assert height != width
    assert len(shapes) == 4


def test_listed_shapes_are_all_tried(tmp_path: Path) -> None:
    _, tried = prepared("convolutional", tmp_path, "x=1,3,32,32|1,3,64,48|1,3,48,64@1,3,64,48")
    assert [shape for (shape,) in tried] == [(1, 3, 64, 48), (1, 3, 32, 32), (1, 3, 48, 64)]


def test_a_size_that_inputs_share_is_one_size(tmp_path: Path) -> None:
    info, tried = prepared("tokens", tmp_path, "ids=1..4,2..9")
    assert [tensor.shape for tensor in info.inputs] == [("N", "S"), ("N", "S")]  # type: ignore[attr-defined]
    assert all(ids == mask for ids, mask in tried)
    with pytest.raises(UserError, match="two ranges"):
        prepared("tokens", tmp_path, "ids=1..4,2..9", "mask=1..4,2..8")
    with pytest.raises(UserError, match="shares an open size"):
        prepared("tokens", tmp_path, "ids=1,2|1,3")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x=1,1..3,32,32", "fixes axis 1"),
        ("x=1..2,3,32", "3 axes, and it has 4"),
        ("y=1..2,3,32,32", 'no input "y"'),
    ],
)
def test_what_does_not_fit_the_model(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        prepared("convolutional", tmp_path, text)


def test_sizes_that_are_not_opened_must_be_given(tmp_path: Path) -> None:
    path = flexible.save(flexible.tokens(), tmp_path / "tokens.onnx")
    wanted = (model.parse_flexible("ids=1..4,6"),)
    info = model.prepare(path, shapes={}, flexible=wanted, out=tmp_path / "canonical.onnx")
    assert [tensor.shape for tensor in info.inputs] == [("N", 6), ("N", 6)]


# --- images -----------------------------------------------------------------------------------------


def test_pixels_become_floats_and_pixels_again() -> None:
    image = model.parse_image("x=rgb,scale=1/255,bias=-0.485:-0.456:-0.406")
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 3, 16, 16)
    floats = image.floats(pixels)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats[:, 1], pixels[:, 1] / 255 - 0.456, atol=1e-6)
    np.testing.assert_array_equal(image.pixels(floats), pixels)
    assert model.parse_image(f"x={image.text()}") == image


def test_floats_that_are_no_pixels_are_refused() -> None:
    image = model.parse_image("x=gray,scale=1/255")
    for floats in (np.full((1, 1, 2, 2), 0.5), np.full((1, 1, 2, 2), 2.0)):
        with pytest.raises(UserError, match="no picture"):
            image.pixels(floats)


def test_the_users_arrays_are_pixels() -> None:
    images = (model.parse_image("x=gray,scale=2"),)
    fed = model.as_fed({"x": np.full((1, 1, 2, 2), 3, np.uint8), "other": np.ones(2)}, images)
    assert fed["x"].max() == 6
    assert fed["other"].max() == 1
    for array in (np.full((1, 1, 2, 2), 0.5), np.full((1, 1, 2, 2), 256)):
        with pytest.raises(UserError, match="other numbers"):
            model.as_fed({"x": array}, images)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x", "no image input"),
        ("x=rbg", "rgb"),
        ("x=rgb,scale=0", "scale of 0"),
        ("x=rgb,scale=a", "no number"),
        ("x=rgb,scale=1/0", "no number"),
        ("x=rgb,bias=1:2", "2 biases for 3 channels"),
        ("x=gray,std=1", "std=1"),
    ],
)
def test_other_image_texts_are_refused(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        model.parse_image(text)
    assert told in f"{caught.value.message} {caught.value.hint}"
