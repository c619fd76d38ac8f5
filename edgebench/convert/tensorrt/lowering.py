"""A model written in the newest operator set that a TensorRT version was made for.

`onnx.version_converter` does not go down from 14 and newer. Here a node that has another form in the older
set is rewritten where both forms say the same thing; a newer form that the parser misreads (the axes of
ReduceMean became an input with opset 18) would compute something else without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgebench.convert.tensorrt.graph import Network, attributes, beyond, input_name, known_form, schema
from edgebench.model.base import DEFAULT_DOMAINS

if TYPE_CHECKING:
    from onnx import NodeProto

# What an attribute that the older form lacks must say, so that leaving it out changes nothing.
_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "allowzero": lambda value: value == 0,
    "antialias": lambda value: value == 0,
    "block_size": lambda value: value == 0,
    "ceil_mode": lambda value: value == 0,
    "dilations": lambda value: all(each == 1 for each in value),
    "keep_aspect_ratio_policy": lambda value: value == "stretch",
    "layout": lambda value: value == 0,
    "output_dtype": lambda value: value == 0,
    "precision": lambda value: value == 0,
    "reduction": lambda value: value == "none",
    "round_mode": lambda value: value == "up",
    "saturate": lambda value: value == 1,
    "start": lambda value: value == 0,
    "training_mode": lambda value: value == 0,
}
_GRID_MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}


def lower(network: Network, opset_max: int) -> tuple[str, ...]:
    """Rewrite the model in place for `opset_max`; what was done, in words, or () where nothing was.

    All or nothing: where one node cannot be written in the older form, the model stays as it is.
    """
    if network.opset <= opset_max:
        return ()
    target = max([opset_max, *(known_form(node.op_type, opset_max) for node in network.nodes if _ours(node))])
    target = min(target, network.opset)
    changed = list(beyond(network, opset_max))
    rewritten = [_rewritten(node, network, known_form(node.op_type, opset_max)) for node in changed]
    if any(made is None for made in rewritten) or (changed and target > opset_max) or target == network.opset:
        return ()
    if not all(_in_older_set(node, target) for node in network.nodes):
        return ()
    for node, made in zip(changed, rewritten, strict=True):
        if made is not None:
            node.CopyFrom(made)
    for entry in network.model.opset_import:
        if entry.domain in DEFAULT_DOMAINS:
            entry.version = target
    changes = f", {len(changed)} nodes in another form" if changed else ""
    return (f"written in opset {target} instead of {network.opset}{changes}",)


def _ours(node: NodeProto) -> bool:
    return node.domain in DEFAULT_DOMAINS


def _in_older_set(node: NodeProto, opset: int) -> bool:
    return not _ours(node) or schema(node.op_type, opset) is not None


def _rewritten(node: NodeProto, network: Network, opset: int) -> NodeProto | None:
    """The node in the form of an older operator set; None where that says something else."""
    made = type(node)()
    made.CopyFrom(node)
    special = _SPECIAL.get(node.op_type)
    if special is not None and not special(made, network):
        return None
    old, new = schema(node.op_type, opset), schema(node.op_type, network.opset)
    return made if _fits(made, old, new) else None


def _fits(node: NodeProto, old: Any, new: Any) -> bool:
    """Whether the node has the old form, after dropping what is neutral and spelling out changed defaults."""
    given = attributes(node)
    for name in set(given) - set(old.attributes):
        neutral = _NEUTRAL.get(name)
        if neutral is None or not neutral(given[name]):
            return False
        _drop(node, name)
    for name in set(old.attributes) & set(new.attributes) - set(given):
        default = new.attributes[name].default_value
        if default.name and str(default) != str(old.attributes[name].default_value):
            node.attribute.append(default)
    return bool(len(node.input) <= old.max_input and len(node.output) <= old.max_output)


def _drop(node: NodeProto, name: str) -> None:
    for place in reversed(range(len(node.attribute))):
        if node.attribute[place].name == name:
            del node.attribute[place]


# --- nodes whose inputs changed -----------------------------------------------------------------


def _reduce(node: NodeProto, network: Network) -> bool:
    """Constant axes become an attribute again; without axes all are reduced, unless that is a no-op."""
    from onnx import helper

    name = input_name(node, 1)
    axes = network.value(name) if name else None
    nothing = bool(attributes(node).get("noop_with_empty_axes", 0))
    if name and axes is None:
        return False
    if axes is None or axes.size == 0:
        if nothing:
            return False
    else:
        node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.reshape(-1)]))
    del node.input[1:]
    _drop(node, "noop_with_empty_axes")
    return True


def _split(node: NodeProto, network: Network) -> bool:
    """`num_outputs` is the number of outputs; the old form splits evenly, so the axis must divide."""
    count = attributes(node).get("num_outputs")
    if count is None:
        return True
    typed = network.typed(input_name(node, 0))
    axis = attributes(node).get("axis", 0)
    if typed is None or typed.dims is None or not -len(typed.dims) <= axis < len(typed.dims):
        return False
    size = typed.dims[axis]
    if not isinstance(size, int) or count != len(node.output) or size % count:
        return False
    _drop(node, "num_outputs")
    return True


def _pad(node: NodeProto, network: Network) -> bool:
    """The old form pads all axes in order: pads of some axes only are not rewritten."""
    if attributes(node).get("mode", "constant") == "wrap":
        return False
    axes, rank = network.value(input_name(node, 3)), network.rank(input_name(node, 0))
    if not input_name(node, 3):
        del node.input[3:]
        return True
    if axes is None or rank is None or [int(axis) % rank for axis in axes.reshape(-1)] != list(range(rank)):
        return False
    del node.input[3:]
    return True


def _resize(node: NodeProto, network: Network) -> bool:
    """Axes in order are all axes; modes that the old form lacks are refused as they are."""
    given = attributes(node)
    axes, rank = given.get("axes"), network.rank(input_name(node, 0))
    if axes is not None:
        if rank is None or [axis % rank for axis in axes] != list(range(rank)):
            return False
        _drop(node, "axes")
    return given.get("coordinate_transformation_mode") != "half_pixel_symmetric"


def _grid_sample(node: NodeProto, network: Network) -> bool:
    """Opset 20 renamed the modes."""
    from onnx import helper

    mode = _GRID_MODES.get(attributes(node).get("mode", "linear"))
    rank = network.rank(input_name(node, 0))
    if mode is None or rank != 4:
        return False
    _drop(node, "mode")
    node.attribute.append(helper.make_attribute("mode", mode))
    return True


def _batch_normalization(node: NodeProto, network: Network) -> bool:  # noqa: ARG001 - all take both
    return len([name for name in node.output if name]) == 1


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_SPECIAL: dict[str, Callable[[NodeProto, Network], bool]] = {
    **{f"Reduce{name}": _reduce for name in _REDUCTIONS},
    "Split": _split,
    "Pad": _pad,
    "Resize": _resize,
    "GridSample": _grid_sample,
    "BatchNormalization": _batch_normalization,
}
