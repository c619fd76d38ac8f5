"""OpenVINO's IR (`model.xml`, `model.bin`) from ONNX: float, fp16 weights, QDQ and dynamic int8 as it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from edgebench.convert.base import (
    Form,
    Inside,
    Place,
    Produced,
    Request,
    Way,
)
from edgebench.convert.openvino import ir
from edgebench.errors import ModelError
from edgebench.records import ModelInfo, Tensor
from edgebench.tools import package_version

# As it is, OpenVINO fuses what it knows; written out, it gets right what it knows wrongly or not at all.
_WAYS = (Way(), Way(natively=frozenset()))

# Should signed activations come out wrong (without optimization U-Net-like and YOLO-like networks had 16 and
# 28 dB where rounding costs 40): counted from 0 the same steps come out right.
_INT8_WAYS = (Way(), Way(options={"activations": "unsigned"}))


class OpenVinoConverter(Inside):
    """ONNX -> IR, run in float32: bfloat16, the silent default of many CPUs, is no precision of ours."""

    runtime = "openvino"
    revision = 3
    forms: ClassVar[Mapping[str, Form]] = {
        "fp32": Form(what="IR, computed in float32 (never silently in bfloat16)", ways=_WAYS),
        "fp16": Form(
            what="IR with float16 weights, computed in float32",
            options={"compress_to_fp16": "yes"},
            ways=_WAYS,
        ),
        "int8": Form(
            what="the same QDQ file as for onnxruntime, as IR", steps=("int8-static",), ways=_INT8_WAYS
        ),
        "int8-dynamic": Form(
            what="the same dynamic file as for onnxruntime, as IR; computed at float32 speed",
            steps=("int8-dynamic",),
        ),
    }

    def tool_versions(self) -> dict[str, str]:
        """The version of openvino, and of onnxruntime, which made the compressed forms."""
        return {
            "openvino": package_version("openvino", "openvino"),
            "onnxruntime": package_version("onnxruntime", "openvino"),
        }

    def warm_up(self) -> None:
        """Import openvino: most of the time of a small conversion."""
        import openvino  # noqa: F401

    def convert(self, request: Request, place: Place) -> Produced:
        """`model.xml` and `model.bin`; ModelError with OpenVINO's own words when it cannot."""
        started = time.perf_counter()
        model = ir.optimized(_source(request, place))
        _check_tensors(model, request.info)
        path = place.output / "model.xml"
        ir.save(model, path, to_fp16=request.options.get("compress_to_fp16") == "yes")
        return Produced(
            entry={"model": "model.xml", "weights": "model.bin"},
            blobs=_renamed(ir.read(str(path)), request.info),
            options={"inference_precision": "f32"},
            notes=_notes(request),
            tool_s=time.perf_counter() - started,
        )


def _source(request: Request, place: Place) -> str:
    """The ONNX file to read, in the way that the request asks for."""
    if request.info.precision != "int8-qdq":
        return request.model_path
    import onnx

    from edgebench.model.biases import float_biases
    from edgebench.model.unsigned import unsigned_activations

    model = float_biases(onnx.load(request.model_path))
    if request.options.get("activations") == "unsigned":
        model = unsigned_activations(model)
    path = place.work / "prepared.onnx"
    onnx.save(model, path)
    return str(path)


def _check_tensors(model: Any, info: ModelInfo) -> None:
    """ModelError unless the IR has the model's inputs and outputs, under their names, with static shapes."""
    for side, wanted, ports in (
        ("input", info.inputs, model.inputs),
        ("output", info.outputs, model.outputs),
    ):
        found = {name: port for port in ports for name in port.get_names()}
        for tensor in wanted:
            if tensor.name not in found and len(ports) == len(wanted):
                continue  # an input that is an output, too: one tensor; `_renamed` finds its names
            if tensor.name not in found:
                raise ModelError(
                    f'OpenVINO lost the {side} "{tensor.name}"; it kept {", ".join(sorted(found)) or "none"}',
                    hint="an input that nothing uses can be removed from the model",
                )
            _check_static(side, tensor, found[tensor.name].get_partial_shape())


def _check_static(side: str, tensor: Tensor, shape: Any) -> None:
    if side == "input" and shape.is_dynamic:
        raise ModelError(
            f'the {side} "{tensor.name}" has the shape {shape}, which is not fixed',
            hint=f"give its shape: --shape {tensor.name}=1,3,224,224",
        )
    known = all(isinstance(size, int) for size in tensor.shape)
    if side == "output" and shape.is_static and known and tuple(shape.to_shape()) != tensor.shape:
        raise ModelError(
            f'OpenVINO gives the output "{tensor.name}" the shape {shape}, not {list(tensor.shape)}',
            hint="use onnxruntime for this model",
        )


def _renamed(saved: Any, info: ModelInfo) -> dict[str, str]:
    """ONNX's name -> a name in the saved IR, where that has lost ONNX's own; ports stay in order."""
    names: dict[str, str] = {}
    for wanted, ports in ((info.inputs, saved.inputs), (info.outputs, saved.outputs)):
        if len(wanted) != len(ports):
            continue
        for tensor, port in zip(wanted, ports, strict=True):
            kept = sorted(port.get_names())
            if kept and tensor.name not in kept:
                names[tensor.name] = kept[0]
    return names


def _notes(request: Request) -> tuple[str, ...]:
    if request.options.get("activations") == "unsigned":
        return (
            "int8 activations were turned to uint8, the same steps: OpenVINO computes signed ones wrongly",
        )
    if request.info.precision == "int8-dynamic":
        return ("OpenVINO runs dynamic int8 at the speed of float",)
    if request.precision == "fp16":
        return ("weights are stored as fp16 and computed with in float32",)
    return ()
