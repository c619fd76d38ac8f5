"""Options -> one SVG text: accuracy over latency, a panel for each device and model. Pure.

Points on the front are dark, those that another may dominate hollow, dominated ones grey; bars are 95 %
intervals, the area of a point grows with the size of its file, and its number is that of the list beside the
panel. Where no accuracy was measured, the size stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edgebench.report.base import clean
from edgebench.report.base import name as clean_name
from edgebench.report.front import Figure, Limit, Metric, Option
from edgebench.units import NS_PER_MS, format_bytes, significant

FONTS = "DejaVu Sans, Liberation Sans, Noto Sans, Arial, Helvetica, sans-serif"
WIDTH, HEIGHT = 920, 420
LEFT, RIGHT, TOP, BOTTOM = 78, 300, 46, 52
INK, GREY, ACCENT, LINE = "#1f2933", "#b3bac2", "#2563a8", "#d9dee3"
MAX_RADIUS, MIN_RADIUS = 17.0, 8.0
TICKS, LISTED = 5, 16


class Axis(NamedTuple):
    """One axis: which figure, its ends in the scale that is drawn, and how a number reads."""

    metric: Metric
    title: str
    low: float
    high: float
    scale: Callable[[float], float]
    back: Callable[[float], float]
    text: Callable[[float], str]

    def part(self, value: float) -> float:
        """Where a figure lies between the ends, 0 to 1."""
        return (self.scale(value) - self.low) / (self.high - self.low)


def svg(found: Sequence[Option], limits: Sequence[Limit] = ()) -> str:
    """One SVG document of all panels, one below the other; without options it says so."""
    panels: dict[tuple[str, str], list[Option]] = {}
    for each in found:
        if "p50" in each.figures:
            panels.setdefault((each.device, each.model), []).append(each)
    height = HEIGHT * max(1, len(panels))
    body = [
        f'<g transform="translate(0 {HEIGHT * place})">{_panel(options, limits)}</g>'
        for place, options in enumerate(panels.values())
    ]
    if not body:
        body = [f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing was measured</text>']
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-family="{FONTS}" font-size="12" fill="{INK}">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(body)}</svg>\n'
    )


def _panel(options: Sequence[Option], limits: Sequence[Limit]) -> str:
    across = _latency(options)
    up = _accuracy(options) if any("accuracy" in each.figures for each in options) else _sizes(options)
    drawn = [each for each in options if up.metric in each.figures]
    largest = max((each.figures["size"].value for each in drawn if "size" in each.figures), default=0.0)
    first = options[0]
    heading = f"{clean_name(first.model)} on {clean_name(first.device)}"
    left_out = len(options) - len(drawn)
    if left_out:
        heading += f" ({left_out} without {up.metric} left out)"
    parts = [f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{_escaped(heading)}</text>']
    parts += _grid(across, up)
    parts += _limit_lines(across, up, limits)
    parts += _front_line(drawn, across, up)
    order = {"front": 0, "unsure": 1, "dominated": 2}
    ranked = sorted(drawn, key=lambda one: (order[one.place], one.figures["p50"].value))
    for number, each in reversed(list(enumerate(ranked, start=1))):
        parts.append(_point(each, number, across, up, largest))
    parts += _listed(ranked)
    return "".join(parts)


# --- axes -----------------------------------------------------------------------------------------


def _latency(options: Sequence[Option]) -> Axis:
    low, high = _ends([each.figures["p50"] for each in options], math.log10)
    return Axis("p50", "p50 latency, ms (log)", low, high, math.log10, lambda x: 10.0**x, _ms)


def _accuracy(options: Sequence[Option]) -> Axis:
    known = [each.figures["accuracy"] for each in options if "accuracy" in each.figures]
    low, high = _ends(known, float)
    return Axis("accuracy", "accuracy, %", low, high, float, float, lambda x: significant(100 * x, 4))


def _sizes(options: Sequence[Option]) -> Axis:
    known = [each.figures["size"] for each in options if "size" in each.figures]
    low, high = _ends(known, _log_size)
    return Axis(
        "size", "size, kB (log)", low, high, _log_size, lambda x: 10.0**x, lambda x: significant(x / 1000)
    )


def _log_size(value: float) -> float:
    return math.log10(max(1.0, value))


def _kilobytes(value: float) -> str:
    return significant(value / 1000)


def _ms(value: float) -> str:
    return significant(value / NS_PER_MS)


def _ends(figures: Sequence[Figure], scale: Callable[[float], float]) -> tuple[float, float]:
    """The ends of an axis on its scale, with room to both sides."""
    values = [scale(end) for each in figures for end in each.ends if end > 0 or scale is float]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.08 * (high - low) or 0.05 * max(abs(high), 1e-9)
    return low - room, high + room


def _x(part: float) -> float:
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _y(part: float) -> float:
    return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def _grid(across: Axis, up: Axis) -> list[str]:
    parts = []
    for place in range(TICKS):
        share = place / (TICKS - 1)
        x, y = _x(share), _y(share)
        at_x = across.text(across.back(across.low + share * (across.high - across.low)))
        at_y = up.text(up.back(up.low + share * (up.high - up.low)))
        parts += [
            f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="{LINE}"/>',
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{LINE}"/>',
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{at_x}</text>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{at_y}</text>',
        ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 18 {middle})"'
    parts += [
        f'<text x="{_x(0.5):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{across.title}</text>',
        f'<text x="18" y="{middle}" text-anchor="middle" {turned}>{up.title}</text>',
    ]
    return parts


def _limit_lines(across: Axis, up: Axis, limits: Sequence[Limit]) -> list[str]:
    """The budgets that lie within the panel, as dashed lines."""
    parts = []
    for limit in limits:
        dashes = f'stroke="{ACCENT}" stroke-dasharray="5 4"'
        if limit.metric == across.metric and 0 <= across.part(limit.value) <= 1:
            x = _x(across.part(limit.value))
            parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" {dashes}/>')
        if limit.metric == up.metric and 0 <= up.part(limit.value) <= 1:
            y = _y(up.part(limit.value))
            parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" {dashes}/>')
    return parts


# --- points ---------------------------------------------------------------------------------------


def _at(option: Option, across: Axis, up: Axis) -> tuple[float, float]:
    p50, other = option.figures["p50"].value, option.figures[up.metric].value
    return _x(across.part(p50)), _y(up.part(other))


def _front_line(drawn: Sequence[Option], across: Axis, up: Axis) -> list[str]:
    at = sorted(_at(each, across, up) for each in drawn if each.place == "front")
    if len(at) < 2:
        return []
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    return [f'<polyline points="{points}" fill="none" stroke="{ACCENT}" stroke-opacity="0.35"/>']


def _point(option: Option, number: int, across: Axis, up: Axis, largest: float) -> str:
    x, y = _at(option, across, up)
    size = option.figures.get("size")
    share = math.sqrt(size.value / largest) if size is not None and largest > 0 else 0.0
    radius = MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * share
    colour = GREY if option.place == "dominated" else ACCENT
    fill = "#ffffff" if option.place == "unsure" else colour
    ink = colour if option.place == "unsure" else "#ffffff"
    bars = _bars(option, across, up, (x, y), colour)
    return (
        f'{bars}<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" fill-opacity="0.75" '
        f'stroke="{colour}" stroke-width="1.5"><title>{_escaped(_told(option))}</title></circle>'
        f'<text x="{x:.1f}" y="{y + 3.5:.1f}" font-size="10" text-anchor="middle" '
        f'fill="{ink}">{number}</text>'
    )


def _bars(option: Option, across: Axis, up: Axis, at: tuple[float, float], colour: str) -> str:
    x, y = at
    left, right = (_x(across.part(end)) for end in option.figures["p50"].ends)
    low, high = (_y(up.part(end)) for end in option.figures[up.metric].ends)
    lines = f"M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {low:.1f}V{high:.1f}"
    return f'<path d="{lines}" stroke="{colour}" fill="none"/>'


def _listed(ranked: Sequence[Option]) -> list[str]:
    """The options by number, beside the panel; of many the first, and how many more there are."""
    parts = []
    for number, each in enumerate(ranked[:LISTED], start=1):
        y = TOP + 10 + 20 * (number - 1)
        text = f"{number}  {clean_name(each.name)} · {clean_name(each.runtime)}"
        colour = GREY if each.place == "dominated" else INK
        size = "size" in each.figures and format_bytes(each.figures["size"].value)
        shown = f"{text}, {size}" if size else text
        parts.append(f'<text x="{WIDTH - RIGHT + 18}" y="{y}" fill="{colour}">{_escaped(shown)}</text>')
    if len(ranked) > LISTED:
        more = f"and {len(ranked) - LISTED} more"
        parts.append(f'<text x="{WIDTH - RIGHT + 18}" y="{TOP + 10 + 20 * LISTED}">{more}</text>')
    return parts


def _told(option: Option) -> str:
    behind = f" by {option.by}" if option.by else ""
    return clean(f"{option.name} on {option.runtime}: {option.place}{behind}")


def _escaped(text: str) -> str:
    for plain, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(plain, safe)
    return text
