"""One metric over releases: a line for every series, jumps marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from edgebench.report.svg.base import (
    WIDTH,
    Axis,
    Chart,
    Scale,
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
from edgebench.units import significant

LEFT, TOP, FLOOR = 44.0, 28.0, 170.0
MOST_NAMES = 4  # that have room below the axis


class Place(NamedTuple):
    """One release's value, with its interval where there is one; `jump`: what a change point there says."""

    at: int
    value: float
    low: float | None = None
    high: float | None = None
    jump: str = ""


class Series(NamedTuple):
    """One line."""

    name: str
    places: Sequence[Place]


def chart(key: str, words: tuple[str, str, str], names: Sequence[str], series: Sequence[Series]) -> Chart:
    """`words`: title, unit of the values, finding; `names`: the releases, oldest first."""
    title, unit, told = words
    values = [
        value
        for each in series
        for place in each.places
        for value in (place.value, place.low, place.high)
        if value
    ]
    up = scale_of(values, FLOOR, TOP)
    across = Scale(-0.5, max(0.5, len(names) - 0.5), LEFT, WIDTH - 16)
    several = len(series) > 1
    drawn = [_line(each, number if several else None, across, up) for number, each in enumerate(series)]
    legend = (
        []
        if len(series) == 1
        else [
            text(LEFT, FLOOR + 62 + 15 * number, f"{number + 1} {cut(each.name, 56)}", "label")
            for number, each in enumerate(series)
        ]
    )
    picture = drawing(
        key,
        title,
        told,
        FLOOR + 40 + (20 + 15 * len(series) if len(series) > 1 else 0),
        side(Axis(unit, up), LEFT, WIDTH - 16),
        _releases(names, across),
        *drawn,
        *legend,
    )
    rows = tuple(
        (each.name, names[place.at], significant(place.value), place.jump or "-")
        for each in series
        for place in each.places
    )
    return Chart(key, title, told, picture, ("series", "release", unit, "change point"), rows)


def _releases(names: Sequence[str], across: Scale) -> Markup:
    """The names below the axis: as many as have room."""
    every = max(1, -(-len(names) // MOST_NAMES))
    parts = []
    for at, name in enumerate(names):
        if at % every == 0 or (at == len(names) - 1 and at % every > every // 2):
            x = across(at)
            parts.append(line(x, TOP, x, FLOOR, "grid"))
            parts.append(text(x, FLOOR + 14, cut(_short(name), 10), "tick", "middle"))
    middle = (across.start + across.end) / 2
    return Markup("").join(
        [*parts, text(middle, FLOOR + 31, "release or run, oldest first", "axis-title", "middle")]
    )


def _short(name: str) -> str:
    """Of a run's id its day, "2026-08-03": releases are short, ids are not."""
    found = re.match(r"(\d{4})(\d\d)(\d\d)-\d{6}-", name)
    return "-".join(found.groups()) if found else name


def _line(series: Series, number: int | None, across: Scale, up: Scale) -> Markup:
    style = f"s{(number or 0) % 4}"
    points = [(across(place.at), up(place.value)) for place in series.places]
    parts = [path(points, f"trace {style}")] if len(points) > 1 else []
    for place, (x, y) in zip(series.places, points, strict=True):
        bars = (
            [line(x, up(place.low), x, up(place.high), "error")]
            if place.low is not None and place.high is not None
            else []
        )
        said = f"{series.name}: {significant(place.value)}" + (f"; {place.jump}" if place.jump else "")
        ring = [element("circle", cx=x, cy=y, r=8, class_="ring")] if place.jump else []
        dot = element("circle", cx=x, cy=y, r=3.5, class_=f"dot {style}")
        parts.append(titled(said, *bars, *ring, dot))
    if points and number is not None:
        parts.append(text(points[-1][0] + 6, points[-1][1] + 4, str(number + 1), "label"))
    return element("g", *parts)
