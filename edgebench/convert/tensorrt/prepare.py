"""The ONNX file that a device builds from: the same arithmetic, written as its TensorRT version wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.convert.tensorrt.base import Board, OperatorTable, never_quantized_operators, operator_table
from edgebench.convert.tensorrt.graph import Network
from edgebench.convert.tensorrt.lowering import lower
from edgebench.convert.tensorrt.rewriting import clamp_int64, rewrite_pairs
from edgebench.convert.tensorrt.widening import widen
from edgebench.errors import ModelError
from edgebench.model.base import DEFAULT_DOMAINS, nodes, tensors

if TYPE_CHECKING:
    from onnx import ModelProto

# TensorRT RTX 1.7's parser refuses half of ONNX's own test cases for it, and takes all of them written out
_WRITTEN_OUT = frozenset({"Attention"})
_FLOAT, _FLOAT16 = 1, 10  # onnx.proto, TensorProto.DataType


def prepared(model: ModelProto, board: Board, precision: str) -> tuple[ModelProto, tuple[str, ...]]:
    """The model for that version, and what was rewritten, in words; the model given is changed.

    What cannot be rewritten stays as it is: `preflight` names it. Only fp16 for TensorRT 11 and newer changes
    values: there the file itself must be float16, its inputs and outputs excepted. ModelError where a node is
    not what ONNX says.
    """
    _check(model)
    table = operator_table(board.version)
    notes = rewrite_pairs(Network(model))
    model, expanded = _written_out(model, table)
    notes += expanded + widen(Network(model), table)
    notes += lower(Network(model), table.opset_max)
    if board.casts_int64:
        notes += clamp_int64(Network(model))
    if precision == "fp16" and board.strongly_typed and _is_float(model):
        return _half(model), (*notes, f"written in float16: {board.name} takes precision from the file")
    return model, notes


def _check(model: ModelProto) -> None:
    """ModelError where a node has not the inputs and attributes of its operator; the rest relies on them."""
    from onnx import checker

    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise ModelError(
            f"the model is not what ONNX says: {' '.join(str(error).split())[:500]}",
            hint="export the network to ONNX again",
            detail=str(error)[-4000:],
        ) from error


def _written_out(model: ModelProto, table: OperatorTable) -> tuple[ModelProto, tuple[str, ...]]:
    """The model without operators that this version lacks, where ONNX defines them by simpler ones."""
    from edgebench.model.expand import expand, expandable

    used = {node.op_type for node in nodes(model.graph) if node.domain in DEFAULT_DOMAINS}
    keep = (table.operators - _WRITTEN_OUT) | never_quantized_operators()
    lacking = used - keep
    if not expandable(lacking, keep):
        return model, ()
    made = expand(model, keep)
    left = {node.op_type for node in nodes(made.graph)}
    gone = sorted(lacking - left)
    return made, (f"{', '.join(gone)} written out in simpler operators",) if gone else ()


def _is_float(model: ModelProto) -> bool:
    kinds = {tensor.data_type for tensor in tensors(model)}
    return _FLOAT in kinds and _FLOAT16 not in kinds


def _half(model: ModelProto) -> ModelProto:
    """The model in float16 behind float32 inputs and outputs, by ONNX Runtime's converter."""
    import logging
    import warnings

    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():  # it tells of every value that it rounds to zero
        warnings.simplefilter("ignore")
        logging.getLogger("onnxruntime").setLevel(logging.ERROR)
        made: ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return made
