"""A labelled data set: the samples that a model is to answer, and the right answers.

From an `.npz` file with an array for each input and one of labels, from a folder of pictures, or from a
user's function that returns both. Samples lie on axis 0 and are fed in the model's own batch; one that is not
filled is padded, and its padding is never counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench import usercode
from edgebench.errors import UserError
from edgebench.model import inputs, pictures
from edgebench.model.inputs import (
    INTEGERS,
    LABELS,
    MAX_ARRAYS,
    Array,
    Arrays,
    expected,
    fitted,
    model_shape,
    quoted,
    read_npz,
    sample_digests,
)
from edgebench.records import ModelInfo

MAX_BYTES = 4 << 30
MAX_SAMPLES = 10_000_000
_HOW = "numpy.savez('set.npz', INPUT=array, {labels}=numbers), with samples on the first axis of both"


class Dataset(NamedTuple):
    """`n` samples with their labels; `at_once` of them make one inference.

    `always` are inputs that are fed with every inference as they are. `digest` names inputs and labels.
    """

    source: str
    arrays: Arrays
    always: Arrays
    labels: Array
    n: int
    at_once: int
    digest: str

    @property
    def feeds(self) -> int:
        """How many inferences the samples take."""
        return -(-self.n // self.at_once)

    @property
    def feed_bytes(self) -> int:
        """The size of the inputs of one inference."""
        return sum(each.nbytes for each in self.arrays.values()) // self.feeds + sum(
            each.nbytes for each in self.always.values()
        )


def read(
    source: str, labels_key: str, info: ModelInfo, *, classes: bool, preprocess: str | None = None
) -> Dataset:
    """The data set of an `.npz` file, a folder of pictures or "module:function".

    UserError for whatever does not fit the model. `preprocess` is the file that says how pictures become
    inputs, where it is not in their folder. `classes`: labels are the numbers of classes. The model's shapes
    are static.
    """
    names = [each.name for each in info.inputs]
    if labels_key in names:
        raise UserError(f'"{labels_key}" is an input of the model', hint="name the labels with --labels-key")
    if usercode.is_function_name(source):
        arrays, labels = _returned(source, usercode.call(source), names)
    elif Path(source).is_dir():
        arrays, labels = pictures.read(Path(source), info, None if preprocess is None else Path(preprocess))
        if labels is None:
            raise UserError(
                f"{source} tells no classes of its pictures",
                hint=f"a folder a class, or {pictures.LABELS_FILE} with a line for each picture: 1.png,7",
            )
    else:
        found = read_npz(Path(source), [*names, labels_key], or_else=(LABELS,), max_bytes=MAX_BYTES)
        arrays, labels = {name: found[name] for name in names if name in found}, found.get(labels_key)
    if labels is None:
        raise UserError(
            f'{source} has no array "{labels_key}"',
            hint=f"{_HOW.format(labels=labels_key)}; or name the labels with --labels-key",
        )
    return _fitting(source, arrays, _checked_labels(source, labels, classes=classes), info)


def feeds(dataset: Dataset, info: ModelInfo, start: int, stop: int) -> Iterator[Arrays]:
    """Those inferences' inputs in the model's exact shapes; a last one is filled up with its last sample."""
    for number in range(start, min(stop, dataset.feeds)):
        first = number * dataset.at_once
        some = [min(place, dataset.n - 1) for place in range(first, first + dataset.at_once)]
        yield {
            each.name: dataset.always[each.name]
            if each.name in dataset.always
            else np.asarray(dataset.arrays[each.name][some]).reshape(model_shape(each))
            for each in info.inputs
        }


def samples_of(source: str, labels_key: str | None, info: ModelInfo) -> list[bytes]:
    """What names each sample of a file, of a folder of pictures, or of what a function returns."""
    if not usercode.is_function_name(source):
        return inputs.samples_of(Path(source), labels_key, info)
    made = read(source, labels_key or LABELS, info, classes=False)
    return sample_digests(made.arrays | made.always, info)


# --- rules ----------------------------------------------------------------------------------------


def _returned(source: str, made: object, names: list[str]) -> tuple[Arrays, Array | None]:
    """Arrays and labels of what a user's function returned."""
    hint = "return ({" + ", ".join(f"{name!r}: array" for name in names) + "}, labels)"
    if not (isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], Mapping)):
        raise UserError(f"{source} returned a {type(made).__name__}", hint=hint)
    given, labels = made
    strangers = sorted(str(name) for name in given if name not in names)
    if strangers or len(given) > MAX_ARRAYS:
        raise UserError(
            f"{source} returned {quoted(strangers[:8])}, which are no inputs of the model", hint=hint
        )
    arrays = {str(name): _array(source, str(name), each) for name, each in given.items()}
    made_labels = _array(source, "labels", labels)
    if sum(each.nbytes for each in (*arrays.values(), made_labels)) > MAX_BYTES:
        raise UserError(f"{source} returned more than {MAX_BYTES:,} bytes", hint="return fewer samples")
    return arrays, made_labels


def _array(source: str, name: str, value: object) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f'{source}: "{name}" is no array: {str(error)[:200]}', hint="return numpy arrays"
        ) from error
    if array.dtype.kind not in "fiub":
        raise UserError(
            f'{source}: "{name}" is {array.dtype}, which are no numbers', hint="return plain numeric arrays"
        )
    return array


def _checked_labels(source: str, labels: Array, *, classes: bool) -> Array:
    """Labels with a row for each sample: of classes whole numbers from 0 on, else any finite numbers."""
    if labels.ndim == 0 or not labels.shape[0]:
        raise UserError(f"{source} holds no labels", hint="give at least one sample with its label")
    if labels.dtype.kind not in "fiub":
        raise UserError(
            f"{source}: the labels are {labels.dtype}, which are no numbers",
            hint="number the classes from 0 on",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise UserError(
            f"{source}: the labels hold NaN or infinity", hint="every sample needs a right answer"
        )
    if not classes:
        return labels
    flat = labels.reshape(labels.shape[0], -1)
    if labels.dtype.kind not in INTEGERS or flat.shape[1] != 1:
        raise UserError(
            f"{source}: the labels are {labels.dtype} {list(labels.shape)}; "
            "top1 wants one whole number a sample",
            hint="the number of the class, from 0 on: labels.argmax(axis=1) where they are one-hot",
        )
    for extreme in (int(flat.min()), int(flat.max())):
        if not 0 <= extreme < 1 << 31:
            raise UserError(f"{source}: a label is {extreme}", hint="classes are numbered from 0 on")
    made: NDArray[np.int64] = flat[:, 0].astype(np.int64)
    return made


def _fitting(source: str, arrays: Arrays, labels: Array, info: ModelInfo) -> Dataset:
    """The data set in the model's types and batch."""
    missing = [each.name for each in info.inputs if each.name not in arrays]
    if missing:
        raise UserError(
            f"{source} has no array {quoted(missing)}; the model's inputs are {expected(info)}",
            hint="samples lie on the first axis of every array",
        )
    n = len(labels)
    if n > MAX_SAMPLES:
        raise UserError(f"{source} has {n:,} samples; at most {MAX_SAMPLES:,}", hint="fewer decide, too")
    made = {each.name: fitted(source, arrays[each.name], each) for each in info.inputs}
    batches = {
        each.name: _batch(source, made[each.name], model_shape(each), n, each.name) for each in info.inputs
    }
    sizes = {size for size in batches.values() if size}
    if not sizes:
        raise UserError(f"{source}: no input has samples", hint=f"{n} of them on the first axis, one a label")
    if len(sizes) > 1:
        raise UserError(
            f"{source}: in one inference the inputs take {' and '.join(map(str, sorted(sizes)))} samples",
            hint=f"the model's inputs are {expected(info)}",
        )
    varying = {name: each for name, each in made.items() if batches[name]}
    always = {name: each for name, each in made.items() if not batches[name]}
    return Dataset(source, varying, always, labels, n, sizes.pop(), _digest(made, labels))


def _batch(source: str, array: Array, shape: tuple[int, ...], n: int, name: str) -> int:
    """How many samples of an input make one inference; 0: the array is fed with all of them."""
    if array.ndim and array.shape[0] == n:
        if shape and array.shape[1:] == shape[1:]:
            return shape[0]
        if array.shape[1:] == shape:
            return 1
    if array.shape == shape:
        return 0
    wanted = [n, *shape[1:]] if shape else [n]
    if array.ndim and array.shape[1:] in (shape[1:], shape):
        raise UserError(
            f'{source}: there are {n} labels, and {array.shape[0]} samples of "{name}"',
            hint="one label a sample",
        )
    raise UserError(
        f'{source}: "{name}" has the shape {list(array.shape)}; for {n} samples the model wants {wanted}',
        hint="samples lie on the first axis, each in the model's own shape",
    )


def _digest(arrays: Arrays, labels: Array) -> str:
    """What names the data: names, types, shapes and every number."""
    made = hashlib.sha256()
    for name, array in (*sorted(arrays.items()), ("", labels)):
        made.update(repr((name, str(array.dtype), array.shape)).encode())
        made.update(_bytes_of(array))
    return made.hexdigest()


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
