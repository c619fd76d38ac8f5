"""What the user wants measured -> jobs: every cell of models x runtimes x precisions x devices. Pure.

A cell that its target does not offer becomes a refusal with its reason and what would work, before any device
is touched; what the user named is never left out silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import NamedTuple

from edgebench import documents
from edgebench.accuracy import MAP, TOP1, boxes_function
from edgebench.budgets import subject_of
from edgebench.compress import step
from edgebench.documents import At, place, quoted
from edgebench.errors import NothingDone, UserError, did_you_mean
from edgebench.gates import claims
from edgebench.records import (
    COMPUTE_UNITS,
    MEASURED,
    ORT_FORMATS,
    PRECISIONS,
    RUNTIMES,
    Device,
    Job,
    ModelInfo,
    Record,
    Target,
    Workload,
    replace,
)
from edgebench.targets import workload_problem
from edgebench.usercode import is_function_name

VERSION = 1
AS_IS = "as-is"


class PlannedModel(Record, frozen=True):
    """One ONNX file. `inputs` and `calibration` are `.npz` files; `shapes` fixes the open dimensions.

    `cut_nms`: it ends before its NonMaxSuppression and returns boxes and scores. `constants` are inputs that
    always have that value. `ort_format` is how ONNX Runtime's artifact is stored, `compute_units` what Core
    ML may use; None leaves the target's choice.
    `dataset` (an `.npz` file, a folder of pictures with `preprocess`, or "module:function") is what accuracy
    is measured on, with the array `labels_key` as labels, by `metric` (top1 or "module:function") on
    `output`, the first where it is None. `reference` is the model that it is compared with; None: the fp32
    one of the same name in the plan, or itself. `accuracy_on_device`: by what the device computes.
    `recipe` is a file of variants (`edgebench.compress.recipe`), measured beside the model: all, or
    `variants`. `runtimes`: only there. `int8` are options of the form that a runtime's int8 takes, such as
    "max_drop=1 pp", which is judged on the labelled samples `validation`.
    """

    path: str
    name: str | None = None
    inputs: str | None = None
    calibration: str | None = None
    shapes: dict[str, tuple[int, ...]] = {}
    cut_nms: bool = False
    constants: dict[str, int | float] = {}
    precisions: tuple[str, ...] = ()
    ort_format: str = ORT_FORMATS[0]
    compute_units: str | None = None
    dataset: str | None = None
    labels_key: str = "labels"
    metric: str = TOP1
    output: str | None = None
    reference: str | None = None
    accuracy_on_device: bool = False
    preprocess: str | None = None
    recipe: str | None = None
    variants: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    int8: str = ""
    validation: str | None = None
    validation_labels_key: str = "labels"


class WorkloadChanges(Record, frozen=True):
    """The fields of a target's workload that a plan or a flag changes; None leaves the target's value."""

    launches: int | None = None
    threads: int | None = None
    batch: int | None = None
    warmup_samples: int | None = None
    max_warmup_s: float | None = None
    min_samples: int | None = None
    min_duration_s: float | None = None
    max_duration_s: float | None = None
    cooldown_s: float | None = None
    max_invalid: int | None = None
    precision: float | None = None


class Plan(Record, frozen=True):
    """What to measure. No `runtimes`: all that the target offers for a precision. `on` is a selector.

    `profile`: a launch of its own takes the times of layers. `claims` are sentences that the results are to
    prove (`edgebench.gates.claims`).

    `precisions` may hold "as-is": the model as it comes, whatever precision it has.
    """

    models: tuple[PlannedModel, ...]
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = (AS_IS,)
    on: str = "all"
    workload: WorkloadChanges = WorkloadChanges()
    profile: bool = False
    claims: tuple[str, ...] = ()


class PlanFile(Record, frozen=True):
    """The keys of plan.yaml; a model may be written as its path alone."""

    version: int
    models: tuple[str | PlannedModel, ...]
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = (AS_IS,)
    on: str = "all"
    workload: WorkloadChanges = WorkloadChanges()
    profile: bool = False
    claims: tuple[str, ...] = ()


class PlannedJob(Record, frozen=True):
    """A job with the model it comes from; `precision` is what was asked for, None for the model as it is.

    `vnni`: whether the device's x86 processor has it, None where that is not known.
    """

    job: Job
    model: PlannedModel
    precision: str | None
    vnni: bool | None = None


class Refused(Record, frozen=True):
    """A job that cannot be done, why, and what would work."""

    job: Job
    reason: str
    hint: str


class Expansion(NamedTuple):
    """All cells of a plan, in the order device, model, runtime, precision."""

    jobs: tuple[PlannedJob, ...]
    refused: tuple[Refused, ...]


def parse(text: str, source: str) -> Plan:
    """The plan in a YAML text, its paths seen from the file; ConfigError with line and nearest key."""
    document = documents.load_with_lines(text, PlanFile, source=source)
    file = document.value
    if file.version != VERSION:
        message = f"version is {file.version}; this edgebench reads version {VERSION}"
        raise document.error(("version",), message, hint=f"write version: {VERSION}")
    folder = PurePath(source).parent
    plan = Plan(
        models=tuple(_located(model, folder) for model in file.models),
        runtimes=file.runtimes,
        precisions=file.precisions,
        on=file.on,
        workload=file.workload,
        profile=file.profile,
        claims=file.claims,
    )
    for at, message, hint in _problems(plan):
        raise document.error(at, message, hint=hint)
    return plan


def check(plan: Plan) -> None:
    """UserError for the first rule that a plan made from flags breaks."""
    for _, message, hint in _problems(plan):
        raise UserError(message, hint=hint)


def expand(
    plan: Plan,
    devices: Sequence[Device],
    targets: Mapping[str, Target],
    infos: Mapping[str, ModelInfo],
    vnni: Mapping[str, bool | None] = MappingProxyType({}),
) -> Expansion:
    """Every cell of the plan: jobs, and those refused by a device's target. `infos`: by the models' paths.

    `vnni`: by the names of devices, as far as it is known.
    UserError when two models could not be told apart, or a device's target is not there; NothingDone without
    any cell.
    """
    _check_distinct(plan, infos)
    plan = replace(plan, models=tuple(_compared(model, plan, infos) for model in plan.models))
    jobs: list[PlannedJob] = []
    refused: list[Refused] = []
    for planned, target in _cells(plan, devices, targets, infos):
        reason, hint = _refusal(planned.job, target)
        if reason:
            refused.append(Refused(job=planned.job, reason=reason, hint=hint))
        else:
            jobs.append(replace(planned, vnni=vnni.get(planned.job.device)))
    if not jobs and not refused:
        raise NothingDone("the plan has no cells", hint="name at least one model and one device")
    planned_cells = [each.job for each in jobs] + [each.job for each in refused]
    subjects = [subject_of(job) for job in planned_cells]
    for text in plan.claims:
        claims.check(claims.parse(text), subjects)
    return Expansion(tuple(jobs), tuple(refused))


def own_precision(info: ModelInfo) -> str:
    """The precision that a model is measured under when it is taken as it is.

    A mixed model counts as the coarsest that it holds, since that decides how far its outputs may lie apart.
    """
    if info.precision != "mixed":
        return "int8" if info.precision == "int8-qdq" else info.precision
    operators = {name.replace(":", ".").rpartition(".")[2] for name in info.operators}
    if operators & {"QuantizeLinear", "DequantizeLinear"}:
        return "int8"
    return "int8-dynamic" if any("Integer" in name or "Dynamic" in name for name in operators) else "fp16"


# --- rules ---------------------------------------------------------------------------------------


def _located(model: str | PlannedModel, folder: PurePath) -> PlannedModel:
    planned = PlannedModel(path=model) if isinstance(model, str) else model
    keys = ("path", "inputs", "calibration", "reference", "recipe", "validation", "preprocess")
    paths = {key: getattr(planned, key) for key in keys}
    if planned.dataset is not None and not is_function_name(planned.dataset):
        paths["dataset"] = planned.dataset
    return replace(planned, **{key: str(folder / path) for key, path in paths.items() if path})


def _problems(plan: Plan) -> Iterator[tuple[At, str, str]]:
    yield from _model_problems(plan.models)
    yield from _name_problems(("runtimes",), plan.runtimes, RUNTIMES, "runtime")
    yield from _name_problems(("precisions",), plan.precisions, (AS_IS, *PRECISIONS), "precision")
    if not plan.precisions:
        yield ("precisions",), "precisions is empty", f"known: {', '.join((AS_IS, *PRECISIONS))}"
    if not plan.on.strip():
        yield ("on",), "on is empty", "write a selector: all, a device's name, group:G, tag:K=V"
    for index, text in enumerate(plan.claims):
        try:
            claims.parse(text)
        except UserError as error:
            yield ("claims", index), error.message, error.hint
    problem = workload_problem(_changed(Workload(), plan.workload))
    if problem is not None and getattr(plan.workload, problem.field) is not None:
        yield ("workload", problem.field), f"workload.{problem.message}", problem.hint


def _model_problems(models: tuple[PlannedModel, ...]) -> Iterator[tuple[At, str, str]]:
    if not models:
        yield ("models",), "models is empty", "name at least one ONNX file"
    for index, model in enumerate(models):
        at: At = ("models", index)
        yield from _name_problems((*at, "precisions"), model.precisions, (AS_IS, *PRECISIONS), "precision")
        if model.ort_format not in ORT_FORMATS:
            message = f"unknown ort_format {quoted(model.ort_format)}"
            yield (*at, "ort_format"), message, did_you_mean(model.ort_format, ORT_FORMATS)
        if model.compute_units is not None and model.compute_units not in COMPUTE_UNITS:
            message = f"unknown compute_units {quoted(model.compute_units)}"
            yield (*at, "compute_units"), message, did_you_mean(model.compute_units, COMPUTE_UNITS)
        yield from _accuracy_problems(at, model)
        yield from _recipe_problems(at, model)
        if not model.path:
            yield at, f"{place(at)} has an empty path", "write the path of an ONNX file"
        if model.name is not None and not (model.name.strip() and model.name.isprintable()):
            yield (
                (*at, "name"),
                f"{place(at)}.name is {quoted(model.name)}",
                "write a name that can be printed",
            )
        for name, shape in model.shapes.items():
            if not all(0 < size < 1 << 31 for size in shape):
                shown = ",".join(map(str, shape))
                message = f"{place(at)}.shapes.{name} is {shown}, with a size that is no size"
                yield (*at, "shapes", name), message, "every size is a whole number from 1 on"


def _recipe_problems(at: At, model: PlannedModel) -> Iterator[tuple[At, str, str]]:
    yield from _name_problems((*at, "runtimes"), model.runtimes, RUNTIMES, "runtime")
    if model.variants and model.recipe is None:
        yield (*at, "variants"), f"variants of {place(at)}, and no recipe", "recipe: FILE names them"
    if model.int8:
        try:
            step(f"int8-mixed:{model.int8}" if "=" in model.int8 else model.int8)
        except UserError as error:
            yield (*at, "int8"), f"{place(at)}.int8: {error.message}", error.hint


def _accuracy_problems(at: At, model: PlannedModel) -> Iterator[tuple[At, str, str]]:
    if model.metric != TOP1 and not is_function_name(boxes_function(model.metric) or model.metric):
        message = f"unknown metric {quoted(model.metric)}"
        hint = f"write {TOP1}, {MAP}:module:function for boxes, or a metric of your own: module:function"
        yield (*at, "metric"), message, hint
    if model.dataset is not None:
        return
    plain = PlannedModel(path=model.path)
    for key in ("labels_key", "metric", "output", "reference", "accuracy_on_device", "preprocess"):
        if getattr(model, key) != getattr(plain, key):
            hint = "name the labelled samples: dataset: FILE.npz, or --dataset FILE.npz"
            yield (*at, key), f"{key} is given for {place(at)}, and no dataset", hint


def _name_problems(
    at: At, names: tuple[str, ...], known: tuple[str, ...], what: str
) -> Iterator[tuple[At, str, str]]:
    for index, name in enumerate(names):
        if name not in known:
            yield (*at, index), f"unknown {what} {quoted(name)}", did_you_mean(name, known)
        if name in names[:index]:
            yield (*at, index), f"{place(at)} names {name} twice", "remove one of the two"


def _check_distinct(plan: Plan, infos: Mapping[str, ModelInfo]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for model in plan.models:
        key = (model.name or infos[model.path].name, infos[model.path].variant)
        if key in seen:
            shown = " ".join(filter(None, key))
            message = f"{seen[key]} and {model.path} are both called {quoted(shown)}"
            raise UserError(
                message, hint="give one of them another name in the plan (name: ...), or leave it out"
            )
        seen[key] = model.path


# --- cells ---------------------------------------------------------------------------------------


def _compared(model: PlannedModel, plan: Plan, infos: Mapping[str, ModelInfo]) -> PlannedModel:
    """The model with what its accuracy is compared with: the plan's fp32 one of its name, or itself."""
    if model.dataset is None or model.reference is not None:
        return model
    name = model.name or infos[model.path].name
    same = [each.path for each in plan.models if (each.name or infos[each.path].name) == name]
    plain = [path for path in same if infos[path].variant == infos[path].precision == "fp32"]
    return replace(model, reference=plain[0]) if len(plain) == 1 and plain[0] != model.path else model


def _cells(
    plan: Plan, devices: Sequence[Device], targets: Mapping[str, Target], infos: Mapping[str, ModelInfo]
) -> Iterator[tuple[PlannedJob, Target]]:
    for device in devices:
        target = _target(device, targets)
        workload = _workload(plan, target)
        for model in plan.models:
            for job, precision in _jobs_of(plan, model, infos[model.path], target):
                named = replace(job, device=device.name, workload=workload)
                yield PlannedJob(job=named, model=model, precision=precision), target


def _jobs_of(
    plan: Plan, model: PlannedModel, info: ModelInfo, target: Target
) -> Iterator[tuple[Job, str | None]]:
    """One model's jobs on one target, without device and workload.

    "as-is" beside the same precision is one job.
    """
    wanted: dict[str, str | None] = {}
    for asked in model.precisions or plan.precisions:
        precision = own_precision(info) if asked == AS_IS else asked
        wanted.setdefault(precision, None if asked == AS_IS else asked)
    for runtime in plan.runtimes or tuple(target.runtimes):
        if model.runtimes and runtime not in model.runtimes:
            continue
        for precision, given in wanted.items():
            if not plan.runtimes and runtime not in _runtimes_for(precision, target):
                continue
            job = Job(
                model=model.name or info.name,
                model_path=model.path,
                variant=info.variant,
                runtime=runtime,
                precision=precision,
                device="",
                target=target.name,
                workload=target.workload,
            )
            yield job, given


def _runtimes_for(precision: str, target: Target) -> tuple[str, ...]:
    """The runtimes measured in a precision on a target; all that are measured where none takes it."""
    measured = {name: profile for name, profile in target.runtimes.items() if name in MEASURED}
    takers = tuple(name for name, profile in measured.items() if precision in profile.precisions)
    return takers or tuple(measured)


def _target(device: Device, targets: Mapping[str, Target]) -> Target:
    if device.target not in targets:
        message = f"device {device.name} names the target {quoted(device.target)}, which is not there"
        raise UserError(message, hint=did_you_mean(device.target, targets))
    return targets[device.target]


def _workload(plan: Plan, target: Target) -> Workload:
    workload = _changed(target.workload, plan.workload)
    problem = workload_problem(workload)
    if problem is not None:
        raise UserError(f"the workload on target {target.name}: {problem.message}", hint=problem.hint)
    return workload


def _changed(workload: Workload, changes: WorkloadChanges) -> Workload:
    every = {name: getattr(changes, name) for name in WorkloadChanges.__struct_fields__}
    return replace(workload, **{name: value for name, value in every.items() if value is not None})


def _refusal(job: Job, target: Target) -> tuple[str, str]:
    """Why the target does not take the job and what would work there; both empty when it does."""
    profile = target.runtimes.get(job.runtime)
    if profile is None:
        offers = "; ".join(f"{name} ({', '.join(each.precisions)})" for name, each in target.runtimes.items())
        return f"target {target.name} does not offer {job.runtime}", f"it offers {offers}"
    if job.runtime not in MEASURED:
        return _not_measured(job, target)
    if job.runtime == "coreml" and target.platform.os != "macos":
        elsewhere = ", ".join(name for name in target.runtimes if name in MEASURED and name != job.runtime)
        reason = f"coreml is a part of macOS, and devices of target {target.name} run {target.platform.os}"
        return reason, f"choose a Mac, or another runtime: {elsewhere or 'the target offers none'}"
    if job.precision in profile.precisions:
        return "", ""
    others = [
        name
        for name, each in target.runtimes.items()
        if name in MEASURED and job.precision in each.precisions
    ]
    hint = f"{job.runtime} takes {', '.join(profile.precisions)} there"
    if others:
        hint += f"; {job.precision} works with {', '.join(others)}"
    return f"{job.runtime} on target {target.name} does not take {job.precision}", hint


def _not_measured(job: Job, target: Target) -> tuple[str, str]:
    measured = ", ".join(name for name in target.runtimes if name in MEASURED)
    hint = f"edgebench convert {job.model_path} --to {job.runtime} --target {target.name} makes what it needs"
    if measured:
        hint += f"; measured there: {measured}"
    return f"this edgebench does not build and measure {job.runtime} artifacts on devices", hint
