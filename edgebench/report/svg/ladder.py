"""Memory of a launch's process, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from edgebench.report.details import Step
from edgebench.report.svg.base import WIDTH, Axis, Chart, bottom, drawing, element, scale_of, text, titled
from edgebench.units import significant

ROW = 22.0
MIB = 1024**2
LEFT = 118.0


def chart(key: str, title: str, steps: Sequence[Step]) -> Chart:
    """A bar for every step, each with what it added to the one before."""
    top = 10.0
    floor = top + ROW * len(steps)
    scale = scale_of((step.bytes / MIB for step in steps), LEFT, WIDTH - 84, zero=True)
    marks = []
    for place, step in enumerate(steps):
        y = top + ROW * place
        before = steps[place - 1].bytes if place else 0
        x, width = scale(min(before, step.bytes) / MIB), scale(step.bytes / MIB)
        marks.append(
            titled(
                f"{step.name}: {significant(step.bytes / MIB)} MiB",
                text(LEFT - 8, y + 14, step.name, "label", "end"),
                element("rect", x=LEFT, y=y + 3, width=max(0.5, width - LEFT), height=15, class_="bar soft"),
                element("rect", x=x, y=y + 3, width=max(0.5, width - x), height=15, class_="bar"),
                text(width + 5, y + 14, _label(step.bytes, before, place), "label"),
            )
        )
    told = _finding(steps)
    picture = drawing(
        key,
        title,
        told,
        floor + 38,
        bottom(Axis("resident memory of the process, MiB", scale), top, floor),
        *marks,
    )
    rows = tuple((step.name, significant(step.bytes / MIB)) for step in steps)
    return Chart(key, title, told, picture, ("step", "resident memory, MiB"), rows)


def _label(value: int, before: int, place: int) -> str:
    added = value - before
    shown = significant(value / MIB)
    return shown if not place or added <= 0 else f"{shown} (+{significant(added / MIB)})"


def _finding(steps: Sequence[Step]) -> str:
    known = {step.name: step.bytes for step in steps}
    peak = known.get("peak of the launch", 0)
    parts = [f"The process peaks at {significant(peak / MIB)} MiB"]
    pairs = (("runtime", "process started", "runtime loaded"), ("model", "runtime loaded", "model loaded"))
    for what, before, after in pairs:
        if before in known and after in known:
            parts.append(f"loading the {what} adds {significant((known[after] - known[before]) / MIB)} MiB")
    return "; ".join(parts) + ". Of the usable launch that took most."
