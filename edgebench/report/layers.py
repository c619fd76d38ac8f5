"""A measurement's profile as lines of a table: the layers that take most of the time, and what is to be said.

Pure; every text in it has passed `clean`.
"""

from __future__ import annotations

from typing import NamedTuple

from edgebench.records import LayerTime, Profile
from edgebench.report.base import UNKNOWN, clean, name
from edgebench.units import NS_PER_MS, significant

LAYERS_SHOWN = 10
NODES_SHOWN = 6
SLOWER = "times of layers are taken in a launch of their own and are slower than the timed launches"
ESTIMATED = "the times of layers are estimated, not measured"


class Line(NamedTuple):
    """One layer: its share of the inference in percent, time, unit, kind, and the ONNX nodes it computes."""

    share: str
    ms: str
    unit: str
    kind: str
    nodes: str


HEADINGS = Line("%", "ms", "unit", "layer", "ONNX nodes")


def lines(profile: Profile) -> list[Line]:
    """The layers that take most time, the slowest first, and one line for all others."""
    ordered = sorted(profile.layers, key=lambda layer: -layer.mean_ns)
    whole_ns = whole(profile)
    shown = [_line(layer, whole_ns) for layer in ordered[:LAYERS_SHOWN]]
    rest = ordered[LAYERS_SHOWN:]
    if rest:
        left_ns = sum(layer.mean_ns for layer in rest)
        shown.append(Line(_percent(left_ns, whole_ns), _ms(left_ns), "", f"{len(rest)} other layers", ""))
    if profile.unexplained_ns is not None and profile.unexplained_ns > 0:
        left_ns = profile.unexplained_ns
        shown.append(Line(_percent(left_ns, whole_ns), _ms(left_ns), "", "between layers", ""))
    return shown


def whole(profile: Profile) -> int:
    """What shares are of, ns: the whole profiled inference, or all layers where that is not known or less."""
    return max(profile.total_ns or 0, profile.layers_ns)


def remarks(profile: Profile) -> list[str]:
    """What one must know to read the table: total, how it was taken, nodes that no line names."""
    total = f"{_ms(profile.total_ns)} ms an inference" if profile.total_ns is not None else "total unknown"
    inferences = "1 inference" if profile.repeats == 1 else f"{profile.repeats} inferences"
    told = [
        f"{total}, {len(profile.layers)} layers, {inferences}; runtime {name(profile.runtime_version)}",
        clean(profile.method),
        *([ESTIMATED] if profile.estimated else []),
        SLOWER,
    ]
    if profile.folded:
        told.append(f"computed when the model is loaded: {_nodes(profile.folded)}")
    if profile.unclaimed:
        told.append(f"no layer is known to compute: {_nodes(profile.unclaimed)}")
    return told


def _line(layer: LayerTime, whole_ns: int) -> Line:
    share, ms = _percent(layer.mean_ns, whole_ns), _ms(layer.mean_ns)
    nodes = _nodes(layer.nodes) or ("none: moves values" if layer.moves else f"unknown ({name(layer.name)})")
    return Line(share, ms, name(layer.unit or UNKNOWN), name(layer.kind or layer.name), nodes)


def _nodes(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(name, names[:NODES_SHOWN]))
    more = len(names) - NODES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _percent(part_ns: int, whole_ns: int) -> str:
    return f"{100 * part_ns / whole_ns:.1f}" if whole_ns else UNKNOWN


def _ms(value_ns: int | None) -> str:
    return UNKNOWN if value_ns is None else significant(value_ns / NS_PER_MS)
