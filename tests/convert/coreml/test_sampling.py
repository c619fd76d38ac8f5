"""GridSample, DeformConv and RoiAlign: packages beside ONNX's own definition, at and beyond every border."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgebench.errors import ModelError
from tests.convert.coreml.graphs import assert_same, defined, evaluated, network, reference, refused

F, I64 = np.float32, np.int64
PADDINGS = ("zeros", "border", "reflection")


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(F)


def places(*shape: int, seed: int = 1, reach: float = 2.6) -> np.ndarray:
    """Coordinates in the image, on its borders, halfway between pixels and far outside."""
    grid = np.random.default_rng((seed, *shape)).uniform(-reach, reach, shape).astype(F)
    flat = grid.reshape(-1)
    flat[:7] = [0, -1, 1, -1.25, 1.25, 0.5, -0.5]
    return grid


def grid_samples(x: np.ndarray, grid: np.ndarray, mode: str, opset: int = 20) -> tuple[Any, dict[str, Any]]:
    """One model with a sample for each kind of padding and both meanings of the corners."""
    nodes, outputs = [], {}
    for padding in PADDINGS:
        for corners in (0, 1):
            name = f"{padding}-{corners}"
            outputs[name] = x.dtype.type
            nodes.append(
                helper.make_node(
                    "GridSample",
                    ["x", "grid"],
                    [name],
                    mode=mode,
                    padding_mode=padding,
                    align_corners=corners,
                )
            )
    return network(nodes, {"x": x, "grid": grid}, outputs, opset=opset), {"x": x, "grid": grid}


@pytest.mark.parametrize("mode", ["nearest", "cubic"])
def test_images_are_sampled_as_onnx_defines_it(mode):
    net, feeds = grid_samples(values(2, 2, 4, 5), places(2, 3, 3, 2), mode)
    assert_same(net, feeds, oracle=defined)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_volumes_are_sampled_as_onnx_runtime_does(mode):
    net, feeds = grid_samples(values(2, 2, 3, 4, 5), places(2, 2, 3, 2, 3), mode)
    assert_same(net, feeds)


def test_lines_are_sampled():
    net, feeds = grid_samples(values(1, 2, 6), places(1, 9, 1), "linear")
    assert_same(net, feeds, oracle=defined)


def test_the_names_of_modes_in_opset_16():
    """Inside of the image only: outside, ONNX Runtime clamps x where y leaves the image, ONNX does not."""
    net, feeds = grid_samples(values(1, 1, 4, 4), places(1, 3, 3, 2, reach=0.7) / 2, "bicubic", opset=16)
    assert_same(net, feeds)


def test_integers_and_truth_values_are_taken_from_the_nearest_place():
    x = np.random.default_rng(0).integers(-(2**30), 2**30, (1, 2, 4, 4)).astype(np.int32)
    net, feeds = grid_samples(x, places(1, 3, 3, 2), "nearest")
    assert_same(net, feeds, oracle=defined)
    net, feeds = grid_samples(x > 0, places(1, 3, 3, 2), "nearest")
    assert_same(net, feeds, oracle=defined)


def test_an_axis_of_one_pixel_has_that_pixel_everywhere():
    x, grid = values(1, 1, 1, 1), places(1, 3, 3, 2)
    node = helper.make_node(
        "GridSample", ["x", "g"], ["y"], mode="cubic", padding_mode="reflection", align_corners=1
    )
    found = evaluated(network([node], {"x": x, "g": grid}, {"y": F}), {"x": x, "g": grid})["y"]
    np.testing.assert_allclose(found, np.full((1, 1, 3, 3), x[0, 0, 0, 0]), rtol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
def test_places_that_are_no_numbers_stay_inside_of_the_memory(padding):
    grid = places(1, 3, 3, 2)
    grid[0, 0, 0] = [np.nan, np.inf]
    grid[0, 1, 1] = [-np.inf, 3e38]
    x = values(1, 1, 4, 4)
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode="nearest", padding_mode=padding)
    found = evaluated(network([node], {"x": x, "g": grid}, {"y": F}), {"x": x, "g": grid})["y"]
    assert np.all(np.isin(found, np.append(x, 0)))


def test_integers_between_pixels_are_refused():
    x = np.ones((1, 1, 4, 4), np.int32)
    node = helper.make_node("GridSample", ["x", "g"], ["y"], name="the-node", mode="linear")
    error = refused(network([node], {"x": x, "g": places(1, 3, 3, 2)}, {"y": np.int32}))
    assert 'GridSample "the-node"' in error.message
    assert "int32" in error.message


# --- DeformConv ------------------------------------------------------------------------------------


def deformed(*, mask: bool, bias: bool, groups: int, offsets: int, **attributes: Any) -> None:
    batch, channels, made, sizes, kernel = 2, 4, 6, (5, 6), (3, 2)
    axes = range(2)
    pads = attributes.get("pads", [0] * 4)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    steps = [
        (sizes[at] + pads[at] + pads[at + 2] - (kernel[at] - 1) * dilations[at] - 1) // strides[at] + 1
        for at in axes
    ]
    feeds = {
        "x": values(batch, channels, *sizes),
        "w": values(made, channels // groups, *kernel, seed=1),
        "offset": values(batch, offsets * 2 * 6, *steps, seed=2) * 1.5,
    }
    names = ["x", "w", "offset", "b" if bias else "", "mask" if mask else ""]
    if bias:
        feeds["b"] = values(made, seed=3)
    if mask:
        feeds["mask"] = np.abs(values(batch, offsets * 6, *steps, seed=4))
    node = helper.make_node("DeformConv", names, ["y"], group=groups, offset_group=offsets, **attributes)
    assert_same(network([node], feeds, {"y": F}, opset=19), feeds, oracle=defined)


def test_a_deformed_convolution():
    deformed(mask=False, bias=True, groups=1, offsets=1)


def test_a_deformed_convolution_in_groups_with_a_mask():
    deformed(mask=True, bias=False, groups=2, offsets=4, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2])


# --- RoiAlign --------------------------------------------------------------------------------------

REGIONS = np.array([[0, 0, 9, 6], [2.5, 1.25, 3.0, 7.75], [-4, -3, 5, 2], [7, 5, 30, 20], [3, 3, 3, 3]], F)
IMAGES = np.array([1, 0, 1, 0, 0], I64)


def regions(stored: tuple[str, ...] = (), opset: int = 16, **attributes: Any) -> None:
    known = {"x": values(2, 3, 7, 9), "rois": REGIONS, "images": IMAGES}
    node = helper.make_node(
        "RoiAlign",
        list(known),
        ["y"],
        output_height=3,
        output_width=2,
        spatial_scale=0.75,
        **attributes,
    )
    feeds = {name: each for name, each in known.items() if name not in stored}
    net = network([node], feeds, {"y": F}, {name: known[name] for name in stored}, opset=opset)
    assert_same(net, feeds)


@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_regions_that_are_computed(mode, coordinates):
    regions(mode=mode, coordinate_transformation_mode=coordinates, sampling_ratio=2)


@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_known_regions_have_as_many_points_as_their_size_says(mode, coordinates):
    regions(("rois",), mode=mode, coordinate_transformation_mode=coordinates)


def test_regions_of_opset_10_are_not_shifted():
    regions(("rois", "images"), opset=10, sampling_ratio=1)


def test_computed_regions_without_a_number_of_points_are_refused():
    feeds = {"x": values(1, 1, 4, 4), "rois": REGIONS, "images": np.zeros(5, I64)}
    node = helper.make_node("RoiAlign", list(feeds), ["y"], name="the-node")
    error = refused(network([node], feeds, {"y": F}, opset=16))
    assert 'RoiAlign "the-node"' in error.message
    assert "sampling_ratio" in error.hint


@pytest.mark.parametrize("size", [np.inf, np.nan, 1e30, 1e5])
def test_known_regions_of_absurd_size_are_refused(size):
    rois = np.array([[0, 0, size, size]], F)
    node = helper.make_node("RoiAlign", ["x", "rois", "images"], ["y"], name="the-node")
    weights = {"rois": rois, "images": np.zeros(1, I64)}
    error = refused(network([node], {"x": values(1, 1, 4, 4)}, {"y": F}, weights, opset=16))
    assert 'RoiAlign "the-node"' in error.message


def test_a_region_of_no_image_is_refused_or_found_when_it_is_computed():
    x, images = values(1, 1, 4, 4), np.array([0, 0, 1, 0, 0], I64)
    node = helper.make_node("RoiAlign", ["x", "rois", "images"], ["y"], sampling_ratio=1)
    known = network([node], {"x": x}, {"y": F}, {"rois": REGIONS, "images": images}, opset=16)
    assert "none of the 1 images" in refused(known).message
    feeds = {"x": x, "images": images}
    with pytest.raises(ModelError, match="index"):
        evaluated(network([node], feeds, {"y": F}, {"rois": REGIONS}, opset=16), feeds)


def test_the_oracles_agree():
    """ONNX's definition and ONNX Runtime, where both are asked above."""
    net, feeds = grid_samples(values(1, 2, 4, 5), places(1, 3, 3, 2, reach=1.0), "nearest")
    for name, want in reference(net, feeds).items():
        np.testing.assert_allclose(defined(net, feeds)[name], want, atol=1e-5)
