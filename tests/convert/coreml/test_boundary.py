"""Open sizes and image inputs: what the saved package says of them, and what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgebench import model
from edgebench.convert.base import Place, Produced, Request
from edgebench.convert.coreml import CoreMlConverter
from edgebench.convert.coreml.interpreter import interpret
from edgebench.errors import EdgebenchError, ModelError, UserError
from edgebench.model import flexible as sizes
from edgebench.model import images as pictures
from tests.convert.coreml.mil import tools
from tests.convert.coreml.test_package import operations, spec_of
from tests.models.flexible import attention, convolutional, made, save, tokens

F = np.float32


def packed(
    net: Any, folder: Path, flexible: tuple[str, ...] = (), images: tuple[str, ...] = (), **shapes: Any
) -> tuple[Produced, Path]:
    """What the converter makes of a network with these flags."""
    tools()
    opened = tuple(model.parse_flexible(text) for text in flexible)
    seen = tuple(model.parse_image(text) for text in images)
    path = save(net, folder / "net.onnx")
    info = model.prepare(path, shapes=shapes, flexible=opened, out=folder / "canonical.onnx")
    options = sizes.to_options(opened) | pictures.to_options(seen)
    (folder / "out").mkdir()
    request = Request(model_path=str(folder / "canonical.onnx"), info=info, precision="fp32", options=options)
    produced = CoreMlConverter().convert(request, Place(folder / "out", folder))
    return produced, folder / "out" / "model.mlpackage"


def in_onnx_runtime(net: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in net.graph.output]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_equal_at(net: Any, package: Path, feeds: dict[str, np.ndarray]) -> None:
    given = {name: each.astype(np.int32) if each.dtype.kind == "i" else each for name, each in feeds.items()}
    found, wanted = interpret(package, given), in_onnx_runtime(net, feeds)
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, atol=2e-5)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(F)


# --- open sizes -------------------------------------------------------------------------------------


def test_ranges_are_in_the_description_and_the_program_computes_within_them(tmp_path: Path) -> None:
    net = convolutional()
    _, package = packed(net, tmp_path, ("x=1..4,3,16..64,16..48@1,3,32,32",))
    (described,) = spec_of(package).description.input
    array = described.type.multiArrayType
    assert list(array.shape) == [1, 3, 32, 32]
    limits = [(each.lowerBound, each.upperBound) for each in array.shapeRange.sizeRanges]
    assert limits == [(1, 4), (3, 3), (16, 64), (16, 48)]
    for shape in ((1, 3, 16, 16), (4, 3, 64, 48), (3, 3, 21, 35), (2, 3, 64, 17)):
        assert_equal_at(net, package, {"x": noise(*shape)})


def test_listed_shapes_are_in_the_description(tmp_path: Path) -> None:
    net = convolutional()
    _, package = packed(net, tmp_path, ("x=1,3,32,32|1,3,48,40@1,3,48,40",))
    (described,) = spec_of(package).description.input
    array = described.type.multiArrayType
    assert list(array.shape) == [1, 3, 48, 40]
    assert {tuple(each.shape) for each in array.enumeratedShapes.shapes} == {(1, 3, 32, 32), (1, 3, 48, 40)}
    assert_equal_at(net, package, {"x": noise(1, 3, 48, 40)})


@pytest.mark.parametrize("text", ["x=1..4,3,16..64,16..48", "x=1,3,32,32|1,3,48,40"])
def test_the_interpreter_takes_no_shape_that_the_package_does_not_take(tmp_path: Path, text: str) -> None:
    _, package = packed(convolutional(), tmp_path, (text,))
    with pytest.raises(UserError, match='the input "x" takes'):
        interpret(package, {"x": noise(1, 3, 128, 40)})


def test_attention_with_an_open_batch(tmp_path: Path) -> None:
    net = attention()
    _, package = packed(net, tmp_path, ("x=1..8,12,16",))
    for batch in (1, 3, 8):
        assert_equal_at(net, package, {"x": noise(batch, 12, 16)})


def test_inputs_that_share_a_size_are_open_together(tmp_path: Path) -> None:
    net = tokens()
    _, package = packed(net, tmp_path, ("ids=1..4,2..9",))
    for shape in ((1, 2), (4, 9), (3, 5)):
        ids = np.random.default_rng(1).integers(0, 12, shape)
        assert_equal_at(net, package, {"ids": ids, "mask": noise(*shape)})


def node(op: str, *inputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), ["y"], name="it", **attributes)


# (what, node, weights): each lowering of these would write an open size down
BAKED = {
    "ceil mode": (node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), {}),
    "sizes of resizing": (node("Resize", "x", "", "", "to", mode="linear"), {"to": np.array([1, 3, 50, 50])}),
    "an uneven factor": (node("Resize", "x", "", "by"), {"by": np.array([1, 1, 1.5, 1.5], F)}),
    "aligned corners": (
        node("Resize", "x", "", "by", mode="linear", coordinate_transformation_mode="align_corners"),
        {"by": np.array([1, 1, 2, 2], F)},
    ),
    "a mirror image": (
        node("Pad", "x", "by", mode="reflect"),
        {"by": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    "a triangle": (node("Trilu", "x"), {}),
    "an index from the end": (node("Gather", "x", "at", axis=2), {"at": np.array([-1])}),
    "halves of an open axis": (node("Split", "x", axis=2), {}),
    "a part counted from the end": (
        node("Slice", "x", "from", "to", "on"),
        {"from": np.array([-4]), "to": np.array([2**62]), "on": np.array([2])},
    ),
    "two open sizes in one reshape": (node("Reshape", "x", "to"), {"to": np.array([0, 0, -1, 1, 0])}),
}


@pytest.mark.parametrize("what", BAKED)
def test_a_lowering_that_needs_an_open_size_is_refused_by_node(tmp_path: Path, what: str) -> None:
    made_by, weights = BAKED[what]
    outputs = ["y", "z"] if made_by.op_type == "Split" else ["y"]
    changed = type(made_by)()
    changed.CopyFrom(made_by)
    del changed.output[:]
    changed.output.extend(outputs)
    net = made([changed], {"x": [1, 3, "H", "W"]}, outputs, weights)
    with pytest.raises(ModelError) as caught:
        packed(net, tmp_path, ("x=1,3,16..64,16..64",))
    assert f'{made_by.op_type} "it"' in caught.value.message
    assert "--shape" in caught.value.hint
    assert not list((tmp_path / "out").iterdir())


# --- image inputs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "colours"), [("rgb", "RGB"), ("bgr", "BGR")])
def test_an_image_input_scales_its_pixels_itself(tmp_path: Path, layout: str, colours: str) -> None:
    net = convolutional()
    text = f"x={layout},scale=1/127.5,bias=-1:-0.9:-1.1"
    produced, package = packed(net, tmp_path, (), (text,), x=(1, 3, 20, 24))
    (described,) = spec_of(package).description.input
    image = described.type.imageType
    assert (image.width, image.height) == (24, 20)
    assert image.ColorSpace.Name(image.colorSpace) == colours
    assert operations(package)[:6].count("mul") == 1, "the scaling is a part of the program"
    assert any("image input" in note and layout in note for note in produced.notes)
    pixels = np.random.default_rng(2).integers(0, 256, (1, 3, 20, 24)).astype(np.uint8)
    found = interpret(package, {"x": pixels.astype(F)})
    floats = pixels.astype(np.float64) / 127.5 + np.array([-1, -0.9, -1.1]).reshape(1, 3, 1, 1)
    for name, array in in_onnx_runtime(net, {"x": floats.astype(F)}).items():
        np.testing.assert_allclose(found[name], array, atol=2e-5)


def test_a_grey_image(tmp_path: Path) -> None:
    net = made([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 1, 4, 6]}, ["y"], {})
    _, package = packed(net, tmp_path, (), ("x=gray,scale=1/255,bias=-0.5",))
    (described,) = spec_of(package).description.input
    assert described.type.imageType.ColorSpace.Name(described.type.imageType.colorSpace) == "GRAYSCALE"
    pixels = np.arange(24, dtype=F).reshape(1, 1, 4, 6) * 10
    found = interpret(package, {"x": pixels})["y"]
    np.testing.assert_allclose(found, np.maximum(pixels / 255 - 0.5, 0), atol=1e-6)


def test_a_flexible_image(tmp_path: Path) -> None:
    _, package = packed(convolutional(), tmp_path, ("x=1,3,16..64,20..48",), ("x=rgb",))
    (described,) = spec_of(package).description.input
    both = described.type.imageType.imageSizeRange
    limits = [(each.lowerBound, each.upperBound) for each in (both.heightRange, both.widthRange)]
    assert limits == [(16, 64), (20, 48)]
    interpret(package, {"x": noise(1, 3, 33, 21)})
    with pytest.raises(UserError, match="takes"):
        interpret(package, {"x": noise(1, 3, 33, 12)})


@pytest.mark.parametrize(
    ("text", "shape", "told"),
    [
        ("x=gray", (1, 3, 8, 8), "a gray image is"),
        ("x=rgb", (2, 3, 8, 8), "a rgb image is"),
        ("y=rgb", (1, 3, 8, 8), 'no input "y"'),
    ],
)
def test_inputs_that_are_no_images(tmp_path: Path, text: str, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(EdgebenchError) as caught:
        packed(convolutional(), tmp_path, (), (text,), x=shape)
    assert told in caught.value.message
