"""One model's forms on one device: latency against accuracy (or size) with intervals, the front marked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from edgebench.report.base import Row, form
from edgebench.report.svg.base import (
    WIDTH,
    Axis,
    Chart,
    Scale,
    bottom,
    cut,
    drawing,
    element,
    line,
    path,
    scale_of,
    side,
    text,
    titled,
)
from edgebench.units import NS_PER_MS, format_bytes, significant

LEFT, TOP, FLOOR = 56.0, 26.0, 230.0
LEGEND_ROW = 16.0


class Point(NamedTuple):
    """One form: `good` is accuracy in % or the metric's own score; None where it was not measured."""

    name: str
    ms: float
    ms_low: float | None
    ms_high: float | None
    size: int
    good: float | None = None
    good_low: float | None = None
    good_high: float | None = None


class View(NamedTuple):
    """The scales, what the height is of, and where numbers stand already."""

    across: Scale
    up: Scale
    judged: bool
    taken: list[tuple[float, float]]


def chart(key: str, title: str, rows: Sequence[Row]) -> Chart:
    """Points of forms; those that no other one beats in everything make the front."""
    points = list(_points(rows))
    judged = any(point.good is not None for point in points)
    shown = [point for point in points if point.good is not None] if judged else points
    shown.sort(key=lambda point: point.ms)
    front = _front(shown, judged)
    across = scale_of(_ends(shown, "ms"), LEFT, WIDTH - 16, log=True)
    values = _ends(shown, "good") if judged else [point.size / 1024**2 for point in shown]
    up = scale_of(values, FLOOR, TOP, log=not judged)
    view = View(across, up, judged, [])
    unit = _accuracy_title(rows) if judged else "size, MiB (logarithmic)"
    marks = [_mark(point, number, point in front, view) for number, point in enumerate(shown, 1)]
    told = _finding(front, judged, len(points) - len(shown))
    legend = [
        _legend_line(point, number, place, point in front)
        for place, (number, point) in enumerate(enumerate(shown, 1))
    ]
    height = FLOOR + 46 + LEGEND_ROW * ((len(shown) + 1) // 2)
    picture = drawing(
        key,
        title,
        told,
        height,
        bottom(Axis("p50, ms (logarithmic)", across), TOP, FLOOR),
        side(Axis(unit, up), LEFT, WIDTH - 16),
        _front_line(front, across, up, judged),
        *marks,
        *legend,
    )
    return Chart(
        key, title, told, picture, ("form", "p50, ms", "size", unit, "on the front"), _rows(shown, front)
    )


def _points(rows: Iterable[Row]) -> Iterable[Point]:
    for row in rows:
        summary, known = row.summary, row.accuracy
        if summary.p50_ns is None or not row.run_bytes:
            continue
        factor = 100.0 if known and known.metric == "top1" else 1.0
        yield Point(
            name=f"{form(row.job)} · {row.job.runtime}",
            ms=summary.p50_ns / NS_PER_MS,
            ms_low=None if summary.p50_low_ns is None else summary.p50_low_ns / NS_PER_MS,
            ms_high=None if summary.p50_high_ns is None else summary.p50_high_ns / NS_PER_MS,
            size=row.run_bytes,
            good=_times(known.value, factor) if known else None,
            good_low=_times(known.low, factor) if known else None,
            good_high=_times(known.high, factor) if known else None,
        )


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None or not math.isfinite(value) else value * factor


def _accuracy_title(rows: Iterable[Row]) -> str:
    metrics = dict.fromkeys(row.accuracy.metric for row in rows if row.accuracy)
    return ", ".join("accuracy, %" if metric == "top1" else f"{metric}, score" for metric in metrics)


def _ends(points: Iterable[Point], name: str) -> list[float]:
    found = [getattr(point, field) for point in points for field in (name, f"{name}_low", f"{name}_high")]
    return [value for value in found if value is not None]


def _front(points: Sequence[Point], judged: bool) -> list[Point]:
    """The points that no other is at least as good as in everything and better in something."""

    def costs(point: Point) -> tuple[float, ...]:
        return (point.ms, point.size, -(point.good or 0.0)) if judged else (point.ms, point.size)

    def beats(one: Point, other: Point) -> bool:
        pairs = list(zip(costs(one), costs(other), strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [point for point in points if not any(beats(other, point) for other in points)]


def _height(point: Point, judged: bool) -> float:
    return (point.good or 0.0) if judged else point.size / 1024**2


def _free(taken: list[tuple[float, float]], x: float, y: float) -> tuple[float, float]:
    """A place for a number beside a dot that no other number has; noted in `taken`."""
    around = [
        (across, down) for reach in (0, 12, 24) for across in (8 + reach, -18 - reach) for down in (-5, 12)
    ]
    places = [(x + across, y + down) for across, down in around]
    free = [
        place
        for place in places
        if all(abs(place[0] - other[0]) > 13 or abs(place[1] - other[1]) > 10 for other in taken)
    ]
    taken.append((free or places)[0])
    return taken[-1]


def _mark(point: Point, number: int, is_front: bool, view: View) -> Markup:
    across, up, judged = view.across, view.up, view.judged
    x, y = across(point.ms), up(_height(point, judged))
    bars = []
    if point.ms_low is not None and point.ms_high is not None:
        bars.append(line(across(point.ms_low), y, across(point.ms_high), y, "error"))
    if judged and point.good_low is not None and point.good_high is not None:
        bars.append(line(x, up(point.good_low), x, up(point.good_high), "error"))
    said = f"{number} {point.name}: p50 {significant(point.ms)} ms, {format_bytes(point.size)}"
    if point.good is not None:
        said += f", {significant(point.good, 4)}"
    dot = element("circle", cx=x, cy=y, r=_radius(point.size), class_="front" if is_front else "dot")
    return titled(said, *bars, dot, text(*_free(view.taken, x, y), str(number), "label"))


def _radius(size: int) -> float:
    """Larger for larger files: from 100 kB to 100 MB a dot grows from 4 to 10."""
    return min(10.0, max(4.0, 4.0 + 2.0 * math.log10(max(1, size) / 1e5)))


def _front_line(front: Sequence[Point], across: Scale, up: Scale, judged: bool) -> Markup:
    """The step line of the front in the two dimensions that are drawn."""
    steps: list[tuple[float, float]] = []
    best: float | None = None
    for point in sorted(front, key=lambda each: each.ms):
        height = _height(point, judged)
        better = best is None or (height > best if judged else height < best)
        if not better:
            continue
        x, y = across(point.ms), up(height)
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
        best = height
    return path(steps, "front-line") if len(steps) > 1 else Markup("")


def _legend_line(point: Point, number: int, place: int, is_front: bool) -> Markup:
    """Two columns of names below the axis."""
    x, y = (4.0, WIDTH / 2)[place % 2], FLOOR + 52 + LEGEND_ROW * (place // 2)
    size = format_bytes(point.size)
    return text(x, y, f"{number} {cut(point.name, 30)} · {size}{' · front' if is_front else ''}", "label")


def _finding(front: Sequence[Point], judged: bool, without: int) -> str:
    names = ", ".join(point.name for point in sorted(front, key=lambda each: each.ms)[:4])
    what = (
        "latency, size and accuracy" if judged else "latency and size; accuracy was not measured (--dataset)"
    )
    left = f" {without} forms without a measured accuracy are not drawn." if without else ""
    return (
        f"No other form beats these in {what}: {names}{' and others' if len(front) > 4 else ''}. "
        f"Bars: 95 % intervals; larger dots: larger files.{left}"
    )


def _rows(shown: Sequence[Point], front: Sequence[Point]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            point.name,
            significant(point.ms),
            format_bytes(point.size),
            "-" if point.good is None else significant(point.good, 4),
            "yes" if point in front else "no",
        )
        for point in shown
    )
