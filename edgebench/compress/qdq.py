"""Static int8 as a QDQ graph: what the steps that make one share. ONNX Runtime's quantizer does it.

The activation type follows the processor: unsigned on x86, where ONNX Runtime's kernels for it are several
times faster, signed on ARM (facts measured and documented for ONNX Runtime 1.32).
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from edgebench.compress.base import ARM, Options, Settings
from edgebench.compress.graph import WEIGHTED
from edgebench.errors import BugError
from edgebench.records import ModelInfo, replace
from edgebench.units import significant

if TYPE_CHECKING:
    from onnx import ModelProto

Feed = dict[str, Any]
MIN_OPSET = 13  # the first with per-channel QuantizeLinear
BIASED = ("Conv", "ConvTranspose", "Gemm")
JUDGED_SAMPLES = 4
MAX_SNR_DB = 200
_SHARE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(pp|%|)\s*")
_DB = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)\s*(dB|)\s*")
# What TensorRT fuses: float biases, pairs before weighted layers and sums only, none shared by two layers.
TENSORRT_OPERATORS = [*WEIGHTED, "Add"]
TENSORRT_OPTIONS = {
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1},
    "OpTypesToExcludeOutputQuantization": TENSORRT_OPERATORS,
}


class StaticOptions(Options, frozen=True):
    """How to quantize.

    `activation` "auto" is uint8, on ARM int8. `reduce_range` keeps weights in 7 bits, for x86 processors
    without VNNI, whose 8-bit products can saturate. `symmetric` puts activation zero points at 0. `operators`
    are all that ONNX Runtime has in int8, or those with weights only; "auto" is all, and where that is
    ruinous on the calibration inputs, the better of the two. `preset` tensorrt is the form that TensorRT
    builds: int8, symmetric, pairs only where it computes with integers. `ranges` are the lowest and highest
    value that the samples reach, the cut of least divergence (entropy), or the share `percentile` of values.
    """

    activation: Literal["auto", "uint8", "int8"] = "auto"
    per_channel: bool = True
    reduce_range: bool = False
    symmetric: bool = False
    operators: Literal["auto", "all", "weighted"] = "auto"
    preset: Literal["onnxruntime", "tensorrt"] = "onnxruntime"
    ranges: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: Annotated[float, msgspec.Meta(ge=90, le=100)] = 99.999


class Budget(NamedTuple):
    """What may be lost; None: that is not judged."""

    max_drop: float | None
    min_snr_db: float | None

    def told(self) -> str:
        """In words: "drop of top1 at most 1 pp, SNR at least 25 dB"."""
        drop = (
            None if self.max_drop is None else f"drop of top1 at most {significant(100 * self.max_drop)} pp"
        )
        snr = None if self.min_snr_db is None else f"SNR at least {significant(self.min_snr_db)} dB"
        return ", ".join(filter(None, (drop, snr)))


def budget_of(max_drop: float | str | None, min_snr: float | str | None) -> Budget:
    """The budget of two options that have no problem, in shares and decibels."""
    return Budget(_number(_SHARE, max_drop), _number(_DB, min_snr))


def budget_problem(max_drop: float | str | None, min_snr: float | str | None) -> str:
    """What is no budget, with an example; "" where both are fine."""
    drop, snr_db = budget_of(max_drop, min_snr)
    if max_drop is not None and not (drop is not None and 0 < drop < 1):
        return f'max_drop "{str(max_drop)[:40]}" is no share of the samples; write 1 pp (or 0.01)'
    if min_snr is not None and not (snr_db is not None and 0 < snr_db <= MAX_SNR_DB):
        return f'min_snr "{str(min_snr)[:40]}" is no ratio; write 25 dB'
    return ""


def _number(pattern: re.Pattern[str], given: float | str | None) -> float | None:
    found = None if given is None else pattern.fullmatch(str(given))
    return None if found is None else float(found[1]) / (100 if found[2] in ("pp", "%") else 1)


class Work(NamedTuple):
    """What is to be quantized, on which inputs, and how. `keep_relu`: as a node of its own.

    ONNX Runtime leaves a Relu to the zero point behind it, which is gone where its reader stays float.
    `reference` is filled with the float network's answers to the first inputs, by which results are judged.
    """

    prepared: Path
    feeds: Sequence[Feed]
    activation: str
    options: StaticOptions
    reference: list[Feed]
    keep_relu: bool = False


class Quantized(NamedTuple):
    """A QDQ file, and which operators it quantizes."""

    path: Path
    operators: str


def begin(model: ModelProto, info: ModelInfo, options: StaticOptions, settings: Settings, at: Path) -> Work:
    """The work on a model: its prepared file is written, the calibration inputs are read.

    The model is marked as prepared, so that ONNX Runtime does not ask for it. UserError when the inputs do
    not fit the model.
    """
    import onnx
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    from edgebench.model import batches, read_inputs

    if settings.calibration is None:
        raise BugError("static int8 was started without calibration inputs")
    feeds = list(batches(read_inputs(settings.calibration, info), info))
    if options.preset == "tensorrt":
        options = replace(options, activation="int8", symmetric=True, reduce_range=False)
    work = Work(at / "prepared.onnx", feeds, _activation(options, settings), options, [])
    add_pre_process_metadata(model)
    _optimize(model, work.prepared)
    prepared = onnx.load(work.prepared)
    if any([_give_own_biases(prepared), _name_nodes(prepared)]):
        onnx.save(prepared, work.prepared)
    return work


def _optimize(model: ModelProto, out: Path) -> None:
    """Write the model after ONNX Runtime's basic optimisations: constants folded, BatchNorm in the weights.

    It is all that ONNX Runtime's `quant_pre_process` does to a model of opset 11 and later, whose shapes are
    inferred by what reads it; that reads and writes the file twice more.
    """
    import onnx
    import onnxruntime

    source = out.with_name("source.onnx")
    onnx.save(model, source)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    source.unlink()


def settings_used(work: Work) -> dict[str, Any]:
    """What the lineage tells of the quantization."""
    options = work.options
    used: dict[str, Any] = {
        "activation": work.activation,
        "weight": "int8",
        "per_channel": options.per_channel,
        "reduce_range": options.reduce_range,
        "symmetric": options.symmetric,
        "ranges": options.ranges,
        "samples": len(work.feeds),
    }
    if options.ranges == "percentile":
        used["percentile"] = options.percentile
    if options.preset != "onnxruntime":
        used["preset"] = options.preset
    return used


def _activation(options: StaticOptions, settings: Settings) -> str:
    if options.activation != "auto":
        return options.activation
    return "int8" if settings.arch in ARM else "uint8"


def _give_own_biases(model: ModelProto) -> bool:
    """Make each bias a vector that one layer alone reads, in place; whether one was not.

    ONNX Runtime's quantizer calls the copies of a shared bias `bias0`, `bias1` ..., whether something has
    that name or not, and takes a matrix of one row for one row a channel.
    """
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    before = len(graph.initializer)
    for node in graph.node:
        bias = stored.get(node.input[2]) if node.op_type in BIASED and len(node.input) > 2 else None
        if bias is None or (readers[bias.name] == 1 and len(bias.dims) == 1):
            continue
        values = numpy_helper.to_array(bias)
        if values.ndim == 2 and values.shape[0] == 1:
            values = values[0]
        graph.initializer.append(numpy_helper.from_array(values, f"{bias.name} of {node.output[0]}"))
        node.input[2] = graph.initializer[-1].name
    return len(graph.initializer) > before


def _name_nodes(model: ModelProto) -> bool:
    """Give every node a name, in place, since layers are found again by it; whether one had none."""
    taken = {node.name for node in model.graph.node}
    nameless = [node for node in model.graph.node if not node.name]
    for node in nameless:
        node.name = next(
            name
            for name in (f"{node.op_type}/{node.output[0]}", f"{node.op_type}/{node.output[0]}/")
            if name not in taken
        )
        taken.add(node.name)
    return bool(nameless)


def snr_db(work: Work, made: Path) -> float:
    """The worst output of a file against the float one, on some of the calibration inputs."""
    from edgebench import parity

    some = work.feeds[:JUDGED_SAMPLES]
    reference = work.reference or outputs(work.prepared, some)
    judged = parity.compare(reference, outputs(made, some), parity.RUIN)
    return min((output.snr_db for output in judged), default=0.0)


def outputs(path: Path, feeds: Sequence[Feed]) -> list[Feed]:
    """What a file computes of the inputs, without ONNX Runtime's own optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def quantized(work: Work, operators: str) -> Quantized:
    """The QDQ file with these operators in int8: "all" or "weighted"."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    options = work.options
    tensorrt = options.preset == "tensorrt"
    wanted = TENSORRT_OPERATORS if tensorrt else list(WEIGHTED) if operators == "weighted" else None
    extra: dict[str, Any] = {"ActivationSymmetric": options.symmetric}
    if work.keep_relu:
        extra["QDQKeepRemovableActivations"] = True
    out = work.prepared.with_name(f"{operators}.onnx")
    with redirect_stdout(io.StringIO()):  # the histograms' own progress
        quantize_static(
            work.prepared,
            out,
            quant_format=QuantFormat.QDQ,
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            activation_type=QuantType.QUInt8 if work.activation == "uint8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_method(options),
            op_types_to_quantize=wanted,
            extra_options=extra | (TENSORRT_OPTIONS if tensorrt else {}) | _calibration_options(options),
            **_calibration(work, of_relu=wanted is None and not work.keep_relu),
        )
    return Quantized(out, operators)


# --- ranges ---------------------------------------------------------------------------------------


def _method(options: StaticOptions) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    return {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[options.ranges]


def _calibration_options(options: StaticOptions) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if options.ranges != "minmax":
        made["CalibStridedMinMax"] = 1  # sample by sample: else the values of all are kept at once
    if options.ranges == "percentile":
        made["CalibPercentile"] = options.percentile
    return made


def _calibration(work: Work, *, of_relu: bool) -> dict[str, Any]:
    """What quantize_static takes its ranges from: those that were measured here, or the samples.

    It measures them without ONNX Runtime's optimisations, and anew for each choice of operators. Versions
    before 1.32 take no ranges that are there already. `of_relu`: what goes into a Relu alone is given the
    range that comes out of it, as the quantizer does where it quantizes Relu.
    """
    from inspect import signature

    from onnxruntime.quantization import quantize_static

    if "calibration_cache_path" not in signature(quantize_static).parameters:
        return {"calibration_data_reader": _reader(work.feeds)}
    known = work.prepared.with_name("ranges-of-relu.json" if of_relu else "ranges.json")
    if not known.exists():
        _measure_ranges(work, known, of_relu=of_relu)
    return {"calibration_data_reader": None, "calibration_cache_path": known}


def _measure_ranges(work: Work, out: Path, *, of_relu: bool) -> None:
    """The ranges of every tensor, in a file as quantize_static keeps them."""
    import onnxruntime
    from onnxruntime.quantization.calibrate import save_tensors_data

    augmented = work.prepared.with_name("augmented.onnx")
    calibrator = _calibrator(work, augmented)
    alike = _into_relu(calibrator.model) if of_relu else {}
    tensors, infos = calibrator.select_tensors_to_calibrate(calibrator.model)
    alike = {name: other for name, other in alike.items() if {name, other} <= tensors}
    calibrator.select_tensors_to_calibrate = lambda _model: (tensors - alike.keys(), infos)
    calibrator.augment_graph()
    calibrator.model = None  # in a file by now; not in memory twice
    session = onnxruntime.InferenceSession(str(augmented), providers=["CPUExecutionProvider"])
    calibrator.infer_session = _Watched(session, sorted(calibrator.model_original_outputs), work.reference)
    with redirect_stdout(io.StringIO()):
        for feeds in [work.feeds] if work.options.ranges == "minmax" else [[feed] for feed in work.feeds]:
            calibrator.collect_data(_reader(feeds))
        found = calibrator.compute_data()
    for name, other in alike.items():
        found.data[name] = found[other]
    save_tensors_data(found, out)
    augmented.unlink()


def _calibrator(work: Work, augmented: Path) -> Any:
    """ONNX Runtime's own, as its `create_calibrator` makes it."""
    from onnxruntime.quantization import calibrate

    place = str(augmented)
    if work.options.ranges == "minmax":
        return calibrate.MinMaxCalibrater(work.prepared, augmented_model_path=place)
    if work.options.ranges == "entropy":
        return calibrate.EntropyCalibrater(work.prepared, augmented_model_path=place)
    return calibrate.PercentileCalibrater(
        work.prepared, augmented_model_path=place, symmetric=True, percentile=work.options.percentile
    )


def _into_relu(model: ModelProto) -> dict[str, str]:
    """What a Relu or Clip alone reads -> what comes out of it; not where that goes into another one.

    These are most of a convolutional network's values. Not measuring them leaves Conv and Relu one operator.
    """
    readers = Counter(name for node in model.graph.node for name in node.input)
    readers.update(value.name for value in model.graph.output)
    found = {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type in ("Relu", "Clip") and readers[node.input[0]] == 1
    }
    return {name: other for name, other in found.items() if other not in found}


class _Watched:
    """A session that keeps the network's own outputs of the first samples."""

    def __init__(self, session: Any, own: Sequence[str], kept: list[Feed]) -> None:
        self._session = session
        self._own = own
        self._kept = kept
        self._names = [output.name for output in session.get_outputs()]
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, wanted: Sequence[str] | None, feed: Feed) -> list[Any]:
        """As the session itself."""
        made: list[Any] = self._session.run(wanted, feed)
        if len(self._kept) < JUDGED_SAMPLES:
            by_name = dict(zip(wanted or self._names, made, strict=True))
            self._kept.append({name: by_name[name] for name in self._own})
        return made


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the class is untyped
        """One sample after the other, once; or those of a range."""

        def __init__(self) -> None:
            self.left = iter(feeds)

        def __len__(self) -> int:
            return len(feeds)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(feeds[start_index:end_index])

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    return Reader()
