"""Latency of every launch: a strip of its quantiles with p50, p90 and p99; unusable launches are marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from edgebench.report.details import LaunchLine
from edgebench.report.svg.base import (
    WIDTH,
    Axis,
    Chart,
    Scale,
    bottom,
    drawing,
    element,
    line,
    scale_of,
    text,
    titled,
)
from edgebench.units import NS_PER_MS, significant

ROW = 22.0
MOST_LAUNCHES = 40
HEADINGS = ("launch", "samples", "min, ms", "p50, ms", "p90, ms", "p99, ms", "max, ms", "usable")


def chart(key: str, title: str, launches: Sequence[LaunchLine]) -> Chart:
    """The latencies of a measurement's launches, one under the other."""
    shown = _chosen(launches)
    left, top = 34.0, 48.0
    floor = top + ROW * len(shown) + 4
    values = [value / NS_PER_MS for each in shown for value in each.quantiles_ns]
    wide = max(values, default=1.0) > 4 * min(values, default=1.0)
    scale = scale_of(values, left, WIDTH - 14, log=wide)
    rows = [_strip(each, scale, top + ROW * (place + 0.5)) for place, each in enumerate(shown)]
    told = _finding(launches, len(shown))
    axis = Axis(f"latency of one inference, ms{' (logarithmic)' if wide else ''}", scale)
    return Chart(
        key=key,
        title=title,
        finding=told,
        svg=drawing(
            key,
            title,
            told,
            floor + 40,
            bottom(axis, top - 6, floor),
            text(4, 12, "launch, number", "axis-title"),
            _key_of_marks(4),
            *rows,
        ),
        headings=HEADINGS,
        rows=tuple(map(_numbers, launches)),
    )


def _chosen(launches: Sequence[LaunchLine]) -> Sequence[LaunchLine]:
    """All of a few launches; of many the unusable ones and the first others."""
    if len(launches) <= MOST_LAUNCHES:
        return launches
    ranked = sorted(launches, key=lambda each: (not each.reason, each.number))[:MOST_LAUNCHES]
    return sorted(ranked, key=lambda each: each.number)


def _key_of_marks(left: float) -> Markup:
    """What the marks mean."""
    x, y = left + 4, 26.0
    return Markup("").join(
        (
            element("circle", cx=x, cy=y, r=3.5, class_="p50"),
            text(x + 7, y + 4, "p50", "tick"),
            element("rect", x=x + 40, y=y - 5, width=2.5, height=10, class_="p90"),
            text(x + 47, y + 4, "p90", "tick"),
            _diamond(x + 84, y),
            text(x + 92, y + 4, "p99", "tick"),
            line(x + 124, y, x + 152, y, "whisker"),
            text(x + 157, y + 4, "min to max; narrow: many samples", "tick"),
        )
    )


def _diamond(x: float, y: float) -> Markup:
    points = f"{x:.1f},{y - 4:.1f} {x + 4:.1f},{y:.1f} {x:.1f},{y + 4:.1f} {x - 4:.1f},{y:.1f}"
    return element("polygon", points=points, class_="p99")


def _strip(launch: LaunchLine, scale: Scale, y: float) -> Markup:
    label = text(28, y + 4, str(launch.number), "tick", "end")
    state = "unusable" if launch.reason else "usable"
    if not launch.quantiles_ns:
        return titled(
            _said(launch), label, text(scale.start + 4, y + 4, f"no samples: {launch.reason}", "bad")
        )
    places = [scale(value / NS_PER_MS) for value in launch.quantiles_ns]
    # eight bands between quantiles, the same share of samples each: narrow ones are where most samples are
    bands = [
        element(
            "rect", x=low, y=y - 6, width=max(0.4, high - low), height=12, class_=f"band b{min(at, 7 - at)}"
        )
        for at, (low, high) in enumerate(pairwise(places[::4]))
    ]
    marks = [
        element(
            "rect",
            x=scale((launch.p90_ns or 0) / NS_PER_MS) - 1.2,
            y=y - 7,
            width=2.5,
            height=14,
            class_="p90",
        ),
        _diamond(scale((launch.p99_ns or 0) / NS_PER_MS), y),
        element("circle", cx=scale((launch.p50_ns or 0) / NS_PER_MS), cy=y, r=3.5, class_="p50"),
    ]
    said = [text(2, y + 4, "✗", "bad")] if launch.reason else []
    whisker = line(places[0], y, places[-1], y, "whisker")
    return titled(_said(launch), label, *said, whisker, *bands, *marks, style=f"mark {state}")


def _said(launch: LaunchLine) -> str:
    numbers = _numbers(launch)
    told = ", ".join(f"{name} {value}" for name, value in zip(HEADINGS[1:7], numbers[1:7], strict=True))
    return f"launch {launch.number}: {told}" + (f"; left out: {launch.reason}" if launch.reason else "")


def _numbers(launch: LaunchLine) -> tuple[str, ...]:
    ends = (launch.quantiles_ns[0], launch.quantiles_ns[-1]) if launch.quantiles_ns else (None, None)
    times = (ends[0], launch.p50_ns, launch.p90_ns, launch.p99_ns, ends[1])
    shown = ("-" if value is None else significant(value / NS_PER_MS) for value in times)
    return (str(launch.number), str(launch.n), *shown, f"no: {launch.reason}" if launch.reason else "yes")


def _finding(launches: Sequence[LaunchLine], shown: int) -> str:
    left_out = [each for each in launches if each.reason]
    usable = [each.p50_ns for each in launches if not each.reason and each.p50_ns]
    samples = sum(each.n for each in launches)
    parts = [f"{len(launches)} {'launch' if len(launches) == 1 else 'launches'}, {samples} samples"]
    if len(usable) > 1:
        apart = 100 * (max(usable) / min(usable) - 1)
        parts.append(f"their p50 lie within {significant(apart, 2)} % of the fastest")
    if left_out:
        parts.append(f"{len(left_out)} left out ({left_out[0].reason})")
    if shown < len(launches):
        parts.append(f"{shown} of them drawn")
    return "; ".join(parts) + "."
