"""Recipes: named variants of a model, each an ordered list of steps. Strict YAML in, one frozen record out.

    version: 1
    factory: mynet:build                        # where there are training steps
    data: {calibration: cal.npz, validation: val.npz, test: test.npz}
    variants:
      pruned: [{prune: {share: 0.5}}]
      small:  [{from: pruned}, {int8: {max_drop: 1 pp}}]

Combinations are only order: training steps on the factory's network, then steps on the ONNX file, then
`int8`, which each runtime gets its own form for. What cannot follow what is refused here, with its line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, Literal, NamedTuple

import msgspec

from edgebench import documents
from edgebench.compress.base import STEPS, Chosen, Options, Step, named
from edgebench.compress.presets import Int8Options
from edgebench.documents import At, Document, quoted
from edgebench.errors import ConfigError, UserError, did_you_mean
from edgebench.records import Record, prepared, replace
from edgebench.usercode import is_function_name

VERSION = 1
INT8, FROM = "int8", "from"
MAX_VARIANTS, MAX_STEPS = 64, 32
TRAINING = "edgebench.compress.training"
# What PyTorch steps are called; which options they take, their package says where it is installed.
TRAINED = (
    "channel-prune",
    "layer-drop",
    "head-prune",
    "mlp-prune",
    "sparsify",
    "distill",
    "fine-tune",
    "qat",
)
NEEDS_TORCH = "pip install 'edgebench[compress]'"
FACTORY = "factory: module:function, a function of yours that returns the module and its data loaders"
_FIELD = re.compile(r"`\$\.([^`.\[]+)")


class Data(Record, frozen=True):
    """`.npz` files: `calibration` and `validation` to choose by, `test` to report on, `training` for neither.

    `test` may be a function "module:name" of the user's, too. No sample may be in two of the sets training,
    calibration and validation, test.
    """

    training: str | None = None
    calibration: str | None = None
    validation: str | None = None
    test: str | None = None
    labels_key: str = "labels"


class Training(Record, frozen=True):
    """Where and how training steps work: `threads` 0 is as many as PyTorch takes, `opset` is the file's."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    opset: int = 18


class RecipeFile(Record, frozen=True):
    """The keys of a recipe; a step is its name, or its name with options."""

    version: int
    variants: dict[str, tuple[Any, ...]]
    factory: str | None = None
    data: Data = Data()
    seed: int = 0
    training: Training = Training()


class TrainingStep(NamedTuple):
    """A PyTorch step by name, with the options of its own record."""

    name: str
    options: Options


class Variant(NamedTuple):
    """Training steps, then ONNX steps, then the int8 that each runtime gets its own form of (None: none)."""

    name: str
    training: tuple[TrainingStep, ...]
    steps: tuple[Chosen, ...]
    int8: Int8Options | None


class Recipe(NamedTuple):
    """A recipe whose every variant can be begun: known steps, in a possible order."""

    source: str
    factory: str | None
    data: Data
    seed: int
    variants: tuple[Variant, ...]
    training: Training = Training()

    def chosen(self, names: Sequence[str]) -> tuple[Variant, ...]:
        """The variants of those names, all for none; UserError for one that is not there."""
        known = {each.name: each for each in self.variants}
        for name in names:
            if name not in known:
                raise UserError(
                    f"{self.source} has no variant {quoted(name)}", hint=did_you_mean(name, known)
                )
        return tuple(each for each in self.variants if not names or each.name in names)


class OptionInfo(Record, frozen=True):
    """One option of a step; `default` None: it has to be given, or nothing is meant."""

    name: str
    kind: str
    default: Any = None


class StepInfo(Record, frozen=True):
    """What a step is: where it works ("training", "onnx", "preset"), what it takes and makes."""

    name: str
    works_on: str
    what: str
    takes: tuple[str, ...]
    makes: tuple[str, ...]
    needs: tuple[str, ...]
    options: tuple[OptionInfo, ...]


# --- reading --------------------------------------------------------------------------------------


def read(path: Path) -> Recipe:
    """The recipe in a file; UserError where it cannot be read, ConfigError with its line where it is bad."""
    return parse(documents.read_text(path), str(path))


def parse(text: str, source: str) -> Recipe:
    """The recipe in a YAML text, its paths seen from the file; ConfigError with line and nearest name."""
    document = documents.load_with_lines(text, RecipeFile, source=source)
    _check_file(document)
    made: dict[str, Variant] = {}
    for name in document.value.variants:
        made[name] = _variant(document, name, made)
    file = document.value
    data = _located(file.data, source)
    return Recipe(source, file.factory, data, file.seed, tuple(made.values()), file.training)


def _check_file(document: Document[RecipeFile]) -> None:
    file = document.value
    if file.version != VERSION:
        message = f"version is {file.version}; this edgebench reads version {VERSION}"
        raise document.error(("version",), message, hint=f"write version: {VERSION}")
    if not 0 <= file.seed < 1 << 31:
        raise document.error(("seed",), f"seed is {file.seed}", hint="a whole number from 0 on")
    if file.factory is not None and not is_function_name(file.factory):
        raise document.error(("factory",), f"factory is {quoted(file.factory)}", hint=FACTORY)
    training = file.training
    if not (0 <= training.threads <= 4096 and 7 <= training.opset <= 30):
        message = f"training has threads {training.threads} and opset {training.opset}"
        raise document.error(("training",), message, hint="training: {threads: 2, opset: 18}")
    if not file.variants or len(file.variants) > MAX_VARIANTS:
        message = f"variants has {len(file.variants)} entries"
        raise document.error(("variants",), message, hint=f"name 1 to {MAX_VARIANTS} variants")


def _located(data: Data, source: str) -> Data:
    folder = PurePath(source).parent
    paths = {key: getattr(data, key) for key in ("training", "calibration", "validation", "test")}
    if data.test is not None and is_function_name(data.test):
        del paths["test"]
    return replace(data, **{key: str(folder / path) for key, path in paths.items() if path})


def _variant(document: Document[RecipeFile], name: str, before: Mapping[str, Variant]) -> Variant:
    at: At = ("variants", name)
    if not (name.strip() == name and name.isprintable() and len(name) <= 60) or set(name) & set("/\\"):
        raise document.error(at, f"{quoted(name)} names no variant", hint="letters, digits, - and _")
    items = document.value.variants[name]
    if not items or len(items) > MAX_STEPS:
        raise document.error(at, f"{name} has {len(items)} steps", hint=f"1 to {MAX_STEPS} of them")
    made = Variant(name, (), (), None)
    for index, item in enumerate(items):
        made = _with_step(made, _Item(document, (*at, index), *_split(document, (*at, index), item)), before)
    return made


class _Item(NamedTuple):
    """One entry of a variant's list: where it stands, the step's name, and what is said of it."""

    document: Document[RecipeFile]
    at: At
    name: str
    said: Any

    def error(self, message: str, hint: str) -> ConfigError:
        return self.document.error(self.at, message, hint=hint)


def _split(document: Document[RecipeFile], at: At, item: object) -> tuple[str, Any]:
    """Name and options of "fp16", or of {prune: {share: 0.5}}."""
    if isinstance(item, str):
        return item, {}
    if isinstance(item, dict) and len(item) == 1:
        ((name, said),) = item.items()
        return str(name), {} if said is None else said
    message = f"{documents.place(at)} is no step"
    raise document.error(at, message, hint="write fp16, or prune: {share: 0.5}, one step an entry")


def _with_step(made: Variant, item: _Item, before: Mapping[str, Variant]) -> Variant:
    name = item.name.replace("_", "-")
    if name == FROM:
        return _begun(made, item, before)
    if made.int8 is not None:
        hint = "int8 comes last: each runtime quantizes what the steps before it made"
        raise item.error(f"{name} cannot follow int8", hint)
    if name == INT8:
        _refuse_order(made, item, ("fp32",), INT8)
        return made._replace(int8=_options(item, Int8Options))
    if name in STEPS:
        step = named(name)
        _refuse_order(made, item, step.takes, name)
        return made._replace(steps=(*made.steps, Chosen(step, _options(item, step.options))))
    return _with_training(made, item, name)


def _begun(made: Variant, item: _Item, before: Mapping[str, Variant]) -> Variant:
    """The variant that begins as an earlier one does."""
    if made.steps or made.training:
        raise item.error("from comes first in a variant", "move it to the beginning")
    if not isinstance(item.said, str) or item.said not in before:
        shown = quoted(item.said) if isinstance(item.said, str) else "that"
        raise item.error(
            f"there is no variant {shown} above {made.name}", did_you_mean(str(item.said), before)
        )
    return before[item.said]._replace(name=made.name)


def _refuse_order(made: Variant, item: _Item, takes: Sequence[str], name: str) -> None:
    """ConfigError where the steps before leave a precision that the step does not take."""
    last = next((each.step for each in reversed(made.steps) if each.step.makes), None)
    if last is not None and not set(last.makes) & set(takes):
        hint = f"{name} takes {' and '.join(takes)} models: put it before {last.name}"
        raise item.error(f"{name} cannot follow {last.name}, which makes {last.makes[0]}", hint)


def _with_training(made: Variant, item: _Item, name: str) -> Variant:
    package = _training()
    steps: Mapping[str, type[Options]] = {} if package is None else package.STEPS
    if name not in steps:
        if name in TRAINED and package is None:
            raise item.error(f"{name} needs PyTorch, which is not installed with edgebench", NEEDS_TORCH)
        hint = did_you_mean(name, (*STEPS, *(steps or TRAINED), INT8, FROM))
        raise item.error(f"no compression step {quoted(item.name)}", hint)
    if made.steps:
        hint = f"move {name} to the front: {made.steps[0].step.name} works on the ONNX file made by training"
        raise item.error(f"{name} cannot follow {made.steps[-1].step.name}", hint)
    if item.document.value.factory is None:
        message = f"{name} trains a network, and the recipe names no factory"
        raise item.error(message, f"factory: module:function at the top, where\n{_signature()}")
    return made._replace(training=(*made.training, TrainingStep(name, _options(item, steps[name]))))


def _signature() -> str:
    """What a factory looks like, as the package of training says it."""
    return str(getattr(import_module(f"{TRAINING}.data"), "SIGNATURE", FACTORY))


def _training() -> ModuleType | None:
    """The package of PyTorch steps, where it is there; it imports PyTorch on first use."""
    try:
        return import_module(TRAINING)
    except ModuleNotFoundError:
        return None


def trainer() -> ModuleType:
    """The package of PyTorch steps; UserError with what to type where it is not there."""
    package = _training()
    if package is None:
        raise UserError(
            "training steps need PyTorch, which is not installed with edgebench", hint=NEEDS_TORCH
        )
    return package


def _options(item: _Item, kind: type[Options]) -> Any:
    """The step's own record; ConfigError with the line of the option that is unknown or wrong."""
    at: At = (*item.at, item.name)
    said, known = item.said, kind.__struct_encode_fields__
    if not isinstance(said, dict):
        hint = f"{item.name}: {{{known[0]}: ...}}" if known else item.name
        raise item.document.error(at, f"{item.name} takes options by name", hint=hint)
    for key in said:
        if key not in known:
            message = f"the step {item.name} has no option {quoted(str(key))}"
            raise item.document.error((*at, key), message, hint=did_you_mean(str(key), known))
    try:
        made: Options = msgspec.convert(said, prepared(kind))
    except msgspec.ValidationError as error:
        field = _FIELD.search(str(error))
        where = (*at, field[1]) if field else at
        told = str(error).partition(" - at ")[0]
        hint = f"options: {', '.join(known)} (edgebench compress --list-steps shows them)"
        raise item.document.error(where, f"{documents.place(where)}: {told}", hint=hint) from error
    problem, _, hint = made.problem().partition("; ")
    if problem:
        raise item.document.error(at, f"{item.name}: {problem}", hint=hint)
    return made


# --- the list of steps ----------------------------------------------------------------------------


def list_steps() -> tuple[StepInfo, ...]:
    """Every step: those of training where they are installed, those on ONNX files, and int8 for runtimes."""
    package = _training()
    trained = [] if package is None else [_trained(name, kind) for name, kind in package.STEPS.items()]
    onnx_steps = [_on_onnx(named(name)) for name in STEPS]
    return (*trained, *onnx_steps, _int8())


def _on_onnx(step: Step) -> StepInfo:
    return StepInfo(
        name=step.name,
        works_on="onnx",
        what=_first_line(type(step)),
        takes=step.takes,
        makes=step.makes or ("the same",),
        needs=("calibration",) if step.needs_calibration else (),
        options=_option_infos(step.options),
    )


def _int8() -> StepInfo:
    return StepInfo(
        name=INT8,
        works_on="preset",
        what="float32 -> the int8 form that each runtime executes well on its processor; comes last.",
        takes=("fp32",),
        makes=("int8",),
        needs=("calibration",),
        options=_option_infos(Int8Options),
    )


def _trained(name: str, kind: type[Options]) -> StepInfo:
    return StepInfo(
        name=name,
        works_on="training",
        what=_first_line(kind),
        takes=("factory",),
        makes=("fp32",),
        needs=("factory",),
        options=_option_infos(kind),
    )


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _option_infos(kind: type[Options]) -> tuple[OptionInfo, ...]:
    from msgspec import inspect

    found = inspect.type_info(kind)
    fields = found.fields if isinstance(found, inspect.StructType) else ()
    return tuple(
        OptionInfo(
            name=each.encode_name,
            kind=_kind(each.type),
            default=None if isinstance(each.default, msgspec.UnsetType) or each.required else _default(each),
        )
        for each in fields
    )


def _default(field: msgspec.inspect.Field) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default)
    return msgspec.to_builtins(field.default_factory()) if callable(field.default_factory) else None


def _kind(kind: msgspec.inspect.Type) -> str:
    """A type in plain words: "a number above 0, below 1", "minmax | entropy"."""
    from msgspec import inspect

    if isinstance(kind, inspect.UnionType):
        return " or ".join(_kind(each) for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return " | ".join(map(str, kind.values))
    if isinstance(kind, inspect.BoolType):
        return "true | false"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        word = "whole number" if isinstance(kind, inspect.IntType) else "number"
        bounds = ((">", kind.gt), (">=", kind.ge), ("<", kind.lt), ("<=", kind.le))
        return ", ".join((word, *(f"{sign} {value:g}" for sign, value in bounds if value is not None)))
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return f"list of {_kind(kind.item_type)}"
    return "text" if isinstance(kind, inspect.StrType) else "mapping"
