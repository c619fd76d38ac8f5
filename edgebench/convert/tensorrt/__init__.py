"""TensorRT's build plan from ONNX: an engine fits one GPU and one version, so the device builds it itself.

What leaves the controller is the prepared ONNX file and the exact arguments of trtexec for one version. The
preflight refuses here, in a moment, what the device would refuse after an hour.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from edgebench.convert.base import (
    Form,
    Inside,
    Place,
    Produced,
    Refusal,
    Request,
    has_operator,
)
from edgebench.convert.tensorrt.base import (
    CAPABILITY_OPTION,
    VERSION_OPTION,
    Board,
    Finding,
    board_of,
    never_quantized_operators,
    version_text,
)
from edgebench.errors import ModelError, UserError
from edgebench.records import ModelInfo
from edgebench.tools import package_version

MODEL, PLAN = "model.onnx", "plan.json"
WORKSPACE_OPTION = "workspace_mib"
_MAX_SHOWN = 40
_MAX_WORKSPACE_MIB = 1 << 20


class TensorRtConverter(Inside):
    """ONNX -> `model.onnx` and `plan.json` for one TensorRT version and compute capability.

    The request's options name the two ("tensorrt_version", "compute_capability"), and may name
    "workspace_mib".
    """

    runtime = "tensorrt"
    revision = 2
    forms: ClassVar[Mapping[str, Form]] = {
        "fp32": Form(
            what="a build plan: prepared ONNX and the exact trtexec arguments for the target's version"
        ),
        "fp16": Form(
            what="a build plan in float16: a flag of the builder up to 10, from 11 on in the file itself"
        ),
        "int8": Form(
            what="a build plan with symmetric int8 QDQ; refused on GPUs without int8",
            steps=("int8-static:preset=tensorrt",),
        ),
    }

    def refuse(self, info: ModelInfo, precision: str) -> Refusal | None:
        """The reason why no TensorRT can take the model, or None; `convert` asks for one version."""
        return super().refuse(info, precision) or _refuse_integer_operators(info)

    def tool_versions(self) -> dict[str, str]:
        """The versions of what writes the prepared file, and of what is asked about it."""
        from edgebench.convert.tensorrt.parser import PACKAGE, installed

        known = {
            "onnx": package_version("onnx", "dev"),
            "onnxruntime": package_version("onnxruntime", "dev"),
        }
        second = installed()
        return known | ({PACKAGE: second} if second else {})

    def warm_up(self) -> None:
        """Import what rewrites the model."""
        import onnx  # noqa: F401

        import edgebench.convert.tensorrt.preflight  # noqa: F401

    def convert(self, request: Request, place: Place) -> Produced:
        """The prepared file and its plan; ModelError with every problem where no device could build it."""
        from edgebench import model
        from edgebench.convert.tensorrt.parser import second_opinion
        from edgebench.convert.tensorrt.plan import build_plan
        from edgebench.convert.tensorrt.preflight import preflight
        from edgebench.convert.tensorrt.prepare import prepared
        from edgebench.records import encode

        started = time.perf_counter()
        board = board_of(request.options)
        proto = model.load(Path(request.model_path))
        steps = model.lineage(proto)
        proto, rewritten = prepared(proto, board, request.precision)
        info = request.info
        made = model.write(proto, place.output / MODEL, name=info.name, variant=info.variant, steps=steps)
        checking = time.perf_counter()
        written = model.load(place.output / MODEL)
        found = preflight(written, board, request.precision)
        demand(info.name, board, found)
        found += second_opinion(place.output / MODEL, board)
        demand(info.name, board, found)
        nodes = tuple(node.name for node in written.graph.node if node.name)
        plan = build_plan(made, board, request.precision, _workspace_mib(request.options), nodes)
        (place.output / PLAN).write_bytes(encode(plan))
        return Produced(
            entry={"model": MODEL, "plan": PLAN},
            options={
                VERSION_OPTION: version_text(board.version),
                CAPABILITY_OPTION: board.capability,
                "precision": request.precision,
            },
            notes=(*rewritten, *_told(found), *_left_open(board, request.precision), _SCOPE),
            tool_s=checking - started,
            check_s=time.perf_counter() - checking,
        )


_SCOPE = (
    "parity on the controller is that of the prepared ONNX file; the device builds the engine and proves it"
)


def _left_open(board: Board, precision: str) -> tuple[str, ...]:
    """What flags said for older versions, and a strongly typed network leaves open."""
    if board.strongly_typed and precision == "fp32" and board.has_tf32:
        allowed = f"{board.name} may round the factors of float32 products to 10 bits (TF32)"
        return (
            f"{allowed}: whether its trtexec still takes --noTF32 is not known, so the plan does without",
        )
    if board.strongly_typed and precision == "int8":
        return (f"what is not quantized runs in float32: {board.name} takes precision from the file",)
    return ()


def demand(name: str, board: Board, found: Sequence[Finding]) -> None:
    """Nothing where nothing refuses; else ModelError with all refusals, those of one kind in one line."""
    refusals = [each for each in found if each.refuses]
    if not refusals:
        return
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for each in refusals:
        groups.setdefault((each.rule, each.operator, each.hint), []).append(each)
    lines = [_line(group) for group in groups.values()]
    hints = list(dict.fromkeys(each.hint for each in refusals))
    raise ModelError(
        f"{board.name} on compute capability {board.capability} cannot build {name}: "
        + "; ".join(lines[:_MAX_SHOWN]),
        hint="; ".join(hints[:4]),
        detail="\n".join(
            f"{each.operator} {each.node!r}: {each.message}; {each.hint}"
            if each.node
            else f"{each.message}; {each.hint}"
            for each in refusals
        )[:16_000],
    )


def _line(group: Sequence[Finding]) -> str:
    first = group[0]
    if not first.node:
        return first.message
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f'{first.operator} "{first.node}"{more}: {first.message}'


def _told(found: Sequence[Finding]) -> tuple[str, ...]:
    """The warnings as remarks, those of one kind in one line."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for each in found:
        if not each.refuses:
            groups.setdefault((each.rule, each.operator), []).append(each)
    return tuple(f"{_line(group)} ({group[0].hint})" for group in groups.values())


def _refuse_integer_operators(info: ModelInfo) -> Refusal | None:
    used = has_operator(info, *sorted(never_quantized_operators()))
    if not used:
        return None
    return Refusal(
        reason=f"TensorRT imports none of {', '.join(used)} in any version",
        hint="give the float model and ask for int8: TensorRT takes it as static Q/DQ pairs",
    )


def _workspace_mib(options: Mapping[str, str]) -> int:
    from edgebench.convert.tensorrt.plan import WORKSPACE_MIB

    text = options.get(WORKSPACE_OPTION, str(WORKSPACE_MIB))
    if not text.isdecimal() or not 0 < int(text) <= _MAX_WORKSPACE_MIB:
        raise UserError(
            f'"{text[:40]}" is no size of TensorRT\'s workspace', hint="write MiB as a whole number: 256"
        )
    return int(text)
