"""ONNX file -> ModelInfo and canonical form: the only door by which a network enters edgebench.

onnx and numpy are imported on first use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.errors import UserError
from edgebench.records import ModelInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgebench.model.flexible import OpenInput
    from edgebench.model.images import ImageInput

    Arrays = dict[str, NDArray[Any]]

CUT_NMS_STEP = "cut-nms"  # its name in the lineage

__all__ = [
    "CUT_NMS_STEP",
    "as_fed",
    "as_pixels",
    "batches",
    "digest",
    "fixed_inputs",
    "fp16_to_fp32",
    "inspect",
    "lineage",
    "load",
    "parse_constant",
    "parse_flexible",
    "parse_image",
    "parse_shape",
    "prepare",
    "random_inputs",
    "read",
    "read_inputs",
    "tidied",
    "trials",
    "without_nms",
    "write",
]


def digest(path: Path) -> str:
    """The sha256 that names the model: of the file, or of the file and its external data.

    UserError when the path is no file, ModelError when it is not ONNX or its data is missing or outside its
    folder.
    """
    from edgebench.model import file

    return file.digest(Path(path))


def load(path: Path) -> ModelProto:
    """The checked ModelProto with its external data read in.

    UserError when the path is no file. ModelError when it is not ONNX, empty, truncated or too large; when
    external data is missing or outside the model's folder; when an operator or its version is unknown; on
    cycles, duplicate or missing names, strings, sequences, sparse tensors, and shapes of more than 2**31
    elements.
    """
    return _loaded(path)[0]


def inspect(path: Path) -> ModelInfo:
    """What the file is; errors as for `load`. Its metadata tells its name, else the file's name does."""
    return read(path)[1]


def read(path: Path) -> tuple[ModelProto, ModelInfo]:
    """What `load` and `inspect` say, of one reading."""
    model, named, size_bytes = _loaded(path)
    return model, _described(model, Path(path).stem, named, size_bytes)


def prepare(
    path: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int = 1,
    cut_nms: bool = False,
    flexible: Sequence[OpenInput] = (),
    constants: Mapping[str, int | float] | None = None,
    out: Path,
) -> ModelInfo:
    """The canonical model, written to `out`: static, sorted, with all shapes and without exporters' notes.

    An opset that is too old for runtimes is raised. A leading dimension that is its input's only unknown one
    becomes `batch`; every other unknown one must be given in `shapes`, else a UserError shows the option to
    type. `cut_nms`: the model ends before NonMaxSuppression, as `without_nms` says. The sizes that `flexible`
    gives ranges for stay open. Inputs in `constants` become weights of that value. The lineage tells each of
    these. Values do not change, and the same input gives the same bytes. Errors as for `load`.
    """
    from edgebench.model import base, canonical, info, opset
    from edgebench.model.constants import fix
    from edgebench.model.flexible import open_up

    model, named, _ = _loaded(path)
    made = base.inlined(model)
    steps = info.lineage(made)
    if cut_nms:
        made = without_nms(made)
        steps.append({"step": CUT_NMS_STEP, "settings": {}, "input": named})
    opened = open_up(made, flexible, shapes)
    if flexible:
        texts = {each.name: each.text() for each in flexible}
        steps.append({"step": "open", "settings": texts, "input": named})
    frozen = canonical.freeze(made, shapes, batch, opened)
    settled = dict(sorted((constants or {}).items()))
    fix(made, settled)
    newer = opset.raised(made)
    if newer is not None:
        made = newer
        steps.append({"step": "opset", "settings": {"raised_to": opset.RAISED_TO}, "input": named})
    if frozen.inputs:
        settings = {name: list(shape) for name, shape in sorted(frozen.inputs.items())}
        steps.append({"step": "freeze", "settings": settings, "input": named})
    if settled:
        steps.append({"step": "set", "settings": settled, "input": named})
    info.set_metadata(made, {info.KEY_SOURCE: info.metadata(made).get(info.KEY_SOURCE, named)})
    name, variant = info.names(made, Path(path).stem)
    return write(made, out, name=name, variant=variant, steps=steps)


def without_nms(model: ModelProto) -> ModelProto:
    """A new model that ends before its NonMaxSuppression and returns the boxes and scores it would take.

    Outputs that do not depend on it stay. UserError when the model has none.
    """
    from edgebench.model import cut

    return cut.without_nms(model)


def fixed_inputs(
    path: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int = 1,
    constants: Mapping[str, int | float],
) -> Arrays:
    """Name -> what the file itself is to be fed with where `prepare` made its inputs constants."""
    if not constants:
        return {}
    from edgebench.model import base, canonical
    from edgebench.model.constants import fix

    made = base.inlined(_loaded(path)[0])
    canonical.freeze(made, shapes, batch)
    return fix(made, constants)


def tidied(model: ModelProto, name: str) -> ModelInfo:
    """What the model is after it was tidied in place: sorted, shapes inferred anew, nothing of its makers.

    Digest and size are empty: it is not a file. ModelError when it is not sound.
    """
    _tidy(model, name)
    return _described(model, name, "", 0)


def lineage(model: ModelProto) -> list[dict[str, Any]]:
    """The steps that the file says it went through, oldest first."""
    from edgebench.model import info

    return info.lineage(model)


def write(model: ModelProto, out: Path, *, name: str, variant: str, steps: list[dict[str, Any]]) -> ModelInfo:
    """What was written: the model with its name, variant and lineage in its metadata; errors as for `load`.

    `steps` are the lineage, oldest first: {"step": name, "settings": {...}, "input": digest, ...}.
    """
    import hashlib

    from edgebench.model import checks, file, info

    if not out.parent.is_dir():
        raise UserError(f"no folder {out.parent}", hint=f"mkdir -p {out.parent}")
    told = {info.KEY_MODEL: name, info.KEY_VARIANT: variant}
    if steps:
        told[info.KEY_LINEAGE] = json.dumps(steps, sort_keys=True, separators=(",", ":"))
    info.set_metadata(model, told)
    _tidy(model, out.name)
    checks.check(model, out.name)
    data = file.save(model, out)
    return _described(model, name, hashlib.sha256(data).hexdigest(), len(data))


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and sizes of "image=1,3,224,224"; UserError when the text is not of that form."""
    from edgebench.model import inputs

    return inputs.parse_shape(text)


def parse_flexible(text: str) -> OpenInput:
    """The input of open sizes that "x=1..8,3,224..448,224..448" or "x=1,3,224,224|1,3,448,448" names."""
    from edgebench.model import flexible

    return flexible.parse(text)


def parse_image(text: str) -> ImageInput:
    """The image input that "x=rgb,scale=1/255,bias=-0.485:-0.456:-0.406" names."""
    from edgebench.model import images

    return images.parse(text)


def as_pixels(sample: Mapping[str, NDArray[Any]], given: Sequence[ImageInput]) -> Arrays:
    """A generated sample whose image inputs became pixels of 0 to 255."""
    from edgebench.model import images

    return images.as_pixels(sample, given)


def as_fed(sample: Mapping[str, NDArray[Any]], given: Sequence[ImageInput]) -> Arrays:
    """The sample as the ONNX model takes it, the pixels of image inputs scaled; UserError for no pixels."""
    from edgebench.model import images

    return images.as_fed(sample, given)


def trials(info: ModelInfo, flexible: Sequence[OpenInput]) -> list[ModelInfo]:
    """The model at the shapes that a flexible one is tried at, the default first; itself where static."""
    from edgebench.model.flexible import trials

    return trials(info, flexible)


def parse_constant(text: str) -> tuple[str, int | float]:
    """Name and number of "sr=16000"; UserError when the text is not of that form."""
    from edgebench.model import constants

    return constants.parse_constant(text)


def fp16_to_fp32(model: ModelProto) -> ModelProto:
    """A new model that computes in float32 what this one computes in float16, inputs and outputs included."""
    from edgebench.model import upcast

    return upcast.fp16_to_fp32(model)


def random_inputs(info: ModelInfo, seed: int) -> Arrays:
    """Name -> seeded plausible input, the same each time; UserError when a shape is not static."""
    from edgebench.model import inputs

    return inputs.random_inputs(info, seed)


def read_inputs(path: Path, info: ModelInfo) -> Arrays:
    """Name -> the user's array for every input, one sample or N; UserError when the `.npz` does not fit."""
    from edgebench.model import inputs

    return inputs.read_inputs(Path(path), info)


def batches(arrays: Mapping[str, NDArray[Any]], info: ModelInfo) -> Iterator[Arrays]:
    """One feed per sample of what `read_inputs` returned, in the model's exact shapes."""
    from edgebench.model import inputs

    return inputs.batches(arrays, info)


def _tidy(model: ModelProto, name: str) -> None:
    """Sort the model, fold its shape arithmetic, infer its shapes and drop the exporter's notes, in place."""
    from edgebench.model import base, canonical, fold, spectra

    canonical.tidy(model)
    for node in base.nodes(model.graph):
        spectra.say_onesided(node)
    base.sort(model.graph, name)
    shaped = fold.folded(base.skeleton(model), name)
    if spectra.written_in_full(shaped.graph):
        shaped = fold.folded(shaped, name)
    canonical.forget_invented_symbols(shaped.graph)
    fold.graft(model, shaped)


def _loaded(path: Path) -> tuple[ModelProto, str, int]:
    from edgebench.model import canonical, checks, file

    loaded = file.read(Path(path))
    canonical.settle(loaded.model)
    checks.check(loaded.model, Path(path).name)
    return loaded


def _described(model: ModelProto, stem: str, named: str, size_bytes: int) -> ModelInfo:
    from edgebench.model import fold, info, macs

    work = macs.count_macs(fold.folded(macs.one_sample(model, stem), stem))
    return info.describe(model, stem=stem, digest=named, size_bytes=size_bytes, macs=work)
