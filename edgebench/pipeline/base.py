"""What preparing and measuring share: the cell, the workbench, and the judging of outputs."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench import model, parity
from edgebench.accuracy import TOP1, Scores
from edgebench.artifacts import ArtifactStore
from edgebench.convert.base import Form, converter
from edgebench.convert.evaluate import evaluate, evaluates
from edgebench.convert.run import Conversion, Limits
from edgebench.device.session import InputSet, Placed, Session, open_session, read_samples
from edgebench.errors import (
    DeviceError,
    EdgebenchError,
    InfrastructureError,
    ModelError,
    ParityError,
    RuntimeDied,
)
from edgebench.model.dataset import Dataset
from edgebench.model.flexible import OpenInput
from edgebench.model.images import ImageInput
from edgebench.records import (
    Accuracy,
    Artifact,
    Device,
    Engine,
    Job,
    ModelInfo,
    ParityBound,
    ParityReport,
    Record,
    encode,
    replace,
)

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto


CONTROLLER = "controller"
REFERENCE = "ONNX Runtime, graph optimisations off"
DEFINITION = "ONNX's reference implementation"
MODEL_FILE = "model.onnx"
INFO_FILE = "info.json"
CANNOT_RUN = "cannot run it: "
UNOPTIMISED = {"graph_optimization": "off"}
_OWN_FAULT = (
    "correct what the message names in the model; where its inputs are at fault, give some that it takes: "
    "--inputs FILE.npz"
)
BUILT_ON_DEVICE = (
    "tensorrt",
)  # their artifact is an ONNX file and a plan: here the reference runs that file
BUILD_TIMEOUT_S = 3600.0  # a device builds an engine in minutes; a Jetson Nano a large one in tens of them
QUANTIZED = ("int8", "int8-dynamic")
GENERATED = "generated"
GENERATED_SEED = 20261123
_STAMP = re.compile(r"^\[[^\]]*\] (\[I\] )?(\[TRT\] )?")  # what every line of trtexec begins with
RUNNING = "while running"  # in ONNX Runtime's words where a model loads, and its inputs are at fault
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


class Labelled(Record, frozen=True):
    """The labelled data set that accuracy is measured on: `.npz`, a folder of pictures, "module:function".

    `preprocess` is the file that says how pictures become inputs, where it is not in their folder.

    `metric` is top1, "module:function", or "map:module:function" for boxes; `output` the one that top1 looks
    at, the first where it is None. `reference` is the model that others are compared with, the cell's own as
    it was given where it is None.
    `on_device`: the device computes the outputs, in place of this computer.
    """

    dataset: str
    labels_key: str = "labels"
    metric: str = TOP1
    output: str | None = None
    reference: str | None = None
    on_device: bool = False
    preprocess: str | None = None


class Cell(Record, frozen=True):
    """What is to be prepared: one model in one precision for one runtime on one kind of processor.

    `as_is` takes the model as it comes; otherwise it is compressed to `precision` where need be. `constants`
    are inputs that have one value from now on.
    `inputs` and `calibration` are `.npz` files. `options` are the converter's, of a target that is built for.
    `vnni`: whether an x86 processor has it (None: not known), by which the form of int8 is chosen; `int8` are
    options of that form (`compress.presets`), `validation` and `labels_key` the samples that it is chosen by.
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
    labelled: Labelled | None = None
    vnni: bool | None = None
    int8: str = ""
    validation: str | None = None
    labels_key: str = "labels"


class Evaluation(NamedTuple):
    """What a device needs to measure accuracy: the samples, and how well the reference answered them."""

    asked: Labelled
    dataset: Dataset
    info: ModelInfo
    reference: Scores
    against: str


class Prepared(NamedTuple):
    """An artifact proven on the controller, with what is needed to prove it again on a device.

    `accuracy` is what this computer measured; `evaluation`: the device is to measure it.
    """

    info: ModelInfo
    variant: Artifact
    conversion: Conversion
    inputs: InputSet
    inputs_kind: str
    parity: ParityReport
    parity_s: float
    source: Artifact | None = None  # the ONNX artifact that was converted, where it is not the variant
    accuracy: Accuracy | None = None
    evaluation: Evaluation | None = None

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
        build_timeout_s: float = BUILD_TIMEOUT_S,
    ) -> None:
        self.home = home
        self.limits = limits
        self.announce = announce
        self.artifacts = artifacts or ArtifactStore(home / "artifacts")
        self.build_timeout_s = build_timeout_s
        self._controller: Session | None = None
        self._references: dict[tuple[str, str], Reference] = {}
        self._bounds: dict[tuple[str, str, str, str], Bounds] = {}
        self.scores: dict[tuple[str, ...], Scores] = {}  # of artifacts and references on data sets
        self.dataset: tuple[object, Dataset] | None = None  # the last one that was read, and what names it
        self.apart: set[tuple[str, str]] = set()  # files and data sets that share no sample
        self.samples: dict[tuple[str, object], frozenset[bytes]] = {}  # of files, by what names each sample
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
                f"{artifact.model}: {artifact.runtime} {CANNOT_RUN}{_told(error)}",
                hint=_OWN_FAULT if artifact.options == UNOPTIMISED else error.hint,
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


def build_on(
    session: Session, artifact: Artifact, placed: Placed, what: str, bench: Workbench
) -> tuple[Placed, Engine | None]:
    """What the device itself has to build of an artifact, or kept of an earlier time; None for the others."""
    if artifact.runtime not in BUILT_ON_DEVICE:
        return placed, None

    def show(elapsed_s: float, line: str) -> None:
        minutes = int(elapsed_s // 60)
        so_far = f"{what}, {minutes} min so far" if minutes else what
        note = f"{elapsed_s:.0f} s {_STAMP.sub('', line)}".rstrip()
        bench.announce(Step("build", session.device.name, so_far, note=note))

    return session.build(artifact, placed, show, timeout_s=bench.build_timeout_s)


def demand(report: ParityReport, artifact: Artifact) -> None:
    """Nothing where parity holds; a wrong model is never timed: ParityError with the numbers."""
    if not report.passed:
        raise ParityError(
            f"{artifact.model} {artifact.precision} on {artifact.runtime} does not compute the same "
            f"on {report.where}: {why(report)}",
            hint=_way_out(report),
        )


def judge(reference: Reference, outputs: Samples, bounds: Bounds, where: str, kind: str) -> ParityReport:
    """The report on outputs that were computed at `where` from inputs of that kind."""
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
    margin_db = noise_margin_db(runtime, precision)
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


def noise_margin_db(runtime: str, precision: str) -> float:
    """How far a quantized model's outputs may lie below its noise floor in that runtime."""
    form = converter(runtime).forms.get(precision)
    return Form(what="").noise_margin_db if form is None else form.noise_margin_db


def _way_out(report: ParityReport) -> str:
    if report.inputs.startswith(GENERATED):
        return "generated inputs may say little of this model: give typical ones with --inputs FILE.npz"
    return "try another runtime or precision; edgebench verify --bisect names the layer that departs"


def why(report: ParityReport) -> str:
    """The outputs that do not pass, each with its reason."""
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
    return replace(variant, runtime="onnxruntime", options=UNOPTIMISED)


def key_of(*parts: object) -> str:
    """What names something made of these parts in the artifact store."""
    return encode(list(parts)).decode()
