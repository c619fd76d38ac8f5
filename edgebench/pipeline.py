"""One job, top to bottom. `prepare` needs no device, `measure` needs one; both read as a table of contents.

prepare   inspect -> canonical form -> compress -> convert -> parity on the controller
measure   push -> parity on the device -> launches, each stored at once
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from edgebench import compress, model, parity
from edgebench.artifacts import ArtifactStore
from edgebench.convert.base import Form, Way, converter
from edgebench.convert.evaluate import evaluate, evaluates
from edgebench.convert.run import Conversion, Limits, Wanted, convert
from edgebench.convert.run import Prepared as Ready
from edgebench.device.session import InputSet, Lease, Placed, Session, open_session, read_samples, save_inputs
from edgebench.errors import (
    BugError,
    DeviceError,
    EdgebenchError,
    InfrastructureError,
    ModelError,
    ParityError,
    RuntimeDied,
    UserError,
)
from edgebench.model import flexible, images
from edgebench.model.flexible import OpenInput
from edgebench.model.images import ImageInput
from edgebench.records import (
    Artifact,
    Device,
    Facts,
    Job,
    Launch,
    Measurement,
    ModelInfo,
    ParityBound,
    ParityReport,
    Record,
    Target,
    Tensor,
    decode,
    encode,
    replace,
)
from edgebench.store import Store
from edgebench.targets import mismatches
from edgebench.tools import sha256
from edgebench.validity import judged

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

CONTROLLER = "controller"
REFERENCE = "ONNX Runtime, graph optimisations off"
DEFINITION = "ONNX's reference implementation"
MODEL_FILE = "model.onnx"
INFO_FILE = "info.json"
_CANNOT_RUN = "cannot run it: "
_UNOPTIMISED = {"graph_optimization": "off"}
_OWN_FAULT = (
    "correct what the message names in the model; where its inputs are at fault, give some that it takes: "
    "--inputs FILE.npz"
)
BUILT_ON_DEVICE = (
    "tensorrt",
)  # their artifact is an ONNX file and a plan: here the reference runs that file
QUANTIZED = ("int8", "int8-dynamic")
PARITY_SAMPLES = 4
GENERATED = "generated"
GENERATED_SEED = 20261123
RUNNING = "while running"  # in ONNX Runtime's words where a model loads, and its inputs are at fault
CANONICAL_REVISION = 3  # raised whenever the same file would give another canonical form
WRITTEN_OUT_REVISION = 2  # raised whenever the same operators would be written out otherwise
NOISE_REVISION = 1  # raised whenever a noise floor would come out otherwise
NOISE_RUNS = 3
NOISE_SEEDS = 10_000  # set aside for one run: more than a network has quantizers

Samples = list[dict[str, "np.ndarray"]]


class Reference(NamedTuple):
    """What others are compared with, and who computed it."""

    samples: Samples
    name: str


class Bounds(NamedTuple):
    """What outputs must keep: by precision, and of a quantized model each output over its noise floor."""

    general: ParityBound
    own: Mapping[str, ParityBound]


class Cell(Record, frozen=True):
    """What is to be prepared: one model in one precision for one runtime on one kind of processor.

    `as_is` takes the model as it comes; otherwise it is compressed to `precision` where need be. `constants`
    are inputs that have one value from now on.
    `inputs` and `calibration` are `.npz` files. `options` are the converter's, of a target that is built for.
    `cut_nms`: the model ends before its NonMaxSuppression. `flexible`: inputs whose sizes stay open, and
    `images`: inputs that are fed pixels, for Core ML.
    """

    model_path: str
    runtime: str
    precision: str
    as_is: bool = False
    name: str | None = None
    arch: str = "x86_64"
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    constants: tuple[tuple[str, int | float], ...] = ()
    batch: int = 1
    cut_nms: bool = False
    flexible: tuple[OpenInput, ...] = ()
    images: tuple[ImageInput, ...] = ()
    inputs: str | None = None
    calibration: str | None = None
    options: tuple[tuple[str, str], ...] = ()


class Prepared(NamedTuple):
    """An artifact proven on the controller, with what is needed to prove it again on a device."""

    info: ModelInfo
    variant: Artifact
    conversion: Conversion
    inputs: InputSet
    inputs_kind: str
    parity: ParityReport
    parity_s: float

    @property
    def artifact(self) -> Artifact:
        """What the runtime runs."""
        return self.conversion.artifact


class Step(NamedTuple):
    """Where a job is, for progress displays: launch `done` of `total`; `note`: its phase, or an error."""

    stage: str
    device: str
    what: str
    done: int = 0
    total: int = 0
    note: str = ""


Announce = Callable[[Step], None]


def silent(step: Step) -> None:
    """An `Announce` for callers that show no progress."""


class Workbench:
    """What every job shares: the home folder, its artifacts, one session on the controller."""

    def __init__(
        self,
        home: Path,
        *,
        limits: Limits,
        announce: Announce = silent,
        artifacts: ArtifactStore | None = None,
    ) -> None:
        self.home = home
        self.limits = limits
        self.announce = announce
        self.artifacts = artifacts or ArtifactStore(home / "artifacts")
        self._controller: Session | None = None
        self._references: dict[tuple[str, str], Reference] = {}
        self._bounds: dict[tuple[str, str, str, str], Bounds] = {}
        self._lock = threading.RLock()

    @contextmanager
    def controller(self) -> Iterator[Session]:
        """The session on this computer, opened on first use; one user at a time."""
        with self._lock:
            if self._controller is None:
                device = Device(name=CONTROLLER, target="", transport="local", work_dir=str(self.home))
                self._controller = open_session(device, home=self.home)
            yield self._controller

    def infer(self, artifact: Artifact, folder: Path, inputs: InputSet) -> Samples:
        """What an artifact in `folder` computes on this computer, sample by sample."""
        if artifact.runtime in BUILT_ON_DEVICE:
            return self.computed(artifact, folder, inputs).samples
        if evaluates(artifact.runtime):
            return evaluate(artifact, folder, read_samples(inputs), time_s=self.limits.time_s)
        placed = Placed(artifact=str(folder), inputs=inputs.folder, bundle=None, moved_bytes=0)
        with self._runtime_of(artifact), self.controller() as session:
            return session.infer(artifact, placed, inputs, time_s=self.limits.time_s)

    @contextmanager
    def _runtime_of(self, artifact: Artifact) -> Iterator[None]:
        """Here a runtime that dies of an artifact is the model's refusal: no device is to blame.

        What else goes wrong is this computer's; its session is opened anew the next time.
        """
        try:
            yield
        except ModelError as error:
            raise ModelError(
                f"{artifact.model}: {artifact.runtime} {_CANNOT_RUN}{_told(error)}",
                hint=_OWN_FAULT if artifact.options == _UNOPTIMISED else error.hint,
                detail=error.detail,
            ) from error
        except RuntimeDied as error:
            raise ModelError(
                f"{artifact.model}: {artifact.runtime} did not survive running it: {_told(error)}",
                hint="try another runtime or precision; EDGEBENCH_CONVERT_TIMEOUT_S gives a slow one time",
                detail=error.detail,
            ) from error
        except DeviceError as error:
            self.close()
            raise InfrastructureError(
                f"{artifact.runtime} cannot be run on this computer: {_told(error)}",
                hint="look at its memory and disk (edgebench runtimes shows what is installed); try again",
                detail=error.detail,
            ) from error

    def reference(self, variant: Artifact, inputs: InputSet) -> Reference:
        """What the variant's ONNX file computes; computed once for all devices."""
        key = (variant.digest, inputs.digest)
        with self._lock:
            if key not in self._references:
                folder = self.artifacts.path(variant.digest)
                self._references[key] = self.computed(variant, folder, inputs)
            return self._references[key]

    def bounds(self, variant: Artifact, inputs: InputSet, runtime: str, precision: str) -> Bounds:
        """What a runtime's outputs must keep of the variant's on these inputs; measured once."""
        key = (variant.digest, inputs.digest, runtime, precision)
        with self._lock:
            if key not in self._bounds:
                self._bounds[key] = _bounds(variant, inputs, runtime, precision, self)
            return self._bounds[key]

    def computed(self, variant: Artifact, folder: Path, inputs: InputSet) -> Reference:
        """What an ONNX file computes in ONNX Runtime; by ONNX's definition where that cannot, or errs."""
        try:
            ran = Reference(self.infer(_as_reference(variant), folder, inputs), REFERENCE)
        except ModelError as error:
            if isinstance(error.__cause__, RuntimeDied):  # what does not end there would not end in numpy
                raise
            if RUNNING in error.detail:  # the inputs are none for this model
                raise
            defined = self._by_definition(folder / MODEL_FILE, inputs, in_any_case=True)
            if defined is None:
                raise
            return defined
        return self._by_definition(folder / MODEL_FILE, inputs, in_any_case=False) or ran

    def _by_definition(self, path: Path, inputs: InputSet, *, in_any_case: bool) -> Reference | None:
        """What ONNX defines that a small file computes, if it can be had; or for doubtful operators only."""
        from edgebench.model import definition

        if not in_any_case and not definition.is_doubtful(path):
            return None
        if not definition.is_small(model.inspect(path), sum(each.size_bytes for each in inputs.files)):
            return None
        samples = [{name: Path(inputs.folder) / file for name, file in each} for each in inputs.samples]
        try:
            return Reference(definition.computed(path, samples, time_s=self.limits.time_s), DEFINITION)
        except ModelError:
            return None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder below the home, gone afterwards."""
        parent = self.home / "tmp"
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)

    def close(self) -> None:
        """End the controller's session."""
        with self._lock:
            if self._controller is not None:
                self._controller.close()
                self._controller = None


# --- preparing: no device is touched ------------------------------------------------------------


def prepare(cell: Cell, bench: Workbench) -> Prepared:
    """The artifact of a cell, proven equal on the controller; ModelError when it cannot be."""
    bench.announce(Step("inspect", CONTROLLER, Path(cell.model_path).name))
    info, canonical = canonical_form(cell, bench)
    form = choose_form(cell, info, bench)
    variant = make_variant(cell, form, canonical, bench)
    inputs, kind = parity_inputs(cell, info, bench)
    proof = Proof(info, inputs, kind)
    lost = prove_compression(canonical, variant, proof, bench)
    made = first_proven(cell, form.ways, variant, proof, bench)
    return made._replace(parity=replace(made.parity, warnings=(*made.parity.warnings, *lost)))


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
        _key("compression", proof.inputs.digest, canonical.digest, bound).encode()
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
            f"{variant.model} as {variant.variant} is not the same network any more: {_why(report)}",
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
            return prove(proof.info, variant, conversion, proof.inputs, proof.kind, bench)
        except (ModelError, InfrastructureError) as error:
            refusals.append(error)
    raise refusals[0]


def canonical_form(cell: Cell, bench: Workbench) -> tuple[ModelInfo, Artifact]:
    """The model with static shapes and sorted nodes, proven equal to the file given; made once."""
    path = Path(cell.model_path)
    asked = (cell.shapes, cell.constants, cell.batch, cell.cut_nms, cell.flexible, cell.name)
    key = _key("canonical", model.digest(path), *asked, CANONICAL_REVISION)
    made = bench.artifacts.lookup(key) or _make_canonical(cell, path, key, bench)
    return _info(made, bench), made


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
        return _keep_onnx(folder, info, key, bench)


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
    report = _judge(wanted, bench.computed(draft, folder, inputs).samples, bounds, CONTROLLER, kind)
    if not report.passed:
        raise BugError(f"the canonical form of {path.name} computes something else: {_why(report)}")


def _computed_at_all(cell: Cell, kind: str, compute: Callable[[], Reference]) -> Reference:
    """The reference; ModelError with the way out where the file itself does not take the shapes or inputs."""
    try:
        return compute()
    except ModelError as error:
        if not cell.flexible and kind == GENERATED and RUNNING in error.detail:
            why = error.message.rpartition(_CANNOT_RUN)[2]
            raise ModelError(
                f"the model itself does not run on generated inputs: {why}",
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
    return form


def make_variant(cell: Cell, form: Form, canonical: Artifact, bench: Workbench) -> Artifact:
    """The canonical model after the form's compression steps: itself where there are none."""
    if not form.steps:
        return canonical
    key = _variant_key(cell, form, canonical)
    known = bench.artifacts.lookup(key)
    if known is not None:
        return known
    bench.announce(Step("compress", CONTROLLER, title(cell)))
    calibration = Path(cell.calibration) if cell.calibration else None
    with bench.scratch() as folder:
        info = compress.apply(
            bench.artifacts.path(canonical.digest) / MODEL_FILE,
            form.steps,
            compress.Settings(arch=cell.arch, calibration=calibration),
            out=folder / MODEL_FILE,
        )
        info = replace(info, name=canonical.model)  # the plan may call it something else than the file does
        return _keep_onnx(folder, info, key, bench)


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

    key = _key("written out", variant.digest, sorted(way.natively), WRITTEN_OUT_REVISION)
    known = bench.artifacts.lookup(key)
    if known is not None:
        return known
    network = model.load(bench.artifacts.path(variant.digest) / MODEL_FILE)
    made = expand(network, way.natively)
    steps = model.lineage(network)
    steps.append({"step": "write-out", "settings": {"for": cell.runtime}, "input": variant.digest})
    with bench.scratch() as folder:
        names = {"name": variant.model, "variant": variant.variant}
        return _keep_onnx(folder, model.write(made, folder / MODEL_FILE, **names, steps=steps), key, bench)


def convert_variant(cell: Cell, way: Way, source: Artifact, bench: Workbench) -> Conversion:
    """The runtime's artifact, from the store or from the converter."""
    calibration = _calibration(cell, source, bench)
    wanted = Wanted(
        runtime=cell.runtime,
        precision=cell.precision,
        model=source.model,
        variant=source.variant,
        model_digest=source.model_digest,
        ingredients={"onnx": source.digest} | ({"calibration": sha256(calibration)} if calibration else {}),
        options=way.options | dict(cell.options) | _of_inputs(cell),
    )

    def ready() -> Ready:
        return Ready(bench.artifacts.path(source.digest) / MODEL_FILE, _info(source, bench), calibration)

    return convert(wanted, ready, bench.artifacts, home=bench.home, limits=bench.limits)


def _of_inputs(cell: Cell) -> dict[str, str]:
    """What the converter is told of open sizes and image inputs."""
    return flexible.to_options(cell.flexible) | images.to_options(cell.images)


def _calibration(cell: Cell, source: Artifact, bench: Workbench) -> Path | None:
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
    if not path.is_file():
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
    noise = NOISE_REVISION, _noise_margin_db(artifact.runtime, artifact.precision)
    return hashlib.sha256(_key(inputs.digest, variant.digest, bound, noise).encode()).hexdigest()


def check(
    artifact: Artifact, variant: Artifact, inputs: InputSet, kind: str, bench: Workbench
) -> ParityReport:
    """The artifact's outputs on this computer against the reference's."""
    outputs = bench.infer(artifact, bench.artifacts.path(artifact.digest), inputs)
    bounds = bench.bounds(variant, inputs, artifact.runtime, artifact.precision)
    report = _judge(bench.reference(variant, inputs), outputs, bounds, CONTROLLER, kind)
    here = not (evaluates(artifact.runtime) or artifact.runtime in BUILT_ON_DEVICE)
    return replace(report, computed_by="runtime" if here else "interpreter")


def demand(report: ParityReport, artifact: Artifact) -> None:
    """Nothing where parity holds; a wrong model is never timed: ParityError with the numbers."""
    if not report.passed:
        raise ParityError(
            f"{artifact.model} {artifact.precision} on {artifact.runtime} does not compute the same "
            f"on {report.where}: {_why(report)}",
            hint=_way_out(report),
        )


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
        return _judge(reference, bench.infer(artifact, folder, inputs), bounds, CONTROLLER, kind)
    placed = session.place(artifact, folder, inputs, facts)
    outputs = session.infer(artifact, placed, inputs)
    return _judge(reference, outputs, bounds, session.device.name, kind)


def _check_interface(info: ModelInfo, artifact: Artifact) -> None:
    def shapes(tensors: tuple[Tensor, ...]) -> dict[str, tuple[int | str, ...]]:
        return {each.name: each.shape for each in tensors}

    if (shapes(info.inputs), shapes(info.outputs)) != (shapes(artifact.inputs), shapes(artifact.outputs)):
        raise UserError(
            f"{info.name} and the artifact {artifact.digest[:12]} do not have the same inputs and outputs",
            hint="name the model that the artifact was made from, with the same --shape",
        )


# --- measuring: on the device -------------------------------------------------------------------


class Site(NamedTuple):
    """Where a job is measured, where its results go, and measurements begun by interrupted sessions (ids)."""

    run: str
    session: Session
    facts: Facts
    target: Target
    store: Store
    begun: Mapping[Job, str]


def open_device(device: Device, target: Target, home: Path, lease: Lease) -> tuple[Session, Facts]:
    """A leased session on a device that is what its target says; DeviceError where it is not."""
    session = open_session(device, home=home, lease=lease)
    try:
        facts = session.facts()
        wrong = mismatches(target, facts)
        if wrong:
            raise DeviceError(
                f"{device.name} is not what its target {target.name} says: {' '.join(wrong)}",
                hint=f"edgebench devices doctor {device.name}, or give it another target in the inventory",
            )
    except BaseException:
        session.close()
        raise
    return session, facts


def measure(job: Job, prepared: Prepared, site: Site, bench: Workbench) -> Measurement:
    """The measurement of one job, every launch stored as it comes; continues one that was interrupted."""
    placed = push(job, prepared, site, bench)
    report = check_on_device(job, prepared, placed, site, bench)
    measurement = begin(job, prepared, placed, report, site)
    for number in range(len(measurement.launches) + 1, job.workload.launches + 1):
        launch = launch_once(job, prepared, placed, site, bench, number)
        site.store.add_launch(measurement.id, launch)
        measurement = replace(measurement, launches=(*measurement.launches, launch))
        bench.announce(Step("launched", job.device, title(job), number, job.workload.launches))
    return finish(measurement, site)


def push(job: Job, prepared: Prepared, site: Site, bench: Workbench) -> Placed:
    """Artifact, inputs and runtime on the device; only what it lacks travels."""
    bench.announce(Step("push", job.device, title(job)))
    folder = bench.artifacts.path(prepared.artifact.digest)
    return site.session.place(prepared.artifact, folder, prepared.inputs, site.facts)


def check_on_device(
    job: Job, prepared: Prepared, placed: Placed, site: Site, bench: Workbench
) -> ParityReport:
    """The device's own outputs against the reference; ModelError where they differ."""
    bench.announce(Step("parity", job.device, title(job)))
    outputs = site.session.infer(prepared.artifact, placed, prepared.inputs, job.workload.threads)
    reference = bench.reference(prepared.variant, prepared.inputs)
    bounds = bench.bounds(prepared.variant, prepared.inputs, job.runtime, job.precision)
    report = _judge(reference, outputs, bounds, job.device, prepared.inputs_kind)
    demand(report, prepared.artifact)
    return report


def begin(job: Job, prepared: Prepared, placed: Placed, report: ParityReport, site: Site) -> Measurement:
    """A new measurement in the store, or the one that an interrupted session began with this artifact."""
    begun = site.begun.get(job)
    if begun is not None:
        known = site.store.measurement(begun)
        if known.artifact.digest == prepared.artifact.digest:
            return known
    measurement = Measurement(
        id=secrets.token_hex(8),
        run=site.run,
        job=job,
        artifact=prepared.artifact,
        facts=site.facts,
        controller_parity=prepared.parity,
        device_parity=report,
        launches=(),
        status="partial",
        warnings=prepared.parity.warnings,
        pushed_bytes=placed.moved_bytes,
    )
    site.store.begin_measurement(measurement)
    return measurement


def launch_once(
    job: Job, prepared: Prepared, placed: Placed, site: Site, bench: Workbench, number: int
) -> Launch:
    """One launch, judged by the state of the board; a pause before it where the workload asks for one."""
    if number > 1 and job.workload.cooldown_s:
        bench.announce(Step("cool down", job.device, title(job), number, job.workload.launches))
        time.sleep(job.workload.cooldown_s)

    def phase(name: str) -> None:
        bench.announce(Step("launch", job.device, title(job), number, job.workload.launches, note=name))

    launch = site.session.launch(prepared.artifact, placed, prepared.inputs, job.workload, number, phase)
    return judged(launch, site.target.limits)


def finish(measurement: Measurement, site: Site) -> Measurement:
    """The measurement with its final status: invalid where no launch counts."""
    status: Literal["ok", "invalid"] = "ok" if any(each.valid for each in measurement.launches) else "invalid"
    site.store.finish_measurement(measurement.id, status, measurement.warnings)
    return replace(measurement, status=status)


# --- helpers ------------------------------------------------------------------------------------


def _judge(reference: Reference, outputs: Samples, bounds: Bounds, where: str, kind: str) -> ParityReport:
    return parity.judge(
        reference.samples,
        outputs,
        bounds.general,
        where=where,
        reference_name=reference.name,
        inputs=kind,
        own_bounds=bounds.own,
    )


def _bounds(variant: Artifact, inputs: InputSet, runtime: str, precision: str, bench: Workbench) -> Bounds:
    """The bounds of a variant's outputs: over its measured noise floor where it is quantized."""
    general = parity.bound_for(precision)
    rounded = _rounded_at_random(variant, inputs, bench) if precision in QUANTIZED else []
    if not rounded:
        return Bounds(general, {})
    reference = bench.reference(variant, inputs).samples
    margin_db = _noise_margin_db(runtime, precision)
    return Bounds(general, parity.bounds_over_noise(precision, reference, rounded, margin_db))


def _rounded_at_random(variant: Artifact, inputs: InputSet, bench: Workbench) -> list[Samples]:
    """What the variant computes when its values are rounded up or down at random.

    [] of a float model, and where ONNX Runtime cannot run it: the reference is ONNX's definition then.
    """
    from edgebench.model.dither import dithered

    network = model.load(bench.artifacts.path(variant.digest) / MODEL_FILE)
    seeds = [number * NOISE_SEEDS for number in range(NOISE_RUNS)]
    made = [each for each in (dithered(network, seed) for seed in seeds) if each is not None]
    try:
        return [_run_here(each, variant, inputs, bench) for each in made]
    except ModelError:
        return []


def _run_here(network: ModelProto, variant: Artifact, inputs: InputSet, bench: Workbench) -> Samples:
    """What a network with the variant's inputs and outputs computes in the reference."""
    with bench.scratch() as folder:
        (folder / MODEL_FILE).write_bytes(network.SerializeToString())
        return bench.infer(_as_reference(variant), folder, inputs)


def _noise_margin_db(runtime: str, precision: str) -> float:
    form = converter(runtime).forms.get(precision)
    return Form(what="").noise_margin_db if form is None else form.noise_margin_db


def _way_out(report: ParityReport) -> str:
    if report.inputs.startswith(GENERATED):
        return "generated inputs may say little of this model: give typical ones with --inputs FILE.npz"
    return "try another runtime or precision; edgebench verify --bisect names the layer that departs"


def _why(report: ParityReport) -> str:
    wrong = [output for output in report.outputs if not output.passed]
    return "; ".join(f'output "{output.name}": {output.reason}' for output in wrong)


def _told(error: EdgebenchError) -> str:
    return error.message.removeprefix(f"{CONTROLLER}: ")


def title(what: Cell | Job) -> str:
    """A cell or job in the words of progress and messages."""
    name = what.model if isinstance(what, Job) else what.name or Path(what.model_path).stem
    return f"{name} {what.precision} on {what.runtime}"


def _as_reference(variant: Artifact) -> Artifact:
    """An ONNX artifact as the reference runs it."""
    return replace(variant, runtime="onnxruntime", options=_UNOPTIMISED)


def _keep_onnx(folder: Path, info: ModelInfo, key: str, bench: Workbench) -> Artifact:
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


def _info(artifact: Artifact, bench: Workbench) -> ModelInfo:
    path = bench.artifacts.path(artifact.digest) / INFO_FILE
    return decode(ModelInfo, path.read_bytes(), source=str(path))


def _variant_key(cell: Cell, form: Form, canonical: Artifact) -> str:
    calibration = sha256(Path(cell.calibration)) if cell.calibration else None
    return _key("variant", canonical.digest, form.steps, cell.arch, calibration, compress.revision())


def _key(*parts: object) -> str:
    return encode(list(parts)).decode()
