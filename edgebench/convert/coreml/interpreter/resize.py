"""Images resized, cropped and sampled. Linear interpolation is separable: one axis after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgebench.convert.coreml.interpreter.base import IOS16, IOS17, Array, Call, Kernel

_MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")


# --- whole images ---------------------------------------------------------------------------------


def _grid(call: Call, mode: str, size: int, wanted: int) -> Array:
    """Where `wanted` samples lie in `size` elements (formulas: docs of resize_bilinear), unclipped."""
    steps = np.arange(wanted, dtype=np.float64)
    if mode == "DEFAULT":
        return steps * (size / wanted)
    if mode == "UNALIGN_CORNERS":
        return (steps + 0.5) * (size / wanted) - 0.5
    if mode == "OFFSET_CORNERS":
        return (steps + 0.5) * (max(1, size - 1) / wanted)
    if mode == "ALIGN_CORNERS" and wanted == 1:
        return np.array([(size - 1) / 2])
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return steps * ((size - 1) / max(1, wanted - 1))
    raise call.refuse(f'the sampling mode "{mode}" is not known; known: {", ".join(_MODES)}')


def _interpolated(x: Array, axis: int, points: Array) -> Array:
    """`x` at real positions along an axis, linear between its elements, its ends continued."""
    size = x.shape[axis]
    points = np.clip(points, 0, size - 1)
    below = np.minimum(np.floor(points).astype(np.intp), size - 1)
    above = np.minimum(below + 1, size - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = (points - below).astype(x.dtype).reshape(shape)
    lower = np.take(x, below, axis=axis)
    return np.asarray(lower + (np.take(x, above, axis=axis) - lower) * share)


def _linear(call: Call, x: Array, mode: str, sizes: list[int]) -> Array:
    """The last len(sizes) dimensions resized."""
    if x.dtype.kind != "f":
        raise call.refuse("how integers are interpolated is not documented", hint="cast to float first")
    for axis, wanted in enumerate(sizes, start=x.ndim - len(sizes)):
        x = _interpolated(x, axis, _grid(call, mode, x.shape[axis], wanted))
    return x


def _spatial(call: Call, height: int, width: int) -> tuple[Array, list[int]]:
    x = call.array("x")
    if x.ndim < 3 or min(height, width) < 1:
        raise call.refuse(f"an input of shape {list(x.shape)} cannot become {height} x {width}")
    call.bound([*x.shape[:-2], height, width])
    return x, [height, width]


def _resize_bilinear(call: Call) -> Array:
    x, sizes = _spatial(call, call.integer("target_size_height", 1), call.integer("target_size_width", 1))
    mode = call.text("sampling_mode", "DEFAULT")
    return _linear(call, x, mode, sizes)


def _scaled_sizes(call: Call) -> tuple[Array, list[int]]:
    x = call.array("x")
    height = int(np.floor(x.shape[-2] * call.number("scale_factor_height", 1)))
    width = int(np.floor(x.shape[-1] * call.number("scale_factor_width", 1)))
    return _spatial(call, height, width)


def _upsample_bilinear(call: Call) -> Array:
    x, sizes = _scaled_sizes(call)
    aligned = call.flag("align_corners", True)
    centred = call.flag("half_pixel_centers", not aligned)
    if aligned and centred:
        raise call.refuse("align_corners and half_pixel_centers exclude each other")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centred else "DEFAULT"
    return _linear(call, x, mode, sizes)


def _upsample_nearest(call: Call) -> Array:
    """Element floor(i * size / wanted): what coremltools' tests expect of Core ML at fractional scales."""
    x, sizes = _scaled_sizes(call)
    for axis, wanted in enumerate(sizes, start=x.ndim - 2):
        x = np.take(x, np.arange(wanted) * x.shape[axis] // wanted, axis=axis)
    return x


def _resize_nearest(call: Call) -> Array:
    x, sizes = _spatial(call, call.integer("target_size_height"), call.integer("target_size_width"))
    return _nearest(call, x, sizes)


def _nearest(call: Call, x: Array, sizes: list[int]) -> Array:
    """Whole multiples repeat each element. Else the element at the half-pixel centre, if the grid agrees.

    The rule is not documented. coremltools' TensorFlow frontend uses the operator for half-pixel centres, the
    grid of DEFAULT has none, and coremltools' tests of Core ML itself fit both: where they differ is refused.
    """
    for axis, wanted in enumerate(sizes, start=x.ndim - len(sizes)):
        size, steps = x.shape[axis], np.arange(wanted)
        centred = (2 * steps + 1) * size // (2 * wanted)
        if wanted % size:
            on_grid = np.minimum((2 * steps * size + wanted) // (2 * wanted), size - 1)
            between = (2 * steps * size + wanted) % (2 * wanted) == 0
            if not np.array_equal(centred, on_grid) or between.any():
                raise call.refuse(
                    f"which elements are nearest when {size} become {wanted} is not documented",
                    hint="gather with constant indices instead",
                )
        x = np.take(x, centred, axis=axis)
    return x


def _resize(call: Call) -> Array:
    """From iOS17: the last `resized_dims` dimensions become the last of `shape`, 0 keeps a size."""
    x, shape, number = call.array("x"), call.integers("shape"), call.integer("resized_dims")
    if not 0 < number <= len(shape) <= x.ndim:
        raise call.refuse(f"{number} sizes of {shape} do not fit an input of rank {x.ndim}")
    own = x.shape[x.ndim - number :]
    sizes = [wanted or size for wanted, size in zip(shape[-number:], own, strict=True)]
    call.bound([*x.shape[: x.ndim - number], *sizes])
    mode = call.text("sampling_mode", "DEFAULT")
    how = call.text("interpolation_mode", "LINEAR")
    if how == "LINEAR":
        return _linear(call, x, mode, sizes)
    if how != "NEAREST_NEIGHBOR" or mode != "DEFAULT":
        raise call.refuse(f"{how} with {mode} is not documented")
    return _nearest(call, x, sizes)


# --- parts of images ------------------------------------------------------------------------------


def _crop(call: Call) -> Array:
    x = call.array("x")
    (top, bottom), (left, right) = call.integers("crop_height"), call.integers("crop_width")
    if min(top, bottom, left, right) < 0 or top + bottom > x.shape[-2] or left + right > x.shape[-1]:
        raise call.refuse(f"its crops do not fit an input of {list(x.shape)}")
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _crop_resize(call: Call) -> Array:
    """Boxes cut out and resized. Points beyond the image have `pad_value` (iOS16 on; refused before)."""
    x = call.array("x")
    boxes, images, batched = _boxes(call, x)
    height, width = call.integer("target_height", 1), call.integer("target_width", 1)
    call.bound([len(boxes) * x.shape[0], x.shape[1], height, width])
    crops = [_cropped(call, x[image], box, (height, width)) for box, image in zip(boxes, images, strict=True)]
    stacked = np.stack(crops) if crops else np.zeros((0, x.shape[1], height, width), dtype=x.dtype)
    if call.opset >= IOS17:
        return stacked
    return stacked.reshape(-1, x.shape[0] if batched else 1, *stacked.shape[1:])


def _boxes(call: Call, x: Array) -> tuple[Array, list[int], bool]:
    """Boxes as (h0, w0, h1, w1) in pixels, the image of each, and whether each box was for all images."""
    if x.ndim != 4:
        raise call.refuse(f"its input has rank {x.ndim}, not 4")
    if call.opset >= IOS17:
        given = call.array("boxes")
        images = call.integers("box_indices", list(range(len(given))))
        batched = False
    else:
        rois = call.array("roi")
        given = rois.reshape(rois.shape[0], -1)
        batched = given.shape[1] == 4
        if batched:
            images = list(range(x.shape[0])) * len(given)
            given = np.repeat(given, x.shape[0], axis=0)
        else:
            images, given = [int(value) for value in given[:, 0]], given[:, 1:]
    if given.ndim != 2 or given.shape[1] != 4 or len(images) != len(given):
        raise call.refuse(f"its boxes of shape {list(given.shape)} are not boxes of 4 numbers")
    if any(not 0 <= image < x.shape[0] for image in images):
        raise call.refuse(f"a box belongs to none of the {x.shape[0]} images")
    return _corners(call, given.astype(np.float64), x.shape[-2:]), images, batched


def _corners(call: Call, boxes: Array, sizes: tuple[int, ...]) -> Array:
    layout = call.text("box_coordinate_mode", "CORNERS_HEIGHT_FIRST")
    if layout.endswith("WIDTH_FIRST"):
        boxes = boxes[:, [1, 0, 3, 2]]
    if layout.startswith("CENTER_SIZE"):
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    elif not layout.startswith("CORNERS"):
        raise call.refuse(f'the box_coordinate_mode "{layout}" is not known')
    if call.flag("normalized_coordinates"):
        boxes = boxes * np.array([sizes[0] - 1, sizes[1] - 1] * 2)
    return boxes * call.number("spatial_scale", 1.0)


def _cropped(call: Call, image: Array, box: Array, wanted: tuple[int, int]) -> Array:
    mode = call.text("sampling_mode", "DEFAULT")
    rows = _box_points(call, mode, (box[0], box[2]), wanted[0])
    columns = _box_points(call, mode, (box[1], box[3]), wanted[1])
    height, width = image.shape[-2:]
    inside = ((rows >= 0) & (rows <= height - 1))[:, None] & ((columns >= 0) & (columns <= width - 1))
    if call.opset < IOS16 and not inside.all():
        raise call.refuse("what lies beyond the image is not documented before iOS16")
    found = _interpolated(_interpolated(image, 1, rows), 2, columns)
    return np.where(inside, found, image.dtype.type(call.number("pad_value", 0.0)))


def _box_points(call: Call, mode: str, ends: tuple[float, float], wanted: int) -> Array:
    first, last = ends
    steps = np.arange(wanted, dtype=np.float64)
    if mode == "OFFSET_CORNERS":
        return first + (steps + 0.5) * (max(1.0, last - first) / wanted)
    if mode == "ALIGN_CORNERS" and wanted == 1:
        return np.array([(first + last) / 2])
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return first + steps * ((last - first) / max(1, wanted - 1))
    raise call.refuse(
        f'how "{mode}" samples a box is not documented', hint="use ALIGN_CORNERS or OFFSET_CORNERS"
    )


# --- images sampled anywhere ----------------------------------------------------------------------


def _resample(call: Call) -> Array:
    x, coordinates = call.array("x"), call.array("coordinates")
    if x.ndim != 4 or coordinates.ndim != 4 or coordinates.shape[3] != 2 or len(x) != len(coordinates):
        raise call.refuse(f"its coordinates {list(coordinates.shape)} do not fit {list(x.shape)}")
    return _sampled(call, x, coordinates.astype(np.float64))


def _affine(call: Call) -> Array:
    """The image at a0 x + a1 y + a2, b0 x + b1 y + b2, for x and y from -1 to 1 over the output."""
    x, matrix = call.array("x"), call.array("transform_matrix").astype(np.float64)
    height, width = call.integer("output_height"), call.integer("output_width")
    if x.ndim != 4 or matrix.ndim != 2 or matrix.shape[1] != 6 or len(matrix) not in (1, len(x)):
        raise call.refuse(f"its transform {list(matrix.shape)} does not fit {list(x.shape)}")
    if min(height, width) < 2 or not call.flag("align_corners"):
        raise call.refuse("outputs of size 1 and align_corners=False are not documented")
    call.bound([*x.shape[:2], height, width])
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    grid = np.stack([across, down, np.ones_like(across)], axis=-1)
    places = np.einsum("hwk,bck->bhwc", grid, matrix.reshape(-1, 2, 3))
    return _sampled(call, x, np.broadcast_to(places, (len(x), *places.shape[1:])))


def _sampled(call: Call, x: Array, coordinates: Array) -> Array:
    """Images at coordinates (x, y) [batch, height, width, 2]."""
    across = _pixels(call, coordinates[..., 0], x.shape[3])
    down = _pixels(call, coordinates[..., 1], x.shape[2])
    mode = call.text("sampling_mode").lower()
    if mode == "nearest":
        return _picked(call, x, np.rint(down), np.rint(across))
    if mode != "bilinear":
        raise call.refuse(f'the sampling mode "{mode}" is not known')
    top, left = np.floor(down), np.floor(across)
    low, right = (down - top)[:, None].astype(x.dtype), (across - left)[:, None].astype(x.dtype)
    return np.asarray(
        _picked(call, x, top, left) * (1 - low) * (1 - right)
        + _picked(call, x, top, left + 1) * (1 - low) * right
        + _picked(call, x, top + 1, left) * low * (1 - right)
        + _picked(call, x, top + 1, left + 1) * low * right
    )


def _pixels(call: Call, places: Array, size: int) -> Array:
    """Coordinates in pixels, brought back into the image where the padding mode mirrors or clamps."""
    mode, aligned = call.text("coordinates_mode").lower(), call.flag("align_corners")
    if mode in ("normalized_minus_one_to_one", "normalized_zero_to_one"):
        share = (places + 1) / 2 if mode == "normalized_minus_one_to_one" else places
        places = share * (size - 1) if aligned else share * size - 0.5
    elif mode != "unnormalized":
        raise call.refuse(f'the coordinates mode "{mode}" is not known')
    padding = call.text("padding_mode").lower()
    if padding == "border":
        return np.clip(places, 0, size - 1)
    if padding == "reflection":
        return _mirrored(places, 0.0, size - 1)
    if padding == "symmetric":
        return np.clip(_mirrored(places, -0.5, size), 0, size - 1)
    if padding != "constant":
        raise call.refuse(f'the padding mode "{padding}" is not known')
    return places


def _mirrored(places: Array, first: float, span: float) -> Array:
    """Coordinates reflected at `first` and `first + span` until they lie between."""
    if span <= 0:
        return np.zeros_like(places)
    away = np.mod(places - first, 2 * span)
    return first + np.minimum(away, 2 * span - away)


def _picked(call: Call, x: Array, rows: Array, columns: Array) -> Array:
    """Pixels [batch, channels, height, width] at whole coordinates; the padding value outside the image."""
    inside = (rows >= 0) & (rows < x.shape[2]) & (columns >= 0) & (columns < x.shape[3])
    row = np.where(inside, rows, 0).astype(np.intp)
    column = np.where(inside, columns, 0).astype(np.intp)
    image = np.arange(len(x)).reshape(-1, 1, 1)
    found = np.moveaxis(x[image, :, row, column], -1, 1)
    return np.where(inside[:, None], found, x.dtype.type(call.number("padding_value")))


KERNELS: Mapping[str, Kernel] = {
    "affine": _affine,
    "crop": _crop,
    "crop_resize": _crop_resize,
    "resample": _resample,
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest,
}
