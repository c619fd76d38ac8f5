"""What a network is fed with for parity and calibration: generated inputs, or the user's `.npz`."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import UserError
from edgebench.model import pictures
from edgebench.records import ModelInfo, Tensor

Array = NDArray[Any]
Arrays = dict[str, Array]

MAX_NPZ_BYTES = 1 << 30
MAX_SETS_BYTES = 4 << 30  # of a labelled set
MAX_GENERATED_ELEMENTS = 1 << 28
MAX_ARRAYS = 64
LABELS = "labels"  # may stand in a file of inputs; it is not one
INTEGERS = "iu"
_HIGHEST_INTEGER = 9  # below every vocabulary, class count and table that a network looks up
_WAVES = 4


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and sizes of "image=1,3,224,224" or "H=224" (names may hold "=" and ":").

    UserError for other texts.
    """
    name, separator, sizes = text.rpartition("=")
    parts = [part.strip() for part in re.split(r"[,x]", sizes)]
    if not separator or not name.strip() or not all(re.fullmatch("[0-9]{1,10}", part) for part in parts):
        raise UserError(f'"{text}" is not a shape', hint="--shape NAME=1,3,224,224")
    shape = tuple(int(part) for part in parts)
    if any(size < 1 for size in shape):
        raise UserError(f'"{text}" has a size below 1', hint="--shape NAME=1,3,224,224")
    return name.strip(), shape


# --- generated ----------------------------------------------------------------------------------


def random_inputs(info: ModelInfo, seed: int) -> Arrays:
    """Name -> seeded plausible input: floats of four dimensions look like soft pictures in 0..1.

    Other floats are standard normal, integers 0 to 9 (masks 1), bytes of four dimensions pictures in 0..255,
    bools true or false. UserError when a shape is not static.
    """
    made: Arrays = {}
    for place, tensor in enumerate(info.inputs):
        shape = static_shape(tensor)
        if math.prod(shape) > MAX_GENERATED_ELEMENTS:
            raise UserError(
                f'the input "{tensor.name}" has {math.prod(shape):,} elements',
                hint=f"choose a shape of at most {MAX_GENERATED_ELEMENTS:,} elements with --shape",
            )
        values = _generate(tensor, shape, np.random.default_rng([seed, place]))
        made[tensor.name] = np.ascontiguousarray(values).reshape(shape)
    return made


def static_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of an input; UserError when a dimension is unknown."""
    sizes = tuple(size for size in tensor.shape if isinstance(size, int))
    if len(sizes) != len(tensor.shape):
        shown = ", ".join(map(str, tensor.shape))
        likely = ",".join(str(size) if isinstance(size, int) else "1" for size in tensor.shape)
        raise UserError(
            f'the input "{tensor.name}" [{shown}] is not static', hint=f"--shape {tensor.name}={likely}"
        )
    return sizes


def _generate(tensor: Tensor, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    dtype = _dtype(tensor)
    if dtype.kind == "b":
        return random.integers(0, 2, size=shape).astype(dtype)
    if dtype == np.uint8 and len(shape) == 4:
        return np.round(_picture(shape, random) * 255).astype(dtype)
    if dtype.kind in INTEGERS:
        if "mask" in tensor.name.lower():
            return np.ones(shape, dtype)
        return random.integers(0, _HIGHEST_INTEGER + 1, size=shape).astype(dtype)
    if len(shape) == 4:
        return _picture(shape, random).astype(dtype)
    return random.standard_normal(size=shape).astype(dtype)


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    try:
        return np.dtype(tensor.dtype)
    except TypeError:
        import ml_dtypes  # comes with onnx; it knows bfloat16 and the eight-bit floats

        small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, tensor.dtype))
        return small


def _picture(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Smooth values in 0..1 that use the whole range in every channel: slow waves in two directions."""
    last = shape[3] in (1, 2, 3, 4) and shape[1] > 4  # [batch, height, width, channel]
    height, width, channels = (shape[1], shape[2], shape[3]) if last else (shape[2], shape[3], shape[1])
    y = np.linspace(0, 1, height)[:, None]
    x = np.linspace(0, 1, width)[None, :]
    planes = np.zeros((shape[0], channels, height, width))
    for _ in range(_WAVES):
        slow = random.uniform(0.5, 3.0, size=(2, shape[0], channels, 1, 1))
        phase = random.uniform(0, 1, size=(shape[0], channels, 1, 1))
        planes += np.cos(2 * np.pi * (slow[0] * y + slow[1] * x + phase))
    low = planes.min(axis=(2, 3), keepdims=True)
    span = planes.max(axis=(2, 3), keepdims=True) - low
    scaled: Array = np.where(
        span > 0, (planes - low) / np.where(span > 0, span, 1), random.uniform(size=span.shape)
    )
    return scaled.transpose(0, 2, 3, 1) if last else scaled


# --- the user's file ----------------------------------------------------------------------------


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_inputs(path: Path, info: ModelInfo) -> Arrays:
    """Name -> array for every input of the model, each one sample or N samples along the leading axis.

    Of a folder the pictures, as its `preprocess.yaml` says. UserError when the file is no `.npz`, holds
    objects, is larger than 1 GiB unpacked, or its names, shapes or types do not fit; an array "labels" may
    stand in it and is left out. `batches` cuts the samples apart.
    """
    wanted = {tensor.name: tensor for tensor in info.inputs}
    arrays = _arrays(path, info, (LABELS,), MAX_NPZ_BYTES)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise UserError(
            f"{path} has no array {quoted(missing)}; the model's inputs are {expected(info)}",
            hint=f"numpy.savez({path.name!r}, {', '.join(f'{name}=...' for name in wanted)})",
        )
    made = {name: fitted(path, arrays[name], tensor) for name, tensor in wanted.items()}
    _sample_count(path, made, info)
    return made


def _arrays(path: Path, info: ModelInfo, or_else: Sequence[str] | None, max_bytes: int) -> Arrays:
    """What a file or a folder of pictures holds for the model's inputs."""
    if path.is_dir():
        return pictures.read(path, info)[0]
    names = [tensor.name for tensor in info.inputs]
    return read_npz(path, names, or_else=or_else, max_bytes=max_bytes)


def batches(arrays: Mapping[str, Array], info: ModelInfo) -> Iterator[Arrays]:
    """One feed per sample, in the model's exact shapes; arrays of one sample are fed with every sample."""
    count = _sample_count(Path("the inputs"), arrays, info)
    for sample in range(count):
        feed: Arrays = {}
        for tensor in info.inputs:
            array = arrays[tensor.name]
            shape = model_shape(tensor)
            if _samples(array, shape) == 1:
                feed[tensor.name] = array.reshape(shape)
            elif array.ndim == len(shape):
                feed[tensor.name] = array[sample * shape[0] : (sample + 1) * shape[0]]
            else:
                feed[tensor.name] = np.asarray(array[sample])  # a scalar of numpy is no array
        yield feed


def model_shape(tensor: Tensor) -> tuple[int, ...]:
    """The static shape, where a symbolic leading dimension is 1."""
    if tensor.shape and not isinstance(tensor.shape[0], int):
        return (1, *static_shape(Tensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape[1:])))
    return static_shape(tensor)


def _samples(array: Array, shape: tuple[int, ...]) -> int | None:
    """How many samples of `shape` the array holds; None when it does not fit."""
    if array.shape == shape:
        return 1
    if array.shape[1:] == shape and array.ndim == len(shape) + 1:
        return int(array.shape[0])
    if shape and array.ndim == len(shape) and array.shape[1:] == shape[1:] and array.shape[0] % shape[0] == 0:
        return int(array.shape[0]) // shape[0]
    return None


def _sample_count(path: Path, arrays: Mapping[str, Array], info: ModelInfo) -> int:
    counts: dict[str, int] = {}
    for tensor in info.inputs:
        shape = model_shape(tensor)
        count = _samples(arrays[tensor.name], shape)
        if not count:
            raise UserError(
                f'{path}: "{tensor.name}" has the shape {list(arrays[tensor.name].shape)}, the model wants '
                f"{list(shape)}, or N of them along the leading axis",
                hint=f"the model's inputs are {expected(info)}",
            )
        counts[tensor.name] = count
    several = {count for count in counts.values() if count > 1}
    if len(several) > 1:
        shown = ", ".join(f'"{name}" {count}' for name, count in counts.items())
        raise UserError(
            f"{path}: the inputs have different numbers of samples: {shown}",
            hint="give every input the same number of samples",
        )
    return several.pop() if several else 1


def fitted(path: Path | str, array: Array, tensor: Tensor) -> Array:
    """The array in the model's type; UserError when that would change it, or it holds NaN or infinity."""
    wanted = _dtype(tensor)
    if not (
        np.can_cast(array.dtype, wanted, "same_kind") or (array.dtype.kind in INTEGERS and wanted.kind == "f")
    ):
        raise UserError(
            f'{path}: "{tensor.name}" is {array.dtype}, the model wants {tensor.dtype}',
            hint=f"numpy.savez(..., {tensor.name}=array.astype({tensor.dtype!r}))",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f'{path}: "{tensor.name}" holds NaN or infinity', hint="save finite inputs")
    made = np.ascontiguousarray(array.astype(wanted, copy=False)).reshape(array.shape)
    if wanted.kind in INTEGERS and not np.array_equal(made, array):
        raise UserError(
            f'{path}: "{tensor.name}" holds numbers that do not fit {tensor.dtype}',
            hint="check its values",
        )
    return made


def read_npz(
    path: Path, wanted: Sequence[str], *, or_else: Sequence[str] | None = (), max_bytes: int = MAX_NPZ_BYTES
) -> Arrays:
    """The wanted arrays of a zip of `.npy` files, without pickle; headers count as far as bytes follow.

    `or_else` may stand in the file too and is left out (None: anything); any other array is a UserError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _bound_archive(path, entries, max_bytes)
            names = {entry.filename.removesuffix(".npy"): entry for entry in entries}
            strangers = sorted(set(names) - set(wanted) - set(or_else or ()))
            if strangers and or_else is not None:
                raise UserError(
                    f"{path} holds {quoted(strangers[:8])}, which are no inputs of the model",
                    hint=f"the arrays are to be named {quoted(wanted)}",
                )
            return {
                name: _read_array(path, archive, entry) for name, entry in names.items() if name in wanted
            }
    except FileNotFoundError as error:
        raise UserError(f"no file {path}", hint="check the path of the .npz file") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{path} is not a readable .npz file: {error}", hint="numpy.savez(path, NAME=array) writes one"
        ) from error


def _bound_archive(path: Path, entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    size_bytes = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ARRAYS or size_bytes > max_bytes:
        enough = ": a few hundred are enough" if max_bytes == MAX_NPZ_BYTES else ""
        raise UserError(
            f"{path} holds {len(entries)} arrays of {size_bytes:,} bytes; "
            f"at most {MAX_ARRAYS} and {max_bytes:,}",
            hint=f"save fewer samples{enough}",
        )


def _read_array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    try:
        with warnings.catch_warnings(), archive.open(entry) as stream:
            warnings.simplefilter("error")  # numpy warns of odd headers; such a file is not for us
            header = _read_header(stream)
            if header.dtype.hasobject:
                raise UserError(
                    f'{path}: "{entry.filename}" holds Python objects', hint="save plain numeric arrays"
                )
            if math.prod(header.shape) * header.dtype.itemsize > entry.file_size:
                raise UserError(
                    f'{path}: "{entry.filename}" says it is larger than it is', hint="save the file again"
                )
        with archive.open(entry) as stream:
            array: Array = np.lib.format.read_array(stream, allow_pickle=False)
            return array
    except (ValueError, UserWarning, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(
            f'{path}: "{entry.filename}" is not a readable array: {error}', hint="save the file again"
        ) from error


def _read_header(stream: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"format version {version} is not known")
    return _Header(shape, dtype)


def expected(info: ModelInfo) -> str:
    """The inputs of a model with types and shapes."""
    return ", ".join(
        f'"{tensor.name}" {tensor.dtype} [{", ".join(map(str, tensor.shape))}]' for tensor in info.inputs
    )


def quoted(names: Sequence[str]) -> str:
    """Names in quotes, with commas."""
    return ", ".join(f'"{name}"' for name in names)


# --- samples that two files share -----------------------------------------------------------------


def sample_digests(arrays: Mapping[str, Array], info: ModelInfo) -> list[bytes]:
    """What names each sample: the values of all inputs that differ from sample to sample, in order."""
    rows = {}
    for tensor in info.inputs:
        shape = model_shape(tensor)
        each = math.prod(shape[1:]) if shape else 1
        flat = np.ascontiguousarray(arrays[tensor.name]).reshape(-1, max(1, each))
        rows[tensor.name] = flat
    count = max((len(each) for each in rows.values()), default=0)
    varying = [rows[name] for name in sorted(rows) if len(rows[name]) == count]
    made = []
    for place in range(count):
        digest = hashlib.blake2b(digest_size=16)
        for values in varying:
            digest.update(values[place].tobytes())
        made.append(digest.digest())
    return made


def samples_of(path: Path, labels_key: str | None, info: ModelInfo) -> list[bytes]:
    """What names each sample of an `.npz` file; labels may stand in it, None: under any name."""
    wanted = {tensor.name: tensor for tensor in info.inputs}
    labels = None if labels_key is None else (LABELS, labels_key)
    arrays = _arrays(path, info, labels, MAX_SETS_BYTES)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise UserError(
            f"{path} has no array {quoted(missing)}; the model's inputs are {expected(info)}",
            hint="samples lie on the first axis of every array",
        )
    made = {name: fitted(path, arrays[name], wanted[name]) for name in wanted}
    _refuse_other_shapes(path, made, info)
    return sample_digests(made, info)


def _refuse_other_shapes(path: Path, arrays: Mapping[str, Array], info: ModelInfo) -> None:
    """UserError for an array whose samples are not the model's; a last batch need not be full."""
    for tensor in info.inputs:
        shape, given = model_shape(tensor), arrays[tensor.name].shape
        if given != shape and given[1:] not in (shape, shape[1:]):
            raise UserError(
                f'{path}: "{tensor.name}" has the shape {list(given)}, the model wants {list(shape)}, or N '
                "of them along the leading axis",
                hint=f"the model's inputs are {expected(info)}",
            )
