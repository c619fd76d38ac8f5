"""What a package says of its inputs: sizes that are left open, and pictures in place of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebench.errors import ModelError, UserError, did_you_mean
from edgebench.model import flexible, images

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

    from edgebench.model.flexible import OpenInput
    from edgebench.model.images import ImageInput

FLOAT = 1  # onnx.proto, TensorProto.DataType


class Boundary(NamedTuple):
    """The inputs that are more than a tensor of fixed shape, and MIL's ranges by ONNX's names of sizes."""

    flexible: Mapping[str, OpenInput]
    images: Mapping[str, ImageInput]
    ranges: Mapping[str, Any]

    @property
    def symbols(self) -> dict[str, Any]:
        """MIL's symbols by ONNX's names of sizes."""
        return {name: each.symbol for name, each in self.ranges.items()}

    @property
    def options(self) -> dict[str, str]:
        """What the artifact must say of it, so that it is fed and verified as it wants."""
        return flexible.to_options(tuple(self.flexible.values())) | images.to_options(
            tuple(self.images.values())
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the package."""
        opened = tuple(
            f'"{name}" takes the shapes {each.text().partition("@")[0]}'
            for name, each in self.flexible.items()
        )
        return opened + tuple(
            f'"{name}" is an image input ({each.layout}): pixels of 0 to 255, which the package itself '
            f"scales by {each.scale:.6g} and moves by {' '.join(f'{bias:g}' for bias in each.biases)}"
            for name, each in self.images.items()
        )


def read(network: ModelProto, options: Mapping[str, str]) -> Boundary:
    """What the converter's options say of the network's inputs; UserError where it does not fit them."""
    inputs = {value.name: value for value in network.graph.input}
    opened = {each.name: each for each in flexible.from_options(options)}
    pictures = {each.name: each for each in images.from_options(options)}
    for name, image in pictures.items():
        if name not in inputs:
            raise UserError(f'the model has no input "{name}"', hint=did_you_mean(name, inputs))
        _check_image(inputs[name], image)
    return Boundary(opened, pictures, _ranges(inputs, opened))


def _check_image(value: ValueInfoProto, image: ImageInput) -> None:
    """UserError unless the input is a batch of one, with the channels of the layout in front."""
    dims = value.type.tensor_type.shape.dim
    channels = images.CHANNELS[image.layout]
    if value.type.tensor_type.elem_type != FLOAT:
        raise UserError(
            f'"{value.name}" is no float32 input, and an image input becomes float32',
            hint="leave out --image",
        )
    if len(dims) != 4 or (dims[0].dim_value, dims[1].dim_value) != (1, channels):
        shown = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims)
        raise UserError(
            f'"{value.name}" is [{shown}], and a {image.layout} image is [1, {channels}, height, width]',
            hint="fix the batch at 1, or name the layout of its channels: rgb, bgr or gray",
        )


def _ranges(inputs: Mapping[str, Any], opened: Mapping[str, OpenInput]) -> dict[str, Any]:
    import coremltools

    ranges: dict[str, Any] = {}
    for name, wanted in opened.items():
        dims = inputs[name].type.tensor_type.shape.dim
        for dim, (low, high), size in zip(dims, wanted.ranges, wanted.default, strict=True):
            if dim.dim_param and dim.dim_param not in ranges:
                ranges[dim.dim_param] = coremltools.RangeDim(low, high, default=size)
    return ranges


def input_types(
    network: ModelProto, boundary: Boundary, names: Mapping[str, str], inputs: Sequence[str]
) -> list[Any] | None:
    """The inputs as coremltools wants them declared; None where all are tensors of fixed shape."""
    import coremltools

    if not boundary.flexible and not boundary.images:
        return None
    values = {value.name: value for value in network.graph.input}
    made = []
    for name in inputs:
        shape = _shape(values[name], boundary)
        image = boundary.images.get(name)
        if image is None:
            made.append(coremltools.TensorType(name=names[name], shape=shape))
            continue
        layouts = {"rgb": "RGB", "bgr": "BGR", "gray": "GRAYSCALE"}
        layout = getattr(coremltools.colorlayout, layouts[image.layout])
        bias = image.biases[0] if image.layout == "gray" else list(image.biases)
        made.append(
            coremltools.ImageType(
                name=names[name], shape=shape, scale=image.scale, bias=bias, color_layout=layout
            )
        )
    return made


def _shape(value: ValueInfoProto, boundary: Boundary) -> Any:
    import coremltools

    wanted = boundary.flexible.get(value.name)
    if wanted is not None and wanted.shapes:
        return coremltools.EnumeratedShapes(shapes=list(wanted.shapes), default=wanted.default)
    dims = value.type.tensor_type.shape.dim
    if any(not dim.dim_value and dim.dim_param not in boundary.ranges for dim in dims):
        raise ModelError(f'the input "{value.name}" has no fixed shape', hint="give it with --shape")
    sizes = [dim.dim_value or boundary.ranges[dim.dim_param] for dim in dims]
    return tuple(sizes) or (1,)
