"""A folder of pictures as samples: read, brought to the model's size and colours, normalised as a file says.

    FOLDER/preprocess.yaml    how a picture becomes an input (`Preprocessing`); or a file named elsewhere
    FOLDER/cat/1.png ...      a folder a class, numbered by name, by their own numbers, or as `classes` says
    FOLDER/labels.csv         or: a line for each picture, `file,class number`

Pillow decodes and resizes; it is an extra, imported on first use.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench import documents
from edgebench.documents import Document, quoted
from edgebench.errors import InfrastructureError, UserError, did_you_mean
from edgebench.records import ModelInfo, Record, Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]

VERSION = 1
SPEC_FILE, LABELS_FILE = "preprocess.yaml", "labels.csv"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_PICTURES = 1_000_000
MAX_PIXELS = 100_000_000  # of one picture before it is resized
MAX_BYTES = 4 << 30  # of all pictures as the model takes them
_HOW = f"{SPEC_FILE} in the folder, or --preprocess FILE: version: 1, resize: 256, crop: 224, mean: [...]"


class Preprocessing(Record, frozen=True):
    """How a picture becomes an input: resized, cropped in the middle, its colours in order, normalised.

    `resize` is the shorter side, or height and width; `crop` a square, or height and width; without them the
    picture is stretched to the model's size. A value is `(pixel * scale - mean) / std`, pixels 0 to 255,
    `mean` and `std` one number or one a channel. `input` names the model's input where it has several;
    `classes` the order of the folders.
    """

    version: int
    resize: int | tuple[int, ...] | None = None
    crop: int | tuple[int, ...] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    colour: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    scale: float | str = "1/255"
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    input: str | None = None
    classes: tuple[str, ...] = ()


class _Labelled(NamedTuple):
    """One picture and its class; None where the folder tells none."""

    path: Path
    label: int | None


class _Plan(NamedTuple):
    """What is to be made of each picture: the spec, in numbers, for one input of the model."""

    spec: Preprocessing
    tensor: Tensor
    size: tuple[int, int]
    scale: float
    mean: Array
    std: Array


def read(
    folder: Path, info: ModelInfo, spec_file: Path | None = None
) -> tuple[dict[str, Array], Array | None]:
    """Name -> samples of the model's picture input, and the class numbers, where the folder tells them.

    UserError for a folder without pictures, a spec that is none, labels that do not fit, and a picture that
    cannot be read; InfrastructureError without Pillow.
    """
    document = _spec(folder, spec_file)
    found = _pictures(folder, document.value)
    plan = _plan(document, info)
    _bound(folder, found, plan)
    _demand_pillow()
    samples = np.stack([_sample(each.path, plan) for each in found])
    labels = [each.label for each in found if each.label is not None]
    return {plan.tensor.name: samples}, np.asarray(labels, np.int64) if labels else None


# --- the spec -------------------------------------------------------------------------------------


def _spec(folder: Path, spec_file: Path | None) -> Document[Preprocessing]:
    path = folder / SPEC_FILE if spec_file is None else spec_file
    if not path.exists():
        raise UserError(f"how pictures of {folder} become inputs is not said: no {path}", hint=_HOW)
    document = documents.load_with_lines(documents.read_text(path), Preprocessing, source=str(path))
    if document.value.version != VERSION:
        message = f"version is {document.value.version}; this edgebench reads version {VERSION}"
        raise document.error(("version",), message, hint=f"write version: {VERSION}")
    return document


def _plan(document: Document[Preprocessing], info: ModelInfo) -> _Plan:
    spec = document.value
    tensor = _input(document, info)
    channels = 1 if spec.colour == "gray" else 3
    size = _model_size(document, tensor, channels)
    for key in ("resize", "crop"):
        _two(document, key)
    made = [_per_channel(document, key, channels) for key in ("mean", "std")]
    if not (made[1] != 0).all():
        raise document.error(("std",), "std holds 0", hint="write 1 where nothing is to be divided")
    return _Plan(spec, tensor, size, _scale(document), made[0], made[1])


def _input(document: Document[Preprocessing], info: ModelInfo) -> Tensor:
    names = [each.name for each in info.inputs]
    name = document.value.input
    if name is None and len(names) > 1:
        message = f"{info.name} has {len(names)} inputs"
        raise document.error(("input",), message, hint=f"input: one of {', '.join(names)}")
    if name is not None and name not in names:
        message = f"{info.name} has no input {quoted(name)}"
        raise document.error(("input",), message, hint=did_you_mean(name, names))
    if len(names) > 1:
        message = f"{info.name} needs {', '.join(each for each in names if each != name)} besides pictures"
        raise document.error(("input",), message, hint="give the samples as an .npz file or by a function")
    return info.inputs[0]


def _model_size(document: Document[Preprocessing], tensor: Tensor, channels: int) -> tuple[int, int]:
    """Height and width that the model wants; ConfigError where layout or colours do not fit its input."""
    shape = tensor.shape
    shown = f"{tensor.name} [{', '.join(map(str, shape))}]"
    places = (2, 3, 1) if document.value.layout == "nchw" else (1, 2, 3)
    if len(shape) != 4 or shape[places[2]] != channels:
        message = f"{shown} does not take {document.value.colour} pictures as {document.value.layout}"
        raise document.error(("layout",), message, hint="colour: rgb, bgr or gray; layout: nchw or nhwc")
    height, width = shape[places[0]], shape[places[1]]
    if not isinstance(height, int) or not isinstance(width, int):
        raise document.error((), f"{shown} has no fixed size", hint="--shape NAME=1,3,224,224 fixes it")
    return height, width


def _two(document: Document[Preprocessing], key: str) -> tuple[int, int] | int | None:
    """Height and width, or one side; ConfigError for anything that is no size."""
    said = getattr(document.value, key)
    sizes: tuple[int, ...] = (said,) if isinstance(said, int) else said or ()
    if len(sizes) > 2 or not all(0 < size <= 16384 for size in sizes):
        raise document.error((key,), f"{key} is no size", hint=f"{key}: 224, or {key}: [224, 224]")
    if said is None or isinstance(said, int):
        return said
    return (sizes[0], sizes[-1])


def _per_channel(document: Document[Preprocessing], key: str, channels: int) -> Array:
    said = getattr(document.value, key)
    values = (said,) * channels if isinstance(said, int | float) else said
    if len(values) != channels:
        message = f"{key} has {len(values)} numbers for {channels} channels"
        raise document.error((key,), message, hint="one number, or one for each channel in that order")
    return np.asarray(values, np.float32)


def _scale(document: Document[Preprocessing]) -> float:
    said = document.value.scale
    try:
        value = float(Fraction(said)) if isinstance(said, str) else float(said)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise document.error(("scale",), f"scale is {quoted(str(said))}", hint="scale: 1/255")
    return value


# --- the folder -----------------------------------------------------------------------------------


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}") from error


def _pictures(folder: Path, spec: Preprocessing) -> list[_Labelled]:
    """The pictures in the order of their names, each with its class."""
    found = sorted(path for path in _files(folder) if path.suffix.lower() in SUFFIXES)
    if not found or len(found) > MAX_PICTURES:
        raise UserError(
            f"{folder} holds {len(found)} pictures", hint=f"1 to {MAX_PICTURES:,} of {', '.join(SUFFIXES)}"
        )
    if (folder / LABELS_FILE).is_file():
        return _by_table(folder, found)
    within = {path.relative_to(folder).parts[0] for path in found if path.parent != folder}
    if not within:
        return [_Labelled(path, None) for path in found]
    loose = [path for path in found if path.parent == folder]
    if loose:
        raise UserError(
            f"{loose[0].name} in {folder} lies in no class's folder, and others do",
            hint=f"a folder a class, or {LABELS_FILE} with a line for each picture",
        )
    numbers = _class_numbers(folder, within, spec.classes)
    return [_Labelled(path, numbers[path.relative_to(folder).parts[0]]) for path in found]


def _class_numbers(folder: Path, names: set[str], classes: Sequence[str]) -> dict[str, int]:
    if classes:
        for name in sorted(names - set(classes)):
            raise UserError(f"{folder}/{name} is none of the classes", hint=did_you_mean(name, classes))
        return {name: number for number, name in enumerate(classes)}
    if all(name.isascii() and name.isdigit() and len(name) < 9 for name in names):
        return {name: int(name) for name in names}
    return {name: number for number, name in enumerate(sorted(names))}


def _by_table(folder: Path, found: Sequence[Path]) -> list[_Labelled]:
    path = folder / LABELS_FILE
    rows = list(csv.reader(documents.read_text(path).splitlines()))
    known: dict[str, int] = {}
    for line, row in enumerate(rows, start=1):
        if line == 1 and len(row) == 2 and not row[1].strip().isdigit():
            continue  # its heading
        if len(row) != 2 or not (row[1].strip().isascii() and row[1].strip().isdigit()) or len(row[1]) > 9:
            raise UserError(
                f"{path}:{line}: no file and class number", hint="a line for each picture: 1.png,7"
            )
        known[row[0].strip()] = int(row[1])
    made = [(each.relative_to(folder).as_posix(), each) for each in found]
    missing = [name for name, _ in made if name not in known]
    absent = sorted(set(known) - {name for name, _ in made})
    if missing or absent:
        raise UserError(
            f"{path} has no line for {missing[0]}"
            if missing
            else f"{path} names {absent[0]}, which is no file",
            hint="a line for each picture, its path seen from the folder",
        )
    return [_Labelled(each, known[name]) for name, each in made]


# --- one picture ----------------------------------------------------------------------------------


def _bound(folder: Path, found: Sequence[_Labelled], plan: _Plan) -> None:
    channels = len(plan.mean)
    size_bytes = len(found) * plan.size[0] * plan.size[1] * channels * 4
    if size_bytes > MAX_BYTES:
        raise UserError(
            f"the {len(found):,} pictures of {folder} are {size_bytes:,} bytes as the model takes them; "
            f"at most {MAX_BYTES:,}",
            hint="fewer pictures decide, too",
        )


def _demand_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise InfrastructureError(
            "pictures are read by Pillow, which is not installed", hint="pip install 'edgebench[images]'"
        ) from error


def _sample(path: Path, plan: _Plan) -> Array:
    """One picture as the model takes it, without the batch."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UserError(f"{path} has {opened.width}x{opened.height} pixels", hint="a smaller picture")
            pixels = _fitted(opened.convert("L" if plan.spec.colour == "gray" else "RGB"), path, plan)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no picture that can be read: {error}", hint="save it again") from error
    values = np.asarray(pixels, np.float32).reshape(*plan.size, -1)
    if plan.spec.colour == "bgr":
        values = values[..., ::-1]
    normal = (values * np.float32(plan.scale) - plan.mean) / plan.std
    made = normal.transpose(2, 0, 1) if plan.spec.layout == "nchw" else normal
    return np.ascontiguousarray(made, np.float32)


def _fitted(picture: Image, path: Path, plan: _Plan) -> Image:
    """The picture resized and cropped to the model's size; UserError where the spec leaves another size."""
    spec, (height, width) = plan.spec, plan.size
    resized = picture.resize(_resized(picture, plan), _FILTERS[spec.interpolation])
    if spec.crop is not None:
        sides = (spec.crop,) * 2 if isinstance(spec.crop, int) else (spec.crop[0], spec.crop[-1])
        left, top = (resized.width - sides[1]) // 2, (resized.height - sides[0]) // 2
        resized = resized.crop((left, top, left + sides[1], top + sides[0]))
    if (resized.height, resized.width) != (height, width):
        raise UserError(
            f"{path.name} becomes {resized.height}x{resized.width}, and the model takes {height}x{width}",
            hint=f"crop: [{height}, {width}], or leave out resize and crop",
        )
    return resized


def _resized(picture: Image, plan: _Plan) -> tuple[int, int]:
    """Width and height to resize to: of the shorter side the other keeps its proportion."""
    resize = plan.spec.resize
    if resize is None:
        if plan.spec.crop is not None:
            return picture.width, picture.height
        return plan.size[1], plan.size[0]
    if not isinstance(resize, int):
        return resize[-1], resize[0]
    shorter = min(picture.width, picture.height)
    return max(1, round(picture.width * resize / shorter)), max(1, round(picture.height * resize / shorter))


_FILTERS: dict[str, Any] = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers of them
