"""ONNX Runtime runs ONNX as it is: the artifact is the prepared model, once it was seen to load.

Two other formats are made by ONNX Runtime itself, at its level "extended", the last one whose result fits
other processors: "all" writes layouts of the very processor that it runs on.

    optimized   model.onnx, its nodes fused beforehand
    ort         model.ort, the same in ONNX Runtime's own format: what its minimal builds read
"""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from edgebench.convert.base import (
    Form,
    Inside,
    Place,
    Produced,
    Request,
    Way,
)
from edgebench.errors import ModelError, UserError, did_you_mean
from edgebench.model.complaints import in_plain_words
from edgebench.records import ORT_FORMATS, ModelInfo
from edgebench.tools import package_version

# The optimiser follows the branch of an If that no input takes into a contradiction of shapes, and gives up.
_UNOPTIMISED = Way(options={"graph_optimization": "off"})
_NOTABLE_GROWTH_BYTES = 64 << 10
_ARM = ("aarch64", "armv7l")
# .ort format -> the first and the last onnxruntime that read it; None: still read. Documented in
# onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html and microsoft/onnxruntime#20670
_READERS = {"4": ("1.8", "1.12"), "5": ("1.13", None), "6": ("1.16", None)}


def format_options(ort_format: str, arch: str) -> tuple[tuple[str, str], ...]:
    """The converter's options for a format of `ORT_FORMATS`, for a processor; none for the plain ONNX file.

    Processors matter once nodes are fused: x86 wants int8 activations moved to uint8, ARM keeps them.
    """
    if ort_format not in ORT_FORMATS:
        raise UserError(
            f'ONNX Runtime has no format "{ort_format}"', hint=did_you_mean(ort_format, ORT_FORMATS)
        )
    if ort_format == "onnx":
        return ()
    return (("format", ort_format), *((("arch", arch),) if arch in _ARM else ()))


class OnnxRuntimeConverter(Inside):
    """ONNX -> `model.onnx` or `model.ort`, in every precision; compressed precisions are ONNX-level steps."""

    runtime = "onnxruntime"
    revision = 1
    forms: ClassVar[Mapping[str, Form]] = {
        "fp32": Form(
            what="the canonical ONNX file as it is; operators that it has no kernel for are written out",
            ways=(Way(), Way(natively=frozenset()), _UNOPTIMISED),
        ),
        "fp16": Form(
            what="weights and values in float16, inputs and outputs as they were; CPUs compute in float32",
            steps=("fp16",),
            ways=(Way(), _UNOPTIMISED),
        ),
        "int8": Form(
            what="static QDQ, per channel, ranges from calibration; uint8 activations on x86, int8 on ARM",
            steps=("int8-static",),
            ways=(Way(), Way(natively=frozenset({"DynamicQuantizeLinear"}))),
        ),
        "int8-dynamic": Form(
            what="int8 weights of linear layers, ranges of activations found at each inference",
            steps=("int8-dynamic",),
        ),
    }

    def tool_versions(self) -> dict[str, str]:
        """The version of onnxruntime, which also made the compressed forms."""
        return {
            "onnxruntime": package_version("onnxruntime", "dev"),
            "onnx": package_version("onnx", "dev"),
        }

    def warm_up(self) -> None:
        """Import onnxruntime."""
        import onnxruntime  # noqa: F401

    def convert(self, request: Request, place: Place) -> Produced:
        """`model.onnx` or `model.ort`; ModelError with ONNX Runtime's own words when it cannot load it."""
        chosen = request.options.get("format", "onnx")
        level = request.options.get("graph_optimization", "all") if chosen == "onnx" else "all"
        model = place.output / ("model.ort" if chosen == "ort" else "model.onnx")
        started = time.perf_counter()
        if chosen == "onnx":
            shutil.copyfile(request.model_path, model)
        else:
            _optimize(Path(request.model_path), model, request)
        made = time.perf_counter()
        _check_loads(model)
        return Produced(
            entry={"model": model.name},
            options={"graph_optimization": level} | ({} if chosen == "onnx" else {"format": chosen}),
            notes=_notes(request.info, level) + _format_notes(Path(request.model_path), model, chosen),
            tool_s=made - started,
            check_s=time.perf_counter() - made,
        )


def _optimize(source: Path, model: Path, request: Request) -> None:
    """Write what ONNX Runtime makes of the source at its level "extended"; ModelError when it cannot."""
    options = _session_options("ORT_ENABLE_EXTENDED")
    options.optimized_model_filepath = str(model)
    if model.suffix == ".ort":
        options.add_session_config_entry("session.save_model_format", "ORT")
    if "arch" in request.options:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    try:
        _load(source, options)
    except ModelError as error:
        if _loads(source):
            error.hint = "the model itself loads: --ort-format onnx"
        raise
    if not model.is_file():
        raise ModelError(
            f"ONNX Runtime wrote no {model.name} (it takes no more than 2 GiB)", hint="--ort-format onnx"
        )


def _check_loads(model: Path) -> None:
    _load(model, _session_options("ORT_DISABLE_ALL"))


def _loads(model: Path) -> bool:
    try:
        _check_loads(model)
    except ModelError:
        return False
    return True


def _session_options(level: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options


def _load(model: Path, options: Any) -> None:
    import onnxruntime

    try:
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's errors share no base class below Exception
        raise ModelError(
            f"ONNX Runtime cannot load the model: {in_plain_words(_first_line(error))}",
            hint="try another runtime, or change what the message names in the model",
            detail=str(error)[-4000:],
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__


def _notes(info: ModelInfo, level: str) -> tuple[str, ...]:
    """What one should know before measuring; measured on x86."""
    if level == "off":
        return (
            "ONNX Runtime cannot load it, or errs, with its graph optimisations: they are off, it is slower",
        )
    if info.precision == "int8-dynamic" and any("ConvInteger" in name for name in info.operators):
        return ("dynamic int8 convolutions are slower than float in ONNX Runtime (3x and more)",)
    if info.precision == "fp16":
        return ("ONNX Runtime's CPU provider computes fp16 models in float32: less disk, the same time",)
    return ()


def _format_notes(source: Path, model: Path, chosen: str) -> tuple[str, ...]:
    """What one should know of a format before taking it to a board."""
    if chosen == "onnx":
        return ()
    notes = [f"optimised beforehand at ONNX Runtime's level extended: {_fits(model)}"]
    if chosen == "ort":
        notes.append(
            "loading .ort leaves out the processor's own layouts: float convolutions are slower on x86 than "
            "with the ONNX file"
        )
    before, after = source.stat().st_size, model.stat().st_size
    if after > 1.5 * before and after - before > _NOTABLE_GROWTH_BYTES:
        notes.append(
            f"{model.name} is {after / before:.1f}x as large as the ONNX file: constants were computed, "
            "or float16 weights became float32"
        )
    return tuple(notes)


def _fits(model: Path) -> str:
    """Which versions of onnxruntime read the file, as far as is known; the one that wrote it always does."""
    import onnxruntime

    writer = str(onnxruntime.__version__)
    if model.suffix != ".ort":
        return f"its fused operators are those of onnxruntime {writer}; older ones may lack some"
    written = format_version(model.read_bytes())
    first, last = _READERS.get(written, (writer, writer))
    readers = f"onnxruntime {first} " + ("and newer" if last is None else f"to {last}")
    return f".ort format {written} fits {readers}; it was written by {writer}"


def format_version(data: bytes) -> str:
    """The version that a .ort file says it has: the first field of its flatbuffer's root table."""
    try:
        (root,) = struct.unpack_from("<I", data, 0)
        (to_fields,) = struct.unpack_from("<i", data, root)
        (field,) = struct.unpack_from("<H", data, root - to_fields + 4)
        (to_text,) = struct.unpack_from("<I", data, root + field)
        (length,) = struct.unpack_from("<I", data, root + field + to_text)
    except struct.error as error:
        raise ModelError("ONNX Runtime wrote a .ort file that is none", hint="--ort-format onnx") from error
    start = root + field + to_text + 4
    return data[start : start + length].decode("utf-8", "replace")
