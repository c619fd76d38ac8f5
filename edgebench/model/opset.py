"""Old operator sets raised to one that today's runtimes know, by ONNX's own version converter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.model.base import DEFAULT_DOMAINS, copied

if TYPE_CHECKING:
    from onnx import ModelProto

OLDEST = 7  # before it, elementwise operators broadcast by an attribute; ONNX Runtime has no kernels for that
RAISED_TO = 13


def raised(model: ModelProto) -> ModelProto | None:
    """The model in a newer opset where its own is too old for runtimes; None where it need not or cannot be.

    Whether it still computes the same is for parity to show.
    """
    opset = max((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), default=1)
    if opset >= OLDEST:
        return None
    from onnx import version_converter

    try:
        return version_converter.convert_version(copied(model), RAISED_TO)
    except (RuntimeError, ValueError):
        return None  # an operator without a rule: the runtimes say what they make of it
