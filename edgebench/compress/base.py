"""Steps of a recipe: what they are called, what they take, and how a model goes through them.

A step is one file: it takes a ModelProto and returns another. `apply` reads the model, refuses nonsense
before any work, runs the steps in order, records the lineage in the file and writes it in one go.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import msgspec

from edgebench.errors import BugError, InfrastructureError, ModelError, UserError, did_you_mean
from edgebench.records import Accuracy, ModelInfo, Record, encode, prepared, replace
from edgebench.tools import data_digest, installed

if TYPE_CHECKING:
    from onnx import ModelProto

REVISION = 4  # raised whenever the same steps would make other bytes
SENSITIVITY_FILE = "sensitivity.json"  # beside a variant whose layers were weighed one by one
TOOLS = ("numpy", "onnx", "onnxruntime")
ARM = ("aarch64", "arm64", "armv7l")


class Settings(NamedTuple):
    """What all steps may need: the processor the variant is for, and data (`.npz` files).

    `calibration` are inputs alone; `validation` are labelled samples, with the labels under `labels_key`, by
    which a step chooses: never those that the result is reported on.
    """

    arch: str = "x86_64"
    calibration: Path | None = None
    validation: Path | None = None
    labels_key: str = "labels"


class Options(Record, frozen=True):
    """A step's own options; each step has its own closed record of them."""

    def label(self) -> str:
        """What the variant is called: "int8-static", "pruned-50"."""
        raise BugError(f"{type(self).__name__} has no label")

    def problem(self) -> str:
        """What is wrong with options that the types alone do not tell, or ""."""
        return ""


class Task(NamedTuple):
    """What a step is asked: about which model, with which of its own options, under which settings."""

    info: ModelInfo
    options: Any
    settings: Settings


class LayerCost(Record, frozen=True):
    """What the outputs lose where one layer alone is quantized; `kept_float`: it stays as it was."""

    node: str
    operator: str
    snr_db: float
    kept_float: bool


class Sensitivity(Record, frozen=True):
    """The layers of a mixed model, the costliest first, and what it lost in all.

    `budget` is what was asked for; `snr_db` is that of the worst output on the calibration samples,
    `accuracy` on the labelled ones, where these decided.
    """

    budget: str
    layers: tuple[LayerCost, ...]
    snr_db: float
    accuracy: Accuracy | None = None


class Made(NamedTuple):
    """What a step made, with the settings it really used and the digest of the data it looked at."""

    model: ModelProto
    settings: dict[str, Any]
    data_digest: str = ""
    sensitivity: Sensitivity | None = None


class Step(Protocol):
    """One kind of compression."""

    name: ClassVar[str]
    options: ClassVar[type[Options]]
    takes: ClassVar[tuple[str, ...]]  # precisions of ModelInfo that it can start from
    makes: ClassVar[tuple[str, ...]]  # precisions that count as done; () where it changes none
    needs_calibration: ClassVar[bool]

    def run(self, model: ModelProto, task: Task) -> Made:
        """The compressed model; the one given may be changed. ModelError when it cannot be had."""


STEPS = {
    "fp16": "edgebench.compress.fp16:Fp16",
    "int8-static": "edgebench.compress.int8_static:Int8Static",
    "int8-mixed": "edgebench.compress.mixed:Int8Mixed",
    "int8-dynamic": "edgebench.compress.int8_dynamic:Int8Dynamic",
    "int8-weights": "edgebench.compress.weights:Int8Weights",
    "int4-weights": "edgebench.compress.weights:Int4Weights",
    "prune": "edgebench.compress.prune:Prune",
    "cluster": "edgebench.compress.cluster:Cluster",
    "clean": "edgebench.compress.clean:Clean",
}


class Chosen(NamedTuple):
    """A step with the options that were chosen for it."""

    step: Step
    options: Options


def revision() -> str:
    """A text that differs whenever the same steps could make other bytes: ours and the tools' versions."""
    return " ".join([f"edgebench-compress={REVISION}", *(f"{k}={v}" for k, v in installed(TOOLS).items())])


def step(text: str) -> tuple[Step, Options]:
    """The step and its options from "prune:share=0.7,..."; UserError for an unknown step, option or value."""
    name, _, rest = text.partition(":")
    made = named(name)
    return made, _options(made, rest)


def named(name: str) -> Step:
    """The step of that name; UserError for an unknown one."""
    if name not in STEPS:
        raise UserError(f'no compression step "{name}"', hint=did_you_mean(name, STEPS))
    module, _, attribute = STEPS[name].partition(":")
    made: Step = getattr(import_module(module), attribute)()
    return made


def _options(made: Step, text: str) -> Options:
    known = made.options.__struct_encode_fields__
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = part.partition("=")
        if key not in known:
            raise UserError(f'the step {made.name} has no option "{key}"', hint=did_you_mean(key, known))
        if not separator or key in given:
            raise UserError(f'"{part}" is not an option', hint=f"{made.name}:{key}=VALUE, once")
        given[key] = value
    hint = f"options: {', '.join(known) or 'none'}"
    try:
        chosen: Options = msgspec.convert(given, prepared(made.options), strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{made.name}:{text} is not understood: {error}", hint=hint) from error
    if chosen.problem():
        raise UserError(f"{made.name}:{text} is not understood: {chosen.problem()}", hint=hint)
    return chosen


def apply(model_path: Path, steps: Sequence[str | Chosen], settings: Settings, *, out: Path) -> ModelInfo:
    """What was written to `out`: the model after the steps, with its lineage in its metadata.

    The same model, steps, settings and tools give the same bytes. A table of what layers cost lies beside it
    where a step made one (`SENSITIVITY_FILE`).
    UserError for unknown steps, missing calibration and an `out` that is the model itself; ModelError when a
    step cannot take the model, before anything is written.
    """
    from edgebench import model

    chosen = [each if isinstance(each, Chosen) else Chosen(*step(each)) for each in steps]
    _refuse_places(model_path, out, chosen, settings)
    proto, info = model.read(model_path)
    _refuse_order(info, chosen)
    lineage = model.lineage(proto)
    variant, weighed = info.variant, None
    for each in chosen:
        made = _run(each, proto, info, settings)
        proto, weighed = made.model, made.sensitivity or weighed
        lineage.append(_entry(each.step, made, info.digest if each is chosen[0] else ""))
        variant = _variant(variant, each.options.label())
        info = _checked(each.step, model.tidied(proto, info.name), info)
    written = model.write(proto, out, name=info.name, variant=variant, steps=lineage)
    if weighed is not None:
        _save_sensitivity(weighed, out.with_name(SENSITIVITY_FILE))
    return written


def _save_sensitivity(table: Sensitivity, path: Path) -> None:
    try:
        path.write_bytes(encode(table))
    except OSError as error:
        raise InfrastructureError(
            f"cannot write {path}: {error.strerror}", hint="choose a folder that can be written to"
        ) from error


def _refuse_places(model_path: Path, out: Path, chosen: Sequence[Chosen], settings: Settings) -> None:
    if not chosen:
        raise UserError("no compression step was named", hint=f"known: {', '.join(sorted(STEPS))}")
    if out.exists() and model_path.exists() and out.samefile(model_path):
        raise UserError(f"{out} is the model itself", hint="write the variant to another file")
    for what, path in (("calibration inputs", settings.calibration), ("validation", settings.validation)):
        if path is not None and not path.exists():
            raise UserError(f"no file {path}", hint=f"check the path of the {what}")
    needy = next((each.step.name for each in chosen if each.step.needs_calibration), None)
    if needy is not None and settings.calibration is None:
        raise UserError(
            f"{needy} needs calibration inputs: some typical samples of what the model will see",
            hint="--calibration samples.npz, made by numpy.savez('samples.npz', INPUT=array)",
        )


def _refuse_order(info: ModelInfo, chosen: Sequence[Chosen]) -> None:
    """ModelError, before any work, when a step cannot take what the file or the step before it is."""
    for each in chosen:
        _refuse(each.step, info)
        if each.step.makes:
            info = replace(info, precision=each.step.makes[0])


def _refuse(made: Step, info: ModelInfo) -> None:
    if info.precision in made.takes:
        return
    already = info.precision in made.makes
    quantized = info.precision.startswith("int8")
    raise ModelError(
        f"{info.name} is {info.precision}{' already' if already or quantized else ''}: "
        f"{made.name} takes {' and '.join(made.takes)} models",
        hint=f"apply {made.name} to the float model that this one was made from"
        + (", then quantize" if quantized and not made.makes else ""),
    )


def _run(each: Chosen, proto: ModelProto, info: ModelInfo, settings: Settings) -> Made:
    """The step's own errors as they are; everything its tools throw as a ModelError that names the step."""
    try:
        with quiet():
            return each.step.run(proto, Task(info, each.options, settings))
    except (ModelError, UserError):
        raise
    except Exception as error:
        raise ModelError(
            f"{info.name}: {each.step.name} failed: {_first_line(error)}",
            hint="edgebench inspect shows its operators; try another step, or the model as it is",
            detail=str(error)[-4000:],
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _checked(made: Step, info: ModelInfo, before: ModelInfo) -> ModelInfo:
    """The new info; ModelError when the step left the model in the precision it had."""
    if made.makes and info.precision not in made.makes:
        inside = "If" in before.operators
        raise ModelError(
            f"{before.name}: {made.name} found nothing to work on{' outside of its If' if inside else ''}; "
            f"the result is still {info.precision}",
            hint="--set NAME=NUMBER where an input decides the If; or take the model as it is"
            if inside
            else "take the model as it is, or another step",
        )
    return info


def _variant(before: str, label: str) -> str:
    return label if before == "fp32" else f"{before}-{label}"


def _entry(made: Step, result: Made, source: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"step": made.name, "settings": result.settings, "versions": installed(TOOLS)}
    if source:
        entry["input"] = source
    if result.data_digest:
        entry["data"] = result.data_digest
    return entry


def file_digest(path: Path) -> str:
    """The sha256 of a data file, or of a folder's files."""
    return data_digest(path)


@contextmanager
def quiet() -> Iterator[None]:
    """While it is open, ONNX Runtime's Python tools say nothing: no root logger set up, nothing on stderr.

    Its telemetry is off from then on: official builds send events, and keep a session file in the temporary
    folder (Privacy.md in the wheel of onnxruntime 1.32).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # its C++ half: errors only
    root, silence = logging.getLogger(), logging.NullHandler()
    root.addHandler(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silence)
