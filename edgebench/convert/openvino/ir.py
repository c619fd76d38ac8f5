"""OpenVINO's own files: an ONNX file read, optimized by OpenVINO, and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from edgebench.errors import ModelError

# lines of its errors that say where in OpenVINO's source something happened, not what
_WHERE_NOT_WHAT = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully", "Summary:")

_BEGINS = " with a message:"
_FOLLOWS = "Unsupported input type dynamic"  # an operator before it could not be converted
_LEVELS = ((1, 3), (2, 4))  # a FakeQuantize's lowest and highest values: of its input, of its output


def read(path: str) -> Any:
    """OpenVINO's model of an ONNX file or of an IR; ModelError in OpenVINO's own words where it has none."""
    import openvino

    try:
        # read_model and not convert_model: the latter imports the converter's command line and its telemetry
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise _not_converted(error) from error


def optimized(path: str) -> Any:
    """The same, fused and folded by OpenVINO as its own converter does it; devices do it at every start.

    Behind QuantizeLinear and DequantizeLinear it puts one FakeQuantize, which takes a third of the bytes. The
    network as it was read where OpenVINO cannot (Col2Im of unknown sizes).
    """
    from openvino._offline_transformations import apply_moc_transformations  # what convert_model calls

    model = read(path)
    try:
        apply_moc_transformations(model, cf=False)
    except RuntimeError:
        return read(path)  # the other one may be changed in part
    for node in model.get_ops():
        if node.get_type_name() == "FakeQuantize":
            _share_levels(node)
    return model


def _share_levels(node: Any) -> None:
    """Let input and output of a FakeQuantize read one constant where their values are the same."""
    import numpy as np

    for first, second in _LEVELS:
        kept, other = (node.input(place).get_source_output() for place in (first, second))
        constants = all(each.get_node().get_type_name() == "Constant" for each in (kept, other))
        if constants and np.array_equal(kept.get_node().data, other.get_node().data):
            node.input(second).replace_source_output(kept)


def save(model: Any, path: Path, *, to_fp16: bool) -> None:
    """Write `path` (.xml) and the weights beside it (.bin); ModelError in OpenVINO's own words."""
    import openvino

    try:
        openvino.save_model(model, str(path), compress_to_fp16=to_fp16)
    except RuntimeError as error:
        raise _not_converted(error) from error
    _without_indents(path)


def _without_indents(path: Path) -> None:
    """Write the description again on one line: a fifth of its bytes are blanks that nobody reads."""
    tree = ET.parse(path)  # noqa: S314 - OpenVINO has just written it
    for element in tree.iter():
        element.tail = None
        if not (element.text or "").strip():
            element.text = None
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _not_converted(error: RuntimeError) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_WHERE_NOT_WHAT)] or lines or ["no reason given"]
    reason = "; ".join(_operators(telling)[:2] or telling[:2])
    return ModelError(
        f"OpenVINO cannot convert the model: {reason[:500]}",
        hint="the message names the operator; try onnxruntime, or change the model",
        detail=str(error)[:4000],
    )


def _operators(lines: list[str]) -> list[str]:
    """Name and reason of each operator that the log tells of, without those that only follow from others."""
    told: dict[str, str] = {}
    name = ""
    for line in lines:
        if line.startswith("-- ") and line.endswith(_BEGINS):
            name = line.removeprefix("-- ").removesuffix(_BEGINS)
        elif name and not line.startswith(("While ", "-- ")):
            told.setdefault(name, line)
    causes = [f"{name}: {line}" for name, line in told.items() if line != _FOLLOWS]
    return causes or [f"{name}: {line}" for name, line in told.items()]
