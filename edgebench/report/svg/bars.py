"""Where the time of an inference goes: the slowest layers, and all others as one bar."""

from __future__ import annotations

from edgebench.records import Profile
from edgebench.report.layers import remarks, whole
from edgebench.report.svg.base import (
    WIDTH,
    Axis,
    Chart,
    band,
    bottom,
    cut,
    drawing,
    element,
    scale_of,
    text,
    titled,
)
from edgebench.units import NS_PER_MS, significant

ROW = 30.0
LEFT = 4.0
SHOWN = 20
LABEL = 38  # characters of a name


def chart(key: str, title: str, profile: Profile) -> Chart:
    """The layers that take most of the time, the slowest on top."""
    entries = _entries(profile)
    total_ns = whole(profile)
    top = 4.0
    floor = top + ROW * len(entries)
    scale = scale_of((time_ns / NS_PER_MS for _, _, _, time_ns in entries), LEFT, WIDTH - 10, zero=True)
    marks = []
    for place, (label, kind, unit, time_ns) in enumerate(entries):
        y, end = top + ROW * place, scale(time_ns / NS_PER_MS)
        share = f"{100 * time_ns / total_ns:.1f} %" if total_ns else ""
        shown = significant(time_ns / NS_PER_MS)
        marks.append(
            titled(
                f"{label} ({kind}, {unit}): {shown} ms, {share}",
                band(y, 16),
                text(2, y + 13, cut(label, LABEL), "label"),
                text(WIDTH - 2, y + 13, " · ".join(filter(None, (shown, share))), "label", "end"),
                element("rect", x=LEFT, y=y + 17, width=max(0.5, end - LEFT), height=9, class_="bar"),
            )
        )
    told = _finding(profile, entries, total_ns)
    picture = drawing(
        key, title, told, floor + 38, bottom(Axis("time in one inference, ms", scale), top, floor), *marks
    )
    rows = tuple(
        (
            label,
            kind,
            unit,
            significant(time_ns / NS_PER_MS),
            f"{100 * time_ns / total_ns:.1f}" if total_ns else "-",
        )
        for label, kind, unit, time_ns in entries
    )
    return Chart(key, title, told, picture, ("layer", "kind", "unit", "time, ms", "share, %"), rows)


def _entries(profile: Profile) -> list[tuple[str, str, str, int]]:
    """Name, kind, processing unit and time of the slowest layers, and of the rest together."""
    ordered = sorted(profile.layers, key=lambda layer: -layer.mean_ns)
    found = [
        (", ".join(layer.nodes[:2]) or layer.name, layer.kind, layer.unit or "unit unknown", layer.mean_ns)
        for layer in ordered[:SHOWN]
    ]
    rest = ordered[SHOWN:]
    if rest:
        found.append((f"{len(rest)} other layers", "all others", "-", sum(layer.mean_ns for layer in rest)))
    left_ns = profile.unexplained_ns
    if left_ns is not None and left_ns > 0:
        found.append(("between layers", "not in any layer", "-", left_ns))
    return found


def _finding(profile: Profile, entries: list[tuple[str, str, str, int]], total_ns: int) -> str:
    if not entries or not total_ns:
        return "; ".join(remarks(profile)) + "."
    label, _, _, time_ns = max(entries, key=lambda each: each[3])
    return f"{label} takes {100 * time_ns / total_ns:.0f} % of the inference. {'; '.join(remarks(profile))}."
