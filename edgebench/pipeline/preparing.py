"""From a model to an artifact that is proven on the controller; no device is touched.

inspect -> canonical form -> compress -> convert -> parity on the controller
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench import compress, model, parity
from edgebench.compress import presets
from edgebench.convert.base import Form, Way, converter
from edgebench.convert.evaluate import evaluates
from edgebench.convert.run import Conversion, Wanted, convert
from edgebench.convert.run import Prepared as Ready
from edgebench.device.session import InputSet, Session, read_samples, save_inputs
from edgebench.errors import (
    BugError,
    InfrastructureError,
    ModelError,
    ParityError,
    UserError,
)
from edgebench.model import flexible, images
from edgebench.model.dataset import Dataset
from edgebench.pipeline.base import (
    BUILT_ON_DEVICE,
    CANNOT_RUN,
    CONTROLLER,
    GENERATED,
    GENERATED_SEED,
    INFO_FILE,
    MODEL_FILE,
    NOISE_REVISION,
    RUNNING,
    Bounds,
    Cell,
    Prepared,
    Reference,
    Step,
    Workbench,
    build_on,
    demand,
    judge,
    key_of,
    noise_margin_db,
    title,
    why,
)
from edgebench.pipeline.evaluating import accuracy_here, dataset_of, evaluation, refuse_shared
from edgebench.records import (
    Artifact,
    Facts,
    ModelInfo,
    ParityReport,
    Tensor,
    decode,
    encode,
    replace,
)
from edgebench.tools import data_digest

if TYPE_CHECKING:
    import numpy as np

PARITY_SAMPLES = 4
CANONICAL_REVISION = 7  # raised whenever the same file would give another canonical form
WRITTEN_OUT_REVISION = 2  # raised whenever the same operators would be written out otherwise


def prepare(cell: Cell, bench: Workbench) -> Prepared:
    """The artifact of a cell, proven equal on the controller; ModelError when it cannot be."""
    bench.announce(Step("inspect", CONTROLLER, Path(cell.model_path).name))
    info, canonical = canonical_form(cell, bench)
    dataset = None if cell.labelled is None else dataset_of(cell.labelled, info, bench)
    form = choose_form(cell, info, bench)
    if dataset is not None and (form.steps or form.calibrates) and not cell.as_is:
        refuse_shared((cell.calibration, cell.validation), dataset, info, bench)
    variant = make_variant(cell, form, canonical, bench)
    inputs, kind = parity_inputs(cell, info, bench)
    proof = Proof(info, inputs, kind)
    lost = prove_compression(canonical, variant, proof, bench)
    made = first_proven(cell, form.ways, variant, proof, bench)
    made = made._replace(parity=replace(made.parity, warnings=(*made.parity.warnings, *lost)))
    return made if dataset is None else _with_accuracy(cell, made, canonical, dataset, bench)


def _with_accuracy(
    cell: Cell, made: Prepared, canonical: Artifact, dataset: Dataset, bench: Workbench
) -> Prepared:
    """With the accuracy, or with what a device needs to measure it; the reference is asked in any case."""
    asked = cell.labelled
    if asked is None:
        return made
    reference = canonical
    if asked.reference is not None:
        _, reference = canonical_form(replace(cell, model_path=asked.reference, name=None), bench)
    todo = evaluation(asked, made.info, dataset, reference, bench)
    if asked.on_device:
        return made._replace(evaluation=todo)
    return made._replace(accuracy=accuracy_here(made.artifact, todo, title(cell), bench))


class Proof(NamedTuple):
    """What parity on the controller is shown on: the model's record, the inputs, where they come from."""

    info: ModelInfo
    inputs: InputSet
    kind: str


def prove_compression(
    canonical: Artifact, variant: Artifact, proof: Proof, bench: Workbench
) -> tuple[str, ...]:
    """What compression cost, as warnings; ParityError where the variant is not the same network any more.

    Parity of the artifact is against the variant, so a step that breaks the network must be found here.
    float16 must hold its bound; of int8 only ruin is refused, since its cost is a matter of accuracy.
    """
    if variant.digest == canonical.digest:
        return ()
    bound = parity.compression_bound(variant.precision)
    asked = hashlib.sha256(
        key_of("compression", proof.inputs.digest, canonical.digest, bound).encode()
    ).hexdigest()
    report = bench.artifacts.recall_parity(variant.digest, asked)
    if report is None:
        wanted, got = bench.reference(canonical, proof.inputs), bench.reference(variant, proof.inputs)
        report = parity.judge(
            wanted.samples,
            got.samples,
            bound,
            where=CONTROLLER,
            reference_name=f"{canonical.variant} in {wanted.name}",
            inputs=proof.kind,
        )
        bench.artifacts.remember_parity(variant.digest, report, asked)
    if not report.passed:
        raise ParityError(
            f"{variant.model} as {variant.variant} is not the same network any more: {why(report)}",
            hint="take another precision, or calibrate with typical samples and give real --inputs",
        )
    return tuple(
        f"{variant.variant} itself is {output.snr_db:.0f} dB from {canonical.variant} on these inputs: "
        "measure its accuracy"
        for output in report.outputs
        if output.snr_db < parity.NOTABLE_LOSS_DB
    )


def first_proven(
    cell: Cell, ways: tuple[Way, ...], variant: Artifact, proof: Proof, bench: Workbench
) -> Prepared:
    """The artifact of the first way whose parity holds; the first way's error when none does.

    A tool that hangs or takes too much memory (InfrastructureError) is no reason not to try the next way.
    """
    refusals: list[ModelError | InfrastructureError] = []
    tried: set[tuple[str, str]] = set()
    for way in ways:
        try:
            source = written_out(cell, way, variant, bench)
            attempt = (source.digest, str(way.options))
            if attempt in tried:
                continue
            tried.add(attempt)
            bench.announce(Step("convert", CONTROLLER, title(cell)))
            conversion = convert_variant(cell, way, source, bench)
            bench.announce(Step("parity", CONTROLLER, title(cell)))
            proven = prove(proof.info, variant, conversion, proof.inputs, proof.kind, bench)
            return proven._replace(source=source)
        except (ModelError, InfrastructureError) as error:
            refusals.append(error)
    raise refusals[0]


def canonical_form(cell: Cell, bench: Workbench) -> tuple[ModelInfo, Artifact]:
    """The model with static shapes and sorted nodes, proven equal to the file given; made once."""
    key = canonical_key(cell)
    made = bench.artifacts.lookup(key) or _make_canonical(cell, Path(cell.model_path), key, bench)
    return info_of(made, bench), made


def canonical_key(cell: Cell) -> str:
    """What names the canonical form of a cell's model."""
    asked = (cell.shapes, cell.constants, cell.batch, cell.cut_nms, cell.flexible, cell.name)
    return key_of("canonical", model.digest(Path(cell.model_path)), *asked, CANONICAL_REVISION)


def _make_canonical(cell: Cell, path: Path, key: str, bench: Workbench) -> Artifact:
    with bench.scratch() as folder:
        info = model.prepare(
            path,
            shapes=dict(cell.shapes),
            batch=cell.batch,
            cut_nms=cell.cut_nms,
            flexible=cell.flexible,
            constants=dict(cell.constants),
            out=folder / MODEL_FILE,
        )
        info = replace(info, name=cell.name or info.name)
        _prove_canonical(cell, folder, info, bench)
        return keep_onnx(folder, info, key, bench)


def _prove_canonical(cell: Cell, folder: Path, info: ModelInfo, bench: Workbench) -> None:
    """The canonical form computes what the given file computes; anything else would be our own fault.

    On the user's inputs where there are any: generated ones may be none that this model takes (an index
    into a table of four).
    """
    path = Path(cell.model_path)
    inputs, kind = parity_inputs(cell, info, bench)
    draft = _onnx_artifact(info, "")
    given = model.without_nms(model.load(path)) if cell.cut_nms else model.load(path)
    with bench.scratch() as original:
        (original / MODEL_FILE).write_bytes(given.SerializeToString())
        fed = _with_constants(cell, inputs, bench)
        wanted = _computed_at_all(cell, kind, lambda: bench.computed(draft, original, fed))
    bounds = Bounds(parity.bound_for("fp32"), {})
    report = judge(wanted, bench.computed(draft, folder, inputs).samples, bounds, CONTROLLER, kind)
    if not report.passed:
        raise BugError(f"the canonical form of {path.name} computes something else: {why(report)}")


def _computed_at_all(cell: Cell, kind: str, compute: Callable[[], Reference]) -> Reference:
    """The reference; ModelError with the way out where the file itself does not take the shapes or inputs."""
    try:
        return compute()
    except ModelError as error:
        if not cell.flexible and kind == GENERATED and RUNNING in error.detail:
            told = error.message.rpartition(CANNOT_RUN)[2]
            raise ModelError(
                f"the model itself does not run on generated inputs: {told}",
                hint="--inputs FILE.npz gives typical ones, --set NAME=NUMBER one that decides",
                detail=error.detail,
            ) from error
        if not cell.flexible:
            raise
        raise ModelError(
            f"the model itself does not compute at every shape tried ({kind}): {error.message}",
            hint="list the shapes that it takes: --flexible 'NAME=1,3,64,64|1,3,96,96'",
        ) from error


def _with_constants(cell: Cell, inputs: InputSet, bench: Workbench) -> InputSet:
    """The inputs as the given file wants them: with those that the canonical form made constants."""
    fixed = model.fixed_inputs(
        Path(cell.model_path),
        shapes=dict(cell.shapes),
        batch=cell.batch,
        constants=dict(cell.constants),
    )
    if not fixed:
        return inputs
    return save_inputs([sample | fixed for sample in read_samples(inputs)], bench.home)


def choose_form(cell: Cell, info: ModelInfo, bench: Workbench) -> Form:
    """How the runtime gets this precision from this model; ModelError with the way out when it cannot."""
    maker = converter(cell.runtime, bench.home)
    if cell.precision not in maker.forms:
        raise ModelError(
            f"{info.name}: {cell.runtime} cannot run {cell.precision}",
            hint=f"{cell.runtime} takes {', '.join(maker.forms)}; or choose another runtime",
        )
    form = maker.forms[cell.precision]
    refusal = None if _may_be_written_out(form, info) else maker.refuse(info, cell.precision)
    if refusal is not None:
        raise ModelError(f"{info.name}: {cell.runtime} cannot take it: {refusal.reason}", hint=refusal.hint)
    if cell.as_is or info.precision in (cell.precision, f"{cell.precision}-qdq"):
        return replace(form, steps=())
    if cell.flexible and "int8-static" in form.steps:
        raise UserError(
            f"{cell.precision} ranges are found at one shape, and --flexible leaves sizes open",
            hint="--shape in place of --flexible; or convert a QDQ model, which brings its ranges along",
        )
    if info.precision != "fp32":
        raise ModelError(
            f"{info.name} is {info.precision} already and cannot be made {cell.precision}",
            hint="start from the float32 model it was made from, or take it as it is: no --precision",
        )
    return _as_preset(cell, form) if cell.precision == "int8" else form


def _as_preset(cell: Cell, form: Form) -> Form:
    """The form with the step that the runtime's preset for the processor names; itself where it has none."""
    step = presets.step_of(cell.runtime, presets.Processor(cell.arch, cell.vnni), cell.int8)
    return replace(form, steps=(step,)) if step else form


def make_variant(cell: Cell, form: Form, canonical: Artifact, bench: Workbench) -> Artifact:
    """The canonical model after the form's compression steps: itself where there are none."""
    if not form.steps:
        return canonical
    key = variant_key(cell, form, canonical)
    known = bench.artifacts.lookup(key)
    if known is not None:
        return known
    bench.announce(Step("compress", CONTROLLER, title(cell)))
    calibration = Path(cell.calibration) if cell.calibration else None
    with bench.scratch() as folder:
        info = compress.apply(
            bench.artifacts.path(canonical.digest) / MODEL_FILE,
            form.steps,
            _settings(cell, calibration),
            out=folder / MODEL_FILE,
        )
        info = replace(info, name=canonical.model)  # the plan may call it something else than the file does
        return keep_onnx(folder, info, key, bench)


def _settings(cell: Cell, calibration: Path | None) -> compress.Settings:
    validation = Path(cell.validation) if cell.validation else None
    return compress.Settings(cell.arch, calibration, validation, cell.labels_key)


def _may_be_written_out(form: Form, info: ModelInfo) -> bool:
    """Whether a way changes the model, so that the converter is to be asked about what comes out of it."""
    return any(_writes_out(way, info) for way in form.ways)


def _writes_out(way: Way, info: ModelInfo) -> bool:
    from edgebench.model.expand import expandable

    return way.natively is not None and expandable(info.operators, way.natively)


def written_out(cell: Cell, way: Way, variant: Artifact, bench: Workbench) -> Artifact:
    """The variant in operators that the runtime has, its constants folded; itself where all may stay."""
    if way.natively is None:
        return variant
    from edgebench.model.expand import expand

    key = written_out_key(way.natively, variant)
    known = bench.artifacts.lookup(key)
    if known is not None:
        return known
    network = model.load(bench.artifacts.path(variant.digest) / MODEL_FILE)
    made = expand(network, way.natively)
    steps = model.lineage(network)
    steps.append({"step": "write-out", "settings": {"for": cell.runtime}, "input": variant.digest})
    with bench.scratch() as folder:
        names = {"name": variant.model, "variant": variant.variant}
        return keep_onnx(folder, model.write(made, folder / MODEL_FILE, **names, steps=steps), key, bench)


def written_out_key(natively: Collection[str], variant: Artifact) -> str:
    """What names a variant in operators of which these may stay."""
    return key_of("written out", variant.digest, sorted(natively), WRITTEN_OUT_REVISION)


def convert_variant(cell: Cell, way: Way, source: Artifact, bench: Workbench) -> Conversion:
    """The runtime's artifact, from the store or from the converter."""
    calibration = calibration_of(cell, source, bench)
    wanted = wanted_of(cell, way, source, calibration)

    def ready() -> Ready:
        return Ready(bench.artifacts.path(source.digest) / MODEL_FILE, info_of(source, bench), calibration)

    return convert(wanted, ready, bench.artifacts, home=bench.home, limits=bench.limits)


def wanted_of(cell: Cell, way: Way, source: Artifact, calibration: Path | None) -> Wanted:
    """What a converter is asked for."""
    return Wanted(
        runtime=cell.runtime,
        precision=cell.precision,
        model=source.model,
        variant=source.variant,
        model_digest=source.model_digest,
        ingredients={"onnx": source.digest}
        | ({"calibration": data_digest(calibration)} if calibration else {}),
        options=way.options | dict(cell.options) | _of_inputs(cell),
    )


def _of_inputs(cell: Cell) -> dict[str, str]:
    """What the converter is told of open sizes and image inputs."""
    return flexible.to_options(cell.flexible) | images.to_options(cell.images)


def calibration_of(cell: Cell, source: Artifact, bench: Workbench) -> Path | None:
    """The calibration inputs of a converter that finds ranges itself; UserError where they are missing."""
    if not converter(cell.runtime, bench.home).forms[cell.precision].calibrates:
        return None
    if cell.calibration is None:
        if source.precision == "fp32":
            raise UserError(
                f"{cell.precision} for {cell.runtime} needs calibration inputs: some typical samples",
                hint="--calibration samples.npz, made by numpy.savez('samples.npz', INPUT=array)",
            )
        return None
    path = Path(cell.calibration)
    if not path.exists():
        raise UserError(f"no file {path}", hint="check the path of the calibration inputs")
    return path


def parity_inputs(cell: Cell, info: ModelInfo, bench: Workbench) -> tuple[InputSet, str]:
    """The samples that parity and timing use, and where they come from: the user's file, or seeded.

    A model of open sizes gets one for each shape it is tried at; the user's are of its default shape.
    """
    first, *others = model.trials(info, cell.flexible)
    if cell.inputs is None:
        samples, kind = [_generated(first, cell)], GENERATED
    else:
        path = Path(cell.inputs)
        arrays = islice(model.batches(model.read_inputs(path, first), first), PARITY_SAMPLES)
        samples, kind = [model.as_fed(sample, cell.images) for sample in arrays], path.name
    samples += [_generated(each, cell) for each in others]
    if others:
        kind += f" at {'; '.join(_shapes_of(each) for each in (first, *others))}"
    return save_inputs(samples, bench.home), kind


def _generated(info: ModelInfo, cell: Cell) -> dict[str, np.ndarray]:
    made = model.random_inputs(info, GENERATED_SEED)
    return model.as_fed(model.as_pixels(made, cell.images), cell.images)


def _shapes_of(info: ModelInfo) -> str:
    return " ".join(f"{each.name}={'x'.join(map(str, each.shape))}" for each in info.inputs)


def prove(
    info: ModelInfo, variant: Artifact, conversion: Conversion, inputs: InputSet, kind: str, bench: Workbench
) -> Prepared:
    """The artifact with its parity on the controller; ModelError when it computes something else."""
    started = time.monotonic()
    artifact = conversion.artifact
    asked = _question(artifact, variant, inputs)
    report = bench.artifacts.recall_parity(artifact.digest, asked)
    if report is None:
        report = check(artifact, variant, inputs, kind, bench)
        bench.artifacts.remember_parity(artifact.digest, report, asked)
    demand(report, artifact)
    parity_s = time.monotonic() - started
    return Prepared(info, variant, conversion, inputs, kind, report, parity_s)


def _question(artifact: Artifact, variant: Artifact, inputs: InputSet) -> str:
    """What a parity report answers: these inputs, that reference, this bound."""
    bound = parity.bound_for(artifact.precision)
    noise = NOISE_REVISION, noise_margin_db(artifact.runtime, artifact.precision)
    return hashlib.sha256(key_of(inputs.digest, variant.digest, bound, noise).encode()).hexdigest()


def check(
    artifact: Artifact, variant: Artifact, inputs: InputSet, kind: str, bench: Workbench
) -> ParityReport:
    """The artifact's outputs on this computer against the reference's."""
    outputs = bench.infer(artifact, bench.artifacts.path(artifact.digest), inputs)
    bounds = bench.bounds(variant, inputs, artifact.runtime, artifact.precision)
    report = judge(bench.reference(variant, inputs), outputs, bounds, CONTROLLER, kind)
    here = not (evaluates(artifact.runtime) or artifact.runtime in BUILT_ON_DEVICE)
    return replace(report, computed_by="runtime" if here else "interpreter")


def verify_artifact(
    cell: Cell,
    artifact: Artifact,
    folder: Path,
    bench: Workbench,
    *,
    session: Session | None = None,
    facts: Facts | None = None,
) -> ParityReport:
    """What an artifact computes, here or in a device's session, against what the cell's model computes."""
    info, canonical = canonical_form(cell, bench)
    _check_interface(info, artifact)
    inputs, kind = parity_inputs(cell, info, bench)
    reference = bench.reference(canonical, inputs)
    bounds = bench.bounds(canonical, inputs, artifact.runtime, cell.precision)
    if session is None or facts is None:
        return judge(reference, bench.infer(artifact, folder, inputs), bounds, CONTROLLER, kind)
    placed = session.place(artifact, folder, inputs, facts)
    placed, _ = build_on(session, artifact, placed, title(cell), bench)
    outputs = session.infer(artifact, placed, inputs)
    return judge(reference, outputs, bounds, session.device.name, kind)


def _check_interface(info: ModelInfo, artifact: Artifact) -> None:
    def shapes(tensors: tuple[Tensor, ...]) -> dict[str, tuple[int | str, ...]]:
        return {each.name: each.shape for each in tensors}

    if (shapes(info.inputs), shapes(info.outputs)) != (shapes(artifact.inputs), shapes(artifact.outputs)):
        raise UserError(
            f"{info.name} and the artifact {artifact.digest[:12]} do not have the same inputs and outputs",
            hint="name the model that the artifact was made from, with the same --shape",
        )


def keep_onnx(folder: Path, info: ModelInfo, key: str, bench: Workbench) -> Artifact:
    """A folder's ONNX file (`MODEL_FILE`), with what it is and what lies beside it, in the store."""
    (folder / INFO_FILE).write_bytes(encode(info))
    return bench.artifacts.put(folder, _onnx_artifact(info, key))


def _onnx_artifact(info: ModelInfo, key: str) -> Artifact:
    """The draft of an ONNX file as an artifact: what the store completes with files and digest."""
    return Artifact(
        digest="",
        key=key,
        runtime="onnx",
        precision=info.precision,
        model=info.name,
        variant=info.variant,
        model_digest=info.digest,
        files=(),
        size_bytes=0,
        entry={"model": MODEL_FILE},
        inputs=info.inputs,
        outputs=info.outputs,
        lineage=info.lineage,
    )


def info_of(artifact: Artifact, bench: Workbench) -> ModelInfo:
    """What `model.inspect` said of an ONNX artifact's file when it was made."""
    path = bench.artifacts.path(artifact.digest) / INFO_FILE
    return decode(ModelInfo, path.read_bytes(), source=str(path))


def variant_key(cell: Cell, form: Form, canonical: Artifact) -> str:
    """What names the variant that a form's steps make."""
    data = [data_digest(Path(path)) if path else None for path in (cell.calibration, cell.validation)]
    asked = (form.steps, cell.arch, *data, cell.labels_key)
    return key_of("variant", canonical.digest, *asked, compress.revision())
