"""Inputs that are pictures at the boundary of a package: pixels of 0 to 255, and the floats they become.

The package is fed pixels and computes `scale * pixel + bias` itself, one scale for all channels and a bias
for each; the ONNX model, and so the reference, is fed those floats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import UserError, did_you_mean
from edgebench.records import Record

Arrays = Mapping[str, NDArray[Any]]
Layout = Literal["rgb", "bgr", "gray"]

OPTION = "image."  # what an option of an artifact begins with that names such an input
CHANNELS: dict[str, int] = {"rgb": 3, "bgr": 3, "gray": 1}
HIGHEST = 255
OFF_GRID = 0.01  # so far may a float lie from a pixel, in steps of one: rounding of float32 is a thousandth
_FORM = "--image 'NAME=rgb,scale=1/255,bias=-0.485:-0.456:-0.406' (rgb, bgr or gray)"
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"


class ImageInput(Record, frozen=True):
    """One input that is a picture: the order of its channels, and what a pixel becomes."""

    name: str
    layout: Layout
    scale: float = 1.0
    bias: tuple[float, ...] = ()

    def text(self) -> str:
        """What one writes behind "NAME=" to get this again."""
        return f"{self.layout},scale={self.scale!r},bias={':'.join(map(repr, self.biases))}"

    @property
    def biases(self) -> tuple[float, ...]:
        """One bias for each channel."""
        return self.bias or (0.0,) * CHANNELS[self.layout]

    def floats(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """What the ONNX model is fed for pixels [batch, channels, height, width]."""
        spread = np.array(self.biases).reshape(1, -1, 1, 1)
        made: NDArray[Any] = (pixels.astype(np.float64) * self.scale + spread).astype(np.float32)
        return made

    def pixels(self, floats: NDArray[Any]) -> NDArray[Any]:
        """The pixels that became these floats; UserError where they are none."""
        spread = np.array(self.biases).reshape(1, -1, 1, 1)
        exact = (floats.astype(np.float64) - spread) / self.scale
        made = np.round(exact)
        if np.abs(exact - made).max(initial=0.0) > OFF_GRID or not _within(made):
            raise UserError(
                f'"{self.name}" is an image input, and what is fed to it is no picture of 0 to {HIGHEST}',
                hint="give --inputs with pixels of 0 to 255 (uint8) for it",
            )
        fed: NDArray[Any] = made.astype(np.float32)
        return fed


def parse(text: str) -> ImageInput:
    """The image input that an option or an artifact names; UserError when the text is of another form."""
    found = re.fullmatch(r"(.+?)=\s*([^=,]*)((?:,.*)?)", text.strip(), re.DOTALL)
    if found is None:
        raise UserError(f'"{text}" names no image input', hint=_FORM)
    name, layout = found[1].strip(), found[2].strip()
    words = [word.strip() for word in found[3].split(",")[1:]]
    if layout not in CHANNELS:
        raise UserError(f'"{text}" has the layout "{layout}"', hint=did_you_mean(layout, CHANNELS))
    scale, bias = 1.0, ()  # type: tuple[float, tuple[float, ...]]
    for word in words:
        key, _, value = word.partition("=")
        if key == "scale":
            scale = _number(text, value)
        elif key == "bias":
            bias = tuple(_number(text, part) for part in value.split(":"))
        else:
            raise UserError(f'"{text}" says "{word}"', hint=_FORM)
    count = CHANNELS[layout]
    if scale == 0 or (bias and len(bias) != count):
        why = "a scale of 0" if scale == 0 else f"{len(bias)} biases for {count} channels"
        raise UserError(f'"{text}" has {why}', hint=_FORM)
    return ImageInput(name=name, layout=cast(Layout, layout), scale=scale, bias=bias)


def _number(text: str, word: str) -> float:
    """A number or a fraction of two."""
    found = re.fullmatch(rf"({_NUMBER})(?:/({_NUMBER}))?", word.strip())
    divisor = 0.0 if found is None else float(found[2] or 1)
    value = 0.0 if found is None or divisor == 0 else float(found[1]) / divisor
    if found is None or divisor == 0 or not np.isfinite(np.float32(value)):
        raise UserError(f'"{text}": "{word.strip()}" is no number', hint=_FORM)
    return value


def to_options(images: Sequence[ImageInput]) -> dict[str, str]:
    """The image inputs as options of a converter and of an artifact."""
    return {OPTION + each.name: each.text() for each in images}


def from_options(options: Mapping[str, str]) -> tuple[ImageInput, ...]:
    """The image inputs that the options of an artifact name."""
    named = {key.removeprefix(OPTION): text for key, text in options.items() if key.startswith(OPTION)}
    return tuple(parse(f"{name}={text}") for name, text in named.items())


def as_pixels(sample: Arrays, images: Sequence[ImageInput]) -> dict[str, NDArray[Any]]:
    """A generated sample whose image inputs, values of 0 to 1, became pixels."""
    names = {each.name for each in images}
    return {
        name: np.round(np.clip(array, 0, 1) * HIGHEST).astype(np.uint8) if name in names else array
        for name, array in sample.items()
    }


def as_fed(sample: Arrays, images: Sequence[ImageInput]) -> dict[str, NDArray[Any]]:
    """The sample as the ONNX model takes it: pixels became floats; UserError where they are no pixels."""
    fed = dict(sample)
    for image in images:
        pixels = fed[image.name]
        if not _within(pixels) or not np.array_equal(pixels, np.round(pixels)):
            raise UserError(
                f'"{image.name}" is an image input, and its array holds other numbers than 0 to {HIGHEST}',
                hint="save pixels (uint8) for it, not what the model's preprocessing makes of them",
            )
        fed[image.name] = image.floats(pixels)
    return fed


def _within(pixels: NDArray[Any]) -> bool:
    return bool(pixels.size == 0 or (pixels.min() >= 0 and pixels.max() <= HIGHEST))
