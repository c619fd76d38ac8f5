"""What pnnx or edgebench wrote for ncnn, before anybody relies on it: known layers, loads, computes.

Numbers are not compared here: that is parity's. Without numpy, whose import takes half as long as pnnx takes
for a small network.
"""

from __future__ import annotations

import math
import re
import signal
from array import array
from pathlib import Path
from typing import Any, NamedTuple

from edgebench.convert.base import says_out_of_memory
from edgebench.errors import InfrastructureError, ModelError
from edgebench.records import ModelInfo, Tensor

MAX_RANK = 4
NO_BATCH_AXIS = "233"  # ncnn's way to say it
OTHERS = "onnxruntime or openvino"

_PARAM_MAGIC = "7767517"
_MAX_PARAM_BYTES = 64 << 20
_PATTERN = array("f", [0.05 + 0.9 * (index * 0.6180339887 % 1.0) for index in range(1009)])
_BATCH_INDEX = re.compile(r'ex\.input\("(in\d+)", ncnn\.Mat\(.*batch_index=(\d+)\)')
_TELLING = re.compile(r"not supported|unsupported|not exists|failed|error|ignore ", re.IGNORECASE)


class Ran(NamedTuple):
    """What a run of pnnx left: its exit status, the tail of what it printed, and how long it took."""

    status: int
    log: str
    seconds: float


def check_status(ran: Ran) -> None:
    """ModelError unless pnnx ended well; InfrastructureError where it lacked memory."""
    if ran.status == 0:
        return
    if ran.status == -signal.SIGKILL or says_out_of_memory(ran.log):
        raise InfrastructureError(
            "pnnx needs more memory than it may have",
            hint="allow conversions more memory, or convert on a larger computer",
            detail=_detail(ran),
        )
    what = f"ended with status {ran.status}"
    if ran.status < 0:
        what = f"crashed ({signal.Signals(-ran.status).name})"
    raise refused(f"pnnx {what} on this model", ran)


def written(folder: Path, ran: Ran) -> tuple[Path, Path]:
    """The param and the bin file that pnnx wrote; ModelError where one is missing."""
    paths = (folder / "m.ncnn.param", folder / "m.ncnn.bin")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise refused(f"pnnx ended well but wrote no {' and no '.join(missing)}", ran)
    return paths


def check_layers(param: Path, ran: Ran) -> None:
    """Every layer type must be one that ncnn knows; what pnnx cannot translate keeps another name."""
    import ncnn

    unknown = [kind for kind in _layer_types(param, ran) if "." in kind or ncnn.layer_to_index(kind) < 0]
    if unknown:
        raise refused(f"ncnn has no layer for {', '.join(unknown)}", ran)


def _layer_types(param: Path, ran: Ran) -> list[str]:
    """The layer types of a param file, each once, in order of appearance."""
    if param.stat().st_size > _MAX_PARAM_BYTES:
        raise refused("pnnx wrote a param file larger than any network's", ran)
    lines = param.read_text("utf-8", "replace").splitlines()
    if len(lines) < 3 or lines[0].strip() != _PARAM_MAGIC:
        raise refused("what pnnx wrote is no ncnn param file", ran)
    return list(dict.fromkeys(words[0] for line in lines[2:] if (words := line.split())))


def batch_axis(script: Path, info: ModelInfo) -> str:
    """Whether Mats lack the inputs' leading axis of 1 ("drop") or have all axes ("keep").

    pnnx says so in the example script that it writes. ModelError when its inputs differ in that, or when the
    axis it dropped is not a leading 1: a Mat cannot hold a batch.
    """
    text = script.read_text("utf-8", "replace") if script.is_file() else ""
    axes = dict(_BATCH_INDEX.findall(text))
    kinds = set()
    for number, tensor in enumerate(info.inputs):
        axis = axes.get(f"in{number}", "0" if tensor.shape[0] == 1 else NO_BATCH_AXIS)
        if axis not in ("0", NO_BATCH_AXIS) or (axis == "0" and tensor.shape[0] != 1):
            raise ModelError(
                f'ncnn takes one sample at a time, and pnnx sees the batch of "{tensor.name}" in axis {axis}',
                hint=f"convert with batch 1: --shape {tensor.name}=1,... ; {OTHERS} take other batches",
            )
        if axis == NO_BATCH_AXIS and len(tensor.shape) > MAX_RANK:
            raise ModelError(
                f'ncnn has at most {MAX_RANK} axes, and pnnx keeps all of "{tensor.name}" {tensor.shape}',
                hint=f"use {OTHERS}",
            )
        kinds.add("keep" if axis == NO_BATCH_AXIS else "drop")
    if len(kinds) > 1:
        raise ModelError(
            "pnnx takes the batch axis off some inputs and not off others",
            hint=f"give every input a leading axis of 1, or use {OTHERS}",
        )
    return kinds.pop() if kinds else "keep"


class Net:
    """The converted network in ncnn, fed once with values between 0 and 1 (integers: 0)."""

    def __init__(self, info: ModelInfo, *, drops_batch: bool, half: bool) -> None:
        import ncnn

        self._ncnn = ncnn
        self._info = info
        self._drops_batch = drops_batch
        self._net = ncnn.Net()
        options = self._net.opt
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
        options.use_bf16_packed = options.use_bf16_storage = False
        # speed is no question here: no weights rearranged for it while loading, no thread pool started
        options.use_winograd_convolution = False
        options.num_threads = 1

    def load(self, param: Path, weights: Path, ran: Ran) -> None:
        """ModelError when ncnn does not load a file."""
        for path, read in ((param, self._net.load_param), (weights, self._net.load_model)):
            if read(str(path)) != 0:
                raise refused(f"ncnn does not load the {path.suffix[1:]} file that was written", ran)

    def check_outputs(self, ran: Ran) -> None:
        """ModelError unless every output comes, in full size and without NaN."""
        extractor = self._net.create_extractor()
        held = [self._mat(tensor) for tensor in self._info.inputs]  # the extractor does not keep them alive
        for number, mat in enumerate(held):
            if extractor.input(f"in{number}", mat) != 0:
                raise refused(f'pnnx lost the input "{self._info.inputs[number].name}"', ran)
        for number, tensor in enumerate(self._info.outputs):
            status, mat = extractor.extract(f"out{number}")
            if status != 0 or mat.empty():
                raise refused(f'ncnn gives no output "{tensor.name}"', ran)
            values = array("f", memoryview(mat).tobytes())
            if all(isinstance(size, int) for size in tensor.shape) and len(values) != _elements(tensor):
                raise refused(
                    f'ncnn gives {len(values)} values for "{tensor.name}", not {_elements(tensor)}', ran
                )
            if any(value != value for value in values):
                raise refused(f'ncnn computes NaN for "{tensor.name}"', ran)

    def _mat(self, tensor: Tensor) -> Any:
        """A Mat that owns its data: ncnn.Mat(buffer) does not keep the buffer alive."""
        count = _elements(tensor)
        shape = [int(size) for size in tensor.shape[self._drops_batch :]] or [1]
        if tensor.dtype.startswith("int"):
            held: memoryview[Any] = memoryview(bytes(4 * count)).cast("i", shape)
        else:
            values = (_PATTERN * (count // len(_PATTERN) + 1))[:count]
            held = memoryview(values.tobytes()).cast("f", shape)
        return self._ncnn.Mat(held).clone()  # a name holds the buffer: it must live until it is copied


def _elements(tensor: Tensor) -> int:
    return math.prod(int(size) for size in tensor.shape)


def refused(what: str, ran: Ran) -> ModelError:
    """The error of a model that pnnx or ncnn cannot take, with the log's telling lines."""
    telling = list(dict.fromkeys(line.strip() for line in ran.log.splitlines() if _TELLING.search(line)))
    said = f" (pnnx: {'; '.join(telling[:3])[:400]})" if telling else ""
    return ModelError(
        what + said,
        hint=f"use {OTHERS}, or replace what the message names in the model",
        detail=_detail(ran),
    )


def _detail(ran: Ran) -> str:
    return ran.log[-4000:].strip()
