"""Temperature and clock of the board while a measurement ran; throttled launches are shaded and named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from edgebench.report.details import BoardLine, Reading
from edgebench.report.svg.base import (
    WIDTH,
    Axis,
    Chart,
    Scale,
    bottom,
    drawing,
    element,
    path,
    scale_of,
    side,
    text,
    titled,
)
from edgebench.units import significant

LEFT, RIGHT = 44.0, WIDTH - 12
PANEL = 90.0


def chart(key: str, title: str, board: BoardLine) -> Chart:
    """One panel for each of what was read; the same seconds below both."""
    panels = [("temperature, °C", board.temperature_c), (f"clock {board.clock_name}, MHz", board.clock_mhz)]
    known = [(name, lines) for name, lines in panels if lines]
    ends = [span.to_s for span in board.spans] + [
        reading.at_s for _, lines in known for readings in lines for reading in readings
    ]
    seconds = scale_of([0.0, *ends], LEFT, RIGHT, zero=True)
    parts: list[Markup] = []
    top = 26.0
    for name, lines in known:
        parts += _panel(name, lines, seconds, top)
        top += PANEL + 34
    floor = top - 34
    shades = list(_shades(board, seconds, 20.0, floor))
    told = _finding(board)
    axis = bottom(Axis("time since the first launch began, s", seconds), 26.0, floor)
    picture = drawing(key, title, told, floor + 38, *shades, axis, *parts)
    return Chart(
        key, title, told, picture, ("line, from s", "what", "lowest", "highest"), tuple(_rows(known))
    )


def _panel(name: str, lines: Sequence[Sequence[Reading]], seconds: Scale, top: float) -> Iterator[Markup]:
    values = [value for readings in lines for each in readings for value in (each.low, each.high)]
    scale = scale_of(values, top + PANEL, top)
    yield side(Axis(name, scale), LEFT, RIGHT)
    for readings in lines:
        points = [(seconds(at_s), scale(value)) for at_s, value in _ends(readings)]
        marks = (
            path(points, "trace")
            if len(points) > 1
            else element("circle", cx=points[0][0], cy=points[0][1], r=2.5, class_="dot")
        )
        extremes = (
            f"{significant(min(r.low for r in readings))} to {significant(max(r.high for r in readings))}"
        )
        yield titled(f"{name}: {extremes}", marks)


def _ends(readings: Sequence[Reading]) -> Iterator[tuple[float, float]]:
    """The lowest and highest of each moment, the one that is nearer to what was before first."""
    before = readings[0].low
    for each in readings:
        ends = sorted(dict.fromkeys((each.low, each.high)), key=lambda value: abs(value - before))
        yield from ((each.at_s, value) for value in ends)
        before = ends[-1]


def _shades(board: BoardLine, seconds: Scale, top: float, floor: float) -> Iterator[Markup]:
    for span in board.spans:
        start, end = seconds(span.from_s), seconds(span.to_s)
        style = "shade throttled" if span.throttled else "shade"
        said = f"launch {span.number}" + (f": {span.throttled}" if span.throttled else "")
        box = element("rect", x=start, y=top, width=max(1.0, end - start), height=floor - top, class_=style)
        yield element("g", element("title", said), box)
        if span.throttled:
            yield text(start + 2, top + 10, "throttled", "bad")


def _finding(board: BoardLine) -> str:
    heat = [value for readings in board.temperature_c for each in readings for value in (each.low, each.high)]
    throttled = [span for span in board.spans if span.throttled]
    parts = []
    if heat:
        parts.append(f"{significant(min(heat))} to {significant(max(heat))} °C")
    clocks = [value for readings in board.clock_mhz for each in readings for value in (each.low, each.high)]
    if clocks:
        parts.append(f"clock {significant(min(clocks), 4)} to {significant(max(clocks), 4)} MHz")
    if throttled:
        reasons = ", ".join(dict.fromkeys(span.throttled for span in throttled))
        numbers = ", ".join(str(span.number) for span in throttled[:8])
        parts.append(f"throttled in launch {numbers}: {reasons}")
    else:
        parts.append("no launch was seen throttled")
    return "; ".join(parts) + ". Grey: while a launch ran."


def _rows(known: Sequence[tuple[str, Sequence[Sequence[Reading]]]]) -> Iterator[tuple[str, ...]]:
    for name, lines in known:
        for readings in lines:
            low, high = min(each.low for each in readings), max(each.high for each in readings)
            yield f"{readings[0].at_s:.1f}", name, significant(low, 4), significant(high, 4)
