"""Core ML's `model.mlpackage` (an ML Program) from ONNX, through our own lowerings and the MIL builder.

coremltools has no ONNX frontend; ours is `frontend` with one table of lowerings. Nothing here runs the
package: Core ML exists on Apple's computers only, and `interpreter` evaluates the saved file elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgebench.convert.base import (
    Form,
    Inside,
    Place,
    Produced,
    Refusal,
    Request,
    has_operator,
)
from edgebench.errors import EdgebenchError, ModelError
from edgebench.records import ModelInfo
from edgebench.tools import package_version

if TYPE_CHECKING:
    from onnx import ModelProto

PACKAGE = "model.mlpackage"
MAX_RANK = 5
_NO_WAY = {
    "NonMaxSuppression": "--cut-nms ends the model before it and returns its boxes and scores",
}


class CoreMlConverter(Inside):
    """ONNX -> ML Program, for iOS 17 and macOS 14 or newer."""

    runtime = "coreml"
    revision = 2
    forms: ClassVar[Mapping[str, Form]] = {
        "fp32": Form(what="ML Program in float32, iOS 17 and macOS 14 or newer"),
        "fp16": Form(what="ML Program computed in float16", options={"compute": "float16"}),
        "int8": Form(what="int8 weights and activations (W8A8) from static QDQ", steps=("int8-static",)),
        "int8-dynamic": Form(
            what="weight-only int8: Core ML has no dynamic ranges, and the artifact says so",
            steps=("int8-dynamic",),
        ),
    }

    def refuse(self, info: ModelInfo, precision: str) -> Refusal | None:
        """The reason why Core ML cannot take the model, or None."""
        return super().refuse(info, precision) or _refuse_operators(info) or _refuse_ranks(info)

    def tool_versions(self) -> dict[str, str]:
        """The version of coremltools."""
        return {"coremltools": package_version("coremltools", "coreml")}

    def warm_up(self) -> None:
        """Import coremltools: most of the time of a small conversion."""
        from edgebench.convert.coreml import frontend, package  # noqa: F401

        _quiet()

    def convert(self, request: Request, place: Place) -> Produced:
        """`model.mlpackage`; ModelError naming every node that Core ML cannot express exactly."""
        from edgebench import model
        from edgebench.convert.coreml import boundary, frontend, package, table
        from edgebench.model import weightonly

        _quiet()
        network = model.load(Path(request.model_path))
        if request.info.precision == "fp16" or _has_half(request.info):
            network = model.fp16_to_fp32(network)
        started = time.perf_counter()
        if weightonly.applies(network):
            network = weightonly.rewritten(network)
        system = _system(network)
        ends = boundary.read(network, request.options)
        lowered = frontend.lower(network, _target(system), table.LOWERINGS, ends.symbols)
        fed = [tensor.name for tensor in request.info.inputs]
        made = _translated(
            lowered.program,
            system,
            boundary.input_types(network, ends, lowered.names, fed),
            half=request.options.get("compute") == "float16",
        )
        package.save(made, place.output / PACKAGE, _metadata(request, network))
        return Produced(
            entry={"package": PACKAGE},
            blobs=lowered.names,
            options={"minimum_target": system} | _at_run_time(request) | ends.options,
            notes=(*_notes(request), *ends.notes),
            tool_s=time.perf_counter() - started,
        )


def _at_run_time(request: Request) -> dict[str, str]:
    """What a device's Core ML is told; the package does not depend on it."""
    units = request.options.get("compute_units")
    return {} if units is None else {"compute_units": units}


def _quiet() -> None:
    logging.getLogger("coremltools").setLevel(logging.ERROR)


def _system(network: ModelProto) -> str:
    """The oldest system that carries the model: weights of 4 bits, or with a scale per block, need iOS 18."""
    from onnx import TensorProto

    narrow = (TensorProto.INT4, TensorProto.UINT4)
    by_blocks = any(
        attribute.name == "block_size" and attribute.i
        for node in network.graph.node
        for attribute in node.attribute
    )
    constants = [
        attribute.t.data_type
        for node in network.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    kinds = {tensor.data_type for tensor in network.graph.initializer} | set(constants)
    return "iOS18" if by_blocks or kinds & set(narrow) else "iOS17"


def _target(system: str) -> Any:
    import coremltools

    return getattr(coremltools.target, system)


def _translated(program: Any, system: str, inputs: list[Any] | None, *, half: bool) -> Any:
    """The model of coremltools for the program, its weights in a package of its own in a temporary folder."""
    import coremltools

    precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    try:
        return coremltools.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            compute_precision=precision,
            inputs=inputs,
            minimum_deployment_target=_target(system),
            skip_model_load=True,
        )
    except EdgebenchError:
        raise
    except (ValueError, TypeError, AssertionError, RuntimeError, NotImplementedError, KeyError) as error:
        raise ModelError(
            f"Core ML Tools cannot convert the model: {str(error)[:500]}",
            hint="use onnxruntime or openvino for this model",
        ) from error


def _has_half(info: ModelInfo) -> bool:
    return any(tensor.dtype == "float16" for tensor in (*info.inputs, *info.outputs))


def _metadata(request: Request, network: ModelProto) -> dict[str, str]:
    """What the package says of its origin, and the author, licence and version that the ONNX file names."""
    from edgebench import __version__
    from edgebench.model.info import KEY_SOURCE, metadata

    told = {key.lower(): value for key, value in metadata(network).items()}
    known = {
        "author": told.get("author", ""),
        "license": told.get("license", told.get("licence", "")),
        "version": told.get("version", str(network.model_version or "")),
        "edgebench.lineage": " -> ".join(request.info.lineage),
        "edgebench.inputs": "; ".join(f"{key}={text}" for key, text in _of_inputs(request)),
    }
    return {key: value for key, value in known.items() if value} | {
        "edgebench.version": __version__,
        "edgebench.model": request.info.name,
        "edgebench.variant": request.info.variant,
        "edgebench.precision": request.precision,
        "edgebench.source_sha256": told.get(KEY_SOURCE, request.info.digest),
        "edgebench.onnx_sha256": request.info.digest,
    }


def _of_inputs(request: Request) -> list[tuple[str, str]]:
    from edgebench.model import flexible, images

    return [(k, v) for k, v in request.options.items() if k.startswith((flexible.OPTION, images.OPTION))]


def _notes(request: Request) -> tuple[str, ...]:
    kinds = {tensor.dtype for tensor in (*request.info.inputs, *request.info.outputs)}
    notes = []
    if request.info.precision == "int8-dynamic":
        notes.append("weight-only int8: Core ML computes the activations as float")
    if kinds & {"int64", "uint64", "uint32"}:
        notes.append("whole numbers are int32 in Core ML")
    if "float64" in kinds:
        notes.append("float64 is computed as float32")
    return tuple(notes)


def _refuse_operators(info: ModelInfo) -> Refusal | None:
    found = has_operator(info, *_NO_WAY)
    if not found:
        return None
    return Refusal(
        reason=f"Core ML has no exact form of {', '.join(found)}, and {info.name} has it",
        hint="; ".join(_NO_WAY[name] for name in found),
    )


def _refuse_ranks(info: ModelInfo) -> Refusal | None:
    for tensor in (*info.inputs, *info.outputs):
        if len(tensor.shape) > MAX_RANK:
            return Refusal(
                reason=f'Core ML has at most {MAX_RANK} axes, and "{tensor.name}" has {len(tensor.shape)}',
                hint="join axes in the model, or use onnxruntime or openvino",
            )
        if 0 in tensor.shape:
            return Refusal(
                reason=f'Core ML has no empty tensors, and "{tensor.name}" is one',
                hint="remove it from the model, or use onnxruntime or openvino",
            )
    return None
